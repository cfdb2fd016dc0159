"""What a validation says: its record, and the classes that have collapsed."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.metrics import iou, mean_iou

COLLAPSED_AFTER = 5
"""Validations with IoU 0 after which a class is warned about."""


def validation_record(names: Sequence[str], epoch: int, step: int, confusion: NDArray[np.int64]) -> dict[str, Any]:
    """Return the record of a validation; a class without a pixel of truth has no IoU, and does not count for the mean.

    Args:
      names: of the classes.
      epoch: at whose end it was.
      step: before which it was.
      confusion: `[R, K, K]` int64, of every round.
    """
    values = iou(confusion[-1])
    return {
        "kind": "validation",
        "epoch": epoch,
        "step": step,
        "mean_iou": mean_iou(confusion[-1]),
        "iou": {name: None if np.isnan(v) else float(v) for name, v in zip(names, values, strict=True)},
        "round_mean_iou": [mean_iou(matrix) for matrix in confusion],
    }


def collapsed(validations: list[dict[str, Any]], is_last: bool) -> dict[str, int]:
    """Return the classes to warn about now, with the number of latest validations in which their IoU was 0.

    That is once, when COLLAPSED_AFTER of them are reached, and again at the end of the run, however many they are.
    """
    found = {}
    for name in validations[-1]["iou"]:
        zeros = [record["iou"][name] == 0 for record in reversed(validations)]
        count = len(list(itertools.takewhile(bool, zeros)))
        if count == COLLAPSED_AFTER or (is_last and count):
            found[name] = count
    return found
