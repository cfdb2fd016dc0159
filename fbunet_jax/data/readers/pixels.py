"""What the pixels of an image or a label must be, wherever it comes from: their number, type, values and channels."""

import math
from pathlib import Path

import numpy as np

from fbunet_jax.data.faults import Fault

MAXIMUM_PIXELS = 2**31
"""Values in one file; more is taken for a damaged or malicious header and refused before memory is taken."""

_SIZE_REMEDY = "Cut it into smaller files, or export it again if the size is wrong."
_SMALL_BYTES = 2**29
_MOST_EXPANSION = 600
"""Decoded bytes for one byte of a file above `_SMALL_BYTES`: 1032 are the most with deflate, labels have 50 to 400."""


def check_size(path: Path, shape: tuple[int, ...], itemsize: int = 1) -> None:
    """Refuse a file whose header declares no value, more than `MAXIMUM_PIXELS`, or far more than its bytes can hold.

    Args:
      path: of the file.
      shape: of the values.
      itemsize: bytes of one value.
    """
    declared = f"declares the size {' x '.join(map(str, shape))}"
    check_count(path, shape, declared)
    values, size = math.prod(shape), path.stat().st_size
    if values * itemsize > max(_SMALL_BYTES, _MOST_EXPANSION * size):
        raise Fault(
            "file-size",
            path,
            f"{declared}, {values * itemsize:,} bytes, and is itself only {size:,} bytes long: it is empty or damaged.",
            _SIZE_REMEDY,
        )


def check_count(path: Path, shape: tuple[int, ...], declared: str) -> None:
    """Refuse a shape without a value, or with more than `MAXIMUM_PIXELS`; ``declared`` says it in the message."""
    values = math.prod(shape)
    if values < 1:
        raise Fault("damaged-file", path, f"{declared}: it holds no pixel.", "Copy or export it again.")
    if values > MAXIMUM_PIXELS:
        raise Fault("file-size", path, f"{declared}, more than {MAXIMUM_PIXELS} values.", _SIZE_REMEDY)


def intensities(path: Path, array: np.ndarray) -> np.ndarray:
    """Return decoded values as images hold them, see `image_files.read_image`; the path is for the message.

    Raises:
      DataError: the type is not supported, or values are not finite.
    """
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.dtype in (np.float16, np.float64):
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if array.dtype != np.float32 and not (array.dtype.kind in "iu" and array.dtype.itemsize <= 4):
        raise Fault(
            "image-type",
            path,
            f"holds values of type {array.dtype}; expected 8, 16 or 32-bit integers or float32.",
            "Convert it, in Fiji with Image > Type.",
        )
    if array.dtype == np.float32:
        broken = int(np.count_nonzero(~np.isfinite(array)))
        if broken:
            raise Fault(
                "not-finite",
                path,
                f"has {broken} of {array.size} values that are NaN or infinite in 32 bits.",
                "Replace them before training, for example in Fiji with Process > Math > NaN Background or Macro.",
            )
    return array


def label_values(path: Path, array: np.ndarray) -> np.ndarray:
    """Return the decoded values ``[pages, H, W, C]`` of a label as ``[pages, H, W]``; the path is for the message.

    Raises:
      DataError: there are several channels, or the values are not whole numbers.
    """
    if array.shape[-1] != 1:
        raise Fault(
            "label-colours",
            path,
            f"has {array.shape[-1]} channels (colours?), but a label image has one: the class of each pixel.",
            "Save it as one grey channel with one value per class.",
        )
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise Fault(
            "label-type",
            path,
            f"holds values of type {array.dtype}, but a label image holds whole numbers.",
            "Save it as 8-bit or 16-bit integers.",
        )
    return array[..., 0]


def drop_opaque_alpha(path: Path, array: np.ndarray) -> np.ndarray:
    """Return the channels but the last, which must be opaque everywhere: hidden pixels are not measurements."""
    opaque = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    hidden = int(np.count_nonzero(array[..., -1] != opaque))
    if hidden:
        raise Fault(
            "transparency",
            path,
            f"has an alpha channel with {hidden} pixels that are not opaque.",
            "Remove the alpha channel, or save the file without transparency.",
        )
    return array[..., :-1]
