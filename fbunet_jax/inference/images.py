"""Images to segment: small files are read whole; of large TIFFs a band of rows at a time is in memory."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from fbunet_jax.data.folds import natural_key
from fbunet_jax.data.pixels import drop_opaque_alpha, intensities
from fbunet_jax.data.readers import IMAGE_SUFFIXES, open_tiff, read_image
from fbunet_jax.data.tiff import CHANNEL_AXES, PAGE_AXES, arrange, has_alpha
from fbunet_jax.errors import DataError

WHOLE_VALUES = 2**26
"""TIFFs with more values than this are not read at once."""

Rows = Callable[[int, int], NDArray]
"""The rows from first to last (exclusive) of one page, `[rows, W, C]` as stored."""


@dataclass(frozen=True)
class OpenImage:
    """One file of one or more pages.

    Attributes:
      path: of the file.
      pages: number of pages.
      height: in pixels.
      width: in pixels.
      channels: number of channels.
      read: ``read(page, first, last)`` gives rows `[rows, W, C]` in the stored type.
      stacked: whether the file has a page axis.
      resolution: what a TIFF says of the size of a pixel, as arguments of `tifffile.imwrite`.
    """

    path: Path
    pages: int
    height: int
    width: int
    channels: int
    read: Callable[[int, int, int], NDArray]
    stacked: bool = False
    resolution: dict[str, Any] = field(default_factory=dict)

    def rows(self, page: int) -> Rows:
        """Return the reader of one page."""
        return lambda first, last: self.read(page, first, last)


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """Return the image files among files and folders, folders in natural order and not deeper.

    Raises:
      DataError: an input does not exist, a folder has no image, or two files would get one name. The same file
        given twice counts once.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = [each for each in path.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES]
            found = sorted((each for each in found if each.name[0] != "."), key=lambda each: natural_key(each.name))
            if not found:
                inner = next((each.name for each in sorted(path.iterdir()) if each.is_dir()), "")
                hint = f" It has a folder {inner}; give {path / inner}." if inner else ""
                raise DataError(f"{path} has no image: expected files of {', '.join(IMAGE_SUFFIXES)}.{hint}")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"{path} does not exist. Give an image or a folder of images.")
    names: dict[str, Path] = {}
    for file in dict.fromkeys(files):
        if name_of(file) in ("", ".", ".."):
            raise DataError(f"{file} has no name that its results could have. Rename it.")
        other = names.setdefault(name_of(file), file)
        if other.resolve() != file.resolve():
            raise DataError(
                f"{other} and {file} have the same name, so one result would overwrite the other. Segment them into "
                "different folders."
            )
    return list(names.values())


def name_of(file: Path) -> str:
    """Return the name of an image's results: "07" for 07.tif and 07.ome.tif."""
    return file.stem.removesuffix(".ome")


def as_pages(image: NDArray, channels: int, *, stack: bool) -> NDArray:
    """Return an array as `[pages, H, W, C]` in a type that the device takes.

    Raises:
      DataError: shape, type, channels or values do not fit.
    """
    try:
        array = np.asarray(image)
    except ValueError as error:
        raise DataError(f"The image is no array: {error}") from error
    spatial = "[Z, H, W] or [Z, H, W, C]" if stack else "[H, W] or [H, W, C]"
    dimensions = 3 if stack else 2
    if array.ndim not in (dimensions, dimensions + 1) or 0 in array.shape:
        hint = " Give stack=True if the first axis numbers pages." if array.ndim > dimensions and not stack else ""
        raise DataError(f"An array of the shape {array.shape} is no image: expected {spatial}.{hint}")
    given = array.shape
    array = array[..., None] if array.ndim == dimensions else array
    if array.shape[-1] != channels:
        hint = " Give stack=True if the first axis numbers pages." if len(given) == 3 and not stack else ""
        raise DataError(
            f"An array of the shape {given} was read as {spatial} with {array.shape[-1]} channels, but the "
            f"network was trained with {channels}.{hint}"
        )
    if array.dtype == bool:
        raise DataError(
            "The image holds truth values; expected intensities, as in the files that the network was trained with "
            "(of 1-bit files: 0 and 1 as uint8)."
        )
    if array.dtype.kind in "iu" and array.dtype.itemsize > 4:
        array = _narrowed(array)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError("The image has values that are NaN or infinite in 32 bits. Replace them first.")
    elif array.dtype.kind not in "iu" or array.dtype.itemsize > 4:
        raise DataError(
            f"The image holds values of type {array.dtype}; expected 8, 16 or 32-bit integers or floating point, as "
            "in the files that the network was trained with."
        )
    return array if stack else array[None]


def _narrowed(array: NDArray) -> NDArray:
    """Return 64-bit integers in 32 bits if they fit: numpy makes 64-bit ones of lists and by arithmetic."""
    for dtype in (np.int32, np.uint32):
        if np.iinfo(dtype).min <= array.min() and array.max() <= np.iinfo(dtype).max:
            return array.astype(dtype)
    return array


@contextlib.contextmanager
def open_image(path: Path, axes: str, scratch: Path) -> Iterator[OpenImage]:
    """Open a file.

    Args:
      path: TIFF, PNG or JPEG.
      axes: see `read_image`.
      scratch: file for the decoded values of a large compressed TIFF; removed afterwards.

    Raises:
      DataError: the file cannot be used, see `read_image`; for values that are not finite and pixels that are not
        opaque in a large file only when they are read.
    """
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        yield _whole(path, read_image(path, axes), stacked=False)
        return
    try:
        with open_tiff(path, axes) as (series, order):
            stacked, resolution = any(axis in PAGE_AXES for axis in order), _resolution(series.keyframe)
            large = math.prod(series.shape) > WHOLE_VALUES and series.dtype.kind != "b"
            if large:
                image = _large(path, series, order, scratch)
        if not large:
            image = _whole(path, read_image(path, axes), stacked)
        yield OpenImage(**{**vars(image), "stacked": stacked, "resolution": resolution})
    finally:
        scratch.unlink(missing_ok=True)


def _whole(path: Path, array: NDArray, stacked: bool) -> OpenImage:
    pages, height, width, channels = array.shape
    return OpenImage(path, pages, height, width, channels, lambda page, a, b: array[page, a:b], stacked)


def _large(path: Path, series: tifffile.TiffPageSeries, order: str, scratch: Path) -> OpenImage:
    """Map the values of a file into memory, which the system then reads where and when they are used."""
    direct = series.dataoffset is not None and series.keyframe.is_memmappable
    mapped: Any = series.asarray(out="memmap" if direct else str(scratch))
    where = {"dtype": mapped.dtype, "shape": mapped.shape, "offset": mapped.offset}
    file, alpha = (path if direct else scratch), has_alpha(series)
    mapped.flush()
    del mapped
    in_page = [axis for axis in order if axis not in PAGE_AXES]
    sizes = dict(zip(order, series.shape, strict=True))
    page_shape = [sizes[axis] for axis in order if axis in PAGE_AXES]

    def read(page: int, first: int, last: int) -> NDArray:
        # mapped anew each time: what has been read does not stay in memory
        array: NDArray = np.memmap(file, mode="r", **where)
        place = iter(np.unravel_index(page, page_shape) if page_shape else ())
        array = array[tuple(next(place) if axis in PAGE_AXES else slice(None) for axis in order)]
        cut = tuple(slice(first, last) if axis == "Y" else slice(None) for axis in in_page)
        rows = np.array(array[cut], dtype=array.dtype.newbyteorder("="))
        rows = arrange(rows, "".join(in_page))
        return intensities(path, drop_opaque_alpha(path, rows) if alpha else rows)[0]

    channels = math.prod(sizes[axis] for axis in in_page if axis in CHANNEL_AXES) - alpha
    return OpenImage(path, math.prod(page_shape), sizes["Y"], sizes["X"], channels, read)


def _resolution(page: tifffile.TiffPage) -> dict[str, Any]:
    """Return the resolution if it makes sense: it is only handed on."""
    across, down, unit = (page.tags.valueof(name) for name in ("XResolution", "YResolution", "ResolutionUnit"))
    for fraction in (across, down):
        if not isinstance(fraction, tuple) or len(fraction) != 2 or not all(0 < part < 2**32 for part in fraction):
            return {}
    unit = 2 if unit is None else unit
    return {"resolution": (across, down), "resolutionunit": int(unit)} if unit in (1, 2, 3) else {}
