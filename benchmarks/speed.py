"""Training and prediction, ours beside PyTorch and Keras, on whatever device is there.

python -m benchmarks.speed --help lists the options. Every contender runs in a process of its own; they are measured in
turn, one at a time, so that a machine whose speed drifts is the same for all; medians and ratios to ours are printed.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.contender import Task

ROOT = Path(__file__).resolve().parents[1]


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
    batch: int = 4
    """Images in a step."""
    size: int = 256
    """Side of an image in pixels."""
    widths: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Channels of each level."""
    repeats: int = 7
    """Measurements of each contender, of about a second each."""
    python: dict[str, str] = field(default_factory=dict)
    """Another interpreter for a contender, such as torch ~/torch/bin/python."""
    out: str = ""
    """JSON file for every single measurement."""


class Contestant:
    """A contender's process."""

    def __init__(self, task: Task, python: str) -> None:
        """Start it and wait until it has compiled."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # packages may lie there too
        environment = {**os.environ, "PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self.task = task
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.contender", json.dumps(asdict(task))],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()
        self.seconds: list[float] = []

    def measure(self) -> None:
        """Let it run for about a second."""
        assert self.process.stdin
        self.process.stdin.write("measure\n")
        self.process.stdin.flush()
        self.seconds.append(self._answer()["seconds_an_image"])

    def finish(self) -> dict[str, Any]:
        """End it, and return everything that is known of it."""
        assert self.process.stdin
        self.process.stdin.close()
        result = {**asdict(self.task), **self.about, **self._answer(), "seconds_an_image": self.seconds}
        self.process.wait()
        return result

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries may print too
                return json.loads(line)
        raise RuntimeError(f"{self.task} ended without an answer; what it printed stands above.")


def compare(options: Options, task: str, precision: str) -> list[dict[str, Any]]:
    """Measure every contender at one task, in turn."""
    contestants = []
    for name in options.contenders:
        python = options.python.get(name, options.python.get(name.removesuffix("-compile"), sys.executable))
        if python == sys.executable and name != "ours" and not importlib.util.find_spec(name.removesuffix("-compile")):
            print(f"{name} is not installed: left out.", file=sys.stderr)
            continue
        contestants.append(Contestant(Task(name, task, options.batch, options.size, precision, options.widths), python))
    for _ in range(options.repeats):
        for contestant in contestants:
            contestant.measure()
    return [contestant.finish() for contestant in contestants]


def table(results: list[dict[str, Any]]) -> str:
    """Return the measurements as a Markdown table; the ratio is the median of the ratios measured side by side."""
    ours = {(r["task"], r["precision"]): r["seconds_an_image"] for r in results if r["contender"] == "ours"}
    lines = [
        "| task | precision | contender | s/image (median) | min to max | images/s | times ours | first call, s | "
        "peak memory, GiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        times = result["seconds_an_image"]
        median = statistics.median(times)
        own = ours.get((result["task"], result["precision"]))
        ratio = f"{statistics.median(t / o for t, o in zip(times, own, strict=True)):.2f}" if own else ""
        peak = result["peak_device_gib"] or result["peak_host_gib"]
        cells = [result["task"], result["precision"], result["contender"], f"{median:.4g}"]
        cells += [f"{min(times):.4g} to {max(times):.4g}", f"{1 / median:.4g}", ratio]
        lines.append("| " + " | ".join([*cells, f"{result['compile_s']:.1f}", f"{peak:.2f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = tyro.cli(Options)
    results = []
    for precision in options.precisions:
        for task in options.tasks:
            try:
                results += compare(options, task, precision)
            except RuntimeError as error:  # out of memory, for example: the others are worth as much
                print(error, file=sys.stderr)
    if not results:
        sys.exit("Nothing was measured.")
    print(f"{results[0]['device']}, batch {options.batch}, {options.size} x {options.size} pixels")
    print(table(results))
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
