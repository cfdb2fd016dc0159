"""Images to segment: small files are read whole; of large TIFFs and OME-Zarr only the rectangles that are asked for."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from fbunet_jax.config import Alpha
from fbunet_jax.data.readers.image_files import open_tiff, read_image, read_opened
from fbunet_jax.data.readers.pixels import intensities, without_alpha
from fbunet_jax.data.readers.tiff import CHANNEL_AXES, PAGE_AXES, arrange
from fbunet_jax.data.readers.tiff_meaning import has_alpha
from fbunet_jax.errors import DataError
from fbunet_jax.inference.axes import Axis, stacks
from fbunet_jax.inference.pixel_size import PixelSize, read_pixel_size, resolution_tags
from fbunet_jax.inference.tiff_regions import TiffRegions
from fbunet_jax.inference.zarr_input import is_zarr, open_zarr
from fbunet_jax.user_files import is_text, suffix

WHOLE_VALUES = 2**26
"""TIFFs with more values than this are not read at once."""

Rows = Callable[[int, int], NDArray]
"""The rows from first to last (exclusive) of one page, `[rows, W, C]` as stored."""


Read = Callable[[int, slice, slice], NDArray]
"""A rectangle of a page: page, rows and columns give `[h, w, C]` as stored."""


@dataclass(frozen=True)
class OpenImage:
    """An image of one or more pages: a file, or one for each channel.

    Attributes:
      path: of the file, or of that of the first channel.
      axes: of the pages, in the order in which they are counted, then y and x.
      channels: number of channels.
      read: gives a rectangle of a page.
      dtype: of the stored values.
      resolution: the size of a pixel as arguments of `tifffile.imwrite`, for TIFFs without other metadata.
      kind: whose metadata it has, "imagej" or "ome"; empty for neither.
      name: of its results; empty until it is known.
    """

    path: Path
    axes: tuple[Axis, ...]
    channels: int
    read: Read
    dtype: np.dtype
    resolution: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""
    name: str = ""

    @property
    def pages(self) -> int:
        """Return the number of pages."""
        return math.prod(axis.size for axis in self.axes[:-2])

    @property
    def height(self) -> int:
        """Return the height in pixels."""
        return self.axes[-2].size

    @property
    def width(self) -> int:
        """Return the width in pixels."""
        return self.axes[-1].size

    @property
    def stacked(self) -> bool:
        """Say whether the file has a page axis."""
        return len(self.axes) > 2

    @property
    def stacks(self) -> list[slice]:
        """Return the pages of every stack of sections, see `fbunet_jax.inference.axes.stacks`."""
        return stacks(self.axes[:-2])

    def rows(self, page: int) -> Rows:
        """Return the reader of one page."""
        return lambda first, last: self.read(page, slice(first, last), slice(None))


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
def open_image(path: Path, axes: str, alpha: Alpha = "refuse") -> Iterator[OpenImage]:
    """Open a file.

    Args:
      path: TIFF, PNG, JPEG, or the folder of an OME-Zarr image.
      axes: see `read_image`.
      alpha: see `read_image`.

    Raises:
      DataError: the file cannot be used, see `read_image`; for values that are not finite and pixels that are not
        opaque in a large file only when they are read.
    """
    if not is_text(str(path) if is_zarr(path) else path.name):
        raise DataError(f"{str(path)!r} is not text in UTF-8, so no table could name it. Rename it.")
    if is_zarr(path):
        found, channels, read, dtype = open_zarr(path)
        yield OpenImage(path, found, channels, read, dtype, resolution_tags(found), "ome")
        return
    if suffix(path) not in (".tif", ".tiff") or not path.is_file():
        yield _whole(path, read_image(path, axes, alpha), (), PixelSize())
        return
    with open_tiff(path, axes) as (series, order):
        size = read_pixel_size(series)
        pages = _page_axes(order, series.shape, size)
        large = math.prod(series.shape) > WHOLE_VALUES and series.dtype.kind != "b"
        if large:
            image = _large(path, series, order, (pages, size), alpha)
        else:
            image = _whole(path, read_opened(path, series, order, alpha), pages, size)
    yield image


def _whole(path: Path, array: NDArray, pages: tuple[Axis, ...], size: PixelSize) -> OpenImage:
    axes = (*pages, size.axis("y", array.shape[1]), size.axis("x", array.shape[2]))

    def read(page: int, rows: slice, columns: slice) -> NDArray:
        return array[page, rows, columns]

    return OpenImage(path, axes, array.shape[-1], read, array.dtype, size.tags, size.kind)


def _large(
    path: Path, series: tifffile.TiffPageSeries, order: str, found: tuple[tuple[Axis, ...], PixelSize], alpha: Alpha
) -> OpenImage:
    """Read rectangles where and when they are used."""
    pages, size = found
    regions, tagged = TiffRegions(path, series, order), has_alpha(series)
    in_page = "".join(axis for axis in order if axis not in PAGE_AXES)
    sizes = dict(zip(order, series.shape, strict=True))
    channels = math.prod(sizes[axis] for axis in in_page if axis in CHANNEL_AXES) - (tagged and alpha != "channel")

    def read(page: int, rows: slice, columns: slice) -> NDArray:
        values = arrange(regions.read(page, rows, columns), in_page)
        return intensities(path, without_alpha(path, values, alpha) if tagged else values)[0]

    axes = (*pages, size.axis("y", sizes["Y"]), size.axis("x", sizes["X"]))
    dtype = intensities(path, np.empty(0, series.dtype.newbyteorder("="))).dtype
    return OpenImage(path, axes, channels, read, dtype, size.tags, size.kind)


def _page_axes(order: str, shape: tuple[int, ...], size: PixelSize) -> tuple[Axis, ...]:
    """Return the axes of the pages: t and z, or one z where OME-Zarr has no name for them."""
    letters = [(axis, count) for axis, count in zip(order, shape, strict=True) if axis in PAGE_AXES]
    names = ["t" if axis == "T" else "z" for axis, _ in letters]
    if len(set(names)) < len(names):
        return (Axis("z", math.prod(count for _, count in letters), stands_in=True),)
    return tuple(
        size.axis("z", count) if axis == "Z" else Axis(name, count, stands_in=axis != "T")
        for name, (axis, count) in zip(names, letters, strict=True)
    )
