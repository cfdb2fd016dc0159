"""Overlapping tiles of one shape that cover an image of any size, and how their results are blended."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config_formats import DEFAULT_TILE
from fbunet_jax.errors import ConfigError

DEFAULT_OVERLAP = 192
"""In pixels; docs/prediction.md has the measurements behind it."""

SMALL_STEP = 64
"""The tile of a page smaller than the default tile is a multiple of this many pixels, so that few are compiled."""


@dataclass(frozen=True)
class Tiling:
    """The shape of the tiles.

    Attributes:
      tile: side in pixels, a multiple of `unit`.
      overlap: pixels that neighbours share at least, a multiple of `unit`.
      unit: 2^(levels - 1): tiles begin at multiples of it, so that pooling meets the same pixels in every tile.
    """

    tile: int
    overlap: int
    unit: int

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
          ConfigError: a size does not fit.
        """
        # the last tile reaches up to unit - 1 pixels beyond the image, and mirrors as many of its own
        smallest = 2 * self.unit
        if self.tile < smallest or self.tile % self.unit:
            raise ConfigError(
                f"tile = {self.tile}: expected a multiple of {self.unit}, at least {smallest}, such as {DEFAULT_TILE}."
            )
        if not 0 <= self.overlap < self.tile or self.overlap % self.unit:
            raise ConfigError(
                f"overlap = {self.overlap}: expected a multiple of {self.unit} from 0 to {self.tile - self.unit}, "
                f"below the tile of {self.tile}."
            )

    @classmethod
    def fitting(
        cls, unit: int, tile: int | None = None, overlap: int | None = None, *, page: tuple[int, int] | None = None
    ) -> Self:
        """Return the tiles for a unit, with the defaults in place of None.

        Args:
          unit: see the class.
          tile: its side; without it, and without an overlap, a page that is smaller than the default tile is one tile:
            a square page that the network takes as it is, another one mirrored up to the next `SMALL_STEP`.
          overlap: of neighbours.
          page: height and width, if known.

        Raises:
          ConfigError: a size does not fit.
        """
        side = max(DEFAULT_TILE, 2 * unit) if tile is None else tile
        if page and tile is None and overlap is None:
            is_whole = page[0] == page[1] and page[0] % unit == 0
            step = unit if is_whole else math.lcm(SMALL_STEP, unit)
            side = min(side, max(2 * unit, math.ceil(max(page) / step) * step))
        return cls(side, min(DEFAULT_OVERLAP, side // 2) // unit * unit if overlap is None else overlap, unit)

    def origins(self, size: int) -> list[int]:
        """Return where tiles begin along an axis of `size` pixels; the last one ends less than `unit` beyond it."""
        last = max(0, math.ceil((size - self.tile) / self.unit) * self.unit)
        return [*range(0, last, self.tile - self.overlap), last]

    def weights(self) -> NDArray[np.float32]:
        """Return the weight of a tile's rows (and columns), `[T]` float32: a Gaussian of deviation T / 8."""
        distance = (np.arange(self.tile) + 0.5 - self.tile / 2) / (self.tile / 8)
        return np.exp(-0.5 * np.square(distance)).astype(np.float32)

    def total_weights(self, size: int) -> NDArray[np.float32]:
        """Return the sum of the weights along an axis of `size` pixels, `[size]` float32.

        Tiles lie on a grid and their weights are a product, so the sum in the plane is the product of both axes'.
        """
        origins = self.origins(size)
        total = np.zeros(origins[-1] + self.tile, np.float32)
        for origin in origins:
            total[origin : origin + self.tile] += self.weights()
        return total[:size]


def mirrored(start: int, length: int, size: int) -> NDArray[np.intp]:
    """Return the positions start ... start + length - 1, reflected into 0 ... size - 1 as `data.store` does."""
    period = max(2 * (size - 1), 1)
    position = np.arange(start, start + length) % period
    return np.where(position < size, position, period - position)


class BandBlender:
    """Adds up weighted tiles of an image from top to bottom, and gives back the rows that no later tile reaches.

    Holds one band of tiles, whatever the height of the image.
    """

    def __init__(self, tiling: Tiling, height: int, width: int, values: int) -> None:
        """Begin an image of `height` x `width` pixels with so many values a pixel."""
        self._tiling, self._height, self._width = tiling, height, width
        self._top = 0
        self._rows, self._columns = tiling.total_weights(height), tiling.total_weights(width)
        self._sum = np.zeros((tiling.tile, tiling.origins(width)[-1] + tiling.tile, values), np.float32)

    def add(self, top: int, left: int, weighted: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Add the weighted values `[T, T, values]` of a tile; tiles come row by row.

        Yields:
          The first row and the blended values `[rows, W, values]` float32 of what is complete, if anything is.
        """
        if top > self._top:
            yield self._take(top - self._top)
        self._sum[:, left : left + self._tiling.tile] += weighted

    def finish(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the remaining rows."""
        yield self._take(self._height - self._top)

    def _take(self, rows: int) -> tuple[int, NDArray[np.float32]]:
        first = self._top
        values = self._sum[:rows, : self._width] / self._columns[:, None]
        values /= self._rows[first : first + rows, None, None]
        self._top += rows
        kept = self._tiling.tile - rows
        self._sum[:kept] = self._sum[rows:].copy()
        self._sum[kept:] = 0
        return first, values
