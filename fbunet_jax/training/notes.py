"""What a training reports: sentences before its first step, and the record and the scores of each validation."""

import itertools
from collections.abc import Sequence

import jax
import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import CUSTOM, Config
from fbunet_jax.config_formats import BEFORE_FORMAT_2
from fbunet_jax.metrics import iou, mean_iou
from fbunet_jax.runs import processes
from fbunet_jax.runs.directory import FoldDirectory, Run
from fbunet_jax.runs.passed import label_of
from fbunet_jax.runs.records import TrainRecord, TrainTimes, ValidationRecord, read_records, scores_text
from fbunet_jax.tables import duration, number_or_none
from fbunet_jax.training.programs import FoldPrograms

COLLAPSED_AFTER = 5
"""Validations with IoU 0 after which a class is warned about."""


def on_passed(given: Config, used: Config) -> list[str]:
    """Name the settings that say how a data set is cut and listed, and do not apply to one that is passed."""
    names = [name for name in ("cut", "views") if getattr(given.data, name) != getattr(used.data, name)]
    settings = ", ".join(f"data.{name} = {getattr(given.data, name)!r}" for name in names)
    return [f"The data set is used as it was passed, without {settings}."] if names else []


def on_format_1(run: Run, absent: Sequence[str]) -> list[str]:
    """Say what resuming a run that began in format 1 of the settings means.

    Args:
      run: the run.
      absent: names of the classes without a pixel of validation truth.
    """
    if run.begun_format() != 1:
        return []
    names = ", ".join(BEFORE_FORMAT_2)
    notes = [f"This run began in format 1 of the settings: what these did not have yet stays as it was ({names})."]
    if absent:
        notes.append(
            f"Warning: the validation part has no pixel of {', '.join(absent)}. Before version 0.2.0 such a class "
            "counted as 0 if it was predicted, and now it does not count: the scores of earlier checkpoints may be "
            "lower for that alone when the best one is chosen."
        )
    return notes


def at_the_start(
    programs: FoldPrograms, directory: FoldDirectory, first_step: int, *, is_between_epochs: bool
) -> list[str]:
    """Say what is about to be trained, and warn of what is missing: classes in a part of the fold, and records."""
    setup, config = programs.setup, programs.config
    label = label_of(setup.model) if config.method == CUSTOM else config.method
    hosts = f" in {jax.process_count()} processes" if processes.are_many() else ""
    start = f"resumes at step {first_step}" if first_step else "starts"
    source = "the arrays that were passed" if config.data.layout == "arrays" else config.data.root
    notes = [
        f"Fold {programs.fold} of {label} {start}: {len(setup.train.sizes)} training and "
        f"{len(setup.validation.sizes)} validation images of {source or 'the synthetic data set'}, "
        f"{programs.total_steps} steps in {config.training.epochs} epochs on {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}{hosts}. The first step compiles.",
        *setup.warnings(programs.fold),
    ]
    validations = read_records(directory.metrics, ValidationRecord)
    if first_step and is_between_epochs and (not validations or validations[-1]["step"] != first_step):
        notes.append(f"Warning: {directory.metrics} lacks records before step {first_step}: the curves have a gap.")
    return notes


def on_validation(
    programs: FoldPrograms, directory: FoldDirectory, validations: Sequence[ValidationRecord]
) -> list[str]:
    """Return a line about the last validation, and warnings of classes that have collapsed."""
    record = validations[-1]
    train, training = read_records(directory.metrics, TrainRecord)[-1], programs.config.training
    rate = read_records(directory.timing, TrainTimes)[-1]["images_per_second"]
    left = (programs.total_steps - record["step"]) * training.batch_size / rate
    notes = [
        f"epoch {record['epoch']}/{training.epochs}  loss {train['loss']:.4f}  validation IoU {scores_text(record)}  "
        f"{rate:.1f} images/s, {duration(left)} left"
    ]
    for name, count in collapsed(validations, record["step"] == programs.total_steps).items():
        latest = f"the last {count} validations" if count > 1 else "the last validation"
        notes.append(
            f"Warning: the validation IoU of class {name!r} has been 0 in {latest}. Rare "
            "classes can collapse: try another seed, more weight of the class in the loss, or more images of it."
        )
    return notes


def validation_record(names: Sequence[str], epoch: int, step: int, confusion: NDArray[np.int64]) -> ValidationRecord:
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
        "iou": {name: number_or_none(v) for name, v in zip(names, values, strict=True)},
        "round_mean_iou": [mean_iou(matrix) for matrix in confusion],
    }


def collapsed(validations: Sequence[ValidationRecord], is_last: bool) -> dict[str, int]:
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
