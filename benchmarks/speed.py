"""Training and prediction, ours beside PyTorch and Keras, on whatever device is there.

python -m benchmarks.speed --help lists the options. Every contender runs in a process of its own; they are measured in
turn, one at a time, so that a machine whose speed drifts is the same for all; medians and ratios to ours are printed.
"""

import contextlib
import importlib.util
import itertools
import json
import math
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.contender import SECONDS_A_MEASUREMENT, Task
from benchmarks.parents import tied
from fbunet_jax.runs.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]

MOST_OF_THE_TIME = 0.6
"""Of what is left is given to one task."""

CORES_A_COMPILATION = 4
"""XLA and Inductor compile in several threads."""


@dataclass(frozen=True)
class Options:
    """Measure throughput, compile time and peak memory of feedback-convlstm in every framework that is installed."""

    contenders: tuple[Literal["ours", "torch", "torch-compile", "keras"], ...] = (
        "ours",
        "torch",
        "torch-compile",
        "keras",
    )
    """Which of ours, torch, torch-compile and keras; one that is not installed is left out and named."""
    tasks: tuple[Literal["train", "forward"], ...] = ("train", "forward")
    """Training step, or prediction of both rounds."""
    precisions: tuple[Literal["float32", "mixed"], ...] = ("float32",)
    """float32, or bfloat16 computation with float32 parameters."""
    batch: tuple[int, ...] = (4,)
    """Images in a step; all tasks are measured with one size before the next."""
    size: int = 256
    """Side of an image in pixels."""
    widths: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Channels of each level."""
    repeats: int = 7
    """Measurements of each contender, of about a second each."""
    compile_at_once: int | None = None
    """Contenders that compile at the same time; one for every four cores by default. They are measured in turn."""
    seconds: float | None = None
    """Stop after so many, with what has been measured by then."""
    python: dict[str, str] = field(default_factory=dict)
    """Another interpreter for a contender, such as torch ~/torch/bin/python."""
    out: str = ""
    """JSON file for every single measurement, written after each task."""


class ContenderError(Exception):
    """A contender has ended, or takes too long."""


class Contestant:
    """A contender's process."""

    def __init__(self, task: Task, python: str) -> None:
        """Start it; it compiles on its own."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # packages may lie there too
        environment = {**os.environ, "PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self.task = task
        self.about: dict[str, Any] = {}
        self.seconds: list[float] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._process = subprocess.Popen(
            tied([python, "-m", "benchmarks.contender", json.dumps(asdict(task))], signal.SIGKILL),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self, until: float = math.inf) -> None:
        """Wait until it has compiled.

        Raises:
          ContenderError: it ended, or it has not by `until` (`time.monotonic`).
        """
        self.about = self._answer(until)

    def ask(self, seconds: float | None = None) -> None:
        """Let it run for about a second, or for so many by the clock; `listen` waits for the end."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended, which the answer says
            self._process.stdin.write(f"measure {seconds or ''}\n")
            self._process.stdin.flush()

    def listen(self, until: float = math.inf) -> float:
        """Return the seconds an image of what was asked for.

        Raises:
          ContenderError: it ended, or does not by `until`.
        """
        self.seconds.append(self._answer(until)["seconds_an_image"])
        return self.seconds[-1]

    def finish(self) -> dict[str, Any]:
        """End it, and return everything that is known of it.

        Raises:
          ContenderError: it does not end.
        """
        assert self._process.stdin
        self._process.stdin.close()
        last = self._answer(time.monotonic() + 5)
        return {**asdict(self.task), **self.about, **last, "seconds_an_image": self.seconds}

    def kill(self) -> None:
        """End it at once, if it runs."""
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=5)
        if not self._reader.is_alive():  # a process that it has left behind holds the pipe open
            with contextlib.suppress(BrokenPipeError), self._process:
                pass

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries may print too
                self._lines.put(line)
        self._lines.put("")

    def _answer(self, until: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=None if until == math.inf else max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise ContenderError(f"{_title(self.task)}: the time is over.") from None
        if not line:
            raise ContenderError(f"{_title(self.task)} ended without an answer; what it printed stands above.")
        return json.loads(line)


def _title(task: Task) -> str:
    return f"{task.contender}, {task.task}, {task.precision}, batch {task.batch}"


@contextlib.contextmanager
def killed_at_the_end() -> Iterator[list[Contestant]]:
    """Give a list; the contestants in it run no longer than the block."""
    contestants: list[Contestant] = []
    try:
        yield contestants
    finally:
        for contestant in contestants:
            contestant.kill()


def compare(tasks: Sequence[tuple[Task, str]], repeats: int, at_once: int, until: float) -> list[dict[str, Any]]:
    """Measure contenders in turn; one that fails, or is not ready in time, is left out and named on standard error.

    Args:
      tasks: what each does, and its interpreter.
      repeats: measurements of each.
      at_once: how many compile at the same time.
      until: when to stop (`time.monotonic`).

    Returns:
      What is known of each that was measured at least once.
    """
    # one that compiles for too long does not take the time in which the others are measured
    compiled = until - 2 * SECONDS_A_MEASUREMENT * repeats * len(tasks)
    with killed_at_the_end() as contestants:
        ready: list[Contestant] = []
        for first in range(0, len(tasks), at_once):
            started = [Contestant(task, python) for task, python in tasks[first : first + at_once]]
            contestants += started
            for contestant in started:
                if _succeeds(contestant.wait, compiled):
                    ready.append(contestant)
                else:  # nothing else runs while the others are measured
                    contestant.kill()
        for _ in range(repeats):
            for contestant in list(ready):
                contestant.ask()
                if not _succeeds(contestant.listen, until):
                    ready.remove(contestant)
        results = []
        for contestant in contestants:
            if contestant.seconds:
                # one that was stopped has told everything but its memory
                result = {**asdict(contestant.task), **contestant.about, "seconds_an_image": contestant.seconds}
                result |= {"peak_host_gib": None, "peak_device_gib": None}
                if contestant in ready:
                    with contextlib.suppress(ContenderError):
                        result = contestant.finish()
                results.append(result)
        return results


def _succeeds(call: Any, until: float) -> bool:
    try:
        call(until)
    except ContenderError as error:
        print(f"Left out: {error}", file=sys.stderr, flush=True)
        return False
    return True


def table(results: list[dict[str, Any]]) -> str:
    """Return the measurements as a Markdown table; the ratio is the median of the ratios measured side by side."""

    def same(result: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(result[key] for key in ("task", "precision", "batch"))

    ours = {same(result): result["seconds_an_image"] for result in results if result["contender"] == "ours"}
    lines = [
        "| task | precision | batch | contender | s/image (median) | min to max | images/s | times ours | "
        "first call, s | peak memory, GiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        times = result["seconds_an_image"]
        median, own = statistics.median(times), ours.get(same(result))
        ratio = f"{statistics.median(t / o for t, o in zip(times, own, strict=False)):.2f}" if own else ""
        peak = result["peak_device_gib"] or result["peak_host_gib"]
        lines.append(
            f"| {result['task']} | {result['precision']} | {result['batch']} | {result['contender']} | {median:#.3g} | "
            f"{min(times):#.3g} to {max(times):#.3g} | {1 / median:,.{0 if median < 0.01 else 2}f} | {ratio} | "
            f"{result['compile_s']:.1f} | {'' if peak is None else f'{peak:.2f}'} |"
        )
    return "\n".join(lines)


def installed(options: Options) -> dict[str, str]:
    """Return contender and interpreter of those that are installed; the others are named on standard error."""
    found = {}
    for name in options.contenders:
        module = name.removesuffix("-compile")
        python = options.python.get(name, options.python.get(module, sys.executable))
        if python == sys.executable and name != "ours" and not importlib.util.find_spec(module):
            print(f"{name} is not installed: left out.", file=sys.stderr)
        else:
            found[name] = python
    return found


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = tyro.cli(Options)
    until = math.inf if options.seconds is None else time.monotonic() + options.seconds
    at_once = options.compile_at_once or max(1, (os.cpu_count() or 1) // CORES_A_COMPILATION)
    contenders, results, expected = installed(options), [], 0
    for batch, precision, task in itertools.product(options.batch, options.precisions, options.tasks):
        if time.monotonic() >= until:
            print(f"Skipped, because the time is over: {task}, {precision}, batch {batch}.", file=sys.stderr)
            expected += len(contenders)
            continue
        tasks = [
            (Task(name, task, batch, options.size, precision, options.widths), python)
            for name, python in contenders.items()
        ]
        # one that hangs does not take the time of those that follow
        limit = time.monotonic() + MOST_OF_THE_TIME * (until - time.monotonic())
        results += compare(tasks, options.repeats, at_once, limit)
        expected += len(tasks)
        if options.out:
            write_atomically(Path(options.out), json.dumps(results, indent=1) + "\n")
    if not results:
        sys.exit("Nothing was measured.")
    print(f"{results[0]['device']}, {options.size} x {options.size} pixels")
    print(table(results))
    if whole := sum(len(result["seconds_an_image"]) == options.repeats for result in results) - expected:
        sys.exit(f"{-whole} of {expected} measurements are missing or not whole, for the reasons above.")


if __name__ == "__main__":
    main()
