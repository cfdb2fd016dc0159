"""The numbers of a report, ready to be laid out; what they are made of is in `fbunet_jax.evaluation.items`."""

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.evaluation.items import ItemCounts
from fbunet_jax.evaluation.statistics import class_iou, group_totals, over_folds, pooled_intervals
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.records import (
    TrainRecord,
    TrainTimes,
    ValidationRecord,
    ValidationTimes,
    read_environment,
    read_records,
)
from fbunet_jax.tables import duration

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 34

_LEAST = 1e-100
"""A smaller top has no round values below it."""

Points = Sequence[tuple[float, float | None]]


def scores(class_names: Sequence[str], folds: Sequence[ItemCounts]) -> dict[str, Any]:
    """Return IoU by class: over folds, and of all groups together with an interval; the last row is the mean."""
    by_fold = np.stack([class_iou(counts.confusion.sum(axis=0)) for counts in folds])
    names, totals = group_totals(folds)
    pooled = class_iou(totals.sum(axis=0))
    intervals = pooled_intervals(totals[:, -1])
    means, deviations = zip(*(over_folds(by_fold[:, number]) for number in range(by_fold.shape[1])), strict=True)
    rows = []
    for index, name in enumerate([*class_names, "mean"]):
        values = by_fold[:, -1, index]
        rows.append(
            {
                "name": name,
                "folds": [(counts.fold, float(value)) for counts, value in zip(folds, values, strict=True)],
                "mean": float(means[-1][index]),
                "deviation": float(deviations[-1][index]),
                "pooled": float(pooled[-1, index]),
                "interval": intervals[index],
                "rounds": [float(mean[index]) for mean in means],
            }
        )
    return {"rows": rows, "groups": len(names), "images": len({name for c in folds for name in c.names})}


def confusion_table(class_names: Sequence[str], folds: Sequence[ItemCounts]) -> list[dict[str, Any]]:
    """Return the confusion matrix of the last round, every group counted once: share of the row, and pixels."""
    return _matrix(class_names, group_totals(folds)[1].sum(axis=0)[-1])


def moves(class_names: Sequence[str], folds: Sequence[ItemCounts]) -> dict[str, Any] | None:
    """Return what changed between the first round and the last, every group counted once; None for one round."""
    if folds[0].confusion.shape[1] == 1:
        return None
    counts = group_totals(folds, "moves")[1].sum(axis=0)
    classes = len(class_names)
    total = counts.sum()
    moved = counts * ~np.eye(classes, dtype=bool)
    all_moved = moved.sum()
    right = np.einsum("aba->", moved)
    wrong = np.einsum("aab->", moved)
    # on the pixels that moved, and only there
    first, last = class_iou(moved.sum(axis=2)), class_iou(moved.sum(axis=1))
    return {
        "total": total,
        "moved": all_moved,
        "share": all_moved / total if total else float("nan"),
        "fates": [
            {"name": "became right", "pixels": right},
            {"name": "became wrong", "pixels": wrong},
            {"name": "wrong before and after", "pixels": all_moved - right - wrong},
        ],
        "table": _matrix(class_names, moved.sum(axis=0)),
        "first": first.tolist(),
        "last": last.tolist(),
    }


def curves(class_names: Sequence[str], run: Run, folds: Sequence[int]) -> list[dict[str, Any]]:
    """Return the charts of training loss and validation IoU, one line a fold."""
    train = {fold: read_records(run.fold(fold).metrics, TrainRecord) for fold in folds}
    validation = {fold: read_records(run.fold(fold).metrics, ValidationRecord) for fold in folds}
    loss = {fold: [(r["epoch"], r["loss"]) for r in records] for fold, records in train.items()}
    mean = {fold: [(r["epoch"], r["mean_iou"]) for r in records] for fold, records in validation.items()}
    charts = [
        line_chart("Training loss, all rounds", loss, unit="loss"),
        line_chart("Validation IoU, mean", mean, unit="IoU", top=1),
    ]
    for name in class_names:
        values = {fold: [(r["epoch"], r["iou"].get(name)) for r in records] for fold, records in validation.items()}
        charts.append(line_chart(f"Validation IoU, {name}", values, unit="IoU", top=1))
    return charts


def training_times(run: Run, folds: Sequence[ItemCounts]) -> list[dict[str, Any]]:
    """Return where, with what, how long and in how much memory each fold was trained."""
    rows = []
    for counts in folds:
        directory = run.fold(counts.fold)
        environment = read_environment(directory.environment)
        versions = environment.get("versions", {})
        train = read_records(directory.timing, TrainTimes)
        validation = read_records(directory.timing, ValidationTimes)
        rates = [record["images_per_second"] for record in train]
        rows.append(
            {
                "fold": counts.fold,
                "step": counts.step,
                "command": shlex.join(environment.get("command", [])),
                "python": environment.get("python", "unknown"),
                "platform": environment.get("platform", "unknown"),
                "devices": _devices(environment.get("devices", [])),
                "versions": {name: version or "a checkout" for name, version in versions.items()},
                "time": duration(sum(record["seconds"] for record in [*train, *validation])),
                "rate": statistics.median(rates) if rates else float("nan"),
                "host": _peak([*train, *validation], "peak_host_bytes"),
                "device": _peak([*train, *validation], "peak_device_bytes"),
            }
        )
    return rows


def line_chart(title: str, lines: Mapping[int, Points], *, unit: str, top: float | None = None) -> dict[str, Any]:
    """Return what the page draws of some lines over epochs.

    Args:
      title: of the chart.
      lines: fold to (epoch, value); a value of None interrupts nothing and is left out.
      unit: of the values.
      top: highest value of the axis; by default that of the lines. The lowest is 0.

    Returns:
      Sizes, ticks, and for each line its points in SVG coordinates.
    """
    points = {fold: [(x, y) for x, y in line if y is not None and math.isfinite(y)] for fold, line in lines.items()}
    every = [point for line in points.values() for point in line]
    last_epoch = max((x for x, _ in every), default=1)
    highest = top if top is not None else max((y for _, y in every), default=1)
    highest = highest if highest > _LEAST else 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / last_epoch
        return round(across, 1), round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(y / highest, -1), 1)), 1)

    drawn = [
        {
            "fold": fold,
            "name": f"Fold {fold}",
            "points": " ".join(f"{x},{y}" for x, y in (place(*point) for point in line)),
            "dots": [place(*point) for point in line] if len(line) < 25 else [],
            "last": line[-1][1],
        }
        for fold, line in points.items()
        if line
    ]
    ticks = _ticks(highest)
    return {
        "title": title,
        "unit": unit,
        "size": (WIDTH, HEIGHT),
        "frame": (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        "lines": drawn,
        "rows": [(place(0, value)[1], _short(value)) for value in ticks],
        "columns": [(place(x, 0)[0], _short(x)) for x in _ticks(last_epoch) if x == int(x)],
    }


def _ticks(highest: float) -> list[float]:
    """Return round values from 0 to at most ``highest``, four to seven of them."""
    rough = highest / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [round(step * index, 10) for index in range(int(highest / step + 1e-9) + 1)]


def _short(value: float) -> str:
    return f"{value:g}"


def _matrix(class_names: Sequence[str], counts: NDArray[np.float64]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "total": row.sum(),
            "cells": [
                {"to": other, "share": value / row.sum() if row.sum() else float("nan"), "pixels": value}
                for other, value in zip(class_names, row, strict=True)
            ],
        }
        for name, row in zip(class_names, counts, strict=True)
    ]


def _devices(kinds: Sequence[str]) -> str:
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)) or "unknown"


def _peak(records: Sequence[TrainTimes | ValidationTimes], key: Literal["peak_host_bytes", "peak_device_bytes"]) -> str:
    values = [value for record in records if (value := record.get(key))]
    return f"{max(values) / 2**30:.2f} GiB" if values else "not known"
