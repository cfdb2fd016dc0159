"""A queue of trainings over the devices of this machine, each in a process of its own."""

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fbunet_jax.doctor.machine import child_environment
from fbunet_jax.errors import RunError
from fbunet_jax.interruption import Interruption
from fbunet_jax.jobs.devices import Device
from fbunet_jax.jobs.progress import Board, Progress, percent, read_progress
from fbunet_jax.jobs.trainings import PROGRAM, Trainings
from fbunet_jax.locks import is_held
from fbunet_jax.runs import Place
from fbunet_jax.training.logs import duration

POLL_SECONDS = 0.5
"""Between two looks at the trainings that run."""

_LAST_LINES = 3
"""Of its log, that are told of a training that failed."""

State = Literal["finished", "failed", "stopped", "not begun", "elsewhere"]


@dataclass
class Outcome:
    """What became of a training.

    Attributes:
      place: which.
      state: "stopped" by a signal, with everything saved; "elsewhere": another process trains it.
      progress: how far it is.
      seconds: that its process ran.
      reason: why it failed: the last lines of its log.
    """

    place: Place
    state: State = "not begun"
    progress: Progress = field(default_factory=Progress)
    seconds: float = 0.0
    reason: str = ""


@dataclass
class _Running:
    """A training under way, and what has been seen of it."""

    outcome: Outcome
    device: Device
    slot: int
    process: subprocess.Popen[bytes]
    began: float
    seen: tuple[int, int] = (0, 0)


class Sweep:
    """The trainings of one call: those that wait, run, and have ended.

    Attributes:
      outcomes: of all of them, in their order.
    """

    def __init__(self, trainings: Trainings, devices: Sequence[Device], board: Board) -> None:
        """Prepare; nothing runs yet."""
        self.trainings, self.board = trainings, board
        self.outcomes = [Outcome(place) for place in trainings.places]
        self._waiting = deque(self.outcomes)
        self._free = deque(enumerate(devices))
        self._running: list[_Running] = []

    def log(self, place: Place) -> Path:
        """Return the file that keeps what the process of a training says."""
        return self.trainings.folder / "sweep" / f"{place.stem}.log"

    def run(self) -> bool:
        """Train everything; one that fails leaves the others alone. Return whether a signal has ended it before.

        The first signal is passed on, and what runs is saved; another one, a second later or more, stops at once.
        """
        with Interruption() as interruption:
            try:
                told = False
                while self._running or (self._waiting and not interruption.requested):
                    while self._waiting and self._free and not interruption.requested:
                        self._start(self._waiting.popleft())
                    if interruption.requested and not told:
                        told = True
                        self.board.line(f"Stopping: {len(self._running)} under way are saved.")
                        self._terminate()
                    time.sleep(POLL_SECONDS)
                    self._look(interruption.requested)
            finally:  # of a second signal, the trainings get another one too
                self._terminate()
                for each in self._running:
                    each.process.wait()
                self._look(stopped=True)
            return interruption.requested

    def _start(self, outcome: Outcome) -> None:
        place = outcome.place
        if self._is_elsewhere(outcome):
            return
        slot, device = self._free.popleft()
        log = self.log(place)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file, _bound_to(device.cores):
            process = subprocess.Popen(
                [*PROGRAM, "train", *self.trainings.options(place)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=child_environment() | device.environment,
                # Ctrl-C reaches this process alone, which passes it on, once
                start_new_session=True,
            )
        self._running.append(_Running(outcome, device, slot, process, time.monotonic()))
        self.board.line(f"{place} on {device.name}: {log}")

    def _look(self, stopped: bool) -> None:
        """See how far the trainings are, and which have ended."""
        for each in list(self._running):
            code = each.process.poll()
            directory = self.trainings.fold(each.outcome.place)
            with contextlib.suppress(OSError):  # no record yet
                status = directory.metrics.stat()
                if each.seen != (now := (status.st_size, status.st_mtime_ns)):
                    each.seen, each.outcome.progress = now, read_progress(directory)
            if code is None:
                self.board.show(each.slot, str(each.outcome.place), each.outcome.progress)
                continue
            self._running.remove(each)
            self._free.append((each.slot, each.device))
            self.board.clear(each.slot)
            self._end(each, code, stopped)

    def _end(self, each: _Running, code: int, stopped: bool) -> None:
        outcome = each.outcome
        outcome.seconds = time.monotonic() - each.began
        if code == 0:
            outcome.state = "finished"
            best, took = percent(outcome.progress.best), duration(outcome.seconds)
            self.board.line(f"{outcome.place} is finished: best validation IoU {best}, {took}.")
            return
        # a process that has not set up its handlers yet dies of the signal, and loses nothing
        if stopped and code in (130, -signal.SIGTERM):
            outcome.state = "stopped"
            return
        if self._is_elsewhere(outcome):  # taken between the look at its lock and its start
            return
        outcome.state, outcome.reason = "failed", self._last_words(outcome.place, code)
        self.board.line(f"{outcome.place} failed. {outcome.reason}")

    def _is_elsewhere(self, outcome: Outcome) -> bool:
        with contextlib.suppress(RunError):  # about a lock that cannot be read, the training complains itself
            if is_held(self.trainings.fold(outcome.place)):
                outcome.state = "elsewhere"
                self.board.line(f"{outcome.place} is being trained by another process.")
                return True
        return False

    def _last_words(self, place: Place, code: int) -> str:
        how = f"signal {-code} ended it" if code < 0 else f"exit code {code}"
        text = self.log(place).read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()][-_LAST_LINES:]
        return "\n  ".join([f"The end of {self.log(place)} ({how}):", *lines])

    def _terminate(self) -> None:
        for each in self._running:
            each.process.terminate()


@contextlib.contextmanager
def _bound_to(cores: frozenset[int]) -> Iterator[None]:
    """Bind the processes that are started meanwhile to some cores: they inherit it before their first thread."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def outcome_table(outcomes: Sequence[Outcome], epochs: int) -> str:
    """Return a line about each training, under a header."""
    rows = [("method", "fold", "seed", "state", "epoch", "best validation IoU", "time")]
    for outcome in outcomes:
        place, progress = outcome.place, outcome.progress
        took = duration(outcome.seconds) if outcome.seconds else ""
        score = percent(progress.best) if progress.best is not None else ""
        epoch = f"{progress.epoch}/{epochs}" if progress.epoch else ""
        rows.append((place.method, str(place.fold), str(place.seed), outcome.state, epoch, score, took))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def count_states(outcomes: Sequence[Outcome]) -> Mapping[State, int]:
    """Return how many trainings are in each state that one is in."""
    states = [outcome.state for outcome in outcomes]
    return {state: states.count(state) for state in dict.fromkeys(states)}
