"""The directories of a TIFF, checked before a library follows them, and its pages, checked before they are decoded."""

import math
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import tifffile

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.readers.pixels import check_memory

UNASKED_PAGES = 2**16
"""Directories in one file; of more, each must have data, and there must be memory for all."""

_PAGE_BYTES = 2**13

_MOST_ENTRIES = 4096
_MOST_VALUES = 1024
_EXPORT = "Copy or export it again."

# width, height, bits, compression, photometric, bit order, samples, planes, predictor, tiles, extra samples, format
_LAYOUT = (256, 257, 258, 259, 262, 266, 277, 284, 317, 322, 323, 338, 339)
_ONCE = {*_LAYOUT, 273, 278, 279, 324, 325, 330}
_DEFAULTS: dict[int, tuple[object, ...]] = dict.fromkeys((258, 259, 266, 277, 284, 317, 339), (1,))
_STRIPS, _TILE_WIDTH, _TILES, _CHILDREN = 273, 322, 324, 330
_SUBFILE, _OLD_SUBFILE = 254, 255
_REDUCED, _MASK = 1, 4
_READ = {*_LAYOUT, _CHILDREN, _SUBFILE, _OLD_SUBFILE}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_SIZES = dict(zip(range(1, 19), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), strict=True))
"""Bytes of a value, by type."""


class Directory(NamedTuple):
    """What decides how the pixels of a page are stored, and what the page is.

    Attributes:
      layout: the tags that decide how pixels are stored.
      is_reduced: whether the page shows another one smaller: a thumbnail, or a level of a pyramid.
      is_mask: whether it says which pixels of another one are shown.
      children: whether there are directories below it.
      end: of what it refers to besides pixels, in bytes from the start of the file.
    """

    layout: tuple[object, ...]
    is_reduced: bool
    is_mask: bool
    children: bool
    end: int


class _Form(NamedTuple):
    """How numbers are written in a classic TIFF or a BigTIFF."""

    order: str
    number: str
    offset: str
    entry: int
    first: int


def read_directories(path: Path) -> dict[int, Directory]:
    """Return the place of every directory in the chain, and what it says, in order.

    Raises:
      DataError: the chain leads out of the file, or it or a directory below it to one that was there before, or there
        are more directories than the memory takes, or more than `UNASKED_PAGES` of which one has no data.
    """
    size = path.stat().st_size
    found: dict[int, Directory] = {}
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        is_big = struct.unpack_from(order + "H", head, 2)[0] == 43
        form = _Form(order, "Q", "Q", 20, 8) if is_big else _Form(order, "H", "I", 12, 4)
        (place,) = struct.unpack_from(order + form.offset, head, form.first)
        below: list[int] = []
        empty = False
        seen: set[int] = set()
        while place or below:
            in_chain = bool(place)
            here = place or below.pop()
            if here in seen:
                raise Fault("damaged-file", path, "names a page twice: its pages would never end.", _EXPORT)
            seen.add(here)
            if len(seen) % UNASKED_PAGES == 0:
                _check_number(path, len(seen), empty)
            try:
                if here + struct.calcsize(form.number) > size:
                    raise _broken(path, len(found))
                directory, children, following = _read_directory(path, file, form, here, len(found))
            except Fault:
                if in_chain:
                    raise
                continue  # a thumbnail, or a smaller level of a pyramid, which is not needed
            below += children
            empty = empty or not directory.layout[-1]
            if in_chain:
                found[here], place = directory, following
    if not found:
        raise Fault("damaged-file", path, "has no page.", _EXPORT)
    return found


def _read_directory(
    path: Path, file: BinaryIO, form: _Form, place: int, index: int
) -> tuple[Directory, list[int], int]:
    """Return what a directory says, and the places of those below it and of the next."""
    file.seek(place)
    (count,) = struct.unpack(form.order + form.number, file.read(struct.calcsize(form.number)))
    if _MOST_ENTRIES < count < 2**16 and place + count * form.entry <= path.stat().st_size:
        found = f"has {count:,} tags in page {index}; tifffile, which reads it, takes {_MOST_ENTRIES:,}."
        raise Fault("file-size", path, found, "Save it anew, in Fiji with File > Save As > Tiff.")
    if not 0 < count <= _MOST_ENTRIES:
        raise _broken(path, index)
    entries, following = file.read(count * form.entry), file.read(struct.calcsize(form.offset))
    if len(following) < struct.calcsize(form.offset):
        raise _broken(path, index)
    values: dict[int, tuple[object, ...]] = dict(_DEFAULTS)
    tags, end, head, width = set(), file.tell(), f"{form.order}HH{form.offset}", struct.calcsize(form.offset)
    for start in range(0, len(entries), form.entry):
        entry = entries[start : start + form.entry]
        tag, kind, many = struct.unpack_from(head, entry)
        if tag in tags and tag in _ONCE:
            found = f"lists the tag {tag} of page {index} twice: readers would not agree on which counts."
            raise Fault("damaged-file", path, found, _EXPORT)
        tags.add(tag)
        if many * _SIZES.get(kind, 0) > width:
            end = max(end, struct.unpack_from(form.order + form.offset, entry, 4 + width)[0] + many * _SIZES[kind])
        if tag in _READ:
            values[tag] = _values(file, form, entry)
    if {_STRIPS, _TILES} <= tags or (_TILES in tags) != (_TILE_WIDTH in tags):
        found = f"has strips and tiles in page {index}, or parts of both: the file is damaged."
        raise Fault("damaged-file", path, found, _EXPORT)
    children = values.get(_CHILDREN, ())
    if any(isinstance(child, bytes) for child in children):
        raise _broken(path, index)
    below = [child for child in children if isinstance(child, int) and child]
    subfile = next(iter(values.get(_SUBFILE, ())), 0)
    subfile = subfile if isinstance(subfile, int) else 0
    is_reduced = bool(subfile & _REDUCED) or values.get(_OLD_SUBFILE) == (2,)
    layout = (*(values.get(tag) for tag in _LAYOUT), bool({_STRIPS, _TILES} & tags))
    directory = Directory(layout, is_reduced, bool(subfile & _MASK), bool(below), end)
    return directory, below, struct.unpack(form.order + form.offset, following)[0]


def _check_number(path: Path, pages: int, empty: bool) -> None:
    """Refuse so many pages if one of them has no data, or if they do not fit into the memory."""
    if empty:
        found = f"has more than {UNASKED_PAGES} pages, and one of them has neither strips nor tiles: it is damaged."
        raise Fault("damaged-file", path, found, _EXPORT)
    check_memory(path, f"has more than {pages - 1:,} pages,", _PAGE_BYTES * pages)


def _values(file: BinaryIO, form: _Form, entry: bytes) -> tuple[object, ...]:
    """Return the whole numbers of an entry, or its bytes if it should hold something else, or absurdly many."""
    (kind,) = struct.unpack_from(form.order + "H", entry, 2)
    (count,) = struct.unpack_from(form.order + form.offset, entry, 4)
    inline = 4 + struct.calcsize(form.offset)
    if kind not in _INTEGERS or count > _MOST_VALUES:
        return (entry,)
    numbers = f"{form.order}{count}{_INTEGERS[kind]}"
    size = struct.calcsize(numbers)
    data = entry[inline : inline + size]
    if size > struct.calcsize(form.offset):
        file.seek(struct.unpack_from(form.order + form.offset, entry, inline)[0])
        data = file.read(size)
    return struct.unpack(numbers, data) if len(data) == size else (entry,)


def _broken(path: Path, index: int) -> Fault:
    return Fault("damaged-file", path, f"ends before the directory of page {index}, or holds none there.", _EXPORT)


def check_pages(path: Path, series: tifffile.TiffPageSeries, directories: dict[int, Directory]) -> None:
    """Refuse pages that are stored in another way than the first, by which all of them would be decoded.

    Raises:
      DataError: names the page.
    """
    page = series.keyframe
    pages = math.prod(series.shape) // max(1, page.size)
    for index, each in enumerate(series.pages):
        if each is None:
            raise Fault("damaged-file", path, f"lacks the data of page {index}.", _EXPORT)
        if each.offset not in directories or directories[each.offset].layout != directories[page.offset].layout:
            found = f"stores page {index} in another way than the first: the file is damaged."
            raise Fault("damaged-file", path, found, _EXPORT)
    if series.kind == "imagej" and series.dataoffset is not None and len(directories) > 1:
        _check_contiguous(path, series, pages)


def _check_contiguous(path: Path, series: tifffile.TiffPageSeries, pages: int) -> None:
    """Check that the directories of a stack that is read as one block of data say the same."""
    page = series.keyframe
    for index in range(pages):
        if page.parent.pages[index].dataoffsets[0] != page.dataoffsets[0] + index * page.nbytes:
            found = f"stores page {index} elsewhere than its description says: the file is damaged."
            raise Fault("damaged-file", path, found, _EXPORT)
