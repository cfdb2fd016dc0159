"""The strips and tiles of a TIFF: all there, left out as the format allows, or lost."""

import math
from pathlib import Path
from typing import Any

import tifffile

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.readers.pixels import DEFLATE, SMALL_BYTES, check_count, check_memory

_AGAIN = "Copy or export it again."
_EXPANSIONS = {1: 1, 5: 1400, 6: 2048, 7: 2048, 8: DEFLATE, 32773: 64, 32946: DEFLATE, 34925: 2**13, 50000: 2**15}
"""Most bytes that one byte stands for: LZW, JPEG, deflate, PackBits, LZMA and Zstandard; others know no bound."""
_UNREFERENCED = 2**16


def check_parts(path: Path, series: tifffile.TiffPageSeries, what: str) -> None:
    """Refuse a series whose data is not all there; parts that were left out are not missed.

    A strip or tile with neither a place nor a length was never written (GDAL's SPARSE_OK, empty regions of slides):
    its pixels are 0, or GDAL's "no data" value.

    Args:
      path: of the file.
      series: of pages that are stored in one way.
      what: "image" or "label"; an image that was never written at all is refused.

    Raises:
      DataError: names the page, and the part if it is one.
    """
    page: Any = series.keyframe
    parts, part_bytes = math.prod(page.chunked), math.prod(page.chunks) * page.bitspersample // 8
    least, size, longest, absent, total = page.size * page.bitspersample // 8, page.parent.filehandle.size, 0, 0, 0
    for index, each in enumerate(series.pages):
        places, counts = (each.dataoffsets, each.databytecounts) if each else ((), ())
        if not len(places) == len(counts) >= parts:
            raise _incomplete(path, series, index)
        left_out = sum(1 for place, count in zip(places, counts, strict=True) if not place and not count)
        stored = [(place, count) for place, count in zip(places, counts, strict=True) if place or count]
        if stored and (min(count for _, count in stored) < 1 or min(place for place, _ in stored) < 8):
            raise _half_written(path, index, list(zip(places, counts, strict=True)))
        if max((place + count for place, count in stored), default=0) > size:
            raise _incomplete(path, series, index)
        held = sum(count for _, count in stored)
        if page.compression == 1 and held < least - left_out * part_bytes:
            raise _incomplete(path, series, index)
        longest, absent = max(longest, *(count for _, count in stored), 0), absent + left_out
        total += held
    _check_part_size(path, page, longest)
    if absent:
        _read_part_by_part(path, series, absent, total, what)


def stored_bytes(series: tifffile.TiffPageSeries) -> int:
    """Return how many decoded bytes of a series are not left out, at most."""
    page: Any = series.keyframe
    absent = sum(sum(1 for count in each.databytecounts if not count) for each in series.pages if each)
    return int(series.nbytes) - absent * math.prod(page.chunks) * page.dtype.itemsize


def leave_out_levels(file: tifffile.TiffFile) -> None:
    """Let tifffile not follow the smaller levels of a pyramid: they are not needed, and may be cut off."""
    if file.pages.first.subifds:
        file.pages.cache = True
        for page in file.pages:
            page.subifds = ()  # type: ignore[union-attr]  # not None: pages are then taken to follow each other


def _check_part_size(path: Path, page: Any, longest: int) -> None:
    """Refuse strips or tiles that do not fit into the memory, or are larger than their bytes can hold."""
    declared = f"declares strips or tiles of {' x '.join(map(str, page.chunks))}"
    check_count(path, page.chunks, declared)
    needed = math.prod(page.chunks) * page.bitspersample // 8
    declared = f"{declared}, {needed:,} bytes each,"
    check_memory(path, declared, 2 * math.prod(page.chunks) * page.dtype.itemsize)
    most = _EXPANSIONS.get(page.compression, math.inf) * longest
    if needed > max(SMALL_BYTES, most) and longest:
        found = f"{declared} and the longest of them, {longest:,} bytes, holds at most {most:,.0f}: it is damaged."
        raise Fault("file-size", path, found, _AGAIN)


def _read_part_by_part(path: Path, series: tifffile.TiffPageSeries, absent: int, total: int, what: str) -> None:
    """Let tifffile read a series in which parts were left out; refuse what cannot be one."""
    page: Any = series.keyframe
    if math.prod(series.shape) > page.size * len(series.pages):
        raise _incomplete(path, series, len(series.pages) - 1)
    if not total:
        behind = page.parent.filehandle.size - _UNREFERENCED - 64 * absent - 4096 * len(series.pages)
        if what == "image" or behind > 0:
            raise Fault(
                "damaged-file",
                path,
                "has places for strips or tiles, and none was ever written: it holds no pixel. Was writing it "
                "interrupted?",
                _AGAIN,
            )
    # a single strip that was left out would be taken from the beginning of the file
    for each in (each.keyframe for each in series.pages if each):
        vars(each).update(is_contiguous=False, is_final=False, is_memmappable=False)
    vars(series)["dataoffset"] = None


def _incomplete(path: Path, series: tifffile.TiffPageSeries, index: int) -> Fault:
    declared = " x ".join(map(str, series.keyframe.shape))
    found = f"ends before the data of page {index} is complete, {declared} values: the file is damaged or incomplete."
    return Fault("damaged-file", path, found, _AGAIN)


def _half_written(path: Path, index: int, parts: list[tuple[int, int]]) -> Fault:
    number = next(i for i, (place, count) in enumerate(parts) if (place or count) and (count < 1 or place < 8))
    place, count = parts[number]
    found = (
        f"says that strip or tile {number} of page {index} is {count:,} bytes long at byte {place:,}: it was begun and "
        "not written, or the file is damaged."
    )
    return Fault("damaged-file", path, found, _AGAIN)
