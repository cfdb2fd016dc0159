"""What segmented pages hold, in numbers: areas, objects, uncertainty; and the tables of them.

The tables are summary.csv, and label_next.csv with the most uncertain images and regions.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from fbunet_jax.runs.files import write_atomically

WINDOW = 256
"""Side of the regions that are ranked by their uncertainty, in pixels."""

RANKED_REGIONS = 50

_STRIP = 1024
_BLOCK = 2**22
"""Pixels that are labelled at once, unless two rows of two sections have more."""
_TOUCHING = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Region:
    """A rectangle of a page and its mean uncertainty.

    Attributes:
      top: first row.
      left: first column.
      height: in pixels.
      width: in pixels.
      entropy: mean, from 0 to 1.
      disagreement: mean, from 0 to 1.
    """

    top: int
    left: int
    height: int
    width: int
    entropy: float
    disagreement: float


@dataclass(frozen=True)
class PageSummary:
    """One segmented page.

    Attributes:
      image: name of the file's results.
      page: 0-based.
      height: in pixels.
      width: in pixels.
      areas: pixels of each class.
      objects: connected components of each class, see `count_objects`; through the sections of a stack each counts
        once, on the page where it begins.
      profiles: connected components of each class in this page alone.
      dimensions: in which the objects are counted, 2 or 3.
      entropy: mean, from 0 to 1.
      disagreement: mean, from 0 to 1; None with one fold.
      regions: windows and their mean uncertainty.
      warning: a sentence, where the intensities are far from those of the training images.
    """

    image: str
    page: int
    height: int
    width: int
    areas: NDArray[np.int64]
    objects: list[int]
    profiles: list[int]
    dimensions: int
    entropy: float
    disagreement: float | None
    regions: list[Region]
    warning: str


class UncertaintyMap:
    """Mean entropy and disagreement in a grid of windows, added up band by band."""

    def __init__(self, height: int, width: int) -> None:
        """Begin a page."""
        self._height, self._width = height, width
        self._sums = np.zeros((2, -(-height // WINDOW), -(-width // WINDOW)))

    def add(self, first: int, entropy: NDArray[np.float32], disagreement: NDArray[np.float32]) -> None:
        """Add the rows `[rows, W]` from row `first` on."""
        columns = np.arange(0, self._width, WINDOW)
        windows = (first + np.arange(len(entropy))) // WINDOW
        for sums, values in zip(self._sums, (entropy, disagreement), strict=True):
            np.add.at(sums, windows, np.add.reduceat(values, columns, axis=1, dtype=np.float64))

    def mean(self) -> tuple[float, float]:
        """Return mean entropy and disagreement of the page."""
        entropy, disagreement = self._sums.sum(axis=(1, 2)) / (self._height * self._width)
        return float(entropy), float(disagreement)

    def regions(self) -> list[Region]:
        """Return the windows, which do not overlap; of narrow rests at the border only those with half the area."""
        regions = []
        for row, column in np.ndindex(self._sums.shape[1:]):
            top, left = row * WINDOW, column * WINDOW
            height, width = min(WINDOW, self._height - top), min(WINDOW, self._width - left)
            if height * width * 2 >= min(WINDOW, self._height) * min(WINDOW, self._width):
                entropy, disagreement = self._sums[:, row, column] / (height * width)
                regions.append(Region(top, left, height, width, float(entropy), float(disagreement)))
        return regions


def areas(labels: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Return the pixels of each class, `[K]`, of a label image `[H, W]` that may lie on disk."""
    counts = [np.bincount(labels[row : row + _STRIP].ravel(), minlength=classes) for row in _strips(labels)]
    return np.sum(counts, axis=0)


def count_objects(labels: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Count the connected components of each class once, in the section where they begin.

    Pixels that touch at an edge or a corner, in a section or from one to the next, are connected: 8 neighbours in one
    section, 26 in several. Blocks that overlap by a section or a row are labelled one by one, then components that
    share a pixel are joined. Memory is that of a block, of one row of every section, and of the components.

    Args:
      labels: `[Z, H, W]`, of one page or of all sections of a stack; may lie on disk.
      classes: K.

    Returns:
      `[Z, K]`, whose sum over Z is the number of objects.
    """
    sections, height, width = labels.shape
    rows = max(2, _BLOCK // (min(sections, 2) * width))
    depth = max(2, _BLOCK // (min(rows, height) * width))
    components = _Components()
    above = np.zeros((sections, width), np.int64)
    for top in _starts(height, rows):
        below, before = np.zeros_like(above), np.zeros(0, np.int64)
        for first in _starts(sections, depth):
            here = slice(first, first + depth)
            numbered, start = components.add(np.asarray(labels[here, top : top + rows]), classes, first)
            components.join(before, _globally(numbered[0], start))
            components.join(above[here], _globally(numbered[:, 0], start))
            before, below[here] = _globally(numbered[-1], start), _globally(numbered[:, -1], start)
        above = below
    return components.count(sections, classes)


class _Components:
    """Connected components of blocks, numbered from 1 through all of them, and which of them are one."""

    def __init__(self) -> None:
        self._total = 0
        self._classes: list[NDArray[np.intp]] = [np.zeros(0, np.intp)]
        self._sections: list[NDArray[np.intp]] = [np.zeros(0, np.intp)]
        self._pairs: list[NDArray[np.int64]] = [np.zeros((2, 0), np.int64)]

    def add(self, block: NDArray[np.uint8], classes: int, first: int) -> tuple[NDArray[np.int32], int]:
        """Label a block `[D, H, W]` that begins in section `first`.

        Returns:
          The components, numbered from 1 in this block (0: no class), and how many there were before.
        """
        counts: list[int] = []
        numbered = np.zeros(block.shape, np.int32)
        for index in range(classes):
            mask = block == index
            components, count = ndimage.label(mask, structure=_TOUCHING)
            components += sum(counts)
            components *= mask
            numbered += components
            counts.append(count)
        sections = np.zeros(sum(counts) + 1, np.intp)
        for section in reversed(range(len(block))):
            sections[numbered[section]] = first + section
        self._sections.append(sections[1:])
        self._classes.append(np.repeat(np.arange(classes), counts))
        start, self._total = self._total, self._total + sum(counts)
        return numbered, start

    def join(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        """Join the components at the same places of two arrays of their numbers, where 0 is none, if there are any."""
        if one.size:
            shared = (one > 0) & (other > 0)
            pairs = np.unique((one[shared] - 1) * self._total + other[shared] - 1)
            self._pairs.append(np.stack(np.divmod(pairs, self._total)))

    def count(self, sections: int, classes: int) -> NDArray[np.int64]:
        """Return the number of objects of each class by the section in which they begin, `[sections, classes]`."""
        one, other = np.concatenate(self._pairs, axis=1)
        graph = sparse.coo_array((np.ones(len(one), bool), (one, other)), shape=(self._total, self._total))
        count, objects = sparse.csgraph.connected_components(graph, directed=False)
        kinds, begins = np.zeros(count, np.intp), np.full(count, sections)
        kinds[objects] = np.concatenate(self._classes)
        np.minimum.at(begins, objects, np.concatenate(self._sections))
        return np.bincount(begins * classes + kinds, minlength=sections * classes).reshape(sections, classes)


def _globally(numbered: NDArray[np.int32], start: int) -> NDArray[np.int64]:
    return np.where(numbered > 0, numbered.astype(np.int64) + start, 0)


def _starts(length: int, size: int) -> range:
    """Return where blocks of a size begin along an axis, so that each shares one place with the next."""
    return range(0, max(length - 1, 1), size - 1)


def _strips(labels: NDArray) -> range:
    return range(0, len(labels), _STRIP)


def write_summary(path: Path, pages: Sequence[PageSummary], class_names: Sequence[str]) -> None:
    """Write one line a page: area share, objects and profiles of each class, mean uncertainty.

    The objects of a stack are counted in 3D, each on the page where it begins: their sum is the number in the stack.
    """
    header = ["image", "page", "height", "width"]
    header += [f"{what} {name}" for what in ("area share", "objects", "profiles") for name in class_names]
    rows = [
        [page.image, page.page, page.height, page.width]
        + [f"{count / (page.height * page.width):.6f}" for count in page.areas.tolist()]
        + [*page.objects, *page.profiles, f"{page.dimensions}D"]
        + [_number(page.entropy), _number(page.disagreement)]
        for page in pages
    ]
    _write(path, [*header, "objects counted in", "entropy", "disagreement"], rows)


def rank_pages(pages: Sequence[PageSummary]) -> list[PageSummary]:
    """Return the pages, the most uncertain first: by disagreement of the folds, or entropy where there is one fold."""
    return sorted(
        pages, key=lambda page: page.entropy if page.disagreement is None else page.disagreement, reverse=True
    )


def rank_regions(pages: Sequence[PageSummary]) -> list[tuple[PageSummary, Region]]:
    """Return the most uncertain regions of all pages, likewise."""
    regions = [(page, region) for page in pages for region in page.regions]

    def uncertainty(each: tuple[PageSummary, Region]) -> float:
        page, region = each
        return region.entropy if page.disagreement is None else region.disagreement

    return sorted(regions, key=uncertainty, reverse=True)[:RANKED_REGIONS]


def write_label_next(path: Path, pages: Sequence[PageSummary]) -> None:
    """Write the ranking of all pages, then that of the regions."""
    rows: list[list[object]] = []
    for rank, page in enumerate(rank_pages(pages), start=1):
        values = (_number(page.entropy), _number(page.disagreement))
        rows.append(["image", rank, page.image, page.page, 0, 0, page.height, page.width, *values])
    for rank, (page, region) in enumerate(rank_regions(pages), start=1):
        values = (_number(region.entropy), _number(None if page.disagreement is None else region.disagreement))
        place = (region.top, region.left, region.height, region.width)
        rows.append(["region", rank, page.image, page.page, *place, *values])
    header = ["what", "rank", "image", "page", "top", "left", "height", "width", "entropy", "disagreement"]
    _write(path, header, rows)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
