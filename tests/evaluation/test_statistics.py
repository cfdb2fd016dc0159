"""Intervals: against SciPy and counts by hand."""

import numpy as np
import pytest
from scipy import stats

from fbunet_jax.evaluation.items import ItemCounts
from fbunet_jax.evaluation.statistics import bootstrap_intervals, class_iou, group_totals, t_interval
from fbunet_jax.metrics import iou


def counts(fold, groups, confusion):
    confusion = np.asarray(confusion, np.int64)
    names = tuple(f"{group}/{index}" for index, group in enumerate(groups))
    return ItemCounts(fold, 1, names, tuple(groups), confusion, np.zeros((len(groups), 2, 2, 2), np.int64))


def random_groups(groups, classes=3):
    random = np.random.default_rng(0)
    return random.integers(0, 300, (groups, classes, classes)) + 500 * np.eye(classes, dtype=int)


def test_the_bootstrap_interval_is_scipys():
    groups = random_groups(12)

    def pooled(index, axis=-1):
        assert axis == -1
        return iou(groups[index].sum(axis=-3)).T

    expected = stats.bootstrap(
        (np.arange(12),), pooled, n_resamples=20000, method="percentile", vectorized=True, rng=np.random.default_rng(1)
    ).confidence_interval
    found = np.array(bootstrap_intervals(groups)[:3])
    np.testing.assert_allclose(found[:, 0], expected.low, atol=0.004)
    np.testing.assert_allclose(found[:, 1], expected.high, atol=0.004)
    width = expected.high - expected.low
    assert (width > 0.03).all()  # so that the tolerance means something


def test_equal_groups_leave_no_doubt_and_a_single_group_gives_no_interval():
    matrix = np.array([[6, 2], [1, 3]])
    expected = [6 / 9, 3 / 6, (6 / 9 + 3 / 6) / 2]
    for (low, high), value in zip(bootstrap_intervals(np.stack([matrix] * 5)), expected, strict=True):
        assert low == pytest.approx(value)
        assert high == pytest.approx(value)
    assert bootstrap_intervals(matrix[None]) == [None] * 3


def test_a_class_that_no_group_has_has_no_interval_and_leaves_the_mean():
    groups = np.zeros((4, 3, 3), int)
    groups[:, :2, :2] = [[6, 2], [1, 3]]
    intervals = bootstrap_intervals(groups)
    assert intervals[2] is None
    assert intervals[3] == pytest.approx(((6 / 9 + 3 / 6) / 2,) * 2)
    np.testing.assert_allclose(class_iou(groups.sum(axis=0)), [6 / 9, 3 / 6, np.nan, (6 / 9 + 3 / 6) / 2])


def test_a_group_that_two_folds_test_counts_once_with_the_mean_of_its_counts():
    first = counts(0, ["a", "a", "b"], [[[[1, 0], [0, 2]]], [[[3, 0], [0, 0]]], [[[5, 1], [0, 0]]]])
    second = counts(1, ["b", "c"], [[[[1, 5], [0, 0]]], [[[0, 0], [0, 9]]]])
    names, totals = group_totals([first, second])
    assert names == ["a", "b", "c"]
    np.testing.assert_array_equal(totals[:, 0], [[[4, 0], [0, 2]], [[3, 3], [0, 0]], [[0, 0], [0, 9]]])


def test_the_paired_interval_is_scipys():
    random = np.random.default_rng(0)
    before, after = random.normal(size=(2, 5))
    expected = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert t_interval(after - before) == pytest.approx((expected.low, expected.high))
    assert t_interval([*(after - before), np.nan]) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("differences", [[], [0.3], [0.3, np.nan]])
def test_fewer_than_two_folds_give_no_paired_interval(differences):
    assert t_interval(differences) is None
