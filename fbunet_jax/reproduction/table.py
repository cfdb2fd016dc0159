"""The numbers of a table, from its finished cells: the content of ``table.json``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import load_config
from fbunet_jax.evaluation.crossval import pool
from fbunet_jax.evaluation.statistics import t_interval
from fbunet_jax.reproduction.cells import Cell, differences, place_of, setting_of
from fbunet_jax.reproduction.tables import PaperTable, Row

FORMAT = 1
BASELINE = "unet"
"""The method that the others are compared with."""


def tabulate(table: PaperTable, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the content of ``table.json``; IoU is from 0 to 1, of every class and the mean.

    Args:
      table: the paper's.
      cells: at least one, all of one setting and one data set, as `read_cells` returns them; those of methods that the
        table lacks are left out, but for the baseline, which differences are taken to.

    Returns:
      ``format``, ``table``, ``title``, ``notes``, ``class_names``, ``paper_class_names``, ``is_papers_data``, ``data``,
      ``setting``, ``differs_from_paper`` (setting, ours, paper's), and ``rows``, see `_row`.
    """
    first = cells[0]
    names = first["data"]["class_names"]
    by_method: dict[str, list[Cell]] = {method: [] for method in (BASELINE, *(row.method for row in table.rows))}
    for cell in cells:
        by_method.setdefault(cell["method"], []).append(cell)
    return {
        "format": FORMAT,
        "table": table.number,
        "title": table.title,
        "notes": list(table.notes),
        "class_names": names,
        "paper_class_names": list(table.class_names),
        "is_papers_data": first["setting"]["data"]["layout"] == table.layout and names == list(table.class_names),
        "data": first["data"],
        "setting": first["setting"],
        "differs_from_paper": [
            {"setting": name, "ours": ours, "paper": paper}
            for name, ours, paper in differences(first["setting"], setting_of(load_config(table.config)))
        ],
        "rows": [_row(row, by_method[row.method], by_method[BASELINE], names) for row in table.rows],
    }


def _row(row: Row, cells: Sequence[Cell], baseline: Sequence[Cell], class_names: Sequence[str]) -> dict[str, Any]:
    """Return a row: the paper's numbers, the cells, their mean and deviation, the difference to the baseline.

    What needs a cell, or two, is None without it.
    """
    pooled = pool(class_names, "test", [dict(cell["evaluation"]) for cell in cells]) if cells else None
    rounds = [cell["evaluation"]["rounds"] for cell in cells]
    first = _mean_of([each[0]["mean_iou"] for each in rounds]) if rounds and len(rounds[0]) > 1 else None
    return {
        "method": row.method,
        "title": row.title,
        "paper": _paper(row.paper),
        "folds": sorted({cell["fold"] for cell in cells}),
        "seeds": sorted({cell["seed"] for cell in cells}),
        "parameters": cells[0]["parameters"] if cells else None,
        "mean": pooled["mean"] if pooled else None,
        "deviation": pooled["std"] if pooled else None,
        "first_round_mean_iou": first,
        "difference": None if row.method == BASELINE else _difference(cells, baseline),
        "cells": [_cell(cell) for cell in cells],
    }


def _paper(percent: tuple[float, ...] | None) -> dict[str, Any] | None:
    if percent is None:
        return None
    *classes, mean = (round(value / 100, 4) for value in percent)
    return {"iou": classes, "mean_iou": mean}


def _cell(cell: Cell) -> dict[str, Any]:
    """Return what the table tells of a cell."""
    entry = cell["evaluation"]
    return {
        **{name: cell[name] for name in ("fold", "seed", "date", "seconds", "steps")},  # type: ignore[literal-required]
        "step": entry["step"],
        "iou": entry["iou"],
        "mean_iou": entry["mean_iou"],
        "first_round_mean_iou": entry["rounds"][0]["mean_iou"] if len(entry["rounds"]) > 1 else None,
        "processes": cell["processes"],
    }


def _difference(cells: Sequence[Cell], baseline: Sequence[Cell]) -> dict[str, Any] | None:
    """Return the paired difference to the baseline: the mean over folds of the mean over seeds, with its t interval.

    A pair is a cell and the baseline's of the same fold and seed. Seeds of one fold share their images, so only folds
    count for the interval.
    """
    others = {place_of(cell)[1:]: _values(cell) for cell in baseline}
    pairs: dict[int, list[NDArray[np.float64]]] = {}
    for cell in cells:
        other = others.get(place_of(cell)[1:])
        if other is not None:
            pairs.setdefault(cell["fold"], []).append(_values(cell) - other)
    if not pairs:
        return None
    folds = sorted(pairs)
    by_fold = np.array([[_nan_mean(column) for column in np.array(pairs[fold]).T] for fold in folds])
    means = [_number(_nan_mean(column)) for column in by_fold.T]
    intervals = [t_interval(column) for column in by_fold.T]
    return {
        "to": BASELINE,
        "folds": folds,
        "pairs": sum(len(each) for each in pairs.values()),
        "iou": means[:-1],
        "mean_iou": means[-1],
        "iou_intervals": intervals[:-1],
        "mean_iou_interval": intervals[-1],
    }


def _values(cell: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the IoU of every class and the mean, `[K + 1]`, NaN for none."""
    entry = cell["evaluation"]
    return np.array([*entry["iou"], entry["mean_iou"]], np.float64)


def _mean_of(values: Sequence[float | None]) -> float | None:
    return _number(_nan_mean(np.array(values, np.float64)))


def _nan_mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
