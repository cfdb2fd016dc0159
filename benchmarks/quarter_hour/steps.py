"""The steps of a quarter of an hour that are processes of their own."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.quarter_hour.sizes import Size

STEPS = ("golden", "speed", "profile", "together", "table")
"""In this order."""

ENDING_SECONDS = 20.0
"""In which a comparison that has reached its limit ends."""


@dataclass(frozen=True)
class Step:
    """A step that is a process.

    Attributes:
      least: seconds without which it is not started.
      most: seconds after which it is stopped.
      command: of Python, given the seconds that it may take; the file of the result follows.
      compiled: folder, in the one that is kept, of the programs that it compiles.
      compiles: begins with an empty one, because it measures how long that takes.
    """

    least: float
    most: float
    command: Callable[[float], Sequence[str]]
    compiled: str = "compiled"
    compiles: bool = False


def processes(name: str, size: Size) -> dict[str, Step]:
    """Return the steps before the table.

    Args:
      name: of the size.
      size: what it is.
    """
    speed = ["benchmarks.speed", "--contenders", "ours", "torch", "torch-compile", "--precisions", "mixed"]
    speed += ["--batch", *map(str, size.batches), "--size", str(size.side), "--widths", *map(str, size.widths)]
    speed += ["--repeats", str(size.repeats), "--seconds"]

    def module(step: str) -> Callable[[float], Sequence[str]]:
        return lambda seconds: [f"benchmarks.quarter_hour.{step}", name]

    return {
        "golden": Step(15, 120, module("golden")),
        "speed": Step(
            size.least_speed_seconds,
            size.speed_seconds + ENDING_SECONDS,
            lambda seconds: [*speed, str(seconds - ENDING_SECONDS), "--out"],
            "compiled-speed",
            compiles=True,
        ),
        "profile": Step(30, 120, module("profile"), "compiled-speed"),
        "together": Step(60, 240, module("together")),
    }


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and its own ones: a compiled program that is being written is finished first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1 if number == signal.SIGTERM else None)
