"""The numbers of a report, ready to be laid out; what they are made of is in `fbunet_jax.evaluation.items`."""

import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typeguard
from numpy.typing import NDArray

from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.charts import line_chart
from fbunet_jax.evaluation.items import ItemCounts
from fbunet_jax.evaluation.statistics import class_iou, group_totals, over_folds, pooled_intervals
from fbunet_jax.files import read_json
from fbunet_jax.runs import Run
from fbunet_jax.training.logs import duration, read_records

_REMEDY = "Copy it again if the run is a copy, or take it away: what it tells is then left out."
_TIMES: dict[str, Any] = {
    "seconds": float,
    "peak_host_bytes": int | None,
    "peak_device_bytes": int | None,
}
_ENVIRONMENT: dict[str, Any] = {
    "command": list[str],
    "python": str,
    "platform": str,
    "versions": dict[str, str | None],
    "devices": list[str],
}
_OPTIONAL = {"peak_host_bytes", "peak_device_bytes"}
_LEAST = {"epoch": 1, "seconds": 0, "images_per_second": 0, "peak_host_bytes": 0, "peak_device_bytes": 0}
_MOST = 2**63


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
    in_both = {"epoch": int}
    train = {fold: _records(run.fold(fold).metrics, "train", {**in_both, "loss": float}) for fold in folds}
    scored = {**in_both, "mean_iou": float | None, "iou": dict[str, float | None]}
    validation = {fold: _records(run.fold(fold).metrics, "validation", scored) for fold in folds}
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
        environment = read_json(directory.environment, dict) if directory.environment.is_file() else {}
        _check(directory.environment, environment, _ENVIRONMENT)
        versions = environment.get("versions", {})
        train = _records(directory.timing, "train", _TIMES | {"images_per_second": float})
        validation = _records(directory.timing, "validation", _TIMES)
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


def _records(path: Path, kind: str, expected: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of one kind; each has the expected entries.

    Raises:
      RunError: the file is damaged.
    """
    try:
        records = read_records(path, kind)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error!r}. {_REMEDY}") from error
    for record in records:
        for name in expected.keys() - _OPTIONAL - record.keys():
            raise RunError(f"{path} is damaged: a record of the kind {kind!r} has no {name}. {_REMEDY}")
        _check(path, record, expected)
    return records


def _check(path: Path, table: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise a RunError unless the entries of a table that are expected have their types, and numbers are possible."""
    for name in expected.keys() & table.keys():
        value = table[name]
        try:
            strategy = typeguard.CollectionCheckStrategy.ALL_ITEMS
            typeguard.check_type(value, expected[name], collection_check_strategy=strategy)
        except typeguard.TypeCheckError as error:
            raise RunError(f"{path} is damaged: {name}: {error}. {_REMEDY}") from error
        least = _LEAST.get(name, -_MOST)
        numbers = value.values() if isinstance(value, dict) else (value,)
        if any(isinstance(number, int | float) and (number < least or number >= _MOST) for number in numbers):
            raise RunError(f"{path} is damaged: {name} holds a number that it cannot reach. {_REMEDY}")


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


def _peak(records: Sequence[dict[str, Any]], key: str) -> str:
    values = [record[key] for record in records if record.get(key)]
    return f"{max(values) / 2**30:.2f} GiB" if values else "not known"
