"""Areas, objects and uncertainty are those of the whole page, however it was cut."""

import numpy as np
import pytest
from scipy import ndimage

from fbunet_jax.inference import summary
from fbunet_jax.inference.summary import UncertaintyMap, areas, count_objects


@pytest.mark.parametrize("strip", [1, 2, 7, 1024])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_objects_are_scipys_of_the_whole_page_for_every_strip(strip, share, monkeypatch):
    monkeypatch.setattr(summary, "_STRIP", strip)
    random = np.random.default_rng(0)
    labels = (random.uniform(size=(40, 31)) < share).astype(np.uint8) + (random.uniform(size=(40, 31)) < 0.1)
    expected = [ndimage.label(labels == index, structure=np.ones((3, 3)))[1] for index in range(4)]
    assert count_objects(labels, 4) == expected
    np.testing.assert_array_equal(areas(labels, 4), [(labels == index).sum() for index in range(4)])


def test_an_object_across_strips_that_touches_at_corners_only_counts_once(monkeypatch):
    monkeypatch.setattr(summary, "_STRIP", 1)
    assert count_objects(np.eye(9, dtype=np.uint8), 2) == [1, 1]
    rings = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
    assert count_objects(rings, 2) == [1, 1]


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
