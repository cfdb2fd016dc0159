"""Intervals and means over folds: against their formulas, and coverage in a simulation."""

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from fbunet_jax.evaluation.items import ItemCounts
from fbunet_jax.evaluation.statistics import class_iou, group_totals, over_folds, paired_difference, pooled_intervals


def counts(fold, groups, confusion):
    confusion = np.asarray(confusion, np.int64)
    names = tuple(f"{group}/{index}" for index, group in enumerate(groups))
    return ItemCounts(fold, 1, names, tuple(groups), confusion, np.zeros((len(groups), 2, 2, 2), np.int64))


def random_groups(groups, classes=3):
    random = np.random.default_rng(0)
    return random.integers(0, 300, (groups, classes, classes)) + 500 * np.eye(classes, dtype=int)


def scores(matrix):
    """Return the IoU of every class and their mean, one class after the other."""
    values = [matrix[k, k] / (matrix[k].sum() + matrix[:, k].sum() - matrix[k, k]) for k in range(len(matrix))]
    return [*values, sum(values) / len(values)]


def test_the_interval_is_the_jackknife_by_the_formula():
    groups = random_groups(12)
    pseudo = [np.array(scores(np.delete(groups, index, axis=0).sum(axis=0))) for index in range(12)]
    for index, (low, high) in enumerate(pooled_intervals(groups)):
        logits = [math.log(value[index] / (1 - value[index])) for value in pseudo]
        error = math.sqrt(11 / 12 * sum((value - statistics.mean(logits)) ** 2 for value in logits))
        shares = groups.sum(axis=2) / groups.sum(axis=(0, 2))
        share = shares[:, index] if index < 3 else shares.mean(axis=1)
        width = stats.t(1 / sum(share**2) - 1).ppf(0.975) * error
        value = scores(groups.sum(axis=0))[index]
        centre = math.log(value / (1 - value))
        assert low == pytest.approx(1 / (1 + math.exp(width - centre)))
        assert high == pytest.approx(1 / (1 + math.exp(-width - centre)))
        assert low < value < high


def test_equal_groups_leave_no_doubt_and_fewer_than_five_give_no_interval():
    matrix = np.array([[6, 2], [1, 3]])
    expected = [6 / 9, 3 / 6, (6 / 9 + 3 / 6) / 2]
    for (low, high), value in zip(pooled_intervals(np.stack([matrix] * 5)), expected, strict=True):
        assert low == pytest.approx(value)
        assert high == pytest.approx(value)
    for count in (1, 2, 4):
        assert pooled_intervals(np.stack([matrix] * count)) == [None] * 3


def test_a_class_that_no_group_has_has_no_interval_and_leaves_the_mean():
    groups = np.zeros((5, 3, 3), int)
    groups[:, :2, :2] = [[6, 2], [1, 3]]
    groups[0, 0, 2] = 1  # a stray pixel
    intervals = pooled_intervals(groups)
    assert intervals[2] is None
    assert intervals[3] is not None
    without = 30 / 46, 15 / 30
    np.testing.assert_allclose(class_iou(groups.sum(axis=0)), [*without, np.nan, sum(without) / 2])


def test_a_class_of_few_groups_has_no_interval_and_one_of_a_single_group_leaves_the_mean_without():
    groups = random_groups(8)
    groups[4:, 2] = 0
    assert [bool(each) for each in pooled_intervals(groups)] == [True, True, False, True]
    groups[1:, 2] = 0
    assert [bool(each) for each in pooled_intervals(groups)] == [True, True, False, False]


def test_an_iou_of_0_or_1_has_no_interval():
    groups = np.array([[[5, 0, 0], [0, 0, 4], [0, 0, 9]]] * 6)
    assert pooled_intervals(groups)[:2] == [None, None]
    assert pooled_intervals(groups)[3] == pytest.approx(((1 + 9 / 13) / 3,) * 2)


def test_a_group_that_two_folds_test_counts_once_with_the_mean_of_its_counts():
    first = counts(0, ["a", "a", "b"], [[[[1, 0], [0, 2]]], [[[3, 0], [0, 0]]], [[[5, 1], [0, 0]]]])
    second = counts(1, ["b", "c"], [[[[1, 5], [0, 0]]], [[[0, 0], [0, 9]]]])
    names, totals = group_totals([first, second])
    assert names == ["a", "b", "c"]
    np.testing.assert_array_equal(totals[:, 0], [[[4, 0], [0, 2]], [[3, 3], [0, 0]], [[0, 0], [0, 9]]])


def test_a_mean_iou_over_folds_is_that_of_the_classes_and_its_deviation_over_folds_with_all():
    values = np.array([[0.9, 0.5, np.nan, 0.7], [0.8, np.nan, np.nan, 0.8], [0.7, 0.1, np.nan, 0.4]])
    mean, deviation = over_folds(values)
    np.testing.assert_allclose(mean, [0.8, 0.3, np.nan, 0.55])
    np.testing.assert_allclose(deviation, [0.1, 0.4 / 2**0.5, np.nan, 0.3 / 2**0.5])


def test_folds_with_every_class_have_the_plain_mean_and_deviation():
    values = class_iou(random_groups(4))
    mean, deviation = over_folds(values)
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose(deviation, values.std(axis=0, ddof=1))


@pytest.mark.parametrize("folds", [1, 2])
def test_one_fold_gives_a_difference_without_an_interval(folds):
    first, other = random_groups(2 * folds).reshape(2, folds, 3, 3)
    difference, intervals = paired_difference(first, other)
    np.testing.assert_allclose(difference, np.subtract(scores(other.sum(axis=0)), scores(first.sum(axis=0))))
    assert [bool(each) for each in intervals] == [folds > 1] * 4
