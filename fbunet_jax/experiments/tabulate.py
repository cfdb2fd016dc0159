"""The numbers of a table, from its finished cells: the content of ``table.json``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import load_config
from fbunet_jax.evaluation.statistics import over_folds, paired_difference
from fbunet_jax.experiments.cells import Cell, differences, place_of, setting_of
from fbunet_jax.experiments.paper import PaperTable, Row
from fbunet_jax.tables import number_or_none

FORMAT = 2
"""In format 1 differences were means over folds, and a class that was predicted but not in the truth had IoU 0."""
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
        "rows": [_row(row, by_method[row.method], by_method[BASELINE]) for row in table.rows],
    }


def _row(row: Row, cells: Sequence[Cell], baseline: Sequence[Cell]) -> dict[str, Any]:
    """Return a row: the paper's numbers, the cells, their mean and deviation, the difference to the baseline.

    What needs a cell, or two, is None without it.
    """
    last, first = ([_values(cell, number) for cell in cells] for number in (-1, 0))
    mean, deviation = over_folds(np.array(last)) if cells else (None, None)
    several = bool(cells) and len(cells[0]["evaluation"]["rounds"]) > 1
    return {
        "method": row.method,
        "title": row.title,
        "paper": _paper(row.paper),
        "folds": sorted({cell["fold"] for cell in cells}),
        "seeds": sorted({cell["seed"] for cell in cells}),
        "parameters": cells[0]["parameters"] if cells else None,
        "mean": _by_class(mean),
        "deviation": _by_class(deviation),
        "first_round_mean_iou": number_or_none(over_folds(np.array(first))[0][-1]) if several else None,
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
        "fold": cell["fold"],
        "seed": cell["seed"],
        "date": cell["date"],
        "seconds": cell["seconds"],
        "steps": cell["steps"],
        "step": entry["step"],
        "iou": entry["iou"],
        "mean_iou": entry["mean_iou"],
        "first_round_mean_iou": entry["rounds"][0]["mean_iou"] if len(entry["rounds"]) > 1 else None,
        "processes": cell["processes"],
    }


def _difference(cells: Sequence[Cell], baseline: Sequence[Cell]) -> dict[str, Any] | None:
    """Return the paired difference to the baseline: of the IoU of the folds' summed counts, with intervals over folds.

    A pair is a cell and the baseline's of the same fold and seed. Seeds of one fold share their images: its counts are
    their mean, and only folds count for the interval.
    """
    others = {place_of(cell)[1:]: _counts(cell) for cell in baseline}
    pairs: dict[int, list[NDArray[np.int64]]] = {}
    for cell in cells:
        other = others.get(place_of(cell)[1:])
        if other is not None:
            pairs.setdefault(cell["fold"], []).append(np.stack([other, _counts(cell)]))
    if not pairs:
        return None
    folds = sorted(pairs)
    by_fold = np.array([np.mean(pairs[fold], axis=0) for fold in folds])
    difference, intervals = paired_difference(by_fold[:, 0], by_fold[:, 1])
    return {
        "to": BASELINE,
        "folds": folds,
        "pairs": sum(len(each) for each in pairs.values()),
        **(_by_class(difference) or {}),
        "iou_intervals": intervals[:-1],
        "mean_iou_interval": intervals[-1],
    }


def _counts(cell: Cell) -> NDArray[np.int64]:
    return np.array(cell["evaluation"]["rounds"][-1]["confusion"], np.int64)


def _values(cell: Cell, number: int) -> NDArray[np.float64]:
    """Return the IoU of every class and the mean in one round, `[K + 1]`, NaN for none."""
    scores = cell["evaluation"]["rounds"][number]
    return np.array([*scores["iou"], scores["mean_iou"]], np.float64)


def _by_class(values: NDArray[np.float64] | None) -> dict[str, Any] | None:
    """Return `[K + 1]` numbers, the mean last, as the table holds them."""
    if values is None:
        return None
    *classes, mean = map(number_or_none, values)
    return {"iou": classes, "mean_iou": mean}
