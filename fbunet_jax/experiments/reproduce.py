"""Fill a table: train and evaluate the cells that are missing, until they are done or the time is over."""

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import jax
import numpy as np

from fbunet_jax.config import Config
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.data.identity import describe
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.scores import Entry
from fbunet_jax.evaluation.variants import Variant
from fbunet_jax.experiments.cells import (
    FORMAT,
    Cell,
    TableFolder,
    first_difference,
    is_complete,
    place_of,
    read_cells,
    setting_of,
    weights_of,
    write_cell,
    write_numbers,
)
from fbunet_jax.experiments.evaluations import FURTHER, evaluate_further, evaluate_once, variants
from fbunet_jax.experiments.grid import Grid, Place
from fbunet_jax.experiments.origin import Process, is_like, this_process, today
from fbunet_jax.experiments.progress import Outcome
from fbunet_jax.networks import build_network
from fbunet_jax.runs.files import read_json, write_atomically
from fbunet_jax.runs.interruption import Interruption, StopAtOnce
from fbunet_jax.runs.locks import is_held
from fbunet_jax.runs.opening import in_format_1
from fbunet_jax.runs.records import processor_seconds, training_seconds
from fbunet_jax.runs.trained import best_step, load_trained_fold
from fbunet_jax.tables import duration, percent
from fbunet_jax.training.fold import TrainResult, train

_ROUNDING = 1e-3


def reproduce(
    grid: Grid,
    folder: TableFolder,
    *,
    minutes: float | None = None,
    commit: str = "",
    further: Collection[str] = FURTHER,
    tell: Callable[[str], None] = lambda line: None,
    finished: Callable[[], object] = lambda: None,
    stream: TextIO | None = None,
) -> list[Outcome]:
    """Train and evaluate the cells that a folder lacks; those begun resume first, from their checkpoints.

    Args:
      grid: the cells, with the run directories of the folder.
      folder: the table's.
      minutes: after which training stops, between two steps, and can be resumed later. Nothing is started that would
        take longer, as far as the folder has cells of the same method from the same kind of device.
      commit: of the program, where it does not lie in a checkout.
      further: how else each cell is evaluated, see `experiments.evaluations`. Finished cells that lack some of it, and
        whose weights the folder still has, get them too.
      tell: called with a line about each cell.
      finished: called after each cell.
      stream: where the progress of a training is reported, standard error by default.

    Returns:
      What became of every cell, in the order of the grid; those that the folder had are finished.

    Raises:
      UserError: the settings fit neither the data nor the cells of the folder.
      KeyboardInterrupt: a signal has come; what is under way is saved.
    """
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    cells = {place_of(cell): cell for cell in read_cells(folder.cells)}
    outcomes = [Outcome(place, "finished" if place in cells else "not begun") for place in grid]
    missing = [outcome for outcome in outcomes if outcome.place not in cells]
    if _is_of_format_1(grid, cells.values(), [each.place for each in missing]):
        grid = replace(grid, config=in_format_1(grid.config))
        tell("This table began in format 1 of the settings: the cells that it lacks are trained as those that it has.")
    check_settings(grid.config, [each.place for each in missing], list(cells.values()))
    lacking = [place for place in grid if place in cells and _lacks(grid, cells[place], further)]
    if not missing and not lacking:
        return outcomes
    work = _Work(grid, folder, this_process(commit), frozenset(further), tell, stream)
    for place in lacking:
        if time.monotonic() < deadline:
            work.complete(cells[place])
            finished()
    for outcome in sorted(missing, key=lambda outcome: not grid.fold(outcome.place).has_started()):
        place, left = outcome.place, deadline - time.monotonic()
        if left <= 0:
            break
        if is_held(grid.fold(place)):
            outcome.state = "elsewhere"
            tell(f"{place} is being trained by another process.")
            continue
        needed = _seconds_needed(place, cells.values(), work.process["devices"])
        if needed > left and not grid.fold(place).has_started():
            tell(f"{place} is not started: it took {duration(needed)} before, and {duration(left)} are left.")
            continue
        if cell := work.fill(outcome, left):
            cells[place] = cell
            finished()
        if outcome.state == "stopped":
            break
    return outcomes


def _lacks(grid: Grid, cell: Cell, further: Collection[str]) -> dict[str, Variant]:
    """Return the evaluations that a finished cell lacks and could be given: its checkpoint is still there."""
    run, fold = grid.run(place_of(cell)), cell["fold"]
    if not run.config.is_file() or is_held(run.fold(fold)) or best_step(run, fold) != cell["evaluation"]["step"]:
        return {}
    wanted = variants(grid.settings(place_of(cell)), further)
    return {name: variant for name, variant in wanted.items() if name not in cell.get("further", {})}


def _is_same(one: Entry, other: Entry) -> bool:
    """Say whether two evaluations are of the same weights: on other devices a few pixels fall to another class."""
    counts, others = (np.array([scores["confusion"] for scores in entry["rounds"]]) for entry in (one, other))
    return counts.shape == others.shape and bool(np.abs(counts - others).sum() <= _ROUNDING * counts.sum())


def _is_of_format_1(grid: Grid, cells: Iterable[Cell], missing: Sequence[Place]) -> bool:
    """Say whether a cell, or a training that has begun, is of format 1 of the settings."""
    runs = [run for run in map(grid.run, missing) if run.config.is_file()]
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


@dataclass(frozen=True)
class _Work:
    """What this process does for the cells of a table, one after the other."""

    grid: Grid
    folder: TableFolder
    process: Process
    further: frozenset[str]
    tell: Callable[[str], None]
    stream: TextIO | None

    def fill(self, outcome: Outcome, left: float) -> Cell | None:
        """Train, evaluate and write a cell within the seconds that are left, note what became of it, and return it.

        None if it is not finished.
        """
        place = outcome.place
        try:
            cell = self._make(place, left)
        except RunError as error:
            outcome.state, outcome.reason = "failed", str(error)
            self.tell(f"{place} could not be finished: {error}")
            return None
        except StopAtOnce:
            raise
        except KeyboardInterrupt as signal:
            where = f"{place}: {signal}" if str(signal) else str(place)
            raise KeyboardInterrupt(f"{where}; the same command resumes from there") from None
        if cell is None:
            outcome.state = "stopped"
            self.tell(f"{place} was stopped, because the time is over. The same command resumes from there.")
            return None
        outcome.state = "finished"
        self.tell(f"{place}: mean IoU {percent(cell['evaluation']['mean_iou'], ' %')}, {duration(cell['seconds'])}")
        return cell

    def complete(self, cell: Cell) -> None:
        """Evaluate a finished cell in the ways that it lacks, and write it."""
        run, place = self.grid.run(place_of(cell)), place_of(cell)
        try:
            entry = evaluate_once(run, place.fold)
            if not _is_same(entry, cell["evaluation"]):
                raise RunError(f"the weights in {run.path} give other numbers than the cell has.")
            made = evaluate_further(run, place.fold, _lacks(self.grid, cell, self.further), self.tell)
        except RunError as error:
            self.tell(f"{place} could not be evaluated further: {error}")
            return
        cell["evaluation"], cell["evaluated_by"] = entry, self.process
        cell["further"] = cell.get("further", {}) | made
        write_numbers(self.folder.cells, cell)
        if made:
            self.tell(f"{place} has been evaluated further: {', '.join(made)}.")

    def _make(self, place: Place, left: float) -> Cell | None:
        """Train, evaluate and write a cell; None if the time was over before the training was."""
        run, data = self.grid.run(place), self.grid.config.data
        processes = _note_process(self.folder.processes(place), self.process)
        result = self._train(place, left)
        if result is None:
            return None
        evaluation = evaluate_once(run, place.fold)
        trained, setting = load_trained_fold(run, place.fold), setting_of(run.read_config())
        dataset = run.read_dataset()
        cell: Cell = {
            "format": FORMAT,
            "method": place.method,
            "fold": place.fold,
            "seed": place.seed,
            "setting": setting,
            "data": {
                "name": "synthetic" if data.layout == "synthetic" else Path(data.root).absolute().name,
                "class_names": dataset["class_names"],
                "channels": dataset["channels"],
                "fingerprint": dataset["fingerprint"],
            },
            "evaluation": evaluation,
            "validation_mean_iou": result.best_mean_iou,
            "steps": result.steps,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"])),
            "seconds": training_seconds(run.fold(place.fold).timing),
            "processes": processes,
            "date": today(),
        }
        if (processor := processor_seconds(run.fold(place.fold).timing)) is not None:
            cell["processor_seconds"] = processor
        if wanted := variants(run.read_config(), self.further):
            cell["further"] = evaluate_further(run, place.fold, wanted, self.tell)
            cell["evaluated_by"] = self.process
        write_cell(self.folder.cells, cell, weights_of(trained, {"method": place.method, **setting}))
        return cell

    def _train(self, place: Place, left: float) -> TrainResult | None:
        """Train a cell to its end, or for the seconds that are left; None if these were fewer."""
        with _time_limit(left) as (interruption, is_over):
            try:
                settings, out = self.grid.settings(place), self.grid.run(place).path
                return train(settings, place.fold, out=out, stream=self.stream, interruption=interruption)
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


def _seconds_needed(place: Place, cells: Iterable[Cell], devices: Sequence[str]) -> float:
    """Return the longest time that a cell of the same method took on such devices, 0 if there is none."""
    times = [
        cell["seconds"]
        for cell in cells
        if cell["method"] == place.method and cell["processes"][-1]["devices"] == list(devices)
    ]
    return max(times, default=0.0)
