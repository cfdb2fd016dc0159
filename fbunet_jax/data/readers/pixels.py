"""What the pixels of an image or a label must be, wherever it comes from: their number, type, values and channels."""

import math
import zlib
from pathlib import Path

import numpy as np

from fbunet_jax.config import Alpha
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.readers.memory import available_memory

SMALL_BYTES = 2**29
"""Decoded bytes of a file that are never too many for what the file itself is long."""

DEFLATE = 1032
"""Most bytes that one byte of deflate stands for."""

MORE_MEMORY = (
    "Use a machine, a container or a job with more memory, raise the limit (ulimit -v) if one is set, or cut it into "
    "smaller files. To predict without reading it at once, save it as OME-Zarr or as a tiled TIFF."
)
"""What to do about a file that does not fit into the memory."""

_UNASKED_BYTES = 2**26
_LARGE_BYTES = 2**30
_HOLLOW = 380_000
"""Decoded bytes for each that is left of a file when it is compressed: zeros have over 430,000, one disc 350,000."""
_LOOKED_AT = 2**24
_COPIES = 2


def check_size(
    path: Path,
    shape: tuple[int, ...],
    itemsize: int = 1,
    *,
    stored: int | None = None,
    copies: int = _COPIES,
    expansion: float = math.inf,
) -> None:
    """Refuse a file whose header declares no value, more than the memory takes, or far more than its bytes can hold.

    Args:
      path: of the file.
      shape: of the values.
      itemsize: bytes of one value.
      stored: bytes of them that the file stands for, if it leaves some out.
      copies: how often the values lie in memory while the file is read.
      expansion: most bytes that one byte of the file stands for.
    """
    declared = f"declares the size {' x '.join(map(str, shape))}"
    check_count(path, shape, declared)
    needed, size = math.prod(shape) * itemsize, path.stat().st_size
    declared = f"{declared}, {needed:,} bytes,"
    check_memory(path, declared, copies * needed)
    needed = needed if stored is None else stored
    if needed > max(SMALL_BYTES, expansion * size):
        found = f"{declared} and its {size:,} bytes hold at most {expansion * size:,.0f}: it is damaged or incomplete."
        raise Fault("file-size", path, found, "Copy or export it again.")
    if needed > _LARGE_BYTES and needed > _HOLLOW * _information(path, size):
        raise Fault(
            "file-size",
            path,
            f"{declared} and its {size:,} bytes say the same over and over: more than {_LARGE_BYTES:,} bytes without "
            "content are taken for a mistake, or for a file made to fill the memory.",
            "If it is right, save it without compression, or cut it into smaller files.",
        )


def check_memory(path: Path, declared: str, needed: int) -> None:
    """Refuse what does not fit into the memory that is available now; ``declared`` says in the message what it is."""
    if needed <= _UNASKED_BYTES:
        return
    available = available_memory()
    if available is not None and needed > available:
        raise Fault(
            "file-size",
            path,
            f"{declared} and reading it takes {needed:,} bytes of memory; {available:,} are available.",
            MORE_MEMORY,
        )


def check_count(path: Path, shape: tuple[int, ...], declared: str) -> None:
    """Refuse a shape without a value; ``declared`` says it in the message."""
    if math.prod(shape) < 1:
        raise Fault("damaged-file", path, f"{declared}: it holds no pixel.", "Copy or export it again.")


def _information(path: Path, size: int) -> float:
    """Return about how many bytes a file has when what repeats in them is left out; a long one is not looked at."""
    if size > _LOOKED_AT:
        return math.inf
    return len(zlib.compress(path.read_bytes(), 9))


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


def without_alpha(path: Path, array: np.ndarray, alpha: Alpha = "refuse") -> np.ndarray:
    """Return the channels of an image whose last one is tagged as transparency.

    Args:
      path: for the message.
      array: `[..., C]`.
      alpha: "refuse" drops it if every pixel is opaque, since hidden pixels are not measurements; "drop" drops it
        always; "channel" keeps it.

    Raises:
      DataError: pixels are not opaque, and it is to be refused.
    """
    if alpha == "channel":
        return array
    opaque = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    if alpha == "refuse" and (hidden := int(np.count_nonzero(array[..., -1] != opaque))):
        raise transparent(path, f"has an alpha channel with {hidden} pixels that are not opaque", is_channel=True)
    return array[..., :-1]


def transparent(path: Path, found: str, *, is_channel: bool = False) -> Fault:
    """Return the fault of an image with pixels that are not shown; only a channel of its own can be kept as one."""
    remedy = 'Save the file without transparency, or set data.alpha = "drop" to read the pixels as if they were shown.'
    if is_channel:
        remedy = (
            'Save the file without transparency, or set data.alpha: "channel" if the last channel holds intensities, '
            'such as a fourth stain, and "drop" if it can be left out.'
        )
    return Fault("transparency", path, f"{found}.", remedy)
