"""Cells of Table 1 until the time is over, several side by side, of which at most one is left unfinished.

Each is a process of ``fbunet reproduce``, which saves and stops on SIGTERM, and resumes from there another time.
"""

import contextlib
import math
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.parents import tied
from benchmarks.quarter_hour.schedule import Running, Waiting, decide, share
from benchmarks.quarter_hour.sizes import Size
from fbunet_jax.cli import EXIT_INTERRUPTED
from fbunet_jax.experiments.cells import TableFolder, place_of, read_cells
from fbunet_jax.experiments.grid import Place
from fbunet_jax.experiments.paper import TABLES
from fbunet_jax.runs.records import TrainRecord, read_records

SEED = 0
FOLDS = range(5)

RATE_SECONDS = 5.0, 30.0
"""By at least so much of a training its rate is judged, and by no more than the latest of it."""

END_SECONDS = 20.0
"""Of the evaluation after the last step."""

CROPS = 192
"""In an epoch."""

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
    metrics = folder.run(place).fold(place.fold).metrics
    records = read_records(metrics, TrainRecord) if metrics.exists() else []
    return (records[-1]["step"], records[-1]["epoch"]) if records else (0, 0)


def unfinished_cells(folder: TableFolder) -> list[Place]:
    """Return the cells that have begun and are not finished, the furthest first."""
    done = {place_of(cell) for cell in read_cells(folder.cells)}
    begun = [place for place in places() if place not in done and folder.run(place).fold(place.fold).has_started()]
    return sorted(begun, key=lambda place: -recorded(folder, place)[0])


@dataclass
class Training:
    """A cell under way.

    Attributes:
      place: of the cell.
      process: that trains it.
      began: when that was started (`time.monotonic`).
      first_step: that it had when it was started.
      seen: times at which it was looked at, and its step then: of the latest seconds, and of those in which the same
        others run beside it.
      has_run: its first step has been seen.
      is_stopped: it was told to stop.
    """

    place: Place
    process: subprocess.Popen[bytes]
    began: float
    first_step: int
    seen: deque[tuple[float, int]] = field(default_factory=deque)
    has_run: bool = False
    is_stopped: bool = False

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
      rates: images a second of trainings of feedback-convlstm, all together, by how many run at once, as far as it
        was measured.
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
    rates: Mapping[int, float]
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

    @property
    def has_given_up(self) -> bool:
        """So many cells have failed that none is started any more."""
        return self.failures >= MOST_FAILURES

    def _done(self) -> set[Place]:
        return {place_of(cell) for cell in read_cells(self.folder.cells)}

    def _look(self) -> None:
        for training in self.running:
            training.look(self._step(training.place))
            if training.seen and not training.has_run:
                training.has_run = True
                self.start_seconds = time.monotonic() - training.began

    def _fill(self, left: float) -> None:
        """Start what there is room and time for, or stop one of those that run too long."""
        if self.has_given_up:
            return
        running = [Running(each.place, self._remaining(each), each.rate is not None) for each in self.running]
        taken = {*(each.place for each in running), *self.given_up, *self._done()}
        begun = unfinished_cells(self.folder)
        wanted = [place for place in dict.fromkeys([*begun, *places()]) if place not in taken]
        alone = self._alone(wanted)
        waiting = [Waiting(place, alone[place], self._fixed, place in begun) for place in wanted]
        decision = decide(running, waiting, left, self.start_seconds, self.at_once, self.rates)
        if not decision:
            return
        if decision.starts:
            self._start(decision.place)
        else:
            self.tell(f"{decision.place} is stopped, because more than one would be left unfinished.")
            self._stop([training for training in self.running if training.place == decision.place])
            self._collect()
        for training in self.running:  # others run beside them now
            training.seen.clear()

    def _start(self, place: Place) -> None:
        command = [sys.executable, "-P", "-m", "fbunet_jax.cli", "reproduce", "--table", "1"]
        command += ["--data.root", str(self.data), "--out", str(self.folder.path), "--commit", self.commit]
        command += ["--only", str(place), *self.size.table_options]
        step = self._step(place)
        self.tell(f"{place} {f'resumes at step {step}' if step else 'starts'}; {len(self.running) + 1} at once.")
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                tied(command, signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
                start_new_session=True,  # a Ctrl-C in a terminal comes once, from here
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
            place, code, step = training.place, training.process.returncode, self._step(training.place)
            if place in done:
                self.failures = 0
                self.tell(f"{place} is finished.")
                self.finished()
            elif training.is_stopped:
                self.tell(f"{place} is stopped; {step} steps are recorded.")
            else:
                self.given_up.add(place)
                self.failures += code != EXIT_INTERRUPTED
                self.tell(f"{place} has ended with exit code {code} and is not finished; {step} steps are recorded.")
        for training in self.running:
            training.seen.clear()

    def _stop(self, trainings: Sequence[Training]) -> None:
        """Let processes save and stop."""
        for training in trainings:
            training.is_stopped = True
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

    @property
    def _fixed(self) -> float:
        return self.start_seconds + END_SECONDS

    def _remaining(self, training: Training) -> float:
        """Return how many seconds a cell that runs still takes, by its rate or else by what is known of its method."""
        step, part = self._progress(training.place)
        if training.rate and part:
            return (step / part - step) / training.rate + END_SECONDS
        alone = self._alone([training.place])[training.place] / share(self.rates, len(self.running))
        start = 0.0 if training.has_run else max(0.0, self.start_seconds - (time.monotonic() - training.began))
        return start + alone + END_SECONDS

    def _alone(self, wanted: Sequence[Place]) -> dict[Place, float]:
        """Return the seconds of training that cells still take with nothing beside them, infinity if nothing is known.

        They are those of finished cells of the same method, of cells that run, or of feedback-convlstm as it was
        measured, which few methods exceed.
        """
        known: dict[str, list[float]] = {}
        for cell in read_cells(self.folder.cells):
            if self.device in cell["processes"][-1]["devices"]:
                beside = share(self.rates, self.at_once)
                known.setdefault(cell["method"], []).append(cell["seconds"] * beside)
        for training in self.running:
            step, part = self._progress(training.place)
            if training.rate and part:
                beside = share(self.rates, len(self.running))
                known.setdefault(training.place.method, []).append(step / part / training.rate * beside)
        guess = self.size.epochs * CROPS / self.rates[min(self.rates)] if self.rates else math.inf
        trained = {place: max(known.get(place.method, [guess])) for place in wanted}
        return {place: (1 - self._progress(place)[1]) * seconds for place, seconds in trained.items()}
