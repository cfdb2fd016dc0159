"""Trained folds segment images of any size: ``load(run).predict(image)``."""

import itertools
import math
import numbers
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from fbunet_jax.device_errors import device_errors
from fbunet_jax.errors import ConfigError, DataError
from fbunet_jax.inference.ensemble import Affine, Ensemble, segmenting
from fbunet_jax.inference.image_kinds import KindWatch
from fbunet_jax.inference.images import Rows, as_pages
from fbunet_jax.inference.in_order import Job, in_order
from fbunet_jax.inference.prediction import Band, Prediction
from fbunet_jax.inference.tiling import BandBlender, Tiling, mirrored
from fbunet_jax.models.contract import has_field, multiple_of
from fbunet_jax.runs.trained import TrainedFold

Precision = Literal["float32", "bfloat16"]

_SAMPLE_PIXELS = 2**26


class Tiles(NamedTuple):
    """How a page is cut; None for the default.

    Attributes:
      tile: side of the square tiles in pixels, a multiple of 2^(levels - 1); 512 by default, and less for a page that
        is smaller.
      overlap: pixels that neighbours share at least, likewise; 192 by default, at most half of the tile.
      batch: tiles at once; by default 1 on a CPU and 8 elsewhere.
      tta: average over the 8 dihedral views of each tile (test-time augmentation), which takes 8 times as long.
    """

    tile: int | None = None
    overlap: int | None = None
    batch: int | None = None
    tta: bool = False


class Predictor:
    """Segments images with the mean probabilities of one or more trained folds, which `load` reads from a run.

    Attributes:
      folds: the trained folds, each with its ``model``, ``variables`` and ``normalisation``.
      channels: number of image channels C.
      class_names: in class order.
      unit: what the tiles' sides are multiples of, pixels.
      kinds: compares images with those of the training, once for each type.

    Example:
      >>> import numpy as np
      >>> from fbunet_jax import load
      >>> predictor = load("runs/quickstart/unet")
      >>> predictor.predict(np.zeros((3, 40, 50), np.uint8), stack=True).labels.shape
      (3, 40, 50)
      >>> type(predictor.folds[0].model).__name__, predictor.class_names[0]
      ('FeedbackUNet', 'cytoplasm')
    """

    def __init__(self, folds: Sequence[TrainedFold], channels: int, precision: Precision | None = None) -> None:
        """Put the weights on the device; compute as trained unless a precision is given."""
        self.folds = tuple(folds)
        self.channels = channels
        self.class_names = self.folds[0].class_names
        model = self.folds[0].model
        self.unit = multiple_of(model)
        if precision not in (None, *get_args(Precision)):
            raise ConfigError(f"precision = {precision!r}: expected {' or '.join(get_args(Precision))}.")
        if precision and not has_field(model, "dtype"):
            raise ConfigError(
                f"precision = {precision!r}: the network {type(model).__name__} has no field dtype that could be "
                "changed. Leave precision out."
            )
        self.kinds = KindWatch(self.folds[0])
        with device_errors("putting the weights on the device", "One fold takes less than all of them."):
            self.ensemble = Ensemble(self.folds, jnp.dtype(precision) if precision else None)

    @property
    def offsets(self) -> dict[str, list[float]] | None:
        """What is added to the logits of each class, by fold; None where nothing is added."""
        return {str(fold.fold): list(fold.offsets) for fold in self.folds if fold.offsets is not None} or None

    def predict(
        self,
        image: NDArray,
        *,
        stack: bool = False,
        tile: int | None = None,
        overlap: int | None = None,
        batch: int | None = None,
        tta: bool = False,
    ) -> Prediction:
        """Segment an image that is in memory.

        Args:
          image: `[H, W]` or `[H, W, C]`; with `stack` `[Z, H, W]` or `[Z, H, W, C]`. In the type of the files that
            the network was trained with, not normalised.
          stack: whether the first axis numbers pages, which are segmented one by one.
          tile: see `Tiles`.
          overlap: see `Tiles`.
          batch: see `Tiles`.
          tta: see `Tiles`.

        Warns of an image of another type or range than the training images, once for each type.

        Raises:
          DataError: shape, type, channels or values do not fit.
          ConfigError: tile, overlap or batch do not fit.
        """
        images = as_pages(image, self.channels, stack=stack)
        kinds = {fold.normalisation.kind for fold in self.folds}
        if "scale" in kinds and np.asarray(image).dtype.kind in "iu" and np.asarray(image).dtype.itemsize > 4:
            raise DataError(
                f"The image holds values of type {np.asarray(image).dtype}, but the network divides integers by the "
                "largest value of their type. Give the type of the files that it was trained with."
            )
        if word := self.kinds.word("The image", images, given=np.asarray(image).dtype):
            warnings.warn(word, stacklevel=2)
        pages = []
        for page in images:
            height, width = page.shape[:2]

            def rows(first: int, last: int, page: NDArray = page) -> NDArray:
                return page[first:last]

            bands = self.bands(rows, height, width, Tiles(tile, overlap, batch, tta))
            pages.append([np.concatenate(parts) for parts in zip(*(band.arrays() for band in bands), strict=True)])
        labels, probabilities, entropy, disagreement = (
            np.stack(parts) if stack else parts[0] for parts in zip(*pages, strict=True)
        )
        compared = disagreement if len(self.folds) > 1 else None
        return Prediction(labels, probabilities, entropy, compared, self.class_names)

    def bands(self, rows: Rows, height: int, width: int, tiles: Tiles | None = None) -> Iterator[Band]:
        """Segment one page band by band, from top to bottom; memory does not depend on its height.

        Args:
          rows: gives rows `[rows, W, C]` of the page.
          height: of the page.
          width: of the page.
          tiles: their size, overlap, number at once, and views.

        Yields:
          Bands that cover every row once.

        Raises:
          ConfigError: the tiles do not fit the network.
        """
        affines = self.affines(rows, height, width)
        segment = partial(self.ensemble, affines=affines)
        for first, band in self._blended(segment, len(self.class_names) + 1, rows, (height, width), tiles or Tiles()):
            yield Band(first, band)

    def rounds(
        self, rows: Rows, height: int, width: int, affine: Affine, tiles: Tiles | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Segment one page with the first fold alone, band by band, in every feedback round.

        Arguments are those of `round_probabilities`.

        Yields:
          The first row of a band, and the class index of every round `[R, rows, W]` uint8.
        """
        for first, probabilities in self.round_probabilities(rows, height, width, affine, tiles):
            yield first, np.moveaxis(probabilities.argmax(axis=-1), -1, 0).astype(np.uint8)

    def round_probabilities(
        self, rows: Rows, height: int, width: int, affine: Affine, tiles: Tiles | None = None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Segment one page with the first fold alone, band by band, in every feedback round.

        Args:
          rows: gives rows `[rows, W, C]` of the page.
          height: of the page.
          width: of the page.
          affine: scale and shift `[C]`, see `Normalisation.affine`.
          tiles: their size, overlap, number at once, and views.

        Yields:
          The first row of a band, and the probabilities of every round `[rows, W, R, K]` float32.
        """
        shape = self.folds[0].rounds, len(self.class_names)
        segment = partial(self.ensemble.rounds, affines=[affine])
        for first, band in self._blended(segment, math.prod(shape), rows, (height, width), tiles or Tiles()):
            yield first, band.reshape(*band.shape[:2], *shape)

    def _blended(
        self,
        segment: Callable[..., Array],
        values: int,
        rows: Rows,
        size: tuple[int, int],
        tiles: Tiles,
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield first row and blended values `[rows, W, values]` of every band."""
        tiling = self.tiling(tiles, size)
        blender = BandBlender(tiling, *size, values)
        batch = default_batch() if tiles.batch is None else tiles.batch
        if tiles.batch is None and all(tiling.origins(length) == [0] for length in size):
            batch = 1  # a page of one tile is not filled up to many
        weights, source = tiling.weights(), _tiles(tiling, rows, *size)

        def batches() -> Iterator[tuple[tuple[tuple[int, int], ...], Job]]:
            while chunk := list(itertools.islice(source, batch)):
                corners, pixels = zip(*chunk, strict=True)
                # every batch has one shape, so that everything is compiled once
                padded = np.stack([*pixels, *[pixels[-1]] * (batch - len(chunk))])
                yield corners, partial(segment, padded, weights=weights, tta=tiles.tta)

        with segmenting(tiling.tile, batch):
            for corners, results in in_order(batches()):
                # not strict: the results of the padding are dropped
                for (top, left), weighted in zip(corners, results, strict=False):
                    yield from blender.add(top, left, weighted)
            yield from blender.finish()

    def tiling(self, tiles: Tiles, page: tuple[int, int] | None = None) -> Tiling:
        """Return the tiles that these settings, None for the default, stand for.

        Args:
          tiles: the settings.
          page: height and width of the page that is cut: a small one is one tile of its own size.

        Raises:
          ConfigError: they do not fit the network.
        """
        for name, value in zip(("tile", "overlap", "batch"), tiles, strict=False):
            if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
                raise ConfigError(f"{name} = {value!r}: expected a whole number.")
        if tiles.batch is not None and tiles.batch < 1:
            raise ConfigError(f"batch = {tiles.batch}: expected at least 1 tile at once.")
        return Tiling.fitting(self.unit, tiles.tile, tiles.overlap, page=page)

    def affines(self, rows: Rows, height: int, width: int) -> list[Affine]:
        """Return scale and shift of every fold; the percentiles of a large page are those of every n-th row."""
        if any(fold.normalisation.kind == "percentile" for fold in self.folds):
            sample = sample_rows(rows, height, width, _SAMPLE_PIXELS)
        else:
            sample = rows(0, 1)
        return [fold.normalisation.affine(sample) for fold in self.folds]


def default_batch() -> int:
    """Return how many tiles are computed at once: more gain nothing on a CPU."""
    return 1 if jax.default_backend() == "cpu" else 8


def sample_rows(rows: Rows, height: int, width: int, pixels: int) -> NDArray:
    """Return every n-th row, `[rows, W, C]`, with the smallest n that gives at most so many pixels."""
    step = -(-height * width // pixels)
    if step == 1:
        return rows(0, height)
    return np.concatenate([rows(row, row + 1) for row in range(0, height, step)])


def _tiles(tiling: Tiling, rows: Rows, height: int, width: int) -> Iterator[tuple[tuple[int, int], NDArray]]:
    """Yield top, left and the pixels `[T, T, C]` of every tile, row by row, mirrored beyond the image."""
    side = tiling.tile
    for top in tiling.origins(height):
        first, last = top, min(top + side, height)
        band = rows(first, last)[mirrored(top, side, height) - first]
        for left in tiling.origins(width):
            yield (top, left), band[:, mirrored(left, side, width)]
