"""How sure a number is: bootstrap over groups, paired t interval over folds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fbunet_jax.evaluation.items import ItemCounts
from fbunet_jax.metrics import iou

LEVEL = 0.95
RESAMPLES = 4000

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
    """Return the IoU of every class and, last, their mean, `[..., K + 1]`, of counts `[..., K, K]`; NaN for none."""
    values = iou(np.asarray(confusion))
    present = ~np.isnan(values)
    count = present.sum(axis=-1)
    total = np.where(present, values, 0).sum(axis=-1)
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return np.concatenate([values, mean[..., None]], axis=-1)


def bootstrap_intervals(groups: NDArray[np.floating], seed: int = 0) -> list[Interval | None]:
    """Return percentile intervals of the pooled IoU of every class and of the mean: groups drawn with replacement.

    Args:
      groups: counts of each group `[G, K, K]`, rows truth.
      seed: of the draws.

    Returns:
      K + 1 intervals; None for all with a single group, and for a class that no group has. Draws in which a class
      does not occur do not count for it.
    """
    count = len(groups)
    classes = groups.shape[-1]
    if count < 2:
        return [None] * (classes + 1)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    resampled = (times.astype(np.float64) @ groups.reshape(count, -1)).reshape(-1, classes, classes)
    tails = 100 * np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    intervals: list[Interval | None] = []
    for values in class_iou(resampled).T:
        present = values[~np.isnan(values)]
        low, high = np.percentile(present, tails) if present.size else (np.nan, np.nan)
        intervals.append((float(low), float(high)) if present.size else None)
    return intervals


def t_interval(differences: Sequence[float] | NDArray[np.floating]) -> Interval | None:
    """Return the t interval of the mean of paired differences, NaN left out; None with fewer than two."""
    values = np.asarray(differences, np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)
