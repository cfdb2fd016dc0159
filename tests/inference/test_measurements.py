"""Areas, objects and uncertainty are those of the whole page, however it was cut."""

import numpy as np
import pytest
from scipy import ndimage

from fbunet_jax.inference import measurements
from fbunet_jax.inference.measurements import UncertaintyMap, areas, count_objects


@pytest.mark.parametrize("strip", [1, 2, 7, 1024])
def test_areas_are_those_of_the_whole_page_for_every_strip(strip, monkeypatch):
    monkeypatch.setattr(measurements, "_STRIP", strip)
    labels = np.random.default_rng(0).integers(0, 4, (40, 31), np.uint8)
    np.testing.assert_array_equal(areas(labels, 4), [(labels == index).sum() for index in range(4)])


@pytest.mark.parametrize("shape", [(1, 40, 31), (9, 14, 11), (30, 5, 1), (12, 1, 6), (1, 1, 1)])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("block", [1, 40, 200, 2**22])
def test_objects_are_scipys_of_the_whole_stack_where_they_begin_for_every_block(block, share, shape, monkeypatch):
    monkeypatch.setattr(measurements, "_BLOCK", block)
    random = np.random.default_rng(0)
    labels = (random.uniform(size=shape) < share).astype(np.uint8) + (random.uniform(size=shape) < 0.1)
    expected = np.zeros((shape[0], 4), int)
    for index in range(4):
        whole, _ = ndimage.label(labels == index, structure=np.ones((3, 3, 3)))
        for place in ndimage.find_objects(whole):
            expected[place[0].start, index] += 1
    np.testing.assert_array_equal(count_objects(labels, 4), expected)


@pytest.mark.parametrize("block", [1, 2**22])
def test_an_object_through_ten_sections_counts_once_however_it_winds_and_branches(block, monkeypatch):
    monkeypatch.setattr(measurements, "_BLOCK", block)
    labels = np.zeros((10, 12, 12), np.uint8)
    labels[np.arange(10), np.arange(10), np.arange(10)] = 1  # touches at corners only
    labels[3:5, 11, 0] = labels[4, 11, 2] = labels[5, 11, 1] = 2  # two branches that meet in section 5
    labels[8:, 11, 11] = 2
    expected = np.zeros((10, 3), int)
    expected[0] = 1, 1, 0
    expected[[3, 8], 2] = 1
    np.testing.assert_array_equal(count_objects(labels, 3), expected)
    rings = np.array([[[1, 1, 1], [1, 0, 1], [1, 1, 1]]], np.uint8)
    assert count_objects(rings, 2).tolist() == [[1, 1]]


@pytest.mark.parametrize("size", [(1, 1), (300, 700), (512, 256)])
def test_uncertainty_of_windows_is_the_mean_of_their_pixels(size):
    random = np.random.default_rng(0)
    entropy, disagreement = random.uniform(size=(2, *size)).astype(np.float32)
    found = UncertaintyMap(*size)
    for first in range(0, size[0], 48):
        found.add(first, entropy[first : first + 48], disagreement[first : first + 48])
    assert found.mean() == pytest.approx((entropy.mean(), disagreement.mean()), rel=1e-5)
    regions = found.regions()
    covered = np.zeros(size, int)
    for region in regions:
        place = np.s_[region.top : region.top + region.height, region.left : region.left + region.width]
        covered[place] += 1
        assert region.entropy == pytest.approx(entropy[place].mean(), rel=1e-5)
        assert region.disagreement == pytest.approx(disagreement[place].mean(), rel=1e-5)
    assert covered.max() == 1
    # 300 x 700: the last 44 rows are too narrow for a window of their own
    assert len(regions) == {(1, 1): 1, (300, 700): 3, (512, 256): 2}[size]
