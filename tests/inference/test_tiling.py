"""Tiles cover every pixel, begin where pooling does, and are blended as one weighted mean over the whole plane."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbunet_jax.errors import ConfigError
from fbunet_jax.inference.tiling import BandBlender, Tiling, mirrored


@given(size=st.integers(1, 500), tile=st.integers(2, 8), overlap=st.integers(0, 7), unit=st.sampled_from([1, 4, 16]))
def test_tiles_cover_an_axis_at_multiples_of_the_unit_with_at_least_the_overlap(size, tile, overlap, unit):
    overlap = min(overlap, tile - 1)
    tiling = Tiling(tile * unit, overlap * unit, unit)
    origins = tiling.origins(size)
    assert origins[0] == 0
    assert all(origin % unit == 0 for origin in origins)
    assert size <= origins[-1] + tiling.tile < max(size + unit, tiling.tile + 1)
    for left, right in itertools.pairwise(origins):
        assert left < right <= left + tiling.tile - tiling.overlap


@given(size=st.integers(1, 40), length=st.integers(1, 100))
def test_positions_are_reflected_as_numpy_pads(size, length):
    expected = np.pad(np.arange(size), (0, max(0, length - size)), mode="reflect")[:length]
    np.testing.assert_array_equal(mirrored(0, length, size), expected)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 50), (70, 33), (95, 96)])
def test_blended_bands_are_the_weighted_mean_over_the_whole_plane(size):
    height, width = size
    tiling = Tiling(16, 8, 4)
    random = np.random.default_rng(0)
    gauss = np.exp(-0.5 * ((np.arange(16) - 7.5) / 2) ** 2)
    weight = np.outer(gauss, gauss)
    rows, columns = tiling.origins(height), tiling.origins(width)
    total, weights = np.zeros((rows[-1] + 16, columns[-1] + 16, 3)), np.zeros((rows[-1] + 16, columns[-1] + 16, 1))
    blender = BandBlender(tiling, height, width, 3)
    bands = []
    for top, left in itertools.product(rows, columns):
        values = random.uniform(size=(16, 16, 3))
        total[top : top + 16, left : left + 16] += values * weight[..., None]
        weights[top : top + 16, left : left + 16] += weight[..., None]
        bands += blender.add(top, left, (values * weight[..., None]).astype(np.float32))
    bands += blender.finish()
    assert [first for first, _ in bands] == np.cumsum([0, *(len(band) for _, band in bands[:-1])]).tolist()
    found = np.concatenate([band for _, band in bands])
    np.testing.assert_allclose(found, (total / weights)[:height, :width], atol=1e-5)


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (100, 0, "tile = 100: expected a multiple of 16"),
        (16, 0, "at least 32"),
        (0, 0, "tile = 0"),
        (64, 64, "from 0 to 48"),
        (64, 10, "overlap = 10"),
        (64, -16, "overlap = -16"),
    ],
)
def test_sizes_that_do_not_fit_are_named_with_what_would(tile, overlap, message):
    with pytest.raises(ConfigError, match=message):
        Tiling(tile, overlap, 16)
