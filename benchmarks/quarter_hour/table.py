"""Cells of Table 1 until the time is over, several side by side, of which at most one is left unfinished.

Each is a process of ``fbunet reproduce``, which saves and stops on SIGTERM and goes on from there another time.
"""

import contextlib
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.quarter_hour.sizes import Size
from fbunet_jax.cli import EXIT_INTERRUPTED
from fbunet_jax.reproduction.cells import place_of, read_cells
from fbunet_jax.reproduction.reproduce import TableFolder
from fbunet_jax.reproduction.tables import TABLES
from fbunet_jax.runs import Place
from fbunet_jax.training.logs import read_records
from fbunet_jax.training.setup import has_started

SEED = 0
FOLDS = range(5)

RATE_SECONDS = 5.0, 30.0
"""By at least so much of a training its rate is judged, and by no more than the latest of it."""

END_SECONDS = 20.0
"""Of the evaluation after the last step."""

MOST_FAILURES = 3
"""One after the other, after which all are expected to fail."""

SAVE_SECONDS = 15.0
"""A process that was told to stop has saved by then."""


def places() -> list[Place]:
    """Return the cells in the order in which they are wanted: U-Net and the paper's method first, fold by fold."""
    methods = [row.method for row in TABLES[1].rows]
    first = ["unet", "feedback-convlstm"]
    return [Place(method, fold, SEED) for fold in FOLDS for method in [*first, *(m for m in methods if m not in first)]]


def recorded(folder: TableFolder, place: Place) -> tuple[int, int]:
    """Return the step and the epoch of the last record of a cell's training; zeros without one."""
    metrics = folder.fold(place).metrics
    records = read_records(metrics, "train") if metrics.exists() else []
    return (records[-1]["step"], records[-1]["epoch"]) if records else (0, 0)


def unfinished_cells(folder: TableFolder) -> list[Place]:
    """Return the cells that have begun and are not finished, the furthest first."""
    done = {place_of(cell) for cell in read_cells(folder.cells)}
    begun = [place for place in places() if place not in done and has_started(folder.fold(place))]
    return sorted(begun, key=lambda place: -recorded(folder, place)[0])


def choose(
    waiting: Sequence[Place], needed: Mapping[Place, float], remaining: Sequence[float], left: float, start: float
) -> Place | None:
    """Return the cell to start now, or None.

    Args:
      waiting: the cells that do not run, in the order in which they are wanted.
      needed: seconds that each takes, infinity where nothing is known.
      remaining: seconds that each of those that run still takes, likewise.
      left: seconds.
      start: seconds until a cell's first step.

    Returns:
      The first that will be finished. If there is none, and none of those that run will be left unfinished, the first
      of all, as long as it gets to its first step.
    """
    for place in waiting:
        if needed[place] <= left:
            return place
    if waiting and left > start and all(each <= left for each in remaining):
        return waiting[0]
    return None


def surplus(remaining: Mapping[Place, float], left: float) -> Place | None:
    """Return the cell to stop, if more than one of those that run cannot be finished: the one that is furthest from it.

    Args:
      remaining: seconds that each still takes, without those of which it is not known yet.
      left: seconds.
    """
    late = [place for place, seconds in remaining.items() if seconds > left]
    return max(late, key=lambda place: remaining[place]) if len(late) > 1 else None


@dataclass
class Training:
    """A cell under way.

    Attributes:
      place: of the cell.
      process: that trains it.
      began: when that was started (`time.monotonic`).
      first_step: that it had when it was started.
      seen: times at which it was looked at, and its step then, of the latest seconds.
    """

    place: Place
    process: subprocess.Popen[bytes]
    began: float
    first_step: int
    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def look(self, step: int) -> None:
        """Take note of its step."""
        if step > self.first_step:
            self.seen.append((time.monotonic(), step))
            while len(self.seen) > 1 and self.seen[-1][0] - self.seen[1][0] > RATE_SECONDS[1]:
                self.seen.popleft()

    @property
    def rate(self) -> float | None:
        """Steps a second, None as long as too little was seen."""
        if not self.seen:
            return None
        (began, first), (now, last) = self.seen[0], self.seen[-1]
        return (last - first) / (now - began) if now - began >= RATE_SECONDS[0] and last > first else None


@dataclass
class Table:
    """The cells of a folder, trained until a deadline.

    Attributes:
      folder: of the table.
      data: of the images.
      size: of the trainings.
      commit: of the program, for the cells.
      device: its kind, as JAX names it; finished cells of others say nothing about the time that one takes.
      at_once: how many run side by side.
      guess: seconds that a training takes of which nothing else is known.
      log: file for what they print.
      tell: called with a line about each cell.
      finished: called after each cell.
      start_seconds: until the first step of a cell has run; as it was seen last.
      environment: of the processes.
      failures: cells that have failed since the last one that did not.
    """

    folder: TableFolder
    data: Path
    size: Size
    commit: str
    device: str
    at_once: int
    guess: float
    log: Path
    tell: Callable[[str], None]
    finished: Callable[[], None]
    start_seconds: float
    environment: Mapping[str, str]
    running: list[Training] = field(default_factory=list)
    given_up: set[Place] = field(default_factory=set)
    failures: int = 0

    def train(self, until: float, is_over: Callable[[], bool]) -> None:
        """Train until a time (`time.monotonic`), or until `is_over`; what is under way is then saved."""
        try:
            while time.monotonic() < until and not is_over():
                self._collect()
                self._look()
                self._fill(until - time.monotonic())
                if not self.running:
                    break
                time.sleep(0.5)
        finally:
            self._stop([*self.running])
            self._collect()

    def _done(self) -> set[Place]:
        return {place_of(cell) for cell in read_cells(self.folder.cells)}

    def _look(self) -> None:
        for training in self.running:
            seen_before = bool(training.seen)
            training.look(self._step(training.place))
            if training.seen and not seen_before:
                self.start_seconds = time.monotonic() - training.began

    def _fill(self, left: float) -> None:
        """Start what there is room and time for, or stop one of those that run too long."""
        remaining = {training.place: self._remaining(training) for training in self.running}
        known = {training.place: remaining[training.place] for training in self.running if training.rate}
        if place := surplus(known, left):
            self.tell(f"{place} is stopped, because more than one would be left unfinished.")
            self.given_up.add(place)
            self._stop([training for training in self.running if training.place == place])
        elif len(self.running) < self.at_once and self.failures < MOST_FAILURES:
            taken = {*remaining, *self.given_up, *self._done()}
            waiting = [
                place for place in dict.fromkeys([*unfinished_cells(self.folder), *places()]) if place not in taken
            ]
            needed = self._needed(waiting)
            if place := choose(waiting, needed, list(remaining.values()), left, self.start_seconds):
                self._start(place)

    def _start(self, place: Place) -> None:
        command = [sys.executable, "-P", "-m", "fbunet_jax.cli", "reproduce", "--table", "1"]
        command += ["--data.root", str(self.data), "--out", str(self.folder.path), "--commit", self.commit]
        command += ["--only", str(place), *self.size.table_options]
        step = self._step(place)
        self.tell(f"{place} {f'goes on at step {step}' if step else 'starts'}; {len(self.running) + 1} at once.")
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
            )
        self.running.append(Training(place, process, time.monotonic(), step))

    def _collect(self) -> None:
        """Take note of the processes that have ended."""
        ended = [training for training in self.running if training.process.poll() is not None]
        if not ended:
            return
        done = self._done()
        for training in ended:
            self.running.remove(training)
            if training.place in done:
                self.failures = 0
                self.tell(f"{training.place} is finished.")
                self.finished()
            else:
                self.given_up.add(training.place)
                code, step = training.process.returncode, self._step(training.place)
                how = "is saved" if code == EXIT_INTERRUPTED else "has failed"
                self.failures += code not in (EXIT_INTERRUPTED, -signal.SIGKILL)
                self.tell(f"{training.place} {how}, with exit code {code}; {step} steps are recorded.")

    def _stop(self, trainings: Sequence[Training]) -> None:
        """Let processes save and stop."""
        for training in trainings:
            training.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + SAVE_SECONDS
        for training in trainings:
            with contextlib.suppress(subprocess.TimeoutExpired):
                training.process.wait(max(0.0, until - time.monotonic()))
            if training.process.poll() is None:  # it compiles, and has nothing to save
                training.process.kill()
                training.process.wait()

    def _step(self, place: Place) -> int:
        return self._progress(place)[0]

    def _progress(self, place: Place) -> tuple[int, float]:
        """Return how many steps of a cell are recorded, and which part of all of them that is."""
        step, epoch = recorded(self.folder, place)
        return step, epoch / self.size.epochs

    def _remaining(self, training: Training) -> float:
        """Return how many seconds a cell that runs still takes, by its rate or else by what is known of its method."""
        step, part = self._progress(training.place)
        if training.rate and part:
            return (step / part - step) / training.rate + END_SECONDS
        return self._needed([training.place])[training.place] - (time.monotonic() - training.began)

    def _needed(self, wanted: Sequence[Place]) -> dict[Place, float]:
        """Return how many seconds cells that do not run take: by finished ones of their method, by those that run."""
        known: dict[str, list[float]] = {}
        for cell in read_cells(self.folder.cells):
            if self.device in cell["processes"][-1]["devices"]:
                known.setdefault(cell["method"], []).append(cell["seconds"])
        for training in self.running:
            step, part = self._progress(training.place)
            if training.rate and part:
                known.setdefault(training.place.method, []).append(step / part / training.rate)
        trained = {place: max(known.get(place.method, [self.guess])) for place in wanted}
        fixed = self.start_seconds + END_SECONDS
        return {place: fixed + (1 - self._progress(place)[1]) * seconds for place, seconds in trained.items()}
