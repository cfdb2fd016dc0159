"""Procedural neural tissue with membranes, mitochondria and synapses: the data set that needs no download.

The pictures imitate serial-section electron microscopy of neuropil. Grey values alone do not give the classes
away (membranes, synapses, the rims of mitochondria, vesicles and shadows are all dark; brightness and contrast
differ between images), while shape and texture within some ten pixels do.
"""

import numpy as np
from scipy import ndimage, spatial

from fbunet_jax.config import DataConfig
from fbunet_jax.data.layouts.sources import Reading, Source, Unit

CLASS_NAMES = ("cytoplasm", "membrane", "mitochondria", "synapse")
"""The classes of the labels, in order; the same as those of the Drosophila set."""

CYTOPLASM, MEMBRANE, MITOCHONDRIA, SYNAPSE = range(4)

# Lengths in pixels, grey values from 0 (black) to 1 (white).
CELL_SPACING = 36.0
MEMBRANE_HALF_WIDTH = 2.6
SYNAPSE_RADIUS = 7.5
SYNAPSE_DEPTH = 7.5
SYNAPSE_SPACING = 24.0
PIXELS_PER_SYNAPSE = 5500
PIXELS_PER_MITOCHONDRION = 2600
PIXELS_PER_VESICLE = 110


def synthetic_image(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one section of procedural neural tissue.

    Args:
      seed: any whole number of at least 0; the same seed and size give the same image.
      size: side of the square image in pixels, at least 16. Below about 64 pixels a class can be absent.

    Returns:
      The image, ``[size, size, 1]`` uint8, and its label, ``[size, size]`` uint8 with the indices of `CLASS_NAMES`.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    cells, depth = _cells(rng, size)
    half_width = MEMBRANE_HALF_WIDTH + 0.3 * _smooth_noise(rng, size, 24.0).clip(-1, 1)
    label = np.where(depth < half_width, MEMBRANE, CYTOPLASM).astype(np.uint8)
    synapses = _synapses(rng, cells, depth)
    for centre in synapses:
        _mark_synapse(label, cells, depth, centre)

    tissue = _cytoplasm(rng, size)
    _draw_mitochondria(rng, tissue, label)
    _draw_vesicles(rng, tissue, label, cells, synapses)
    grain = _smooth_noise(rng, size, 2.0)
    tissue = np.where(label == MEMBRANE, 0.24 + 0.04 * grain, tissue)
    tissue = np.where(label == SYNAPSE, 0.19 + 0.05 * grain, tissue)
    image = _develop(rng, tissue)
    # the drawing puts presynaptic cells above and to the left; a turn takes that regularity away
    turns = int(rng.integers(4))
    return np.ascontiguousarray(np.rot90(image, turns))[..., None], np.ascontiguousarray(np.rot90(label, turns))


def _smooth_noise(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """Return noise ``[size, size]`` of mean 0 and deviation about 1 that varies over ``scale`` pixels.

    A uniform cubic B-spline with normally distributed control points.
    """
    position = (np.arange(size) + 0.5) / scale
    first = position.astype(np.int64)
    t = position - first
    taps = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    control = rng.standard_normal((first[-1] + 4, first[-1] + 4))
    rows = sum(tap[:, None] * control[first + k] for k, tap in enumerate(taps))
    # 36 is the sum of the weights, 0.48 their deviation averaged over positions
    return sum(tap * rows[:, first + k] for k, tap in enumerate(taps)) / (36 * 0.48)


def _cells(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell of every pixel ``[size, size]`` and its distance from the cell's border in pixels."""
    spacing = min(CELL_SPACING, 0.75 * size)
    axis = np.arange(-2 * spacing, size + 2 * spacing, spacing)
    seeds = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    seeds += rng.uniform(-0.42, 0.42, seeds.shape) * spacing
    # every other row of seeds is shifted, so that membranes do not follow the axes
    seeds[:, 1] += 0.5 * spacing * (np.arange(len(seeds)) // len(axis) % 2)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float64)
    rows += 0.13 * spacing * _smooth_noise(rng, size, 0.55 * spacing)
    columns += 0.13 * spacing * _smooth_noise(rng, size, 0.55 * spacing)
    tree = spatial.cKDTree(seeds)
    cells = tree.query(np.stack([rows, columns], axis=-1))[1]

    # some neighbours fuse, so that cells differ in size and are not all convex
    owner = np.arange(len(seeds))
    fused = rng.random(len(seeds)) < 0.45
    partner = tree.query(seeds, k=[2])[1][:, 0]
    owner[fused] = partner[fused]
    cells = owner[owner][cells]

    border = np.zeros((size, size), dtype=bool)
    border[:-1] |= cells[:-1] != cells[1:]
    border[:, :-1] |= cells[:, :-1] != cells[:, 1:]
    depth = ndimage.distance_transform_edt(~border) if border.any() else np.full((size, size), float(size))
    return cells, depth


def _synapses(rng: np.random.Generator, cells: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Choose the centres ``[n, 2]`` (row, column) of the synapses: on membranes, away from each other."""
    size = len(cells)
    margin = min(int(SYNAPSE_RADIUS) + 2, size // 4)
    candidates = rng.permutation(np.argwhere(depth[margin : size - margin, margin : size - margin] == 0) + margin)
    wanted = max(1, round(size * size / PIXELS_PER_SYNAPSE))
    chosen: list[np.ndarray] = []
    for candidate in candidates[: 80 * wanted]:
        if any(np.hypot(*(candidate - other)) < SYNAPSE_SPACING for other in chosen):
            continue
        if _has_room(cells, depth, candidate):
            chosen.append(candidate)
        if len(chosen) == wanted:
            break
    if not chosen:
        chosen = list(candidates[:1])
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)


def _has_room(cells: np.ndarray, depth: np.ndarray, centre: np.ndarray) -> bool:
    """Say whether only two cells meet around the centre and the presynaptic one holds vesicles behind the synapse."""
    window = _window(centre, SYNAPSE_RADIUS + 3, len(cells))
    near = np.hypot(*_offsets(centre, window)) < SYNAPSE_RADIUS + 3
    presynaptic = near & (cells[window] == cells[tuple(centre)])
    return len(np.unique(cells[window][near])) == 2 and bool(np.any(depth[window][presynaptic] > SYNAPSE_DEPTH))


def _window(centre: np.ndarray, radius: float, size: int) -> tuple[slice, slice]:
    """Return the rows and columns within ``radius`` of the centre that lie inside the image."""
    reach = int(np.ceil(radius)) + 1
    row, column = int(centre[0]), int(centre[1])
    rows = slice(max(0, row - reach), min(size, row + reach + 1))
    return rows, slice(max(0, column - reach), min(size, column + reach + 1))


def _offsets(centre: np.ndarray, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and column distances from the centre, ``[h, 1]`` and ``[1, w]``, over the window."""
    rows, columns = (np.arange(part.start, part.stop) for part in window)
    return (rows - centre[0])[:, None], (columns - centre[1])[None]


def _mark_synapse(label: np.ndarray, cells: np.ndarray, depth: np.ndarray, centre: np.ndarray) -> None:
    """Label the stretch of membrane around the centre, thickened into the presynaptic cell."""
    window = _window(centre, SYNAPSE_RADIUS, len(label))
    rows, columns = _offsets(centre, window)
    presynaptic = cells[window] == cells[tuple(centre)]
    reach = np.where(presynaptic, SYNAPSE_DEPTH, MEMBRANE_HALF_WIDTH + 1.0)
    inside = (np.hypot(rows, columns) < SYNAPSE_RADIUS) & (depth[window] < reach)
    label[window][inside] = SYNAPSE


def _cytoplasm(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return bright, grainy cytoplasm ``[size, size]`` with shadows where membranes are cut at a slant."""
    shadow = np.clip(_smooth_noise(rng, size, 11.0) - 1.1, 0.0, 1.0)
    return 0.66 + 0.05 * _smooth_noise(rng, size, 2.0) + 0.04 * _smooth_noise(rng, size, 9.0) - 0.24 * shadow


def _draw_mitochondria(rng: np.random.Generator, tissue: np.ndarray, label: np.ndarray) -> None:
    """Draw and label ellipses that lie inside the cells: a dark rim around a grey matrix with cristae."""
    size = len(label)
    wanted = max(1, round(size * size / PIXELS_PER_MITOCHONDRION))
    room = ndimage.distance_transform_edt(label == CYTOPLASM)
    candidates = rng.permutation(np.argwhere(room > min(6.5, 0.8 * room.max())))[: 60 * wanted]
    # the roomiest place stands first, so that a small image has a mitochondrion too
    roomiest = np.array(np.unravel_index(np.argmax(room), room.shape))
    placed = 0
    for centre in np.concatenate([roomiest[None], candidates]):
        short = min(room[tuple(centre)] - 1.5, rng.uniform(5.5, 8.5))
        long = short * rng.uniform(1.15, 1.9)
        angle = rng.uniform(0, np.pi)
        phase = rng.uniform(0, 2 * np.pi)
        if short < 2.5:
            continue
        window = _window(centre, long, size)
        rows, columns = _offsets(centre, window)
        along = np.cos(angle) * rows + np.sin(angle) * columns
        across = np.cos(angle) * columns - np.sin(angle) * rows
        radius = np.hypot(along / long, across / short)
        if np.any(label[window][radius < 1 + 1.5 / short] != CYTOPLASM):
            continue
        inside = radius < 1
        cristae = np.sin(1.5 * along + 0.9 * np.sin(0.45 * across + phase) + phase)
        matrix = 0.47 + 0.13 * cristae
        rim = (1 - radius) * short < 1.6
        tissue[window][inside] = np.where(rim, 0.24, matrix)[inside]
        label[window][inside] = MITOCHONDRIA
        placed += 1
        if placed == wanted:
            break


def _draw_vesicles(
    rng: np.random.Generator, tissue: np.ndarray, label: np.ndarray, cells: np.ndarray, synapses: np.ndarray
) -> None:
    """Draw small dark rings and granules in the cytoplasm: scattered ones, and a crowd beside every synapse."""
    size = len(label)
    scattered = rng.uniform(0, size, (size * size // PIXELS_PER_VESICLE, 2))
    crowd = [centre + rng.normal(0.0, 9.0, (24, 2)) for centre in synapses]
    home = [np.full(24, cells[tuple(centre)]) for centre in synapses]
    centres = np.concatenate([scattered, *crowd])
    owners = np.concatenate([np.full(len(scattered), -1), *home])
    for centre, owner, radius in zip(centres, owners, rng.uniform(0.4, 2.4, len(centres)), strict=True):
        row, column = int(centre[0]), int(centre[1])
        if not (0 <= row < size and 0 <= column < size) or owner not in (-1, cells[row, column]):
            continue
        window = _window(centre, radius + 1, size)
        ring = np.clip(1.4 - np.abs(np.hypot(*_offsets(centre, window)) - radius), 0.0, 1.0)
        ring[label[window] != CYTOPLASM] = 0
        # crowded vesicles do not become darker than one: a clump must not look like a synapse
        tissue[window] = np.maximum(tissue[window] - 0.22 * ring, np.minimum(tissue[window], 0.36))


def _develop(rng: np.random.Generator, tissue: np.ndarray) -> np.ndarray:
    """Return the picture ``[size, size]`` uint8 that the microscope takes: blur, uneven light, contrast, noise."""
    size = len(tissue)
    picture = ndimage.gaussian_filter(tissue, 0.7)
    rows, columns = np.mgrid[0:size, 0:size] / size - 0.5
    tilt = rng.uniform(-0.1, 0.1, 2)
    picture = picture + tilt[0] * rows + tilt[1] * columns + 0.025 * _smooth_noise(rng, size, 48.0)
    picture = 0.5 + rng.uniform(0.8, 1.1) * (picture - 0.5) + rng.uniform(-0.07, 0.07)
    picture = picture + rng.normal(0.0, 0.065, picture.shape)
    return np.clip(np.round(255 * picture), 0, 255).astype(np.uint8)


SYNTHETIC_CLASSES = {name: index for index, name in enumerate(CLASS_NAMES)}


def open_synthetic(config: DataConfig) -> Source:
    """List the images; each is drawn when it is read."""

    def read(unit: Unit) -> Reading:
        # the sequence mixes its numbers, so that no image of one seed returns in another
        seed = int(np.random.SeedSequence([config.synthetic_seed, int(unit.name)]).generate_state(1)[0])
        image, label = synthetic_image(seed, config.synthetic_size)
        return Reading(image[None], label[None])

    names = [f"{index:02d}" for index in range(config.synthetic_images)]
    return Source(tuple(Unit(name, name) for name in names), read, SYNTHETIC_CLASSES)
