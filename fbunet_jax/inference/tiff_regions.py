"""Rectangles of a large TIFF: mapped where they lie in the file, or decoded from its strips and tiles."""

import collections
import contextlib
import itertools
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import tifffile
from numpy.typing import NDArray

from fbunet_jax.data.readers.image_files import decoding
from fbunet_jax.data.readers.tiff import PAGE_AXES, without_complaints
from fbunet_jax.errors import DataError

CACHED_BYTES = 2**27
"""Of decoded strips and tiles that are kept, since neighbouring rectangles share them."""

_JPEG = (6, 7, 33007, 34892)

_Index = tuple[int | slice, ...]


class TiffRegions:
    """Reads rectangles of the pages of an image series, also after tifffile has closed the file."""

    def __init__(self, path: Path, series: tifffile.TiffPageSeries, order: str) -> None:
        """Look at the layout; nothing is read yet.

        Args:
          path: of the file.
          series: whose data is complete.
          order: a letter for each axis of the series.

        Raises:
          DataError: the directories of a compressed file do not make up the axes of the series.
        """
        self._path, self._order = path, order
        self._page_shape = [size for axis, size in zip(order, series.shape, strict=True) if axis in PAGE_AXES]
        self._mapped: dict[str, Any] = {}
        if series.dataoffset is not None and series.keyframe.is_memmappable:
            with contextlib.suppress(OSError):  # some disks cannot map a file
                array: Any = series.asarray(out="memmap")
                self._mapped = {"dtype": array.dtype, "shape": array.shape, "offset": array.offset}
        if not self._mapped:
            self._directories = _Directories(path, series)

    def read(self, page: int, rows: slice, columns: slice) -> NDArray:
        """Return a rectangle of a page, with the axes of the series that do not count pages, in native byte order."""
        place = iter(np.unravel_index(page, self._page_shape) if self._page_shape else ())
        cuts = {"Y": rows, "X": columns}
        index = tuple(int(next(place)) if axis in PAGE_AXES else cuts.get(axis, slice(None)) for axis in self._order)
        if not self._mapped:
            return self._directories.read(index, self._order)
        # mapped anew each time: what has been read does not stay in memory
        array: NDArray = np.memmap(self._path, mode="r", **self._mapped)[index]
        return np.array(array, dtype=array.dtype.newbyteorder("="))


class _Directories:
    """Decodes the strips and tiles of a TIFF's directories (IFDs), and keeps the latest."""

    def __init__(self, path: Path, series: tifffile.TiffPageSeries) -> None:
        page: Any = series.keyframe
        self._path, self._keyframe, self._decode = path, page, page.decode
        self._shape = series.shape[: len(series.shape) - len(page.shape)]
        if self._shape + page.shape != series.shape or math.prod(self._shape) != len(series.pages):
            raise DataError(
                f"{path} has pages of the shape {page.shape} for an image of {series.shape}, which cannot be read part "
                "by part. Save it as OME-TIFF or OME-Zarr."
            )
        self._jpeg = {"jpegheader": page.jpegheader} if page.compression in _JPEG else {}
        self._places = [(each.dataoffsets, each.databytecounts, each.jpegtables) for each in series.pages if each]
        self._fill = [each.keyframe.nodata for each in series.pages if each and each.keyframe]
        self._kept: collections.OrderedDict[tuple[int, int], tuple[Any, ...]] = collections.OrderedDict()

    def read(self, index: _Index, order: str) -> NDArray:
        """Return the part of the series at an index of its axes."""
        count = len(self._shape)
        chosen = [
            range(size)[part] if isinstance(part, slice) else [part]
            for part, size in zip(index, self._shape, strict=False)
        ]
        parts = [
            self._image(int(np.ravel_multi_index(place, self._shape)) if place else 0, index[count:], order[count:])
            for place in itertools.product(*chosen)
        ]
        sizes = [len(part) for part, wanted in zip(chosen, index, strict=False) if isinstance(wanted, slice)]
        return np.stack(parts).reshape(*sizes, *parts[0].shape)

    def _image(self, number: int, index: _Index, order: str) -> NDArray:
        """Return the part of one directory's image at an index of its axes."""
        page = self._keyframe
        ends = {"Y": page.imagelength, "X": page.imagewidth}
        cuts = {axis: range(size)[cast(slice, index[order.index(axis)])] for axis, size in ends.items()}
        rows, columns = cuts["Y"], cuts["X"]
        samples, depth, _, _, contiguous = page.shaped
        found = np.empty((samples, depth, len(rows), len(columns), contiguous), page.dtype.newbyteorder("="))
        for segment in self._segments(rows, columns):
            values, (sample, plane, top, left, _), shape = self._segment(number, segment)
            first, last = max(top, rows.start), min(top + shape[1], rows.stop)
            begin, end = max(left, columns.start), min(left + shape[2], columns.stop)
            planes = min(shape[0], depth - plane)
            found[
                sample,
                plane : plane + planes,
                first - rows.start : last - rows.start,
                begin - columns.start : end - columns.start,
            ] = values[:planes, first - top : last - top, begin - left : end - left]
        sizes = [len(cuts[axis]) if axis in cuts else size for axis, size in zip(order, page.shape, strict=True)]
        rest = tuple(slice(None) if axis in cuts else part for axis, part in zip(order, index, strict=True))
        return found.reshape(sizes)[rest]

    def _segments(self, rows: range, columns: range) -> list[int]:
        """Return the numbers of the strips or tiles that hold a rectangle, in every sample and plane of a directory."""
        page = self._keyframe
        if page.is_tiled:
            height, width, depth = page.tilelength, page.tilewidth, page.tiledepth
        else:
            height, width, depth = min(page.rowsperstrip, page.imagelength), page.imagewidth, 1
        down, across = -(-page.imagelength // height), -(-page.imagewidth // width)
        return [
            (plane * down + row) * across + column
            for plane in range(page.shaped[0] * -(-page.imagedepth // depth))
            for row in range(rows.start // height, -(-rows.stop // height))
            for column in range(columns.start // width, -(-columns.stop // width))
        ]

    def _segment(self, number: int, segment: int) -> tuple[Any, ...]:
        """Return the values, the place and the shape of a strip or tile."""
        key = (number, segment)
        if key not in self._kept:
            offsets, counts, tables = self._places[number]
            data = None  # left out, see `tiff_parts.check_parts`
            if counts[segment]:
                with self._path.open("rb") as file:
                    file.seek(offsets[segment])
                    data = file.read(counts[segment])
            options = {**self._jpeg, "jpegtables": tables} if self._jpeg else {}
            with decoding(self._path, "TIFF"), without_complaints(self._path):
                values, place, shape = self._decode(data, segment, _fullsize=False, **options)
            if values is None:
                dtype = self._keyframe.dtype.newbyteorder("=")
                values = np.broadcast_to(np.asarray(self._fill[number], dtype), shape)
            self._kept[key] = values, place, shape
            while len(self._kept) > 1 and sum(each[0].nbytes for each in self._kept.values()) > CACHED_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
