"""A queue of trainings over the devices of this machine, each in a process of its own."""

import contextlib
import math
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fbunet_jax.errors import RunError
from fbunet_jax.experiments.commands import Job
from fbunet_jax.experiments.devices import Device
from fbunet_jax.experiments.probe import child_environment
from fbunet_jax.experiments.progress import Board, Outcome, read_progress
from fbunet_jax.runs.interruption import Interruption
from fbunet_jax.runs.locks import is_held
from fbunet_jax.tables import duration, percent

POLL_SECONDS = 0.5
"""Between two looks at the trainings that run."""

_LAST_LINES = 3
"""Of its log, that are told of a training that failed."""


@dataclass
class _Running:
    """A training under way, and what has been seen of it."""

    job: Job
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

    def __init__(
        self,
        jobs: Sequence[Job],
        devices: Sequence[Device],
        board: Board,
        *,
        deadline: float = math.inf,
        pause: Path | None = None,
        ended: Callable[[Job], object] = lambda job: None,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
          jobs: the trainings, in the order in which they are started.
          devices: for one process each.
          board: reports them.
          deadline: of `time.monotonic`, after which what runs is saved and nothing more is started.
          pause: while this file is there, the processes are suspended.
          ended: called after each of them.
        """
        self.board, self.outcomes = board, [Outcome(job.place) for job in jobs]
        self._deadline, self._pause, self._ended = deadline, pause, ended
        self._waiting = deque(zip(jobs, self.outcomes, strict=True))
        self._free = deque(enumerate(devices))
        self._running: list[_Running] = []
        self._is_paused = False

    def run(self) -> bool:
        """Train everything; one that fails leaves the others alone. Return whether a signal has ended it before.

        The first signal is passed on, and what runs is saved; another one, a second later or more, stops at once.
        """
        with Interruption() as interruption:
            try:
                told = False
                while self._running or (self._waiting and not self._is_over(interruption)):
                    self._heed_pause(interruption)
                    while self._waiting and self._free and not self._is_paused and not self._is_over(interruption):
                        self._start(*self._waiting.popleft())
                    if self._is_over(interruption) and not told:
                        told = True
                        self.board.line(f"Stopping: {len(self._running)} under way are saved.")
                        self._terminate()
                    time.sleep(POLL_SECONDS)
                    self._look(self._is_over(interruption))
            finally:  # of a second signal, the trainings get another one too
                self._terminate()
                for each in self._running:
                    each.process.wait()
                self._look(stopped=True)
            return interruption.requested

    def _is_over(self, interruption: Interruption) -> bool:
        return interruption.requested or time.monotonic() > self._deadline

    def _heed_pause(self, interruption: Interruption) -> None:
        """Suspend what runs, or let it continue."""
        wanted = self._pause is not None and self._pause.exists() and not self._is_over(interruption)
        if wanted != self._is_paused:
            self._is_paused = wanted
            self._signal(signal.SIGSTOP if wanted else signal.SIGCONT)
            self.board.line(f"{'Paused' if wanted else 'Resumed'}: {len(self._running)} under way.")

    def _start(self, job: Job, outcome: Outcome) -> None:
        if self._is_elsewhere(job, outcome):
            return
        slot, device = self._free.popleft()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as file, _bound_to(device.cores):
            process = subprocess.Popen(
                job.words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=child_environment() | device.environment,
                # Ctrl-C reaches this process alone, which passes it on, once
                start_new_session=True,
            )
        self._running.append(_Running(job, outcome, device, slot, process, time.monotonic()))
        self.board.line(f"{job.name} on {device.name}: {job.log}")

    def _look(self, stopped: bool) -> None:
        """See how far the trainings are, and which have ended."""
        for each in list(self._running):
            code = each.process.poll()
            directory = each.job.directory
            with contextlib.suppress(OSError):  # no record yet
                status = directory.metrics.stat()
                if each.seen != (now := (status.st_size, status.st_mtime_ns)):
                    each.seen, each.outcome.progress = now, read_progress(directory)
            if code is None:
                self.board.show(each.slot, each.job.name, each.outcome.progress, each.job.epochs)
                continue
            self._running.remove(each)
            self._free.append((each.slot, each.device))
            self.board.clear(each.slot)
            self._end(each, code, stopped)
            self._ended(each.job)

    def _end(self, each: _Running, code: int, stopped: bool) -> None:
        job, outcome = each.job, each.outcome
        outcome.seconds = time.monotonic() - each.began
        if code == 0:
            outcome.state = "finished"
            best, took = percent(outcome.progress.best, " %"), duration(outcome.seconds)
            self.board.line(f"{job.name} is finished: best validation IoU {best}, {took}.")
            return
        # a process that has not set up its handlers yet dies of the signal, and loses nothing
        if stopped and code in (130, -signal.SIGTERM):
            outcome.state = "stopped"
            return
        if self._is_elsewhere(job, outcome):  # taken between the look at its lock and its start
            return
        outcome.state, outcome.reason = "failed", _last_words(job.log, code)
        self.board.line(f"{job.name} failed. {outcome.reason}")

    def _is_elsewhere(self, job: Job, outcome: Outcome) -> bool:
        with contextlib.suppress(RunError):  # about a lock that cannot be read, the training complains itself
            if is_held(job.directory):
                outcome.state = "elsewhere"
                self.board.line(f"{job.name} is being trained by another process.")
                return True
        return False

    def _terminate(self) -> None:
        self._signal(signal.SIGTERM)
        if self._is_paused:
            self._is_paused = False
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for each in self._running:
            each.process.send_signal(number)


def _last_words(log: Path, code: int) -> str:
    if code == -signal.SIGKILL:
        how = (
            "it was killed, as Linux does when memory is short: train fewer at once, and it resumes from its last "
            "checkpoint; a smaller training.batch_size or data.crop takes another folder"
        )
    else:
        how = f"signal {-code} ended it" if code < 0 else f"exit code {code}"
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()][-_LAST_LINES:]
    return "\n  ".join([f"The end of {log} ({how}):", *lines])


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
