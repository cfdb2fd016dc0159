"""The directories of a TIFF and what its OME-XML claims, checked before a library follows and believes them."""

import math
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree

import tifffile

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.readers.pixels import check_size

MAXIMUM_PAGES = 2**16
"""Directories in one file; more is taken for a damaged or malicious chain."""

_MOST_ENTRIES = 4096
_EXPORT = "Copy or export it again."

# width, height, bits, compression, photometric, bit order, samples, planes, predictor, tiles, extra samples, format
_LAYOUT = (256, 257, 258, 259, 262, 266, 277, 284, 317, 322, 323, 338, 339)
_ONCE = {*_LAYOUT, 273, 278, 279, 324, 325, 330}
_DEFAULTS: dict[int, tuple[object, ...]] = dict.fromkeys((258, 259, 266, 277, 284, 317, 339), (1,))
_STRIPS, _TILE_WIDTH, _TILES, _CHILDREN = 273, 322, 324, 330
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}

Layout = tuple[object, ...]
"""What decides how the pixels of a page are stored."""


class _Form(NamedTuple):
    """How numbers are written in a classic TIFF or a BigTIFF."""

    order: str
    number: str
    offset: str
    entry: int
    first: int


def read_directories(path: Path) -> dict[int, Layout]:
    """Return the place of every directory in the chain, and its layout, in order.

    Raises:
      DataError: the chain, or a directory below it, leads out of the file or to one that was there before, or there
        are more than `MAXIMUM_PAGES` directories.
    """
    size = path.stat().st_size
    found: dict[int, Layout] = {}
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        is_big = struct.unpack_from(order + "H", head, 2)[0] == 43
        form = _Form(order, "Q", "Q", 20, 8) if is_big else _Form(order, "H", "I", 12, 4)
        (place,) = struct.unpack_from(order + form.offset, head, form.first)
        below: list[int] = []
        seen: set[int] = set()
        while place or below:
            in_chain = bool(place)
            here = place or below.pop()
            if here in seen:
                raise Fault("damaged-file", path, "names a page twice: its pages would never end.", _EXPORT)
            if len(seen) == MAXIMUM_PAGES:
                raise Fault("file-size", path, f"has more than {MAXIMUM_PAGES} pages.", "Cut it into smaller files.")
            if here + struct.calcsize(form.number) > size:
                raise _broken(path, len(found))
            seen.add(here)
            layout, children, following = _read_directory(path, file, form, here, len(found))
            below += children
            if in_chain:
                found[here], place = layout, following
    if not found:
        raise Fault("damaged-file", path, "has no page.", _EXPORT)
    return found


def _read_directory(path: Path, file: BinaryIO, form: _Form, place: int, index: int) -> tuple[Layout, list[int], int]:
    """Return the layout of a directory, and the places of those below it and of the next."""
    file.seek(place)
    (count,) = struct.unpack(form.order + form.number, file.read(struct.calcsize(form.number)))
    if not 0 < count <= _MOST_ENTRIES:
        raise _broken(path, index)
    entries, following = file.read(count * form.entry), file.read(struct.calcsize(form.offset))
    if len(following) < struct.calcsize(form.offset):
        raise _broken(path, index)
    values: dict[int, tuple[object, ...]] = dict(_DEFAULTS)
    tags = set()
    for start in range(0, len(entries), form.entry):
        entry = entries[start : start + form.entry]
        (tag,) = struct.unpack_from(form.order + "H", entry)
        if tag in tags and tag in _ONCE:
            found = f"lists the tag {tag} of page {index} twice: readers would not agree on which counts."
            raise Fault("damaged-file", path, found, _EXPORT)
        tags.add(tag)
        if tag in _LAYOUT or tag == _CHILDREN:
            values[tag] = _values(file, form, entry)
    if {_STRIPS, _TILES} <= tags or (_TILES in tags) != (_TILE_WIDTH in tags):
        found = f"has strips and tiles in page {index}, or parts of both: the file is damaged."
        raise Fault("damaged-file", path, found, _EXPORT)
    children = values.get(_CHILDREN, ())
    if any(isinstance(child, bytes) for child in children):
        raise _broken(path, index)
    below = [child for child in children if isinstance(child, int) and child]
    return tuple(values.get(tag) for tag in _LAYOUT), below, struct.unpack(form.order + form.offset, following)[0]


def _values(file: BinaryIO, form: _Form, entry: bytes) -> tuple[object, ...]:
    """Return the whole numbers of an entry, or its bytes if it should hold something else, or absurdly many."""
    (kind,) = struct.unpack_from(form.order + "H", entry, 2)
    (count,) = struct.unpack_from(form.order + form.offset, entry, 4)
    inline = 4 + struct.calcsize(form.offset)
    if kind not in _INTEGERS or count > 256:
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


def check_ome(path: Path, file: tifffile.TiffFile, directories: int) -> None:
    """Refuse OME-XML that claims more than the file can hold, or that is spread over several files.

    Raises:
      DataError: says which.
    """
    if not file.is_ome:
        return
    text = file.ome_metadata or ""
    if "<!DOCTYPE" in text:  # entities could grow without bound
        raise Fault("damaged-file", path, "has OME-XML with a document type, which OME-XML never has.", _EXPORT)
    root = ElementTree.fromstring(text)
    for pixels in (each for each in root.iter() if each.tag.endswith("Pixels")):
        check_size(path, tuple(max(1, int(pixels.attrib.get(f"Size{axis}", 1))) for axis in "TZCYX"))
    for data in (each for each in root.iter() if each.tag.endswith("TiffData")):
        claims = [int(data.attrib.get(name, 0)) for name in ("IFD", "PlaneCount", "NumPlanes")]
        firsts = [int(data.attrib.get(f"First{axis}", 0)) for axis in "TZC"]
        if max(claims) > directories or max(firsts) >= MAXIMUM_PAGES or min(claims + firsts) < 0:
            found = f"holds {directories} pages, but its OME-XML describes others: the file is damaged or incomplete."
            raise Fault("damaged-file", path, found, _EXPORT)
        for uuid in (each for each in data if each.tag.endswith("UUID")):
            other = uuid.attrib.get("FileName", "")
            if uuid.text != root.attrib.get("UUID") and other.lower() != path.name.lower():
                found = f"is one of several files of an OME set: its OME-XML names {other!r}."
                raise Fault("file-set", path, found, "Save it as one file, in Fiji with File > Save As > Tiff.")


def check_pages(path: Path, series: tifffile.TiffPageSeries, directories: dict[int, Layout]) -> None:
    """Refuse pages that are stored in another way than the first, by which all of them would be decoded.

    Raises:
      DataError: names the page.
    """
    page = series.keyframe
    pages = math.prod(series.shape) // max(1, page.size)
    for index, each in enumerate(series.pages):
        if each is None:
            raise Fault("damaged-file", path, f"lacks the data of page {index}.", _EXPORT)
        if directories.get(each.offset) != directories.get(page.offset):
            found = f"stores page {index} in another way than the first: the file is damaged."
            raise Fault("damaged-file", path, found, _EXPORT)
    if series.kind == "imagej" and series.dataoffset is not None and len(directories) > 1:
        _check_contiguous(path, series, pages, len(directories))


def _check_contiguous(path: Path, series: tifffile.TiffPageSeries, pages: int, directories: int) -> None:
    """Check that the directories of a stack that is read as one block of data say the same."""
    page = series.keyframe
    if pages != directories:
        found = f"has {directories} pages, but its description says {pages}: the file is damaged or incomplete."
        raise Fault("damaged-file", path, found, _EXPORT)
    for index in range(pages):
        if page.parent.pages[index].dataoffsets[0] != page.dataoffsets[0] + index * page.nbytes:
            found = f"stores page {index} elsewhere than its description says: the file is damaged."
            raise Fault("damaged-file", path, found, _EXPORT)
