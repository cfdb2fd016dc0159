"""The numbers of a table, from its finished cells: the content of ``table.json``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import load_config
from fbunet_jax.evaluation.scores import Entry, Mean
from fbunet_jax.evaluation.statistics import nan_mean, over_folds, paired_difference
from fbunet_jax.experiments.cells import Cell, differences, place_of, setting_of
from fbunet_jax.experiments.paper import PaperTable, Row
from fbunet_jax.tables import number_or_none

FORMAT = 3
"""In format 1 differences were means over folds, and a class that was predicted but not in the truth had IoU 0; format
2 had one difference a row, to `unet`."""
BASELINES = ("unet", "unet-wide")
"""The methods that the others are compared with: the paper's, and the one with as many parameters as feedback."""

LARGE = 0.02
"""Share of the pixels from which a class is large: the IoU of a smaller one depends on which objects a fold holds."""

Choose = Callable[[Cell], Entry | None]
"""Returns one of the evaluations of a cell; None where it lacks that."""


def tabulate(table: PaperTable, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the content of ``table.json``; IoU is from 0 to 1, of every class and the mean.

    Args:
      table: the paper's, or one that is made like it.
      cells: at least one, all of one setting and one data set, as `read_cells` returns them; those of methods that the
        table lacks are left out, but for the baselines, which differences are taken to.

    Returns:
      ``format``, ``table``, ``title``, ``notes``, ``config``, ``class_names``, ``large_classes``,
      ``paper_class_names``, ``is_papers_data``, ``data``, ``setting``, ``differs_from_paper`` (setting, ours, paper's),
      and ``rows``, see `_row`.
    """
    first = cells[0]
    names = first["data"]["class_names"]
    large = large_classes(cells)
    by_method: dict[str, list[Cell]] = {method: [] for method in (*BASELINES, *(row.method for row in table.rows))}
    for cell in cells:
        by_method.setdefault(cell["method"], []).append(cell)
    baselines = {method: by_method[method] for method in BASELINES}
    return {
        "format": FORMAT,
        "table": table.number,
        "title": table.title,
        "notes": list(table.notes),
        "config": table.config,
        "class_names": names,
        "large_classes": [names[index] for index in large],
        "paper_class_names": list(table.class_names),
        "is_papers_data": first["setting"]["data"]["layout"] == table.layout and names == list(table.class_names),
        "data": first["data"],
        "setting": first["setting"],
        "differs_from_paper": [
            {"setting": name, "ours": ours, "paper": paper}
            for name, ours, paper in differences(first["setting"], setting_of(load_config(table.config)))
        ],
        "rows": [_row(row, by_method[row.method], baselines, large) for row in table.rows],
    }


def large_classes(cells: Sequence[Cell]) -> list[int]:
    """Return the classes that hold at least `LARGE` of the pixels of truth, every fold counted once."""
    folds = {cell["fold"]: counts(cell["evaluation"]) for cell in cells}
    truth = np.sum([confusion.sum(axis=1) for confusion in folds.values()], axis=0)
    return np.flatnonzero(truth >= LARGE * truth.sum()).tolist()


def _row(
    row: Row, cells: Sequence[Cell], baselines: Mapping[str, Sequence[Cell]], large: Sequence[int]
) -> dict[str, Any]:
    """Return a row: the paper's numbers, the cells, their mean and deviation, the differences to the baselines.

    What needs a cell, or two, is None without it. ``further`` has the same of each other evaluation, over the cells
    that have it; ``maps`` what it changes that later rounds are given other class maps than their own.
    """
    several = bool(cells) and len(cells[0]["evaluation"]["rounds"]) > 1
    first = [_values(cell["evaluation"]["rounds"][0]) for cell in cells]
    minutes = [cell["processor_seconds"] / 60 for cell in cells if "processor_seconds" in cell]
    others = {method: found for method, found in baselines.items() if method != row.method}
    kinds = dict.fromkeys(name for cell in cells for name in cell.get("further", {}))
    return {
        "method": row.method,
        "title": row.title,
        "paper": _paper(row.paper),
        "folds": sorted({cell["fold"] for cell in cells}),
        "seeds": sorted({cell["seed"] for cell in cells}),
        "parameters": cells[0]["parameters"] if cells else None,
        **_summary(cells, table_entry, others, large),
        "first_round_mean_iou": number_or_none(over_folds(np.array(first))[0][-1]) if several else None,
        "processor_minutes": float(np.mean(minutes)) if minutes else None,
        "further": {
            name: _summary(cells, further_entry(name), others, large) for name in kinds if not name.startswith(_MAPS)
        },
        "maps": {
            name.removeprefix(_MAPS): difference(cells, cells, "own", large, (further_entry(name), table_entry))
            for name in kinds
            if name.startswith(_MAPS)
        },
        "cells": [_cell(cell) for cell in cells],
    }


_MAPS = "maps-"


def table_entry(cell: Cell) -> Entry:
    """Return the evaluation of a cell that is in the table."""
    return cell["evaluation"]


def further_entry(name: str) -> Choose:
    """Return what gives a further evaluation of a cell, by its name."""
    return lambda cell: cell.get("further", {}).get(name)


def _summary(
    cells: Sequence[Cell], choose: Choose, baselines: Mapping[str, Sequence[Cell]], large: Sequence[int]
) -> dict[str, Any]:
    """Return mean and deviation of one evaluation over the cells that have it, and what else is said of it."""
    entries = [entry for cell in cells if (entry := choose(cell)) is not None]
    found: dict[str, Any] = {"count": len(entries)}
    mean, deviation = over_folds(np.array([_values(entry) for entry in entries])) if entries else (None, None)
    found |= {"mean": _by_class(mean), "deviation": _by_class(deviation)}
    found["large_mean"], found["large_deviation"] = _of_large(entries, large) if entries else (None, None)
    found["area"] = _area(entries)
    found["objects"] = _objects(entries)
    pairs = [difference(cells, baseline, name, large, (choose, choose)) for name, baseline in baselines.items()]
    found["differences"] = [pair for pair in pairs if pair]
    return found


def mean_iou(cells: Sequence[Cell]) -> tuple[float | None, float | None]:
    """Return mean IoU and deviation over cells, at least one, as the table has them."""
    mean, deviation = over_folds(np.array([_values(cell["evaluation"]) for cell in cells]))
    return number_or_none(mean[-1]), number_or_none(deviation[-1])


def _of_large(entries: Sequence[Entry], large: Sequence[int]) -> tuple[float | None, float | None]:
    """Return the mean IoU over the large classes and its deviation; as for all classes, a fold may lack one."""
    values = np.array([_values(entry) for entry in entries])[:, list(large)]
    mean, deviation = over_folds(np.column_stack([values, nan_mean(values)]))
    return number_or_none(mean[-1]), number_or_none(deviation[-1])


def _area(entries: Sequence[Entry]) -> list[float | None] | None:
    """Return the predicted pixels of each class over the true ones, of all entries together."""
    if not entries:
        return None
    total = np.sum([counts(entry) for entry in entries], axis=0)
    truth = total.sum(axis=1)
    ratio = np.divide(total.sum(axis=0), truth, out=np.full(len(truth), np.nan), where=truth > 0)
    return [number_or_none(value) for value in ratio]


def _objects(entries: Sequence[Entry]) -> dict[str, Any] | None:
    """Return the objects of each class, summed over the entries; None unless all have counted the same ones."""
    found = [entry["objects"] for entry in entries if "objects" in entry]
    if not found or len(found) < len(entries) or len({each["least_pixels"] for each in found}) > 1:
        return None
    keys = ("truth", "found", "predicted", "right")
    summed = [
        {key: sum(each[key] for each in fold) for key in keys}
        for fold in zip(*(e["classes"] for e in found), strict=True)
    ]  # type: ignore[literal-required]
    return {"least_pixels": found[0]["least_pixels"], "classes": summed}


def _paper(percent: tuple[float, ...] | None) -> dict[str, Any] | None:
    if percent is None:
        return None
    *classes, mean = (round(value / 100, 4) for value in percent)
    return {"iou": classes, "mean_iou": mean}


def _cell(cell: Cell) -> dict[str, Any]:
    """Return what the table tells of a cell."""
    entry = cell["evaluation"]
    return {
        "fold": cell["fold"],
        "seed": cell["seed"],
        "date": cell["date"],
        "seconds": cell["seconds"],
        "processor_seconds": cell.get("processor_seconds"),
        "evaluated_by": cell.get("evaluated_by"),
        "steps": cell["steps"],
        "step": entry["step"],
        "iou": entry["iou"],
        "mean_iou": entry["mean_iou"],
        "first_round_mean_iou": entry["rounds"][0]["mean_iou"] if len(entry["rounds"]) > 1 else None,
        "processes": cell["processes"],
    }


def difference(
    cells: Sequence[Cell],
    baseline: Sequence[Cell],
    name: str,
    large: Sequence[int],
    choose: tuple[Choose, Choose] = (table_entry, table_entry),
) -> dict[str, Any] | None:
    """Return a paired difference of the IoU of the folds' summed counts, with intervals over folds.

    None without pairs. A pair is a cell and the baseline's of the same fold and seed. Seeds of one fold share their
    images: its counts are their mean, and only folds count for the interval.

    Args:
      cells: whose difference it is.
      baseline: to which.
      name: what that is called.
      large: the classes of the mean over large classes.
      choose: which evaluation of a cell, and of one of the baseline.
    """
    others = {place_of(cell)[1:]: choose[1](cell) for cell in baseline}
    pairs: dict[int, list[NDArray[np.int64]]] = {}
    for cell in cells:
        one, other = choose[0](cell), others.get(place_of(cell)[1:])
        if one is not None and other is not None:
            pairs.setdefault(cell["fold"], []).append(np.stack([counts(other), counts(one)]))
    if not pairs:
        return None
    folds = sorted(pairs)
    by_fold = np.array([np.mean(pairs[fold], axis=0) for fold in folds])
    found, intervals = paired_difference(by_fold[:, 0], by_fold[:, 1])
    of_large, large_intervals = paired_difference(by_fold[:, 0], by_fold[:, 1], large)
    return {
        "to": name,
        "folds": folds,
        "pairs": sum(len(each) for each in pairs.values()),
        **(_by_class(found) or {}),
        "iou_intervals": intervals[:-1],
        "mean_iou_interval": intervals[-1],
        "large_mean": number_or_none(of_large[-1]),
        "large_mean_interval": large_intervals[-1],
    }


def have_one_truth(cells: Sequence[Cell], others: Sequence[Cell]) -> bool:
    """Say whether cells of the same fold were evaluated against equally many pixels of each class."""
    truth = {cell["fold"]: counts(cell["evaluation"]).sum(axis=1) for cell in others}
    return all(
        np.array_equal(counts(cell["evaluation"]).sum(axis=1), truth[cell["fold"]])
        for cell in cells
        if cell["fold"] in truth
    )


def counts(entry: Entry) -> NDArray[np.int64]:
    """Return the counts of the last round, `[K, K]`, rows truth."""
    return np.array(entry["rounds"][-1]["confusion"], np.int64)


def _values(scores: Mean) -> list[float]:
    """Return the IoU of every class and the mean, K + 1 numbers, NaN for none."""
    return [np.nan if value is None else value for value in (*scores["iou"], scores["mean_iou"])]


def _by_class(values: NDArray[np.float64] | None) -> dict[str, Any] | None:
    """Return `[K + 1]` numbers, the mean last, as the table holds them."""
    if values is None:
        return None
    *classes, mean = map(number_or_none, values)
    return {"iou": classes, "mean_iou": mean}
