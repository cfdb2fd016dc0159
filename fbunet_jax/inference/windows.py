"""Rectangles of a page, segmented one at a time: the values are those that the whole page has there, bit for bit."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.inference.ensemble import segmenting
from fbunet_jax.inference.images import OpenImage
from fbunet_jax.inference.in_order import Job, in_order
from fbunet_jax.inference.prediction import Band
from fbunet_jax.inference.predictor import Predictor, Tiles, default_batch
from fbunet_jax.inference.tiling import mirrored

_TileBatch = tuple[int, int]
"""Top of a row of tiles, and number of a batch in it."""


class PageWindows:
    """Segments windows of one page in any order.

    The tiles are those of the whole page. Of each window all that reach into it are computed, and added in the order
    of the whole page, so that its values depend on nothing but the page. A batch holds the next tiles of one row,
    counted from the left edge of the page: a tile always lies at the same place of the same batch. What a window
    shares with the one at its right is kept for it.
    """

    def __init__(self, predictor: Predictor, image: OpenImage, page: int, tiles: Tiles) -> None:
        """Begin a page; its percentiles are measured now if the network wants them."""
        self._predictor, self._image, self._page, self._tta = predictor, image, page, tiles.tta
        self._tiling = predictor.tiling(tiles, (image.height, image.width))
        self._batch = batch = default_batch() if tiles.batch is None else tiles.batch
        self._affines = predictor.affines(image.rows(page), image.height, image.width)
        self._weights = self._tiling.weights()
        self._totals = self._tiling.total_weights(image.height), self._tiling.total_weights(image.width)
        self._tops, lefts = self._tiling.origins(image.height), self._tiling.origins(image.width)
        self._batches = [lefts[first : first + batch] for first in range(0, len(lefts), batch)]
        self._kept: dict[_TileBatch, NDArray[np.float32]] = {}

    def segment(self, rows: range, columns: range) -> Band:
        """Segment the window of these rows and columns, which lies in the page."""
        with segmenting(self._tiling.tile, self._batch):
            return self._segment(rows, columns)

    def _segment(self, rows: range, columns: range) -> Band:
        side = self._tiling.tile
        total = np.zeros((len(rows), len(columns), len(self._predictor.class_names) + 1), np.float32)
        places = [
            (top, number)
            for top in self._tops
            if top < rows.stop and top + side > rows.start
            for number, lefts in enumerate(self._batches)
            if lefts[0] < columns.stop and lefts[-1] + side > columns.start
        ]
        kept = {}
        for (top, number), values in in_order((place, self._job(*place)) for place in places):
            lefts = self._batches[number]
            for left, weighted in zip(lefts, values, strict=False):  # not strict: the padding of a batch is dropped
                here, there = _common(rows, top, side)
                across, tile_across = _common(columns, left, side)
                total[here, across] += weighted[there, tile_across]
            if lefts[-1] + side > columns.stop:
                kept[top, number] = values
        self._kept = kept
        # divided as in BandBlender
        total /= self._totals[1][columns.start : columns.stop, None]
        total /= self._totals[0][rows.start : rows.stop, None, None]
        return Band(rows.start, total)

    def _job(self, top: int, number: int) -> Job:
        """Return what gives the weighted values `[B, T, T, K + 1]` of a batch; its pixels are read now."""
        if (top, number) in self._kept:
            return partial(np.asarray, self._kept[top, number])
        side, image, lefts = self._tiling.tile, self._image, self._batches[number]
        first, last = slice(top, min(top + side, image.height)), slice(lefts[0], min(lefts[-1] + side, image.width))
        band = image.read(self._page, first, last)[mirrored(top, side, image.height) - top]
        pixels = [band[:, mirrored(left, side, image.width) - lefts[0]] for left in lefts]
        # every batch has one shape, so that everything is compiled once
        padded = np.stack([*pixels, *[pixels[-1]] * (self._batch - len(lefts))])
        return partial(self._predictor.ensemble, padded, self._affines, self._weights, tta=self._tta)


def _common(window: range, start: int, side: int) -> tuple[slice, slice]:
    """Return the part that a tile and a window share along an axis, counted from the window's and the tile's start."""
    first = max(window.start, start)
    last = max(first, min(window.stop, start + side))
    return slice(first - window.start, last - window.start), slice(first - start, last - start)
