"""Runs compared fold by fold: the same images, the same folds, paired differences in IoU."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.data.folds import PARTS, read_folds
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.scores import Entry, absence_notes, present_entries
from fbunet_jax.evaluation.statistics import Interval, class_iou, paired_difference
from fbunet_jax.evaluation.variants import Variant
from fbunet_jax.runs.directory import Run
from fbunet_jax.tables import aligned, percent, percentage_points


@dataclass(frozen=True)
class Difference:
    """One run against the first.

    Attributes:
      name: what the run is called.
      folds: `[F, K + 1]` this run's IoU minus the first run's, of every class and the mean; NaN for a class that the
        fold lacks, whose mean is over the others.
      summed: `[K + 1]` the same of the folds' summed counts, which have every class.
      intervals: 95 % interval of each of these, None with fewer than two folds, see `paired_difference`.
    """

    name: str
    folds: NDArray[np.float64]
    summed: NDArray[np.float64]
    intervals: list[Interval | None]


@dataclass(frozen=True)
class Comparison:
    """Several runs on the same folds.

    Attributes:
      names: of the runs.
      rows: the class names, then "mean".
      split: ``"test"`` or ``"validation"``, followed by ``"-offsets"`` for evaluations with them.
      folds: the F folds that every run has.
      iou: `[runs, F, K + 1]` IoU of the last round, of every class and the mean.
      summed: `[runs, K + 1]` IoU of the folds' summed counts.
      differences: of every run but the first.
      left_out: a sentence for each run that lacks a fold that another one has.
      absent: a sentence for each fold that lacks a class.
    """

    names: list[str]
    rows: list[str]
    split: str
    folds: list[int]
    iou: NDArray[np.float64]
    summed: NDArray[np.float64]
    differences: list[Difference]
    left_out: list[str]
    absent: list[str]


def compare(runs: Sequence[str | Path], *, split: str = "test", offsets: bool = False) -> Comparison:
    """Compare runs by the evaluations that they hold.

    Args:
      runs: at least two run directories; the first is what the others are compared with.
      split: ``"test"`` or ``"validation"``.
      offsets: whether to compare the evaluations with offsets.

    Raises:
      RunError: the runs have other images, folds or splits (the difference is named), or no fold in common.
    """
    opened = [Run(Path(run)) for run in runs]
    if len(opened) < 2:
        raise RunError("A comparison needs at least two run directories: fbunet compare RUN RUN...")
    check_comparable(opened)
    names = run_names(opened)
    split += Variant(offsets=offsets).suffix
    entries = [_entries(run, split) for run in opened]
    every = sorted({fold for found in entries for fold in found})
    shared = [fold for fold in every if all(fold in found for found in entries)]
    left_out = [
        f"{name} has no {split} evaluation of fold {', '.join(map(str, missing))}, which the comparison leaves out."
        for name, found in zip(names, entries, strict=True)
        if (missing := [fold for fold in every if fold not in found])
    ]
    if not shared:
        raise RunError(f"The runs have no evaluated fold in common. {' '.join(left_out)}")
    counts = np.array([[found[fold]["rounds"][-1]["confusion"] for fold in shared] for found in entries], np.int64)
    values = class_iou(counts)
    differences = [
        Difference(name, values[index] - values[0], *paired_difference(counts[0], counts[index]))
        for index, name in enumerate(names[1:], start=1)
    ]
    classes = opened[0].read_dataset()["class_names"]
    absent = absence_notes(classes, dict(zip(shared, values[0, :, :-1].tolist(), strict=True)))
    summed = class_iou(counts.sum(axis=1))
    return Comparison(names, [*classes, "mean"], split, shared, values, summed, differences, left_out, absent)


def check_comparable(runs: Sequence[Run]) -> None:
    """Check that runs have the same images, classes and folds as the first.

    Raises:
      RunError: names what differs.
    """
    first = runs[0]
    for run in runs:
        run.read_config()  # whether it is a run at all
    for run in runs[1:]:
        before, now = first.read_dataset(), run.read_dataset()
        remedy = "Compare runs of one data set and one division into folds."
        if before["class_names"] != now["class_names"]:
            raise RunError(
                f"{run.path} has the classes {', '.join(now['class_names'])}, and {first.path} has "
                f"{', '.join(before['class_names'])}. {remedy}"
            )
        if before["fingerprint"] != now["fingerprint"]:
            raise RunError(
                f"{run.path} was trained with other images or labels than {first.path}: the fingerprints of the data "
                f"are {now['fingerprint']} and {before['fingerprint']}. {remedy}"
            )
        if difference := _fold_difference(first, run):
            raise RunError(f"{run.path} and {first.path} have other folds: {difference} {remedy}")


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return what to call each run: its method or network, or its path where two have the same."""
    methods = [run.label() for run in runs]
    names = methods if len(set(methods)) == len(methods) else [run.path.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _fold_difference(first: Run, other: Run) -> str:
    """Say where the folds of two runs first differ, or return an empty text."""
    before, now = read_folds(first.folds), read_folds(other.folds)
    if len(before) != len(now):
        return f"{len(now)} and {len(before)} of them."
    for index, (old, new) in enumerate(zip(before, now, strict=True)):
        for part in PARTS:
            one, another = getattr(old, part), getattr(new, part)
            if sorted(one) != sorted(another):
                return f"the {part} part of fold {index} is {', '.join(another)} and {', '.join(one)}."
    return ""


def _entries(run: Run, split: str) -> dict[int, Entry]:
    """Return the evaluations of a run by fold, or say why there are none."""
    found = {entry["fold"]: entry for entry in present_entries(run, split)}
    if not found:
        part, dash, option = split.partition("-")
        other = ("validation" if part == "test" else "test") + dash + option
        what = (
            f" It has one of the {other} split: give every run the same split." if present_entries(run, other) else ""
        )
        raise RunError(
            f"{run.path} has no {split} evaluation of its best checkpoints.{what} Make it: "
            f"fbunet evaluate {run.path} --split {part}" + f" --{option}" * bool(option)
        )
    return found


def comparison_table(comparison: Comparison) -> str:
    """Return the table that `fbunet compare` prints: IoU of the first run in %, differences in percentage points."""
    folds = comparison.folds
    lines = [f"{comparison.names[0]}: IoU in %, {comparison.split} split"]
    first = [[percent(value) for value in fold] for fold in comparison.iou[0]]
    summed = [percent(value) for value in comparison.summed[0]]
    header = ["", *(f"fold {fold}" for fold in folds), "summed"]
    lines.append(aligned([header, *zip(comparison.rows, *first, summed, strict=True)], ">"))
    for difference in comparison.differences:
        lines += ["", f"{difference.name} minus {comparison.names[0]}: percentage points of IoU"]
        cells = [[percentage_points(value) for value in fold] for fold in difference.folds]
        summed = [percentage_points(value) for value in difference.summed]
        intervals = [
            f"{percentage_points(i[0])} to {percentage_points(i[1])}" if i else "none" for i in difference.intervals
        ]
        table = zip(comparison.rows, *cells, summed, intervals, strict=True)
        lines.append(aligned([[*header, "95 % interval"], *table], ">"))
    lines += ["", interval_note(len(folds))]
    return "\n".join([*lines, *comparison.absent, *comparison.left_out])


def interval_note(folds: int) -> str:
    """Say what the interval is, or why there is none."""
    if folds < 2:
        return "No interval: one fold says nothing about how much a difference varies. Train and evaluate more folds."
    return (
        "Summed is the IoU of the counts of all folds together, and the interval a paired jackknife of it over "
        f"{folds} folds. The folds share training images, so it is rather too narrow than too wide."
    )
