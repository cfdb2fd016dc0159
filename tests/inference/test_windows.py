"""A window of a page holds what the whole page has there, wherever the windows lie and in whatever order they come."""

from pathlib import Path

import numpy as np
import pytest

from fbunet_jax.inference.axes import Axis
from fbunet_jax.inference.images import OpenImage
from fbunet_jax.inference.predictor import Predictor, Tiles
from fbunet_jax.inference.windows import PageWindows
from fbunet_jax.pipeline.normalisation import Normalisation


def opened(pixels):
    def read(page, rows, columns):
        return pixels[rows, columns, None]

    axes = (Axis("y", pixels.shape[0]), Axis("x", pixels.shape[1]))
    return OpenImage(Path("page"), axes, 1, read, pixels.dtype)


def cut(size, side):
    return [range(first, min(first + side, size)) for first in range(0, size, side)]


def assembled(predictor, pixels, tiles, side, order=1):
    """Return labels, probabilities, entropy and disagreement of a page from its windows."""
    windows = PageWindows(predictor, opened(pixels), 0, tiles)
    classes = len(predictor.class_names)
    found = [np.full((*pixels.shape, *rest), 99, np.float32) for rest in ((), (classes,), (), ())]
    places = [(rows, columns) for rows in cut(pixels.shape[0], side) for columns in cut(pixels.shape[1], side)]
    for rows, columns in places[::order]:
        for whole, part in zip(found, windows.segment(rows, columns).arrays(), strict=True):
            whole[rows.start : rows.stop, columns.start : columns.stop] = part
    return found


@pytest.mark.parametrize("size", [(150, 110), (97, 33), (5, 61)])
@pytest.mark.parametrize("kind", ["standardise", "percentile"])
def test_windows_make_up_the_whole_page_bit_for_bit(size, kind, make_fold, noise):
    normalisation = Normalisation("percentile") if kind == "percentile" else None
    predictor = Predictor([make_fold(seed, seed, normalisation=normalisation) for seed in range(2)], 1)
    pixels = noise(*size)
    expected = predictor.predict(pixels, tile=32, overlap=16, batch=1)
    assert len(np.unique(expected.labels)) > 1
    for order in (1, -1):
        found = assembled(predictor, pixels, Tiles(32, 16, 1), 48, order)
        np.testing.assert_array_equal(found[0], expected.labels)
        for part, name in zip(found[1:], ("probabilities", "entropy", "disagreement"), strict=True):
            np.testing.assert_array_equal(part, getattr(expected, name))


def test_a_tile_lies_at_the_same_place_of_the_same_batch_in_every_order(make_fold, noise):
    predictor, pixels = Predictor([make_fold()], 1), noise(70, 150)
    found = [assembled(predictor, pixels, Tiles(32, 16, 3), 48, order) for order in (1, -1)]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    expected = predictor.predict(pixels, tile=32, overlap=16, batch=1)
    np.testing.assert_allclose(found[0][1], expected.probabilities, atol=1e-5)


def test_what_neighbours_share_is_computed_once(make_fold, noise):
    predictor, pixels = Predictor([make_fold()], 1), noise(64, 200)
    computed = []
    ensemble = predictor.ensemble

    def counted(tiles, *rest, **options):
        computed.append(tiles.tobytes())
        return ensemble(tiles, *rest, **options)

    predictor.ensemble = counted
    assembled(predictor, pixels, Tiles(32, 16, 1), 64)
    # tiles begin every 16 pixels: 3 rows of 12 (the last ends at 208)
    assert len(computed) == len(set(computed)) == 36
