"""A data set: images, labels, class names, and the groups that stay together in a fold.

`load_dataset` knows three layouts: the published Drosophila folder, a user's own folder (`fbunet_jax.data.folder`),
and procedural tissue that needs no files (`fbunet_jax.data.synthetic`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fbunet_jax.config import DataConfig
from fbunet_jax.data.folder import read_folder
from fbunet_jax.data.readers import read_image, read_label
from fbunet_jax.data.synthetic import CLASS_NAMES, synthetic_image
from fbunet_jax.errors import DataError

DROSOPHILA_SECTIONS = 20
# how the section's number is written in the names of the files of each published folder
_DROSOPHILA_FILES = {
    "raw": "{:02d}.tif",
    "membranes": "{:02d}.png",
    "mitochondria": "{:02d}.png",
    "synapses": "{:02d}.png",
    "labels": "labels{:08d}.png",
}
_DROSOPHILA_GLIA = 159


@dataclass(frozen=True)
class Dataset:
    """Labelled images; entry i of every tuple but the last belongs to item i."""

    images: tuple[np.ndarray, ...]
    """[H, W, C] each, of the files' own integer type or float32; one type and one C for all, sizes may differ."""
    labels: tuple[np.ndarray, ...]
    """[H, W] uint8 each: class index 0 to K-1, 255 = ignore."""
    names: tuple[str, ...]
    """Unique names, such as "07", "07/r2c3" for a tile, "07/z004" for a page, "07/rot90-flip" for a view."""
    groups: tuple[str, ...]
    """The group of each item, which stays in one part of a fold."""
    class_names: tuple[str, ...]
    """Names of the K classes in index order."""


def load_dataset(config: DataConfig) -> Dataset:
    """Read the data set that the settings describe, cut it into tiles, and list its views.

    Args:
      config: the settings; ``cut`` and ``views`` apply to every layout.

    Raises:
      DataError: a file or folder is missing or cannot be used, or the images cannot be cut as wished.
    """
    loaders = {"synthetic": _load_synthetic, "drosophila-vnc": _load_drosophila, "folder": _load_folder}
    dataset = loaders[config.layout](config)
    if config.cut:
        dataset = _cut(dataset, config.cut)
    return _dihedral_views(dataset) if config.views == "dihedral" else dataset


def _dataset(items: Iterable[tuple[str, str, np.ndarray, np.ndarray]], class_names: tuple[str, ...]) -> Dataset:
    """Return the data set of items (name, group, image, label)."""
    names, groups, images, labels = zip(*items, strict=True)
    return Dataset(images, labels, names, groups, class_names)


def _load_synthetic(config: DataConfig) -> Dataset:
    items = []
    for index in range(config.synthetic_images):
        # the sequence mixes its numbers, so that no image of one seed returns in another
        seed = int(np.random.SeedSequence([config.synthetic_seed, index]).generate_state(1)[0])
        name = f"{index:02d}"
        items.append((name, name, *synthetic_image(seed, config.synthetic_size)))
    return _dataset(items, CLASS_NAMES)


def _load_folder(config: DataConfig) -> Dataset:
    items, class_names = read_folder(config)
    return _dataset(items, class_names)


def _load_drosophila(config: DataConfig) -> Dataset:
    """Read the 20 labelled sections of the published set (Gerhard et al., figshare 856713).

    Class by mask folder: membrane, mitochondria and synapse wherever the mask is not zero, later ones win.
    """
    stack = _drosophila_stack(config.root)
    items = []
    for section in range(DROSOPHILA_SECTIONS):
        files = {folder: stack / folder / pattern.format(section) for folder, pattern in _DROSOPHILA_FILES.items()}
        image = read_image(files["raw"])[0]
        label = np.zeros(image.shape[:2], dtype=np.uint8)
        for index, folder in enumerate(("membranes", "mitochondria", "synapses"), start=1):
            label[_section_mask(files[folder], files["raw"], label.shape) != 0] = index
        if config.glia == "cytoplasm":
            glia = _section_mask(files["labels"], files["raw"], label.shape) == _DROSOPHILA_GLIA
            label[glia & (label == 1)] = 0
        name = f"{section:02d}"
        items.append((name, name, image, label))
    return _dataset(items, ("cytoplasm", "membrane", "mitochondria", "synapse"))


def _drosophila_stack(root: str) -> Path:
    """Return the folder stack1 after checking that every published file that we read is there."""
    stack = Path(root) / "stack1" if root else Path()
    if root and not stack.is_dir() and (Path(root) / "raw").is_dir():
        stack = Path(root)
    published = (
        "The published set (github.com/unidesigner/groundtruth-drosophila-vnc) has stack1/ with raw/00.tif … 19.tif, "
        "membranes/, mitochondria/ and synapses/ with 00.png … 19.png, and labels/ with labels00000000.png … "
        "labels00000019.png; data.root is the folder that holds stack1/."
    )
    if not root:
        raise DataError(f"data.root is not set. {published}")
    if not stack.is_dir():
        raise DataError(f"{stack} does not exist. {published}")
    for folder, pattern in _DROSOPHILA_FILES.items():
        missing = [
            name for i in range(DROSOPHILA_SECTIONS) if not (stack / folder / (name := pattern.format(i))).is_file()
        ]
        if missing:
            raise DataError(f"{stack / folder} lacks {len(missing)} files, the first {missing[0]}. {published}")
    return stack


def _section_mask(file: Path, raw: Path, shape: tuple[int, ...]) -> np.ndarray:
    mask = read_label(file)[0]
    if mask.shape != shape:
        raise DataError(
            f"{file} has {mask.shape[0]} x {mask.shape[1]} pixels, but {raw} has {shape[0]} x {shape[1]}. "
            "Download the published files again."
        )
    return mask


def _cut(dataset: Dataset, side: int) -> Dataset:
    """Cut every item into tiles of side x side pixels, row by row."""
    items = []
    for name, group, image, label in zip(dataset.names, dataset.groups, dataset.images, dataset.labels, strict=True):
        height, width = label.shape
        if height % side or width % side:
            common = math.gcd(height, width)
            fitting = [str(size) for size in range(common, 0, -1) if common % size == 0][:8]
            raise DataError(
                f"data.cut = {side}: image {name!r} of {height} x {width} pixels is no multiple of it. "
                f"Tiles of {', '.join(fitting)} pixels fit; data.cut = 0 keeps images whole."
            )
        for row in range(height // side):
            for column in range(width // side):
                tile = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
                items.append((f"{name}/r{row}c{column}", group, image[tile], label[tile]))
    return _dataset(items, dataset.class_names)


def _dihedral_views(dataset: Dataset) -> Dataset:
    """List every item in its 8 rotations (counter-clockwise) and their left-right mirror images, identity first."""
    items = []
    for name, group, image, label in zip(dataset.names, dataset.groups, dataset.images, dataset.labels, strict=True):
        for flip in ("", "-flip"):
            for turns in range(4):
                view_image, view_label = np.rot90(image, turns), np.rot90(label, turns)
                if flip:
                    view_image, view_label = view_image[:, ::-1], view_label[:, ::-1]
                items.append((f"{name}/rot{90 * turns}{flip}", group, view_image, view_label))
    return _dataset(items, dataset.class_names)
