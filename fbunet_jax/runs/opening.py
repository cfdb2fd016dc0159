"""A run directory opened for a training: created, or compared with the settings and the data of one that exists."""

import hashlib
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import Config, to_toml, with_absolute_root
from fbunet_jax.config_formats import BEFORE_FORMAT_2, comparable
from fbunet_jax.data.datasets import Dataset
from fbunet_jax.data.folds import check_folds, configured_folds, fold_items, folds_to_json, read_folds, select_fold
from fbunet_jax.data.identity import describe
from fbunet_jax.errors import RunError
from fbunet_jax.runs import processes
from fbunet_jax.runs.directory import DATASET_FORMAT, PASSED_FORMAT, Run
from fbunet_jax.runs.files import create_once, write_atomically
from fbunet_jax.runs.numerics import current_settings
from fbunet_jax.runs.passed import NOTHING, Passed
from fbunet_jax.toml_tables import to_table

SHARED_AFTER = 60.0
"""Seconds in which a file that one host has written must be seen by the others: NFS remembers a folder that long."""

# Where the data lie may differ between machines: their fingerprint is compared. The others do not change a result.
_MAY_DIFFER = {
    *("data.root", "name", "model.rematerialise"),
    *("training.previews", "training.preview_every", "training.save_minutes"),
}


def open_run(config: Config, dataset: Dataset, run: Run, fold: int | None = None, *, passed: Passed = NOTHING) -> None:
    """Create the run directory of a configuration, or check that an existing one has the same settings and data.

    Args:
      config: the settings.
      dataset: the images.
      run: the run directory.
      fold: that every process of a training must have.
      passed: what a program passed.

    Raises:
      RunError: it has others; another process of this training has others, or another fold, or does not see it.
    """
    config = with_absolute_root(config)
    folds = configured_folds(dataset.groups, config.data)
    text = folds_to_json(folds, config.data.fold_scheme)
    description = describe(dataset)
    # where the data lie may differ between hosts
    settings = to_toml(replace(config, data=replace(config.data, root="")))
    content = json.dumps([settings, description, fold, asdict(passed), current_settings()])
    processes.check_same(
        hashlib.sha256(content.encode()).digest(),
        "Process {process} has another fold, other settings or other images than process 0. Give every process of a "
        "training the same command, environment and data; to train in one alone, set --distributed.num-processes 1.",
    )
    processes.first(lambda: create_or_open(run.path, config, folds=text, dataset=description, passed=passed))
    processes.together(lambda: _check_shared(run))


def _check_shared(run: Run) -> None:
    """Wait until a network's file system shows what the first process has written there."""
    until = time.monotonic() + SHARED_AFTER
    while not run.dataset.exists():
        if time.monotonic() > until:
            raise RunError(
                f"{run.dataset}, which process 0 has written, cannot be seen by process {jax.process_index()} on "
                f"host {socket.gethostname()}. Choose a run directory (out) on a disk that all hosts share.",
                argument="out",
            )
        time.sleep(0.1)


def part_items(config: Config, run: Run, dataset: Dataset, fold: int) -> dict[str, NDArray[np.intp]]:
    """Return the item indices of ``train``, ``validation`` and ``test`` of one fold.

    They are those of the run; a run that does not exist yet will have those of the configuration.
    """
    if run.has(run.folds):
        folds = read_folds(run.folds)
        check_folds(folds, dataset.groups, str(run.folds))
    else:
        folds = configured_folds(dataset.groups, config.data)
    return fold_items(dataset.groups, select_fold(folds, fold))


def create_or_open(
    path: Path, config: Config, *, folds: str, dataset: Mapping[str, Any], passed: Passed = NOTHING
) -> Run:
    """Create a run directory, or compare an existing one with these settings.

    Args:
      path: of the run.
      config: its settings.
      folds: text of ``folds.json``, written once; a run that exists keeps its own.
      dataset: content of ``dataset.json``: ``class_names``, ``channels``, ``fingerprint`` and, where the classes have
        them, ``label_values``.
      passed: what a program passed.

    Raises:
      RunError: the run exists with other settings (each difference is named), or cannot be written.
    """
    run = Run(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        begun = run.has(run.config)
        if passed and not begun:
            write_atomically(run.passed, json.dumps({"format": PASSED_FORMAT, **asdict(passed)}, indent=1) + "\n")
        elif not begun:
            run.passed.unlink(missing_ok=True)  # left by a process that ended before it wrote the settings
        described = json.dumps({"format": DATASET_FORMAT, **dataset}, indent=1) + "\n"
        for file, text in ((run.config, to_toml(config)), (run.folds, folds), (run.dataset, described)):
            if not run.has(file):
                create_once(file, text)
    except OSError as error:
        raise RunError(
            f"The run directory {path} cannot be written: {error.strerror}. Choose another (out), or fix the "
            "permissions.",
            argument="out",
        ) from error
    if compare(run, config, dataset, passed) != config:
        write_atomically(run.config, to_toml(config, run.begun_format()))
    return run


def as_begun(run: Run, config: Config) -> Config:
    """Return the settings with which a run is resumed: as `in_format_1`, if it began in that format.

    Args:
      run: which may not exist yet.
      config: today's settings.
    """
    if not run.has(run.config):
        return config
    run.read_config()  # whether it can be read
    return in_format_1(config) if run.begun_format() == 1 else config


def check_bent_crops(run: Run) -> None:
    """Raise a RunError if more steps of a run would bend its crops in another way than the steps before them."""
    if run.read_config().training.elastic_augmentation and run.begun_format() == 1:
        raise RunError(
            f"The run {run.path} began with training.elastic_augmentation in format 1, when crops were bent "
            "differently. Finish it with version 0.1.0, or start a new run (out).",
            argument="out",
        )


def in_format_1(config: Config) -> Config:
    """Return settings in which what format 1 did not have is as it was then, if it has today's default value."""
    default = Config()
    for name, before in BEFORE_FORMAT_2.items():
        room, key = name.split(".")
        table = getattr(config, room)
        if getattr(table, key) == getattr(getattr(default, room), key):
            config = replace(config, **{room: replace(table, **{key: before})})
    return config


def compare(run: Run, config: Config, dataset: Mapping[str, Any], passed: Passed = NOTHING) -> Config:
    """Return the settings that a run began with, if it may be resumed with these settings and data; nothing is written.

    Raises:
      RunError: it may not (each difference is named).
    """
    before = run.read_config()
    check_passed(run, passed)
    old, new = comparable(to_table(before)), comparable(to_table(config))
    differences = _explain_epochs(_differences(old, new), old, new)
    for key, value in run.read_dataset().items():
        if key in dataset and _read_files(key, dataset[key]) != _read_files(key, value):
            differences.append(f"{key} of the data was {value!r} and is now {dataset[key]!r}")
    if differences:
        raise RunError(
            f"The run {run.path} began with other settings: {'; '.join(differences)}. Use the same settings to "
            "resume it, or another run directory (out).",
            argument="out",
        )
    return before


def _read_files(key: str, value: Any) -> Any:
    """Return what is compared of the description of a data set: names of files that are not read change nothing."""
    return {name: each for name, each in value.items() if name != "ignore"} if key == "files" else value


def check_passed(run: Run, passed: Passed) -> None:
    """Raise a RunError unless what a program passes now is what it passed when the run began, if it has."""
    if run.has(run.config):
        before = run.read_passed()
        for name in ("dataset", "model", "loss"):
            before.check(name, getattr(passed, name), str(run.path))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in {**old, **new}:
        before, now = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping) and key != "classes":
            found += _differences(before, now, f"{prefix}{key}.")
        elif before != now and prefix + key not in _MAY_DIFFER:
            found.append(f"{prefix}{key} was {before!r} and is now {now!r}")
    return found


def _explain_epochs(found: list[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Take away that the epochs of a constant schedule have grown, or say why they may not differ."""
    item = next((item for item in found if item.startswith("training.epochs ")), None)
    if item is None:
        return found
    others, schedule = [other for other in found if other != item], new["training"]["schedule"]
    if schedule != "constant":
        return [*others, f"{item} (with the {schedule} schedule the learning rate of every step depends on them)"]
    return (
        others if new["training"]["epochs"] > old["training"]["epochs"] else [*others, f"{item} (they can only grow)"]
    )
