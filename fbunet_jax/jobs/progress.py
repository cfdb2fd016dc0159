"""How far trainings are, read from their records, and told in a line each."""

import contextlib
import math
from typing import Any, NamedTuple, TextIO

from tqdm import tqdm

from fbunet_jax.errors import RunError
from fbunet_jax.runs import FoldDirectory
from fbunet_jax.training.logs import read_records

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
        """Return what is told of it."""
        if self.best is None:
            return "not validated yet" if self.epoch else "starting"
        return f"validation IoU {percent(self.latest)}, best {percent(self.best)}"


def read_progress(directory: FoldDirectory) -> Progress:
    """Return how far a training is; nothing where its records cannot be read, about which it complains itself."""
    try:
        epochs = read_records(directory.metrics, "train")
        scores = [_score(record) for record in read_records(directory.metrics, "validation")]
    except (RunError, OSError):
        return Progress()
    known = [score for score in scores if score is not None]
    return Progress(epochs[-1]["epoch"] if epochs else 0, scores[-1] if scores else None, max(known, default=None))


def percent(score: float | None) -> str:
    """Return a score as it is told."""
    return "n/a" if score is None else f"{100 * score:.1f} %"


class Board:
    """Progress of the trainings that run: a bar each on a terminal, lines elsewhere.

    What cannot be told, to a connection that broke or a disk that is full, stops no training.
    """

    def __init__(self, stream: TextIO, epochs: int) -> None:
        """Begin; nothing is told yet."""
        self._stream, self._epochs = stream, epochs
        self._bars: dict[int, tqdm] = {}

    def line(self, text: str) -> None:
        """Print a line, above the bars if there are any."""
        with contextlib.suppress(OSError):
            tqdm.write(text, file=self._stream)
            self._stream.flush()

    def show(self, slot: int, name: str, progress: Progress) -> None:
        """Tell how far the training of a slot is."""
        with contextlib.suppress(OSError):
            self._show(slot, name, progress)

    def clear(self, slot: int) -> None:
        """Take the line of a slot away: its training has ended."""
        if slot in self._bars:
            with contextlib.suppress(OSError):
                self._bars.pop(slot).close()

    def _show(self, slot: int, name: str, progress: Progress) -> None:
        bar = self._bars.get(slot)
        if bar is None:
            bar = self._bars[slot] = tqdm(
                total=self._epochs,
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
            if math.floor(_PARTS * progress.epoch / self._epochs) > math.floor(_PARTS * before / self._epochs):
                self.line(f"{name}  epoch {progress.epoch}/{self._epochs}, {progress}")
            return
        bar.set_postfix_str(str(progress))


def _score(record: dict[str, Any]) -> float | None:
    value = record["mean_iou"]
    return None if value is None or math.isnan(value) else value
