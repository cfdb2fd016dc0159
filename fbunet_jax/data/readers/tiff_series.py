"""Which pages of a TIFF are its image: as its metadata say, or by the pages alone where these do not fit them."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import tifffile

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.readers.tiff_directories import UNASKED_PAGES, Directory, check_pages

_PLAIN = {"is_lsm": False, "is_scanimage": False, "is_ndpi": False}
"""Options with which tifffile does not go by what a microscope has written when it opens a file."""
_OTHER_IMAGES = ("Thumbnail", "Label", "Macro", "Map")
_BUT = ", and it has "
_SLACK = 64
"""Bytes after the last that a directory names which are only padding."""

# width to compression, bit order, strips, samples, planes, predictor, tiles, format, depth, JPEG
_PIXEL_TAGS = {256, 257, 258, 259, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 339, 347, 512, 513, 514, 530}
_PIXEL_TAGS |= {32997, 32998}
_NUMBERED = re.compile(r"TiffTag (\d+)")
_SIDE = re.compile(
    r"<tifffile\.(read_(?!segments)|\w+_metadata)|_metadata>|_tags> raised|GDAL_NODATA|GeoKeyDirectory|STK Datetime"
    r"|subfiletype|get_resolution|uic1tag|invalid SubIFDs|ImageJ series of unknown order"
)
_OF_SERIES = re.compile(r" series\b|SubIFDs")
_UUID = re.compile(r"<(\w+:)?UUID\b[^>]*>[^<]*</(\w+:)?UUID\s*>")

Reopen = Callable[..., tifffile.TiffFile]
"""Opens the file anew, with options of `tifffile.TiffFile`."""


class Opened(NamedTuple):
    """The image of a TIFF.

    Attributes:
      series: its pages.
      misfit: why the metadata of the file were not used for it, or empty.
      note: what a user may want to know once it is read, or empty.
    """

    series: tifffile.TiffPageSeries
    misfit: str = ""
    note: str = ""


def is_about_pixels(message: str) -> bool:
    """Say whether what tifffile logs is about the pixels, and not about what only describes them."""
    if tag := _NUMBERED.search(message):
        return int(tag[1]) in _PIXEL_TAGS
    return not _SIDE.search(message)


def find_series(path: Path, reopen: Reopen, directories: dict[int, Directory], messages: list[str]) -> Opened:
    """Return the only image of a TIFF.

    Args:
      path: of the file.
      reopen: opens it without following other files.
      directories: of the chain, see `read_directories`.
      messages: what tifffile has logged; what it only says of metadata that are not used is taken out.

    Raises:
      DataError: there are several images, or data of pages that the metadata name are missing.
    """
    pages = [place for place, each in directories.items() if not each.is_reduced and not each.is_mask]
    if not pages:
        if any(each.children for each in directories.values()):
            found = "holds a thumbnail in front, and its image elsewhere (SubIFD), as raw files of cameras do."
            raise Fault("several-series", path, found, "Convert it to a plain TIFF first.")
        pages = list(directories)
    before = len(messages)
    try:
        file, misfit = reopen(), ""
    except Exception as error:  # whatever the tags of a microscope make tifffile raise
        file, misfit = reopen(**_PLAIN), f"its metadata cannot be used ({error})"
    ome, unusable = _own_ome(path, file, len(pages))
    misfit = misfit or unusable
    if not misfit:
        series, misfit = _as_described(reopen(omexml=ome) if ome else file, directories, pages)
        complaints = [each for each in messages[before:] if _OF_SERIES.search(each)]
        if series is not None and not complaints:
            check_pages(path, series, directories)
            return Opened(series)
        claim = _claim(path, file, len(pages))
        misfit = misfit if _BUT in misfit else claim or misfit or "its description cannot be used"
    messages[before:] = [each for each in messages[before:] if not _OF_SERIES.search(each)]
    stored = reopen(**_PLAIN)
    series = _as_stored(path, stored, directories, pages)
    if len(pages) == 1 and _BUT in misfit:
        _check_rest(path, stored, directories, misfit)
        return Opened(series, misfit, f"was read as the one page that it holds: {misfit}.")
    return Opened(series, misfit)


def _as_described(
    file: tifffile.TiffFile, directories: dict[int, Directory], pages: list[int]
) -> tuple[tifffile.TiffPageSeries | None, str]:
    """Return the series that tifffile finds, or why its pages are not those of the file."""
    try:
        every = list(file.series)
        images = [each for each in every if not _is_other(each, directories)]
        if len(images) != 1:
            return None, f"its description makes {len(images)} images of it"
        (image,) = images
        page, used = image.keyframe, {each.offset for each in image.pages if each}
        # levels of a pyramid, and thumbnails beside the image, may be left out
        named = {each.offset for series in every for level in series.levels for each in level.pages if each}
        sizes = dict(zip(image.axes, image.shape, strict=True))
        planes = math.prod(image.shape) // max(1, page.size)
    except Exception as error:  # whatever metadata make tifffile raise
        return None, f"its description cannot be used ({str(error)[:80] or type(error).__name__})"
    expected = len([place for place in pages if place in used or place not in named])
    if planes != expected and image.kind in ("uniform", "generic"):
        return None, "some of its pages only show others smaller"
    if planes != expected and not (expected == 1 and image.dataoffset is not None):
        return None, f"its description says {planes} pages{_BUT}{expected}"
    own = sizes.get("Y", 1), sizes.get("X", 1)
    if not used <= set(pages) or None in image.pages or own != (page.imagelength, page.imagewidth):
        return None, "its description is that of another image"
    return image, ""


def _is_other(series: tifffile.TiffPageSeries, directories: dict[int, Directory]) -> bool:
    """Say whether a series is no image of its own: a thumbnail, or the label of a slide."""
    own = directories.get(series.keyframe.offset)
    return series.name in _OTHER_IMAGES or (own is not None and (own.is_reduced or own.is_mask))


def _as_stored(
    path: Path, file: tifffile.TiffFile, directories: dict[int, Directory], places: list[int]
) -> tifffile.TiffPageSeries:
    """Return the pages of the chain as they are stored, whatever describes them."""
    pages: list[Any] = [page for page in file.pages if page.offset in places]
    kinds = {(page.shape, str(page.dtype)): page for page in pages}
    if len(kinds) != 1:
        shapes = ", ".join(str(shape) for shape, _ in list(kinds)[:4])
        found = f"holds {len(kinds)} image series with the shapes {shapes}; expected one."
        raise Fault("several-series", path, found, "Save each series as a file of its own.")
    page = pages[0]
    shape, axes = (page.shape, page.axes) if len(pages) == 1 else ((len(pages), *page.shape), f"I{page.axes}")
    series = tifffile.TiffPageSeries(pages, shape, page.dtype, axes, kind="generic")
    check_pages(path, series, directories)
    return series


def _check_rest(path: Path, file: tifffile.TiffFile, directories: dict[int, Directory], misfit: str) -> None:
    """Refuse a page after which there is data that no directory names: the rest of a stack that was cut off."""
    ends = [each.end for each in directories.values()]
    for page in file.pages:
        ends += [place + count for place, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    below = any(each.children for each in directories.values())
    if not below and max(ends) + _SLACK < path.stat().st_size:
        found = f"ends before its data is complete ({misfit}, and a part of another): it is damaged or incomplete."
        raise Fault("damaged-file", path, found, "Copy or export it again.")


def _own_ome(path: Path, file: tifffile.TiffFile, pages: int) -> tuple[str, str]:
    """Return OME-XML to read a file by in place of its own, if need be, and why its own metadata are not used, if so.

    Raises:
      DataError: the file is one of several of an OME set.
    """
    # entities could grow without bound, or name other files
    descriptions = [str(file.pages.first.tags.valueof(270, index=index, default="")) for index in (0, 1)]
    if any("<!ENTITY" in text for text in descriptions):
        found = "has a description with a document type that defines entities, which no image has."
        raise Fault("damaged-file", path, found, "Copy or export it again.")
    if any("<!DOCTYPE" in text for text in descriptions):
        return "", "its description is XML with a document type"
    if not file.is_ome:
        return "", ""
    text = file.ome_metadata or ""
    try:
        root = ElementTree.fromstring(text)
        pixels = [each.attrib for each in root.iter() if each.tag.endswith("Pixels")]
        described = sum(math.prod(max(1, int(each.get(f"Size{axis}", 1))) for axis in "TZC") for each in pixels)
        data = [each for each in root.iter() if each.tag.endswith("TiffData")]
        counts = [int(each.attrib.get(name, 0)) for each in data for name in ("IFD", "PlaneCount", "NumPlanes")]
        firsts = [int(each.attrib.get(f"First{axis}", 0)) for each in data for axis in "TZC"]
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        return "", f"its OME-XML cannot be used ({error})"
    uuids = [each for entry in data for each in entry if each.tag.endswith("UUID")]
    homes = {(each.text, each.attrib.get("FileName", "")) for each in uuids}
    others = {name for uuid, name in homes if uuid != root.attrib.get("UUID") and name.lower() != path.name.lower()}
    held = pages * max(1, file.pages.first.samplesperpixel)
    placed = sum(int(each.attrib.get("PlaneCount", each.attrib.get("NumPlanes", 1))) for each in data)
    if others and (len(homes) > 1 or described > held or placed < pages):
        found = f"is one of several files of an OME set: its OME-XML names {min(others)!r}."
        raise Fault("file-set", path, found, "Save it as one file, in Fiji with File > Save As > Tiff.")
    most = max([described // max(1, file.pages.first.samplesperpixel), *counts])
    _check_claim(path, max([most, *firsts]), pages, "OME-XML")
    if most > pages or min(counts + firsts, default=0) < 0:
        return "", f"its OME-XML says {most} pages{_BUT}{pages}"
    # the only file that it names is this one under an earlier name
    return (_UUID.sub("", text) if others else ""), ""


def _claim(path: Path, file: tifffile.TiffFile, pages: int) -> str:
    """Return what ImageJ's or tifffile's description says of the number of pages, if it is not theirs."""
    page = file.pages.first
    try:
        imagej = file.imagej_metadata or {}
        counts = math.prod(imagej.get(name, 1) for name in ("frames", "slices", "channels")), imagej.get("images", 1)
        shape = tuple(map(int, json.loads(page.shaped_description)["shape"])) if page.shaped_description else page.shape
        most = max(*map(int, counts), math.prod(shape) // max(1, page.size))
    except Exception:  # whatever stands there
        return ""
    _check_claim(path, most, pages, "description")
    if shape not in (page.shape, (pages, *page.shape)):
        return f"its description says the shape {' x '.join(map(str, shape))}{_BUT}{pages} of {page.shape}"
    return f"its description says {most} pages{_BUT}{pages}" if most not in (pages, 1) else ""


def _check_claim(path: Path, claimed: int, pages: int, where: str) -> None:
    """Refuse a number of pages that is no mistake, but a trap."""
    if claimed >= UNASKED_PAGES and claimed > pages:
        found = f"holds {pages} pages, but its {where} describes others, {claimed}: the file is damaged."
        raise Fault("damaged-file", path, found, "Copy or export it again.")
