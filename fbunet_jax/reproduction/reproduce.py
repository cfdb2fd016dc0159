"""Fill a table: train and evaluate the cells that are missing, until they are done or the time is over."""

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO, cast

import jax

from fbunet_jax.checkpoints.trained import load_trained_fold
from fbunet_jax.config import Config
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.data.identity import describe
from fbunet_jax.errors import ConfigError, RunError, did_you_mean
from fbunet_jax.evaluation.crossval import Entry, evaluate
from fbunet_jax.files import read_json, write_atomically
from fbunet_jax.interruption import Interruption, StopAtOnce
from fbunet_jax.locks import is_held
from fbunet_jax.networks import build_network
from fbunet_jax.reproduction.cells import (
    FORMAT,
    Cell,
    first_difference,
    is_complete,
    place_of,
    read_cells,
    setting_of,
    weights_of,
    write_cell,
)
from fbunet_jax.reproduction.origin import Process, is_like, this_process, today
from fbunet_jax.reproduction.tables import PaperTable
from fbunet_jax.runs import FoldDirectory, Place, Run, all_places, in_format_1
from fbunet_jax.training.logs import duration, read_records
from fbunet_jax.training.loop import TrainResult, train
from fbunet_jax.training.setup import has_started


@dataclass(frozen=True)
class TableFolder:
    """The folder of a table: what is finished, and what is under way."""

    path: Path

    cells = property(lambda self: self.path / "cells", doc="Finished cells, two files each, which can be copied.")

    def run(self, place: Place) -> Run:
        """Return the run directory with all folds of a method and a seed."""
        return Run(self.path / "runs" / f"{place.method}-seed{place.seed}")

    def fold(self, place: Place) -> FoldDirectory:
        """Return the directory in which a cell is trained."""
        return self.run(place).fold(place.fold)

    def processes(self, place: Place) -> Path:
        """Return the file that keeps who has worked on a cell."""
        return self.path / "processes" / f"{place.stem}.json"


@dataclass
class Outcome:
    """What became of the cells that were wanted.

    Attributes:
      missing: those that are not finished yet, in the order of the table.
      failures: why, of those that could not be finished.
    """

    missing: list[Place]
    failures: dict[Place, RunError] = field(default_factory=dict)


def select_places(
    table: PaperTable, folds: Sequence[int], seeds: Sequence[int], only: Sequence[str] = ()
) -> list[Place]:
    """Return the cells of a table, those of one fold together, so that methods can be compared early.

    Args:
      table: whose methods.
      folds: their folds.
      seeds: their seeds.
      only: METHOD, METHOD:FOLD or METHOD:FOLD:SEED of those to keep; all by default.

    Raises:
      ConfigError: one of `only` names no cell.
    """
    methods = [row.method for row in table.rows]
    places = all_places(methods, folds, seeds)
    kept: set[Place] = set()
    for text in only:
        words = text.split(":")
        found = [place for place in places if str(place).split(":")[: len(words)] == words]
        if not found:
            raise ConfigError(
                f"--only {text}: expected METHOD:FOLD or METHOD:FOLD:SEED of a cell of table {table.number}: methods "
                f"{', '.join(methods)}; folds {', '.join(map(str, folds))}; seeds {', '.join(map(str, seeds))}."
                f"{did_you_mean(words[0], methods) if words[0] not in methods else ''}"
            )
        kept.update(found)
    return [place for place in places if place in kept] if only else places


def reproduce(
    config: Config,
    places: Sequence[Place],
    out: str | Path,
    *,
    minutes: float | None = None,
    commit: str = "",
    tell: Callable[[str], None] = lambda line: None,
    finished: Callable[[], object] = lambda: None,
    stream: TextIO | None = None,
) -> Outcome:
    """Train and evaluate the cells that a folder lacks; those that have begun go on first, from their checkpoints.

    Args:
      config: the settings of all of them, except for method and seed.
      places: the cells.
      out: the folder.
      minutes: after which training stops, between two steps, and can go on later. Nothing is started that would take
        longer, as far as the folder has cells of the same method from the same kind of device.
      commit: of the program, where it does not lie in a checkout.
      tell: called with a line about each cell.
      finished: called after each cell.
      stream: where the progress of a training is told, standard error by default.

    Raises:
      UserError: the settings fit neither the data nor the cells of the folder.
      KeyboardInterrupt: a signal has come; what is under way is saved.
    """
    if config.data.root:
        config = replace(config, data=replace(config.data, root=str(Path(config.data.root).expanduser().absolute())))
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    folder = TableFolder(Path(out).expanduser())
    cells = {place_of(cell): cell for cell in read_cells(folder.cells)}
    missing = [place for place in places if place not in cells]
    if _is_of_format_1(folder, cells.values(), missing):
        config = in_format_1(config)
        tell("This table began in format 1 of the settings: the cells that it lacks are trained as those that it has.")
    check_settings(config, missing, list(cells.values()))
    outcome = Outcome(missing)
    if not missing:
        return outcome
    process = this_process(commit)
    for place in sorted(missing, key=lambda place: not has_started(folder.fold(place))):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        if is_held(folder.fold(place)):
            tell(f"{place} is being trained by another process.")
            continue
        needed = _seconds_needed(place, cells.values(), process["devices"])
        if needed > left and not has_started(folder.fold(place)):
            tell(f"{place} is not started: it took {duration(needed)} before, and {duration(left)} are left.")
            continue
        try:
            cell = _fill(config, place, folder, process, left, stream)
        except RunError as error:
            tell(f"{place} could not be finished: {error}")
            outcome.failures[place] = error
            continue
        except StopAtOnce:
            raise
        except KeyboardInterrupt as signal:
            where = f"{place}: {signal}" if str(signal) else str(place)
            raise KeyboardInterrupt(f"{where}; the same command goes on from there") from None
        if cell is None:
            tell(f"{place} was stopped, because the time is over. It goes on from there.")
            break
        cells[place] = cell
        score = cell["evaluation"]["mean_iou"]
        tell(f"{place}: mean IoU {'n/a' if score is None else f'{100 * score:.1f} %'}, {duration(cell['seconds'])}")
        finished()
    outcome.missing = [place for place in missing if place not in cells]
    return outcome


def _is_of_format_1(folder: TableFolder, cells: Iterable[Cell], missing: Sequence[Place]) -> bool:
    """Say whether a cell, or a training that has begun, is of format 1 of the settings."""
    runs = [run for run in map(folder.run, missing) if run.config.is_file()]
    return any(not is_complete(cell["setting"]) for cell in cells) or any(run.begun_format() == 1 for run in runs)


def check_settings(config: Config, missing: Sequence[Place], cells: Sequence[Cell]) -> None:
    """Check, before anything is trained, that the settings fit every method, the data, and the finished cells.

    Raises:
      UserError: they do not.
    """
    data = None
    if missing:
        data = describe(load_dataset(config.data))
        for method in {place.method for place in missing}:
            settings = replace(config, method=method)
            build_network(settings, classes=len(data["class_names"]), channels=data["channels"])
    if cells and (difference := first_difference(cells[0], setting_of(config), data)):
        raise RunError(
            f"The settings do not fit the finished cells: they have {difference} in {place_of(cells[0]).stem}.json. A "
            "table never mixes settings: give those of the finished cells, or another folder (--out)."
        )


def _fill(
    config: Config, place: Place, folder: TableFolder, process: Process, left: float, stream: TextIO | None
) -> Cell | None:
    """Train, evaluate and write a cell; None if the time was over before the training was."""
    settings = replace(config, method=place.method, seed=place.seed)
    run = folder.run(place)
    processes = _note_process(folder.processes(place), process)
    result = _train(settings, place, run, left, stream)
    if result is None:
        return None
    evaluation = next(e for e in evaluate(run.path, [place.fold])["folds"] if e["fold"] == place.fold)
    trained, setting = load_trained_fold(run, place.fold), setting_of(run.read_config())
    dataset = run.read_dataset()
    cell: Cell = {
        "format": FORMAT,
        "method": place.method,
        "fold": place.fold,
        "seed": place.seed,
        "setting": setting,
        "data": {
            "name": "synthetic" if config.data.layout == "synthetic" else Path(config.data.root).name,
            "class_names": dataset["class_names"],
            "channels": dataset["channels"],
            "fingerprint": dataset["fingerprint"],
        },
        "evaluation": cast(Entry, evaluation),
        "validation_mean_iou": result.best_mean_iou,
        "steps": result.steps,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"])),
        "seconds": _seconds(folder.fold(place)),
        "processes": processes,
        "date": today(),
    }
    write_cell(folder.cells, cell, weights_of(trained, {"method": place.method, **setting}))
    return cell


def _train(config: Config, place: Place, run: Run, left: float, stream: TextIO | None) -> TrainResult | None:
    """Train a cell to its end, or for the seconds that are left; None if these were fewer."""
    with _time_limit(left) as (interruption, is_over):
        try:
            return train(config, place.fold, out=run.path, stream=stream, interruption=interruption)
        except StopAtOnce:
            raise
        except KeyboardInterrupt:
            if is_over.is_set():
                return None
            raise


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[tuple[Interruption, threading.Event]]:
    """Give an interruption that is requested after some seconds, and whether they are over."""
    interruption, is_over = Interruption(), threading.Event()

    def stop() -> None:
        is_over.set()
        interruption.requested = True

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), stop)
    timer.daemon = True
    timer.start()
    try:
        yield interruption, is_over
    finally:
        timer.cancel()


def _note_process(path: Path, process: Process) -> list[Process]:
    """Add this process to those that have worked on a cell, unless the last one was the same, and return them all."""
    processes: list[Process] = read_json(path, list[Process]) if path.exists() else []
    if not processes or not is_like(processes[-1], process):
        processes.append(process)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(processes, indent=1) + "\n")
    return processes


def _seconds(directory: FoldDirectory) -> float:
    records: list[dict[str, Any]] = [
        record for kind in ("train", "validation") for record in read_records(directory.timing, kind)
    ]
    return sum(record["seconds"] for record in records)


def _seconds_needed(place: Place, cells: Iterable[Cell], devices: Sequence[str]) -> float:
    """Return the longest time that a cell of the same method took on such devices, 0 if there is none."""
    times = [
        cell["seconds"]
        for cell in cells
        if cell["method"] == place.method and cell["processes"][-1]["devices"] == list(devices)
    ]
    return max(times, default=0.0)
