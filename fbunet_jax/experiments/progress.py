"""What becomes of trainings: how far each is by its records, reported in a line, and all of them in a table."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TextIO

from tqdm import tqdm

from fbunet_jax.errors import RunError
from fbunet_jax.experiments.grid import Place
from fbunet_jax.runs.directory import FoldDirectory
from fbunet_jax.runs.records import TrainRecord, ValidationRecord, read_records
from fbunet_jax.tables import aligned, duration, percent

_PARTS = 10
"""In a log, a training gets a line whenever such a part of its epochs is over; a terminal shows each epoch."""


class Progress(NamedTuple):
    """How far a training is.

    Attributes:
      epoch: the last one that is recorded, 0 before the first.
      latest: validation mean IoU of the last validation, 0 to 1; None before the first, or without a class.
      best: the highest.
    """

    epoch: int = 0
    latest: float | None = None
    best: float | None = None

    def __str__(self) -> str:
        """Return how far it is, as text."""
        if self.best is None:
            return "not validated yet" if self.epoch else "starting"
        return f"validation IoU {percent(self.latest, ' %')}, best {percent(self.best, ' %')}"


def read_progress(directory: FoldDirectory) -> Progress:
    """Return how far a training is; nothing where its records cannot be read, about which it complains itself."""
    try:
        epochs = read_records(directory.metrics, TrainRecord)
        scores = [record["mean_iou"] for record in read_records(directory.metrics, ValidationRecord)]
    except (RunError, OSError):
        return Progress()
    known = [score for score in scores if score is not None]
    return Progress(epochs[-1]["epoch"] if epochs else 0, scores[-1] if scores else None, max(known, default=None))


State = Literal["finished", "failed", "stopped", "not begun", "elsewhere"]


@dataclass
class Outcome:
    """What became of a training.

    Attributes:
      place: which.
      state: "stopped" by a signal or a time limit, with everything saved; "elsewhere": another process trains it.
      progress: how far it is, where it is watched.
      seconds: that its process ran.
      reason: why it failed.
    """

    place: Place
    state: State = "not begun"
    progress: Progress = field(default_factory=Progress)
    seconds: float = 0.0
    reason: str = ""


def outcome_table(outcomes: Sequence[Outcome], epochs: int) -> str:
    """Return a line about each training, under a header."""
    rows = [("method", "fold", "seed", "state", "epoch", "best validation IoU", "time")]
    for outcome in outcomes:
        place, progress = outcome.place, outcome.progress
        took = duration(outcome.seconds) if outcome.seconds else ""
        score = percent(progress.best, " %") if progress.best is not None else ""
        epoch = f"{progress.epoch}/{epochs}" if progress.epoch else ""
        rows.append((place.method, str(place.fold), str(place.seed), outcome.state, epoch, score, took))
    return aligned(rows)


class Board:
    """Progress of the trainings that run: a bar each on a terminal, lines elsewhere.

    What cannot be told, to a connection that broke or a disk that is full, stops no training.
    """

    def __init__(self, stream: TextIO) -> None:
        """Begin; nothing is told yet."""
        self._stream = stream
        self._bars: dict[int, tqdm] = {}

    def line(self, text: str) -> None:
        """Print a line, above the bars if there are any."""
        with contextlib.suppress(OSError):
            tqdm.write(text, file=self._stream)
            self._stream.flush()

    def show(self, slot: int, name: str, progress: Progress, epochs: int) -> None:
        """Report how far the training of a slot is, of so many epochs."""
        with contextlib.suppress(OSError):
            self._show(slot, name, progress, epochs)

    def clear(self, slot: int) -> None:
        """Take the line of a slot away: its training has ended."""
        if slot in self._bars:
            with contextlib.suppress(OSError):
                self._bars.pop(slot).close()

    def _show(self, slot: int, name: str, progress: Progress, epochs: int) -> None:
        bar = self._bars.get(slot)
        if bar is None:
            bar = self._bars[slot] = tqdm(
                total=epochs,
                initial=progress.epoch,
                desc=name,
                position=slot,
                leave=False,
                unit=" epochs",
                file=self._stream,
                disable=not self._stream.isatty(),
                dynamic_ncols=True,
            )
        before, bar.n = bar.n, progress.epoch
        if bar.disable:
            if math.floor(_PARTS * progress.epoch / epochs) > math.floor(_PARTS * before / epochs):
                self.line(f"{name}  epoch {progress.epoch}/{epochs}, {progress}")
            return
        bar.set_postfix_str(str(progress))
