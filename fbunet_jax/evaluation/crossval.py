"""Evaluate the folds of a run on their test (or validation) parts, and pool them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.checkpoints.trained import best_step, trained_folds
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.items import ItemCounts, count_items, read_items
from fbunet_jax.evaluation.segmentation import FoldSegmentation, load_run_data
from fbunet_jax.files import read_json, write_atomically
from fbunet_jax.metrics import iou, mean_iou
from fbunet_jax.runs import Run
from fbunet_jax.training.setup import part_items

Evaluation = dict[str, Any]

FORMAT = 1
"""Version of the format of evaluation.json."""


class Scores(TypedDict):
    """What one round of a fold reached, as evaluation.json holds it; None: no pixel of the class in truth or result."""

    mean_iou: float | None
    iou: list[float | None]
    confusion: list[list[int]]


class Entry(TypedDict):
    """What a fold reached, as evaluation.json holds it; see `fold_entry`.

    Items that are larger than ``tile`` pixels are cut into tiles that overlap. Earlier versions, which wrote neither,
    cut them into separate tiles of `data.crop` pixels.
    """

    fold: int
    step: int
    images: int
    mean_iou: float | None
    iou: list[float | None]
    rounds: list[Scores]
    tile: NotRequired[int]
    overlap: NotRequired[int]


def evaluate(
    run: str | Path,
    folds: Sequence[int] | None = None,
    *,
    split: str = "test",
    root: str = "",
    tta: bool = False,
    whole: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Segment one part of every fold with its best checkpoint and compare with the truth.

    Args:
      run: the run directory.
      folds: which folds; None for all that are trained.
      split: ``"test"`` or ``"validation"``.
      root: folder of the data set, where it is no longer where the run found it.
      tta: average the probabilities over the 8 dihedral views of each tile. Such an evaluation is kept apart from the
        others: its split, and the names of its files, end with ``-tta``.
      whole: evaluate the images as they were before `data.cut`; likewise kept apart, as ``-whole``.
      tell: called with a line about each fold.

    Returns:
      The content of evaluation.json: the folds evaluated so far from their present best checkpoints, mean and
      deviation over folds. Also written, per fold and for the run.

    Raises:
      RunError: nothing is trained, a fold is missing, or the data are not those of the run.
    """
    opened = Run(Path(run))
    opened.read_config()  # whether it is a run at all
    wanted = list(folds) if folds is not None else trained_folds(opened)
    if not wanted:
        raise RunError(
            f"{run} has no trained fold. Train one first, or go on with it: "
            f"python train.py --config {opened.config} --fold 0 --out {run}"
        )
    config, dataset = load_run_data(opened, root, whole=whole)
    name = split + "-whole" * whole + "-tta" * tta
    for fold in wanted:
        segmentation = FoldSegmentation(opened, config, dataset, fold, tta=tta)
        items = count_items(segmentation, dataset, part_items(config, opened, dataset, fold)[split])
        entry = fold_entry(fold, items.step, len(items.names), items.confusion.sum(axis=0))
        entry |= {"tile": segmentation.tiling.tile, "overlap": segmentation.tiling.overlap}
        items.save(opened.fold(fold).items(name))
        write_atomically(opened.fold(fold).evaluation(name), json.dumps(entry, indent=1) + "\n")
        tell(f"fold {fold}: {entry['images']} {split} images, mean IoU {_percent(entry['mean_iou'])} %")
    pooled = pool(dataset.class_names, name, present_entries(opened, name))
    write_atomically(opened.evaluation(name), json.dumps(pooled, indent=1) + "\n")
    return pooled


def fold_entry(fold: int, step: int, images: int, confusion: NDArray[np.int64]) -> Evaluation:
    """Return one entry of ``folds`` in evaluation.json.

    Args:
      fold: its number.
      step: of the checkpoint.
      images: how many were evaluated.
      confusion: `[R, K, K]` int64, summed over all of them.
    """
    rounds = [
        {"mean_iou": _number(mean_iou(matrix)), "iou": _numbers(iou(matrix)), "confusion": matrix.tolist()}
        for matrix in confusion
    ]
    last = rounds[-1]
    return {
        "fold": fold,
        "step": step,
        "images": images,
        "mean_iou": last["mean_iou"],
        "iou": last["iou"],
        "rounds": rounds,
    }


def present_entries(run: Run, split: str) -> list[Evaluation]:
    """Return the evaluations of all folds that belong to the fold's present best checkpoint.

    Those of images in separate tiles, as earlier versions made them, are not among them, unless the items were cut into
    such tiles anyway.
    """
    entries, data = [], run.read_config().data
    for fold in range(data.folds):
        file = run.fold(fold).evaluation(split)
        if file.is_file():
            entry = _read_entry(file, fold, len(run.read_dataset()["class_names"]))
            if entry["step"] == best_step(run, fold) and ("tile" in entry or 0 < data.cut <= data.crop):
                entries.append(entry)
    return entries


def _read_entry(file: Path, fold: int, classes: int) -> Evaluation:
    """Read a fold's evaluation, and check that its numbers are possible."""
    entry = cast(Entry, read_json(file, Entry))
    measured = [(entry["mean_iou"], entry["iou"]), *((each["mean_iou"], each["iou"]) for each in entry["rounds"])]
    shares = [share for mean, values in measured for share in (mean, *values) if share is not None]
    matrices = [each["confusion"] for each in entry["rounds"]]
    possible = entry["fold"] == fold and len(measured) > 1 and all(0 <= share <= 1 for share in shares)
    possible = possible and all(len(values) == classes for _, values in measured)
    if not possible or any([len(row) for row in matrix] != [classes] * classes for matrix in matrices):
        raise RunError(
            f"{file} is damaged: expected the scores of fold {fold} for {classes} classes, from 0 to 1. Remove it and "
            "evaluate the run again."
        )
    return dict(entry)


def present_items(run: Run, split: str) -> list[ItemCounts]:
    """Return the counts by image of the same folds; a fold evaluated before they were kept is not among them."""
    found = []
    for entry in present_entries(run, split):
        file = run.fold(entry["fold"]).items(split)
        if file.is_file() and (items := read_items(file)).step == entry["step"]:
            found.append(items)
    return found


def pool(class_names: Sequence[str], split: str, entries: Sequence[Evaluation]) -> Evaluation:
    """Return the evaluation of a run from those of its folds: mean and sample deviation over folds.

    The deviation of a single fold is None, and so is the mean of a class that no fold could measure.
    """
    values = np.array([[entry["mean_iou"], *entry["iou"]] for entry in entries], np.float64)
    means = [column[~np.isnan(column)].mean() if not np.isnan(column).all() else np.nan for column in values.T]
    deviations = [
        column[~np.isnan(column)].std(ddof=1) if (~np.isnan(column)).sum() > 1 else np.nan for column in values.T
    ]
    return {
        "format": FORMAT,
        "split": split,
        "class_names": list(class_names),
        "folds": list(entries),
        "mean": {"mean_iou": _number(means[0]), "iou": _numbers(means[1:])},
        "std": {"mean_iou": _number(deviations[0]), "iou": _numbers(deviations[1:])},
    }


def table(evaluation: Mapping[str, Any]) -> str:
    """Return the table that evaluate.py prints: IoU in %, classes x folds, mean and deviation, rounds side by side.

    Each cell holds the last round's value, then the first round's in brackets where there are several.
    """
    folds = evaluation["folds"]
    header = ["IoU in %", *(f"fold {entry['fold']}" for entry in folds), "mean", "std"]
    several = any(len(entry["rounds"]) > 1 for entry in folds)
    rows = []
    for index, name in enumerate([*evaluation["class_names"], "mean"]):

        def pick(source: Mapping[str, Any], index: int = index) -> float | None:
            return source["mean_iou"] if index == len(evaluation["class_names"]) else source["iou"][index]

        cells = [
            _percent(pick(entry["rounds"][-1]))
            + (f" ({_percent(pick(entry['rounds'][0]))})" if len(entry["rounds"]) > 1 else "")
            for entry in folds
        ]
        firsts = [value for entry in folds if (value := pick(entry["rounds"][0])) is not None]
        mean = _percent(pick(evaluation["mean"])) + (f" ({_percent(_mean(firsts))})" if several else "")
        rows.append([name, *cells, mean, _percent(pick(evaluation["std"]))])
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    note = f"Last round (first round in brackets); split: {evaluation['split']}." if several else ""
    return "\n".join([*lines, note or f"Split: {evaluation['split']}."])


def missing_folds(evaluation: Mapping[str, Any], folds: int) -> list[int]:
    """Return the folds that an evaluation lacks."""
    present = {entry["fold"] for entry in evaluation["folds"]}
    return [fold for fold in range(folds) if fold not in present]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _numbers(values: Sequence[float] | NDArray[np.floating]) -> list[float | None]:
    return [_number(value) for value in values]


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"
