"""Whole images validated in prediction's tiles, mapped over the devices of all processes and blended there."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, Device, lax
from numpy.typing import NDArray

from fbunet_jax.config import Config
from fbunet_jax.inference.tiling import Tiling
from fbunet_jax.metrics import confusion_matrix
from fbunet_jax.models.contract import count_rounds, segment
from fbunet_jax.pipeline.sampling import Size, grid_tiles
from fbunet_jax.pipeline.store import ImageStore, gather_crop
from fbunet_jax.runs.processes import AXIS, all_devices, local_rows


class TileBatches(NamedTuple):
    """The tiles of images that are cut in the same way, batch by batch.

    Attributes:
      tiling: the tiles.
      width: of the widest row of tiles in pixels; 0 if no tile overlaps another.
      tiles: `[B, D, S, 3]` int32, S tiles for each of D devices: image, top, left; image -1 is padding. Those of one
        device and batch lie in one row of tiles, unless no tile overlaps another.
      complete: `[B, D]` int32, how many rows no later tile of the image reaches; not used if no tile overlaps another.
    """

    tiling: Tiling
    width: int
    tiles: NDArray[np.int32]
    complete: NDArray[np.int32]


class MappedValidation:
    """The compiled validation of images in prediction's tiles, mapped over the devices of all processes."""

    def __init__(
        self, model: nn.Module, classes: int, plan: Sequence[TileBatches], *, devices: Sequence[Device] | None = None
    ) -> None:
        """Prepare the mapped steps for a network of K classes and a plan of `plan_tiles` for as many devices."""
        devices = devices or all_devices()
        self.plan = list(plan)
        self._rows = local_rows(devices)
        self._model, self._classes = model, classes

        def count(tile: int, variables: Mapping[str, Any], store: ImageStore, tiles: Array) -> Array:
            image, label = jax.vmap(lambda t: gather_crop(store, t[0], t[1:], tile))(tiles)
            predictions = segment(model, variables, image).argmax(axis=-1)
            counts = jnp.stack([confusion_matrix(label, each, classes) for each in predictions])
            return lax.psum(counts, AXIS)

        def add(weights: NDArray[np.float32], *arguments: Any) -> tuple[Array, Array]:
            strip, counts = add_to_strip(model, weights, *arguments)
            return strip, lax.psum(counts, AXIS)

        self._calls: list[Callable[..., Any]] = []
        for batches in self.plan:
            if batches.width:
                axes: dict[str, Any] = {"in_axes": (None, None, 0, 0, 0), "out_axes": (0, None), "donate_argnums": 2}
                step: Callable[..., Any] = partial(add, batches.tiling.weights())
            else:
                axes = {"in_axes": (None, None, 0), "out_axes": None}
                step = partial(count, batches.tiling.tile)
            self._calls.append(jax.pmap(step, axis_name=AXIS, devices=devices, **axes))

    def __call__(
        self, variables: Mapping[str, Any], store: ImageStore, between: Callable[[], None] = lambda: None
    ) -> NDArray[np.int64]:
        """Return the confusion matrices of every round, `[R, K, K]` int64, over all images, on every process.

        `between` is called after each batch, one batch ahead of the devices.
        """
        counts: list[Array] = []
        for batches, call in zip(self.plan, self._calls, strict=True):
            strip: Any = None
            if batches.width:
                rounds = count_rounds(self._model, variables, store.pixels.shape[-1])
                empty = empty_strip(batches, rounds, self._classes)
                strip = np.broadcast_to(empty, (len(self._rows), *empty.shape))
            for tiles, complete in zip(batches.tiles, batches.complete, strict=True):
                if batches.width:
                    strip, found = call(variables, store, strip, tiles[self._rows], complete[self._rows])
                else:
                    found = call(variables, store, tiles[self._rows])
                counts.append(found)
                jax.block_until_ready(counts[-2:-1])
                between()
        return np.sum([np.asarray(count) for count in counts], axis=0, dtype=np.int64)


def plan_validation(config: Config, sizes: Sequence[Size], devices: int, multiple: int) -> list[TileBatches]:
    """Cut the validation images as the settings say; a batch has about as many pixels as one of training.

    Args:
      config: the settings.
      sizes: height and width of each image, pixels.
      devices: which share each batch.
      multiple: what the network's images are multiples of, pixels.
    """
    pixels = config.training.batch_size * config.data.crop**2
    if config.training.validation_tiles == "separate":
        return plan_separate_tiles(sizes, config.data.crop, devices=devices, pixels=pixels)
    return plan_tiles(sizes, multiple, devices=devices, pixels=pixels)


def plan_separate_tiles(sizes: Sequence[Size], side: int, *, devices: int, pixels: int) -> list[TileBatches]:
    """Cut images into tiles of `side` pixels that cover every pixel once; see `plan_tiles`."""
    share = max(1, pixels // side**2 // devices)
    tiles = _padded([(item, top, left) for item, top, left in grid_tiles(sizes, side).tolist()], devices * share)
    return [_whole_tiles(Tiling(side, 0, 1), tiles.reshape(-1, devices, share, 3))]


def plan_tiles(sizes: Sequence[Size], unit: int, *, devices: int, pixels: int) -> list[TileBatches]:
    """Cut images as prediction does, and lay the tiles out in batches.

    Args:
      sizes: height and width of each image, pixels.
      unit: 2^(levels - 1) of the network.
      devices: which share each batch.
      pixels: about as many in a batch.
    """
    groups: dict[tuple[Tiling, bool], list[int]] = {}
    for index, size in enumerate(sizes):
        tiling = Tiling.fitting(unit, page=size)
        is_one_tile = all(tiling.origins(length) == [0] for length in size)
        groups.setdefault((tiling, is_one_tile), []).append(index)
    plan = []
    for (tiling, is_one_tile), items in groups.items():
        share = max(1, pixels // tiling.tile**2 // devices)
        if is_one_tile:
            share = _even(-(-len(items) // devices), share)
            tiles = _padded([(item, 0, 0) for item in items], devices * share)
            plan.append(_whole_tiles(tiling, tiles.reshape(-1, devices, share, 3)))
        else:
            width = max(tiling.origins(sizes[item][1])[-1] for item in items) + tiling.tile
            share = _even(max(len(tiling.origins(sizes[item][1])) for item in items), share)
            rows = [_rows_of_tiles(tiling, items[first::devices], sizes, share) for first in range(devices)]
            count = max(len(row) for row in rows)
            tiles = np.full((count, devices, share, 3), -1, np.int32)
            complete = np.zeros((count, devices), np.int32)
            for device, row in enumerate(rows):
                for number, (batch, height) in enumerate(row):
                    tiles[number, device], complete[number, device] = batch, height
            plan.append(TileBatches(tiling, width, tiles, complete))
    return plan


def _even(count: int, most: int) -> int:
    """Return how many to take at once, at most `most`, so that as few as can be are padding."""
    return -(-count // -(-count // most))


def _whole_tiles(tiling: Tiling, tiles: NDArray[np.int32]) -> TileBatches:
    return TileBatches(tiling, 0, tiles, np.zeros(tiles.shape[:2], np.int32))


def _rows_of_tiles(
    tiling: Tiling, items: Sequence[int], sizes: Sequence[Size], share: int
) -> list[tuple[NDArray[np.int32], int]]:
    """Return the batches `[S, 3]` of one device, each with the rows that are complete after it."""
    batches = []
    for item in items:
        height, width = sizes[item]
        tops = tiling.origins(height)
        # the last row ends with the tiles, beyond the image, so that nothing of it is left for the next one
        for top, end in zip(tops, [*tops[1:], tops[-1] + tiling.tile], strict=True):
            row = _padded([(item, top, left) for left in tiling.origins(width)], share).reshape(-1, share, 3)
            batches += [(batch, 0) for batch in row[:-1]] + [(row[-1], end - top)]
    return batches


def _padded(tiles: Sequence[tuple[int, int, int]], size: int) -> NDArray[np.int32]:
    """Fill up with tiles of no image, whose pixels are ignored: counts do not depend on batch size or devices."""
    return np.array([*tiles, *[(-1, 0, 0)] * (-len(tiles) % size)], np.int32)


def empty_strip(batches: TileBatches, rounds: int, classes: int) -> NDArray[np.float32]:
    """Return what a device adds the first tile to: `[R, K, T, width]`."""
    return np.zeros((rounds, classes, batches.tiling.tile, batches.width), np.float32)


def add_to_strip(
    model: nn.Module,
    weights: NDArray[np.float32],
    variables: Mapping[str, Any],
    store: ImageStore,
    strip: Array,
    tiles: Array,
    complete: Array,
) -> tuple[Array, Array]:
    """Segment tiles of one row, add their weighted probabilities, and count the rows that are complete.

    The class is that of the largest sum: dividing by the sum of the weights, as prediction does, does not change it.

    Args:
      model: the network.
      weights: `[T]` of a tile's rows and columns.
      variables: of the network.
      store: the images.
      strip: `[R, K, T, W]` float32, the sums in T rows, of which the first is the tiles' own.
      tiles: `[S, 3]` int32, image, top and left.
      complete: [] int32, how many of the rows no later tile reaches.

    Returns:
      The strip, moved up by the complete rows, and the confusion matrices of every round `[R, K, K]` int32 over them.
    """
    rounds, classes, side, width = strip.shape
    image, _ = jax.vmap(lambda tile: gather_crop(store, tile[0], tile[1:], side))(tiles)
    logits = segment(model, variables, image).astype(jnp.float32)
    window = weights[None, :, None] * weights[None, None] * (tiles[:, 0] >= 0)[:, None, None].astype(jnp.float32)
    values = jax.nn.softmax(logits).transpose(1, 0, 4, 2, 3) * window[:, None, None]
    for place in range(len(tiles)):
        corner = (0, 0, 0, tiles[place, 2])
        there = lax.dynamic_slice(strip, corner, (rounds, classes, side, side))
        strip = lax.dynamic_update_slice(strip, there + values[place], corner)

    def count(strip: Array) -> tuple[Array, Array]:
        _, label = gather_crop(store, tiles[0, 0], tiles[0, 1:] * jnp.array([1, 0]), (side, width))
        label = jnp.where((jnp.arange(side) < complete)[:, None], label, -1)
        counts = jnp.stack([confusion_matrix(label, each, classes) for each in strip.argmax(axis=1)])
        left = (jnp.arange(side) < side - complete)[None, None, :, None]
        return jnp.where(left, jnp.roll(strip, -complete, axis=2), 0), counts

    def wait(strip: Array) -> tuple[Array, Array]:
        return strip, jnp.zeros((rounds, classes, classes), jnp.int32)

    return cast(tuple[Array, Array], lax.cond(complete > 0, count, wait, strip))
