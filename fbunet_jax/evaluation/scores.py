"""What folds and runs reached: evaluation.json, made, read and checked, pooled over folds, and as a table."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from flax import linen as nn
from numpy.typing import NDArray

from fbunet_jax.config_formats import items_are_tiles
from fbunet_jax.data.datasets import Dataset
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.items import ItemCounts, count_items, read_items
from fbunet_jax.evaluation.objects import FoldObjects, are_possible, count_objects, object_lines, place_of
from fbunet_jax.evaluation.operating_point import provide_offsets
from fbunet_jax.evaluation.segmentation import FoldSegmentation, load_run_data
from fbunet_jax.evaluation.statistics import class_iou, nan_mean, over_folds
from fbunet_jax.evaluation.variants import DEFAULT, Variant
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.files import read_json, write_atomically
from fbunet_jax.runs.opening import part_items
from fbunet_jax.runs.trained import best_step, trained_folds
from fbunet_jax.tables import aligned, number_or_none, percent
from fbunet_jax.toml_tables import to_table

FORMAT = 2
"""Version of the format of evaluation.json. In format 1, which has no number in the file of a fold, a class without a
pixel of truth had an IoU of 0 if it was predicted."""

_MOST_PIXELS = 2**53


class Mean(TypedDict):
    """IoU of every class, and the mean over the classes; None: the truth has no pixel of the class, or of any."""

    mean_iou: float | None
    iou: list[float | None]


class Scores(Mean):
    """What one round of a fold reached, and its counts: rows truth, columns prediction."""

    confusion: list[list[int]]


class _Rounds(Mean):
    rounds: list[Scores]


class Entry(_Rounds):
    """What a fold reached in its last round and in every round, as evaluation.json holds it; see `fold_entry`.

    Items that are larger than ``tile`` pixels are cut into tiles that overlap. Earlier versions, which wrote neither,
    cut them into separate tiles of `data.crop` pixels. ``offsets`` were added to the logits of the classes.
    """

    format: NotRequired[int]
    fold: int
    step: int
    images: int
    tile: NotRequired[int]
    overlap: NotRequired[int]
    objects: NotRequired[FoldObjects]
    offsets: NotRequired[list[float]]


class Evaluation(TypedDict):
    """What a run reached, as its evaluation.json holds it; see `pool`."""

    format: int
    split: str
    class_names: list[str]
    folds: list[Entry]
    mean: Mean
    std: Mean
    summed: Mean


def evaluate_folds(
    run: Run,
    folds: Iterable[int] | None,
    *,
    split: str,
    root: str = "",
    variant: Variant = DEFAULT,
    objects: int = 0,
    dataset: Dataset | None = None,
    model: nn.Module | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Segment one part of every fold, write what came of it, and return the evaluation of the run.

    Arguments and errors are those of `fbunet_jax.evaluation.crossval.evaluate`.
    """
    wanted = [int(fold) for fold in folds] if folds is not None else trained_folds(run)
    if not wanted:
        raise RunError(
            f"{run.path} has no trained fold. Train one first, or resume its training; {run.config} has its settings."
        )
    passed = dataset
    config, dataset = load_run_data(run, root, variant, dataset=passed)
    name = split + variant.suffix
    for fold in wanted:
        if variant.offsets:
            provide_offsets(run, fold, root=root, dataset=passed, model=model, tell=tell)
        part, labels = part_items(config, run, dataset, fold)[split], list[NDArray[np.uint8]]()
        segmentation = FoldSegmentation(run, config, dataset, fold, variant, part=part, model=model)
        items = count_items(segmentation, dataset, part, labels.append if objects else None)
        entry = fold_entry(fold, items.step, len(items.names), items.confusion.sum(axis=0))
        entry["tile"], entry["overlap"] = segmentation.tiling.tile, segmentation.tiling.overlap
        if segmentation.trained.offsets is not None:
            entry["offsets"] = list(segmentation.trained.offsets)
        if objects:
            places, truth = zip(*((place_of(dataset.names[i], config), dataset.labels[i]) for i in part), strict=True)
            entry["objects"] = count_objects(places, truth, labels, len(dataset.class_names), objects)
        items.save(run.fold(fold).items(name))
        write_atomically(run.fold(fold).evaluation(name), json.dumps(entry, indent=1) + "\n")
        tell(f"fold {fold}: {entry['images']} {split} images, mean IoU {percent(entry['mean_iou'])} %")
    pooled = pool(dataset.class_names, name, present_entries(run, name))
    write_atomically(run.evaluation(name), json.dumps(pooled, indent=1) + "\n")
    return pooled


def fold_entry(fold: int, step: int, images: int, confusion: NDArray[np.int64]) -> Entry:
    """Return one entry of ``folds`` in evaluation.json.

    Args:
      fold: its number.
      step: of the checkpoint.
      images: how many were evaluated.
      confusion: `[R, K, K]` int64, summed over all of them.
    """
    return {"format": FORMAT, "fold": fold, "step": step, "images": images, **_scores(confusion, class_iou(confusion))}


def _scores(confusion: NDArray[np.int64], values: NDArray[np.float64]) -> _Rounds:
    """Return the scores of an entry from its counts `[R, K, K]` and their IoU `[R, K + 1]`, the mean last."""
    rounds: list[Scores] = [
        {**_mean(row), "confusion": matrix.tolist()} for matrix, row in zip(confusion, values, strict=True)
    ]
    return {"mean_iou": rounds[-1]["mean_iou"], "iou": rounds[-1]["iou"], "rounds": rounds}


def present_entries(run: Run, split: str) -> list[Entry]:
    """Return the evaluations of all folds that belong to the fold's present best checkpoint.

    Those of images in separate tiles, as earlier versions made them, are not among them, unless the items were cut into
    such tiles anyway.
    """
    entries, config = [], run.read_config()
    is_same = items_are_tiles(to_table(config))
    for fold in range(config.data.folds):
        file = run.fold(fold).evaluation(split)
        if file.is_file():
            entry = _read_entry(file, fold, len(run.read_dataset()["class_names"]))
            if entry["step"] == best_step(run, fold) and ("tile" in entry or is_same):
                entries.append(entry)
    return entries


def _read_entry(file: Path, fold: int, classes: int) -> Entry:
    """Read a fold's evaluation of any format, as one of the present format."""
    entry = read_json(file, Entry, "Remove it and evaluate the run again.")
    version = entry.get("format", 1)
    if version not in (1, FORMAT):
        raise RunError(
            f"{file} has format {version}; this version reads formats 1 and {FORMAT}. Use the version that wrote it, "
            "or evaluate the run again."
        )
    checked = checked_entry(entry, classes)
    if checked is None or entry["fold"] != fold:
        raise RunError(
            f"{file} is damaged: expected fold {fold} with counts of {classes} classes in each round, the scores that "
            "follow from them, and what belongs to them. Remove it and evaluate the run again."
        )
    return checked


def checked_entry(entry: Entry, classes: int) -> Entry | None:
    """Return an entry in the present format; None if its scores do not follow from its counts by its own format."""
    matrices = [scores["confusion"] for scores in entry["rounds"]]
    counts = [count for matrix in matrices for row in matrix for count in row]
    has_shape = all([len(row) for row in matrix] == [classes] * classes for matrix in matrices)
    if not matrices or not has_shape or not all(0 <= count < _MOST_PIXELS for count in counts):
        return None
    if "objects" in entry and not are_possible(entry["objects"], classes):
        return None
    if len(entry.get("offsets", range(classes))) != classes:
        return None
    confusion = np.array(matrices, np.int64)
    values = class_iou(confusion)
    before = values if entry.get("format", 1) == FORMAT else _format_1_iou(confusion)
    expected, found = (_all_scores(each) for each in (_scores(confusion, before), entry))
    if len(expected) != len(found) or not np.allclose(expected, found, equal_nan=True):
        return None
    return {**entry, "format": FORMAT, **_scores(confusion, values)}


def _all_scores(entry: _Rounds) -> NDArray[np.float64]:
    return np.array([value for each in (entry, *entry["rounds"]) for value in _row(each)], np.float64)


def _format_1_iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return IoU and mean `[R, K + 1]` as format 1 had them: 0 for a class that is predicted and not in the truth."""
    values = class_iou(confusion)[:, :-1]
    values[(confusion.sum(axis=2) == 0) & (confusion.sum(axis=1) > 0)] = 0
    return np.column_stack([values, nan_mean(values)])


def present_items(run: Run, split: str) -> list[ItemCounts]:
    """Return the counts by image of the same folds; a fold evaluated before they were kept is not among them."""
    found = []
    for entry in present_entries(run, split):
        file = run.fold(entry["fold"]).items(split)
        if file.is_file() and (items := read_items(file)).step == entry["step"]:
            found.append(items)
    return found


def pool(class_names: Sequence[str], split: str, entries: Sequence[Entry]) -> Evaluation:
    """Return the evaluation of a run from those of its folds.

    ``mean`` and ``std`` are over folds, see `over_folds`; the deviation of a single fold is None, and so is the mean of
    a class that no fold has. ``summed`` is the IoU of the folds' summed counts.
    """
    mean, deviation = _over_folds(entries, -1)
    counts = [entry["rounds"][-1]["confusion"] for entry in entries]
    summed = class_iou(np.sum(counts, axis=0))
    return {
        "format": FORMAT,
        "split": split,
        "class_names": list(class_names),
        "folds": list(entries),
        "mean": _mean(mean),
        "std": _mean(deviation),
        "summed": _mean(summed),
    }


def _over_folds(entries: Sequence[Entry], number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and deviation `[K + 1]` of one round over folds."""
    return over_folds(np.array([_row(entry["rounds"][number]) for entry in entries], np.float64))


def _mean(values: NDArray[np.float64]) -> Mean:
    """Return the IoU of the classes and, last, the mean, `[K + 1]`, as JSON has them."""
    *iou, mean_iou = map(number_or_none, values)
    return {"mean_iou": mean_iou, "iou": iou}


def _row(scores: Mean) -> list[float | None]:
    return [*scores["iou"], scores["mean_iou"]]


def table(evaluation: Evaluation) -> str:
    """Return the table that evaluate prints: IoU in %, classes x folds, mean and deviation, rounds side by side.

    Each cell holds the last round's value, then the first round's in brackets where there are several. Below it, the
    classes that a fold lacks.
    """
    names, folds = evaluation["class_names"], evaluation["folds"]
    several = any(len(entry["rounds"]) > 1 for entry in folds)
    firsts = _over_folds(folds, 0)[0]
    rows = [["IoU in %", *(f"fold {entry['fold']}" for entry in folds), "mean", "std", "summed"]]
    for index, name in enumerate([*names, "mean"]):
        cells = [
            percent(_row(entry["rounds"][-1])[index])
            + (f" ({percent(_row(entry['rounds'][0])[index])})" if len(entry["rounds"]) > 1 else "")
            for entry in folds
        ]
        mean, deviation, summed = (
            percent(_row(each)[index]) for each in (evaluation["mean"], evaluation["std"], evaluation["summed"])
        )
        first = f" ({percent(firsts[index])})" if several else ""
        rows.append([name, *cells, mean + first, deviation, summed])
    note = f"Last round (first round in brackets); split: {evaluation['split']}." if several else ""
    absent = absence_notes(names, {entry["fold"]: entry["iou"] for entry in folds})
    objects = object_lines(names, [(entry["fold"], entry["objects"]) for entry in folds if "objects" in entry])
    return "\n".join([aligned(rows, ">"), note or f"Split: {evaluation['split']}.", *absent, *objects])


def absence_notes(class_names: Sequence[str], folds: Mapping[int, Sequence[float | None]]) -> list[str]:
    """Return a sentence about each fold that lacks classes, from the IoU of its classes."""
    notes = []
    for fold, values in folds.items():
        lacking = [name for name, value in zip(class_names, values, strict=True) if value is None or np.isnan(value)]
        if lacking:
            notes.append(
                f"Fold {fold} has no pixel of {', '.join(lacking)} (n/a): its mean is over the other classes, and "
                "cannot be compared with that of other folds."
            )
    return notes


def missing_folds(evaluation: Evaluation, folds: int) -> list[int]:
    """Return the folds that an evaluation lacks."""
    present = {entry["fold"] for entry in evaluation["folds"]}
    return [fold for fold in range(folds) if fold not in present]
