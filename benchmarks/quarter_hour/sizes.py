"""What is run: the whole, or the same at a small size, for a rehearsal on a CPU."""

from dataclasses import dataclass
from typing import Literal

from benchmarks.contender import Task


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
      widths: channels of each level in what is measured.
      side: of the crops in what is measured, in pixels.
      batches: crops in a step; the first is measured first, profiled, and trained with.
      repeats: measurements of each contender.
      speed_seconds: that the comparison with other frameworks may take.
      least_speed_seconds: without which it is not started.
      together_seconds: that each number of trainings at once is measured.
      golden_side: of the images of the golden weights, in pixels.
      epochs: of a cell of the table.
      start_seconds: until the first step of a cell has run, until that has been seen.
      table_options: of ``fbunet reproduce``; the paper's setting without any.
    """

    widths: tuple[int, ...]
    side: int
    batches: tuple[int, ...]
    repeats: int
    speed_seconds: float
    least_speed_seconds: float
    together_seconds: float
    golden_side: int
    epochs: int
    start_seconds: float
    table_options: tuple[str, ...]

    def task(self, precision: Literal["float32", "mixed"]) -> Task:
        """Return the training that is measured."""
        return Task("ours", "train", self.batches[0], self.side, precision, self.widths)


SIZES = {
    "full": Size((8, 16, 32, 64, 128), 256, (16, 64), 3, 240, 100, 20, 64, 1500, 75, ()),
    # for images of 128 x 128 pixels
    "small": Size(
        (2, 4),
        32,
        (2, 4),
        2,
        90,
        30,
        1,
        32,
        40,
        15,
        (
            *("--model.widths", "2", "4", "--data.cut", "32", "--data.crop", "32", "--training.epochs", "40"),
            *("--training.validate-every", "10", "--training.batch-size", "48"),
        ),
    ),
}
