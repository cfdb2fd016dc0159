"""A data set: images, labels, class names, and the groups that stay together in a fold.

`load_dataset` reads four layouts (`fbunet_jax.data.layouts`): the published Drosophila folder, a user's own folder, the
raw folder of nnU-Net, and procedural tissue. `fbunet_jax.data.cutting` makes tiles and views of what it has read.
`Dataset.from_arrays` takes arrays in memory (`fbunet_jax.data.arrays`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np

from fbunet_jax.config import Config, DataConfig, FilesConfig, Layout, NoDataRule
from fbunet_jax.data.arrays import Arrays, open_arrays
from fbunet_jax.data.cutting import VIEWS, Item, cut, dihedral_views, percentiles_of_tiles
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.layouts.description import read_description
from fbunet_jax.data.layouts.drosophila import DROSOPHILA_CLASSES, open_drosophila
from fbunet_jax.data.layouts.folder import open_folder
from fbunet_jax.data.layouts.nnunet import open_nnunet, read_classes
from fbunet_jax.data.layouts.sources import Source, read_units
from fbunet_jax.data.layouts.synthetic import SYNTHETIC_CLASSES, open_synthetic
from fbunet_jax.device_errors import device_errors
from fbunet_jax.errors import ConfigError, DataError

_LISTED = 3
"""Faults of arrays that a message names besides the first."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images; entry i of every tuple but those of the classes belongs to item i.

    `load_dataset` reads one from files, `from_arrays` takes arrays in memory; both check what they return.

    >>> from fbunet_jax import Config, load_dataset
    >>> dataset = load_dataset(Config())
    >>> dataset.images[0].shape, dataset.images[0].dtype, dataset.labels[0].shape, dataset.labels[0].dtype
    ((128, 128, 1), dtype('uint8'), (128, 128), dtype('uint8'))
    >>> dataset.names[:3], dataset.class_names
    (('00', '01', '02'), ('cytoplasm', 'membrane', 'mitochondria', 'synapse'))
    """

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
    files: FilesConfig = field(default_factory=FilesConfig)
    """Names of the files that it was read from, by which predictions join channels and tell images from labels."""
    channel_numbers: tuple[int, ...] = ()
    """Those of ``{channel}`` in the names of the files, in order."""

    @classmethod
    def from_arrays(
        cls,
        images: Arrays,
        labels: Arrays,
        *,
        class_names: Sequence[str],
        groups: Sequence[str | int] | None = None,
        names: Sequence[str | int] | None = None,
        no_data: NoDataRule = "refuse",
    ) -> "Dataset":
        """Make a data set of arrays in memory, after the checks that files have to pass.

        The pixels of the images are not copied where their type can stay: do not change the arrays afterwards.

        >>> import numpy as np
        >>> from fbunet_jax import Dataset
        >>> images = np.random.default_rng(0).integers(0, 255, (6, 64, 64), dtype=np.uint8)
        >>> labels = images > 127
        >>> dataset = Dataset.from_arrays(images, labels, class_names=["background", "cell"], groups=[0, 0, 1, 1, 2, 2])
        >>> dataset.images[0].shape, dataset.labels[0].dtype, dataset.names[:3], dataset.groups[:3]
        ((64, 64, 1), dtype('uint8'), ('000', '001', '002'), ('0', '0', '1'))

        Args:
          images: a sequence of ``[H, W]`` or ``[H, W, C]`` arrays whose sizes may differ, or one array ``[N, H, W]`` or
            ``[N, H, W, C]``, of NumPy, JAX, or whatever `numpy.asarray` takes. Integers of 8, 16 and 32 bits and
            float32 stay; bool becomes uint8, float16 and float64 become float32; other types are refused. All images
            have the same type and the same C.
          labels: a sequence of ``[H, W]`` arrays, or one array ``[N, H, W]``, of bool or any integer type: class index
            0 to K-1, 255 = ignored: no loss, no metric. A last axis of length 1 is dropped.
          class_names: the K names in the order of the class indices, 2 to 255; every class occurs in some label.
          groups: the group of each image, which stays in one part of a fold, such as the animal or the slide; text or
            whole numbers, which become text. By default, every image is a group of its own.
          names: unique names of the images, text or whole numbers; "000", "001", … by default. Folds are made of the
            groups in natural order ("2" before "10").
          no_data: "keep" takes a value far outside the others that many pixels of a floating-point image share for a
            measurement, as ``data.no_data`` does for files; "refuse" for a mark of pixels without data.

        Returns:
          The data set, in the order of the arrays.

        Raises:
          DataError: the arrays cannot be used. The message names the first fault and its place, such as
            ``labels[3]``, what was expected and what to do, and up to three of the other faults.
        """
        if no_data not in get_args(NoDataRule):
            raise DataError(f"no_data = {no_data!r}: expected {' or '.join(map(repr, get_args(NoDataRule)))}.")
        faults: list[DataError] = []
        source = replace(open_arrays(images, labels, class_names, groups, names), no_data=no_data)
        dataset = _read(source, faults.append)
        if faults:
            raise _together(faults)
        return dataset


@device_errors("reading the data set", "All its images are held in memory: use a part of them, or smaller ones.")
def load_dataset(config: Config | DataConfig) -> Dataset:
    """Read the data set that the settings describe, cut it into tiles, and list its views.

    >>> from fbunet_jax import load_config, load_dataset
    >>> dataset = load_dataset(load_config("quickstart", data={"synthetic_images": 3, "cut": 64}))
    >>> len(dataset.images), dataset.images[0].shape, dataset.names[:2], dataset.groups[:2]
    (12, (64, 64, 1), ('00/r0c0', '00/r0c1'), ('00', '00'))

    Args:
      config: the settings, or their part ``data``; ``cut`` and ``views`` apply to every layout.

    Returns:
      Images ``[H, W, C]`` of the files' own integer type or float32, labels ``[H, W]`` uint8 (class index, 255 =
      ignored), names, groups and class names; items are in the order of the files' names.

    Raises:
      DataError: a file or folder is missing or cannot be used, or the images cannot be cut as wished.
      ConfigError: the argument is not the settings.
    """
    if isinstance(config, Config):
        config = config.data
    if not isinstance(config, DataConfig):
        raise ConfigError(
            f"load_dataset takes a Config or its part data, not {type(config).__name__}. To read a folder, pass "
            'DataConfig(layout="folder", root=...); for arrays in memory, use Dataset.from_arrays.'
        )
    source = open_source(config)
    if others := len(source.faults[1:]):
        raise DataError(f"{source.faults[0]} {_more(others)}; fbunet check lists all.")
    dataset = _read(source, _raise)
    items, percentiles = _items(dataset), None
    if config.cut:
        items = cut(items, config.cut)
        if config.normalisation == "percentile" and config.percentiles_of == "image":
            percentiles = percentiles_of_tiles(dataset.images, config.cut)
    if config.views == "dihedral":
        items = dihedral_views(items)
        percentiles = percentiles and tuple(found for found in percentiles for _ in range(VIEWS))
    names, groups, images, labels = zip(*items, strict=True)
    return replace(dataset, images=images, labels=labels, names=names, groups=groups, percentiles=percentiles)


def open_source(config: DataConfig) -> Source:
    """List what the data set of the settings is made of; no image is read.

    Raises:
      DataError: there is nothing that could be read.
    """
    openers = {
        "synthetic": open_synthetic,
        "drosophila-vnc": open_drosophila,
        "folder": open_folder,
        "nnunet": open_nnunet,
        "arrays": _refuse_arrays,
    }
    if config.layout != "folder" and config.files != FilesConfig():
        raise DataError(
            f'data.files describes the names of a folder of your own, and data.layout is "{config.layout}", whose '
            'names are given. Remove one of them, or set data.layout = "folder".'
        )
    return replace(openers[config.layout](config), no_data=config.no_data)


def described_classes(config: DataConfig) -> Mapping[str, int]:
    """Return name and label value of each class, in class order, as the settings or the data folder describe them.

    No image is read. Empty where nothing describes them.

    Raises:
      DataError: the description cannot be read, or contradicts the settings.
    """
    if config.layout == "arrays":
        return {}
    if config.layout not in ("folder", "nnunet"):
        return SYNTHETIC_CLASSES if config.layout == "synthetic" else DROSOPHILA_CLASSES
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


def _read(source: Source, report: Callable[[DataError], None]) -> Dataset:
    """Return the units that can be read as items, whole; every fault is reported."""
    names, groups, images, labels = [], [], [], []
    for unit, pages, read, _, indices, _ in read_units(source, report):
        names += pages
        groups += [unit.group] * len(pages)
        images += list(read)
        labels += list(indices)
    classes = source.classes
    values = tuple(classes.values())
    if not images and not source.faults:
        report(Fault("missing-label", source.labels, "has no labelled page.", "Label some."))
    return Dataset(
        tuple(images),
        tuple(labels),
        tuple(names),
        tuple(groups),
        tuple(classes),
        values,
        files=source.files,
        channel_numbers=source.channel_numbers,
    )


def _raise(fault: DataError) -> None:
    raise fault


def _together(faults: Sequence[DataError]) -> DataError:
    """Return the first fault, with the number of the others and what some of them are."""
    # whether a class is absent is not known while labels are missing
    faults = [each for each in faults if not isinstance(each, Fault) or each.kind != "class-absent"] or faults
    first, *others = faults
    if not others:
        return first
    listed = [f"{each.file} {each.found}".strip() if isinstance(each, Fault) else str(each) for each in others]
    shown = f"; the first {_LISTED} of them" if len(others) > _LISTED else ""
    return DataError(f"{first} {_more(len(others))}{shown}: {' '.join(listed[:_LISTED])}")


def _more(others: int) -> str:
    return f"There are {others} more faults" if others > 1 else "There is 1 more fault"


def _items(dataset: Dataset) -> list[Item]:
    return list(zip(dataset.names, dataset.groups, dataset.images, dataset.labels, strict=True))


def _refuse_arrays(config: DataConfig) -> Source:
    raise DataError(
        f'data.layout = "{config.layout}": the data were arrays passed from Python, so they cannot be read from the '
        "settings. Pass them again from Python, as dataset=, or set the layout and the root of a data set in files."
    )
