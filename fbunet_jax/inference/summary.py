"""What a segmented page holds, in numbers: areas, objects, uncertainty, and where it is most uncertain."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

WINDOW = 256
"""Side of the regions that are ranked by their uncertainty, in pixels."""

_STRIP = 1024
_TOUCHING = np.ones((3, 3), bool)


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


def count_objects(labels: NDArray[np.uint8], classes: int) -> list[int]:
    """Count the connected components of each class; pixels that touch at a corner are connected.

    Strips are labelled one by one, then components that touch across a border are joined, so memory does not depend
    on the height.

    Args:
      labels: `[H, W]`; may lie on disk.
      classes: K.
    """
    totals = np.zeros(classes, np.int64)
    pairs: list[list[NDArray]] = [[] for _ in range(classes)]
    above: Sequence[NDArray | None] = [None] * classes
    for row in _strips(labels):
        strip = np.asarray(labels[row : row + _STRIP])
        below = []
        for index in range(classes):
            components, count = ndimage.label(strip == index, structure=_TOUCHING)
            numbered = np.where(components[[0, -1]] > 0, components[[0, -1]].astype(np.int64) + totals[index], 0)
            if (last := above[index]) is not None:
                pairs[index].append(_touching(last, numbered[0]))
            below.append(numbered[1])
            totals[index] += count
        above = below
    return [_joined(int(total), each) for total, each in zip(totals, pairs, strict=True)]


def _strips(labels: NDArray) -> range:
    return range(0, len(labels), _STRIP)


def _touching(upper: NDArray, lower: NDArray) -> NDArray:
    """Return the pairs `[2, P]` of components, numbered from 1, that touch between two rows `[W]`."""
    sides = [(upper, lower), (upper[1:], lower[:-1]), (upper[:-1], lower[1:])]
    pairs = np.concatenate([np.stack(side) for side in sides], axis=1)
    return np.unique(pairs[:, (pairs > 0).all(axis=0)], axis=1)


def _joined(total: int, pairs: Sequence[NDArray]) -> int:
    if not pairs:
        return total
    upper, lower = np.concatenate(pairs, axis=1) - 1
    graph = sparse.coo_array((np.ones(len(upper), bool), (upper, lower)), shape=(total, total))
    return int(sparse.csgraph.connected_components(graph, directed=False, return_labels=False))
