"""How much a fold trains on: read from the data set, or given in numbers where it is not at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from fbunet_jax.accelerators.estimate import image_sizes
from fbunet_jax.config import Config
from fbunet_jax.data.cutting import cut_fault
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.data.folds import configured_folds, fold_items, select_fold
from fbunet_jax.errors import ConfigError
from fbunet_jax.pipeline.sampling import Size
from fbunet_jax.pipeline.store import check_pixels

ImageType = Literal["uint8", "uint16", "float32"]

VIEWS = 8
"""Items that `data.views` = "dihedral" makes of one image."""


@dataclass(frozen=True)
class DataNumbers:
    """A data set in numbers; None for what is not given.

    Attributes:
      classes: K.
      channels: C.
      images: how many, each a group of its own in the folds.
      size: side of the square images in pixels.
      image_type: in which the images are stored, and lie on the device.
    """

    classes: int | None = None
    channels: int | None = None
    images: int | None = None
    size: int | None = None
    image_type: ImageType | None = None

    def over(self, other: "DataNumbers") -> "DataNumbers":
        """Return these numbers, and those of another where these are None."""
        return replace(other, **{name: value for name, value in asdict(self).items() if value is not None})


MOST_CLASSES = 255
"""Labels are bytes, of which one means to ignore the pixel."""

_KNOWN: Mapping[str, DataNumbers] = {
    "drosophila-vnc": DataNumbers(4, 1, 20, 1024, "uint8"),
    # the stand-in for the paper's images, which are not public, is of this type
    "mouse": DataNumbers(3, 1, 50, 256, "uint16"),
}


@dataclass(frozen=True)
class Workload:
    """What one fold trains on and validates with.

    Attributes:
      classes: K.
      channels: C.
      image_type: in which the images lie on the device.
      train: height and width of each training image, in pixels.
      validation: likewise.
    """

    classes: int
    channels: int
    image_type: str
    train: tuple[Size, ...]
    validation: tuple[Size, ...]


def find_workload(config: Config, fold: int, numbers: DataNumbers) -> Workload:
    """Return what a fold of a configuration trains on.

    Args:
      config: the settings. If they name a data set, it is read.
      fold: its number.
      numbers: of a data set that is not at hand; the drosophila and mouse configurations need none.

    Raises:
      UserError: there is no such fold, a number is missing or does not fit, or the data set cannot be read.
    """
    groups: Sequence[str]
    if config.data.root or config.data.layout == "synthetic":
        if given := [f"--{name.replace('_', '-')}" for name, value in asdict(numbers).items() if value is not None]:
            raise ConfigError(
                f"{', '.join(given)}: these numbers are read from the data set, which is at hand. Leave them out."
            )
        dataset = load_dataset(config.data)
        classes, image, groups = len(dataset.class_names), dataset.images[0], dataset.groups
        sizes = image_sizes(dataset, np.arange(len(dataset.images)))
        channels, image_type = image.shape[-1], str(image.dtype)
    else:
        classes, channels, images, size, image_type = _complete(config, numbers)
        groups, sizes = _items(config, images, size)
    items = fold_items(groups, select_fold(configured_folds(groups, config.data), fold))
    train, validation = (tuple(sizes[i] for i in items[part]) for part in ("train", "validation"))
    for part in (train, validation):
        check_pixels(sum(height * width for height, width in part))
    return Workload(classes, channels, image_type, train, validation)


def _complete(config: Config, numbers: DataNumbers) -> tuple[int, int, int, int, str]:
    """Return classes, channels, images, size and type: as given, or else known, or else of the settings."""
    known = _KNOWN.get(config.data.layout, _KNOWN.get(config.data.fold_scheme, DataNumbers()))
    told = numbers.over(DataNumbers(classes=len(config.data.classes) or None)).over(known)
    found = {"classes": told.classes, "channels": told.channels, "images": told.images, "size": told.size}
    if missing := [f"--{name}" for name, value in found.items() if value is None]:
        raise ConfigError(
            f"The settings name no data set, so {', '.join(missing)} must be given: numbers of classes, channels and "
            "images, and the images' side in pixels. Or give the data set with --data.root."
        )
    values = {name: value for name, value in found.items() if value is not None}
    for name, value in values.items():
        least = 2 if name == "classes" else 1
        if value < least or (name == "classes" and value > MOST_CLASSES):
            most = f" and at most {MOST_CLASSES}" if name == "classes" else ""
            raise ConfigError(f"--{name} {value}: expected a number of at least {least}{most}.")
    return values["classes"], values["channels"], values["images"], values["size"], told.image_type or "uint8"


def _items(config: Config, images: int, size: int) -> tuple[list[str], list[Size]]:
    """Return group and size of every item that images of one size become."""
    side = config.data.cut or size
    if cut_fault("", size, size, config.data.cut):
        raise ConfigError(f"data.cut = {side}: --size {size} is not a multiple of it.")
    views = VIEWS if config.data.views == "dihedral" else 1
    # a training part is more than a tenth of them; nothing is listed before
    if images * size**2 * views >= 10 * 2**31:
        raise ConfigError(
            f"--images {images} --size {size}: {images * size**2 * views:,} pixels; the training part of a fold must "
            f"have fewer than {2**31:,}. Use fewer or smaller images."
        )
    each = (size // side) ** 2 * views
    return [f"{image:06}" for image in range(images) for _ in range(each)], [(side, side)] * (images * each)
