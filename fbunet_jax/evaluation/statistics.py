"""How sure a number is: means over folds, and jackknife intervals over groups and over folds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from fbunet_jax.evaluation.items import ItemCounts
from fbunet_jax.metrics import iou

LEVEL = 0.95
LEAST_GROUPS = 5
"""Groups below which there is no interval."""

_NEAR_0 = 1e-9

Interval = tuple[float, float]


def group_totals(folds: Sequence[ItemCounts], field: str = "confusion") -> tuple[list[str], NDArray[np.float64]]:
    """Return the groups of all folds and the counts of each, every group counted once.

    A group that several folds test has as many segmentations: its counts are their mean.

    Args:
      folds: the counts of the folds.
      field: which counts, ``"confusion"`` or ``"moves"``.

    Returns:
      The names of the G groups, and `[G, ...]` float64.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    times: dict[str, int] = {}
    for counts in folds:
        values = getattr(counts, field)
        names = np.array(counts.groups)
        for group in dict.fromkeys(counts.groups):
            sums[group] = sums.get(group, 0) + values[names == group].sum(axis=0, dtype=np.float64)
            times[group] = times.get(group, 0) + 1
    return list(sums), np.stack([sums[group] / times[group] for group in sums])


def class_iou(confusion: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the IoU of every class and, last, the mean over the classes with a pixel of truth, `[..., K + 1]`.

    Args:
      confusion: counts `[..., K, K]`, rows truth.

    Returns:
      float64; NaN for a class without a pixel of truth, and for the mean where no class has one.
    """
    values = iou(np.asarray(confusion))
    return np.concatenate([values, nan_mean(values, axis=-1)[..., None]], axis=-1)


def over_folds(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and sample deviation over folds of the IoU of every class and of the mean IoU, `[K + 1]` each.

    A class is averaged over the folds that have it. Folds that lack a class have means over fewer classes, which do not
    compare: the mean IoU is the mean of the classes' means, and its deviation is over the folds with every class.

    Args:
      values: `[F, K + 1]` of the folds, as `class_iou` returns them; NaN for a class that a fold lacks.
    """
    classes = values[:, :-1]
    means = nan_mean(classes, axis=0)
    has_all = ~np.isnan(classes[:, ~np.isnan(means)]).any(axis=1)
    columns = [*classes.T, values[has_all, -1]]
    return np.append(means, nan_mean(means)), np.array([_deviation(column) for column in columns])


def nan_mean(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Return the mean along an axis, NaN left out; NaN where nothing else is."""
    present = ~np.isnan(values)
    count = present.sum(axis=axis)
    total = np.where(present, values, 0).sum(axis=axis)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def pooled_intervals(groups: NDArray[np.floating]) -> list[Interval | None]:
    """Return 95 % intervals of the IoU of all groups together, of every class and of the mean over the classes.

    A jackknife over groups on the logit scale, with the t quantile of the effective number of groups; docs/report.md
    has its simulated coverage.

    Args:
      groups: counts of each group `[G, K, K]`, rows truth.

    Returns:
      K + 1 intervals. A class has one if at least `LEAST_GROUPS` groups have a pixel of it and its IoU is neither 0
      nor 1; the mean, if there are as many groups and each class is in at least two. The others are None.
    """
    total, truth = groups.sum(axis=0), groups.sum(axis=2)
    holders = (truth > 0).sum(axis=0)
    estimate = class_iou(total)
    # where one group holds all that is right of a class, the others have an IoU of 0
    left_out = special.logit(np.clip(class_iou(total - groups), _NEAR_0, 1 - _NEAR_0))
    half = _half_widths(left_out, truth)
    enough = [*(holders >= LEAST_GROUPS), len(groups) >= LEAST_GROUPS and holders[holders > 0].min(initial=2) > 1]
    return [
        (float(special.expit(centre - width)), float(special.expit(centre + width)))
        if is_enough and 0 < value < 1
        else None
        for is_enough, value, centre, width in zip(enough, estimate, special.logit(estimate), half, strict=True)
    ]


def paired_difference(
    first: NDArray[np.floating], other: NDArray[np.floating], averaged: Sequence[int] | None = None
) -> tuple[NDArray[np.float64], list[Interval | None]]:
    """Return how much higher the IoU of the other's summed counts is than that of the first's, with 95 % intervals.

    A jackknife over folds: of every class, and of the mean over the classes that the folds have together.

    Args:
      first: counts of each fold `[F, K, K]`, rows truth.
      other: counts of the same folds, with the same truth.
      averaged: the classes that the mean is over; all by default.

    Returns:
      Differences `[K + 1]` float64, NaN for a class that no fold has; and an interval of each, None where a class has
      pixels in fewer than two folds: of that class, and of the mean.
    """
    totals, truth = (first.sum(axis=0), other.sum(axis=0)), first.sum(axis=2)
    chosen = np.isin(np.arange(truth.shape[1]), np.arange(truth.shape[1]) if averaged is None else averaged)

    def scores(confusion: NDArray[np.floating]) -> NDArray[np.float64]:
        values = class_iou(confusion)
        return np.concatenate([values[..., :-1], nan_mean(values[..., :-1][..., chosen])[..., None]], axis=-1)

    difference = scores(totals[1]) - scores(totals[0])
    half = _half_widths(scores(totals[1] - other) - scores(totals[0] - first), truth, chosen)
    holders = (truth > 0).sum(axis=0)
    enough = [*(holders > 1), len(first) > 1 and holders[chosen & (holders > 0)].min(initial=2) > 1]
    return difference, [
        (float(max(centre - width, -1)), float(min(centre + width, 1))) if is_enough else None
        for is_enough, centre, width in zip(enough, difference, half, strict=True)
    ]


def _half_widths(
    left_out: NDArray[np.float64], truth: NDArray[np.floating], chosen: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return t times the jackknife's standard error, `[K + 1]`.

    Args:
      left_out: the estimates without each of the U units, `[U, K + 1]`.
      truth: pixels of each class in each unit, `[U, K]`.
      chosen: the classes that the mean is over, `[K]`; all by default.
    """
    error = np.sqrt((len(left_out) - 1) * left_out.var(axis=0))
    total = truth.sum(axis=0)
    weights = truth / np.where(total > 0, total, 1)
    averaged = weights if chosen is None else weights[:, chosen]
    weights = np.column_stack([weights, averaged.sum(axis=1) / max(1, (averaged.sum(axis=0) > 0).sum())])
    # Kish: units of unequal size say as much about the spread as so many of equal size
    effective = 1 / (weights**2).sum(axis=0).clip(1 / len(weights), 1)
    # half a degree of freedom is wider than anything known; fewer would overflow
    return stats.t.ppf((1 + LEVEL) / 2, np.maximum(effective - 1, 0.5)) * error


def _deviation(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.std(ddof=1)) if present.size > 1 else float("nan")
