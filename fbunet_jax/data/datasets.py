"""A data set: images, labels, class names, and the groups that stay together in a fold.

`load_dataset` knows four layouts: the published Drosophila folder, a user's own folder (`fbunet_jax.data.folder`), the
raw folder of nnU-Net (`fbunet_jax.data.nnunet`), and procedural tissue (`fbunet_jax.data.synthetic`).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fbunet_jax.config import DataConfig, Layout
from fbunet_jax.data.description import read_description
from fbunet_jax.data.findings import Fault
from fbunet_jax.data.folder import open_folder
from fbunet_jax.data.nnunet import open_nnunet, read_classes
from fbunet_jax.data.normalisation import Normalisation, image_percentiles
from fbunet_jax.data.readers import read_image, read_label
from fbunet_jax.data.sources import Source, Unit, read_units
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
DROSOPHILA_CLASSES = ("cytoplasm", "membrane", "mitochondria", "synapse")
_PUBLISHED = (
    "The published set (github.com/unidesigner/groundtruth-drosophila-vnc) has stack1/ with raw/00.tif … 19.tif, "
    "membranes/, mitochondria/ and synapses/ with 00.png … 19.png, and labels/ with labels00000000.png … "
    "labels00000019.png; data.root is the folder that holds stack1/. The command fbunet download fetches it."
)


@dataclass(frozen=True)
class Dataset:
    """Labelled images; entry i of every tuple but those of the classes belongs to item i."""

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
    label_values: tuple[int, ...] = ()
    """The value of each class in the label files, in index order; empty where they are not known."""
    percentiles: tuple[np.ndarray, ...] | None = None
    """[2, C] each: the 1st and the 99th percentile of the image that the item was cut from. None: every item has its
    own, or the normalisation needs none."""

    def affine(self, item: int, normalisation: Normalisation) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and shift [C] float32 of an item, see `Normalisation.affine`."""
        return normalisation.affine(self.images[item], None if self.percentiles is None else self.percentiles[item])


def load_dataset(config: DataConfig) -> Dataset:
    """Read the data set that the settings describe, cut it into tiles, and list its views.

    Args:
      config: the settings; ``cut`` and ``views`` apply to every layout.

    Raises:
      DataError: a file or folder is missing or cannot be used, or the images cannot be cut as wished.
    """
    source = open_source(config)
    if others := len(source.faults[1:]):
        more = f"There are {others} more faults" if others > 1 else "There is 1 more fault"
        raise DataError(f"{source.faults[0]} {more}; fbunet check lists all.")
    names, groups, images, labels = [], [], [], []
    for unit, pages, _, indices in read_units(source, _raise):
        names += page_names(unit.name, len(pages))
        groups += [unit.group] * len(pages)
        images += list(pages)
        labels += list(indices)
    classes = source.classes
    values = tuple(classes.values())
    dataset = Dataset(tuple(images), tuple(labels), tuple(names), tuple(groups), tuple(classes), values)
    if config.cut:
        tiles = _cut(dataset, config.cut)
        if config.normalisation == "percentile" and config.percentiles_of == "image":
            tiles = replace(tiles, percentiles=_percentiles_of_tiles(dataset, config.cut))
        dataset = tiles
    return _dihedral_views(dataset) if config.views == "dihedral" else dataset


def open_source(config: DataConfig) -> Source:
    """List what the data set of the settings is made of; no image is read.

    Raises:
      DataError: there is nothing that could be read.
    """
    openers = {
        "synthetic": _open_synthetic,
        "drosophila-vnc": _open_drosophila,
        "folder": open_folder,
        "nnunet": open_nnunet,
    }
    return openers[config.layout](config)


def described_classes(config: DataConfig) -> Mapping[str, int]:
    """Return name and label value of each class, in class order, as the settings or the data folder describe them.

    No image is read. Empty where nothing describes them.

    Raises:
      DataError: the description cannot be read, or contradicts the settings.
    """
    if config.layout not in ("folder", "nnunet"):
        return _in_order(CLASS_NAMES if config.layout == "synthetic" else DROSOPHILA_CLASSES)
    if config.classes:
        return config.classes
    root = Path(config.root)
    return read_classes(root) if config.layout == "nnunet" else read_description(root).get("classes", {})


def detect_layout(root: Path) -> Layout:
    """Return the layout that a folder's own files show: nnunet, drosophila-vnc, or else folder."""
    if (root / "imagesTr").is_dir() or (root / "dataset.json").is_file():
        return "nnunet"
    if any((root / name / "membranes").is_dir() for name in ("", "stack1")):
        return "drosophila-vnc"
    return "folder"


def page_names(name: str, pages: int) -> list[str]:
    """Return the item names of a unit: its own, or one a page."""
    return [name] if pages == 1 else [f"{name}/z{page:03d}" for page in range(pages)]


def _raise(fault: DataError) -> None:
    raise fault


def _with_items(dataset: Dataset, items: Iterable[tuple[str, str, np.ndarray, np.ndarray]]) -> Dataset:
    """Return a data set of the same classes with other items (name, group, image, label)."""
    names, groups, images, labels = zip(*items, strict=True)
    return replace(dataset, images=images, labels=labels, names=names, groups=groups)


def _in_order(names: tuple[str, ...]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def _open_synthetic(config: DataConfig) -> Source:
    def read(unit: Unit) -> tuple[np.ndarray, np.ndarray]:
        # the sequence mixes its numbers, so that no image of one seed returns in another
        seed = int(np.random.SeedSequence([config.synthetic_seed, int(unit.name)]).generate_state(1)[0])
        image, label = synthetic_image(seed, config.synthetic_size)
        return image[None], label[None]

    names = [f"{index:02d}" for index in range(config.synthetic_images)]
    return Source(tuple(Unit(name, name) for name in names), read, _in_order(CLASS_NAMES))


def _open_drosophila(config: DataConfig) -> Source:
    """List the 20 labelled sections of the published set (Gerhard et al., figshare 856713).

    Class by mask folder: membrane, mitochondria and synapse wherever the mask is not zero, later ones win.
    """
    stack = _drosophila_stack(config.root)
    units, faults = [], []
    for folder, pattern in _DROSOPHILA_FILES.items():
        missing = [
            name for i in range(DROSOPHILA_SECTIONS) if not (stack / folder / (name := pattern.format(i))).is_file()
        ]
        if missing:
            found = f"lacks {len(missing)} files, the first {missing[0]}."
            faults.append(Fault("missing-file", stack / folder, found, _PUBLISHED))
    for section in range(DROSOPHILA_SECTIONS):
        files = tuple(stack / folder / pattern.format(section) for folder, pattern in _DROSOPHILA_FILES.items())
        if all(file.is_file() for file in files):
            units.append(Unit(f"{section:02d}", f"{section:02d}", files))

    def read(unit: Unit) -> tuple[np.ndarray, np.ndarray]:
        return _read_section(unit, config.glia)

    return Source(tuple(units), read, _in_order(DROSOPHILA_CLASSES), labels=stack, faults=tuple(faults))


def _read_section(unit: Unit, glia: str) -> tuple[np.ndarray, np.ndarray]:
    raw, *masks, published = unit.files
    images = read_image(raw)
    label = np.zeros(images.shape[:3], dtype=np.uint8)
    for index, mask in enumerate(masks, start=1):
        label[_section_mask(mask, raw, label.shape) != 0] = index
    # read in any case, so that a set that loads once loads with every setting
    background = _section_mask(published, raw, label.shape) == _DROSOPHILA_GLIA
    if glia == "cytoplasm":
        label[background & (label == 1)] = 0
    return images, label


def _drosophila_stack(root: str) -> Path:
    """Return the folder stack1, or the folder itself if it holds what was published in stack1."""
    if not root:
        raise DataError(f"data.root is not set. {_PUBLISHED}")
    stack = Path(root) / "stack1"
    if not stack.is_dir() and (Path(root) / "raw").is_dir():
        stack = Path(root)
    if not stack.is_dir():
        raise DataError(f"{stack} does not exist. {_PUBLISHED}")
    return stack


def _section_mask(file: Path, raw: Path, shape: tuple[int, ...]) -> np.ndarray:
    mask = read_label(file)
    if mask.shape != shape:
        raise Fault(
            "pair-size",
            file,
            f"has {mask.shape[1]} x {mask.shape[2]} pixels, but {raw} has {shape[1]} x {shape[2]}.",
            "Download the published files again.",
        )
    return mask


def cut_fault(name: str, height: int, width: int, side: int) -> Fault | None:
    """Return what is wrong with cutting an image of height x width pixels into tiles of this side, if anything."""
    if not side or (height % side == 0 and width % side == 0):
        return None
    common = math.gcd(height, width)
    fitting = [str(size) for size in range(common, 0, -1) if common % size == 0][:8]
    return Fault(
        "cut",
        "",
        f"data.cut = {side}: image {name!r} of {height} x {width} pixels is no multiple of it.",
        f"Tiles of {', '.join(fitting)} pixels fit; data.cut = 0 keeps images whole.",
    )


def _cut(dataset: Dataset, side: int) -> Dataset:
    """Cut every item into tiles of side x side pixels, row by row."""
    items = []
    for name, group, image, label in zip(dataset.names, dataset.groups, dataset.images, dataset.labels, strict=True):
        height, width = label.shape
        if fault := cut_fault(name, height, width, side):
            raise fault
        for row in range(height // side):
            for column in range(width // side):
                tile = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
                items.append((f"{name}/r{row}c{column}", group, image[tile], label[tile]))
    return _with_items(dataset, items)


def _percentiles_of_tiles(dataset: Dataset, side: int) -> tuple[np.ndarray, ...]:
    """Return for each tile of `_cut` the percentiles of its image, which prediction uses for the whole page too."""
    found: list[np.ndarray] = []
    for image in dataset.images:
        found += [image_percentiles(image)] * ((image.shape[0] // side) * (image.shape[1] // side))
    return tuple(found)


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
    views = _with_items(dataset, items)
    if dataset.percentiles is None:
        return views
    return replace(views, percentiles=tuple(found for found in dataset.percentiles for _ in range(8)))
