"""The steps of a quarter of an hour, one after the other, each as far as the time allows, and what they have found.

Each step is a process of its own, which writes its result to a file as it finds it. That is copied to the output folder
while the step still runs: whatever ends this program, what was found is there.
"""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quarter_hour import parts
from benchmarks.quarter_hour.sizes import Size
from benchmarks.quarter_hour.table import SAVE_SECONDS, Table, unfinished_cells
from fbunet_jax.errors import UserError
from fbunet_jax.files import write_atomically
from fbunet_jax.reproduction.cells import place_of, read_cells
from fbunet_jax.reproduction.origin import today
from fbunet_jax.reproduction.reproduce import TableFolder

FORMAT = 1
"""Version of ``quarter_hour.json``."""

STEPS = ("golden", "speed", "profile", "together", "table")
"""In this order."""

PACKING_SECONDS = 10.0
"""In which everything is put into the output folder at the end."""

CROPS = 192
"""In an epoch of the table."""

LOG_BYTES = 2_000_000
WEIGHT_BYTES = 8_000_000
"""Of the log's end, and of the weights of finished cells, that are brought back."""

RESULTS, LOG, CELLS, PROGRAM, UNFINISHED = (
    "quarter_hour.json",
    "log.txt",
    "cells.tar.gz",
    "program.txt.gz",
    "unfinished.tar",
)
"""Files of the output folder: at most eight, because an unfinished training is four parts at the most."""


@dataclass(frozen=True)
class Step:
    """A step that is a process.

    Attributes:
      least: seconds without which it is not started.
      most: seconds after which it is stopped.
      command: of Python; the file of the result follows.
      compiled: folder, in the one that is kept, of the programs that it compiles.
      compiles: begins with an empty one, because it measures how long that takes.
    """

    least: float
    most: float
    command: Sequence[str]
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
    speed += ["--repeats", str(size.repeats), "--seconds", str(size.speed_seconds), "--out"]
    return {
        "golden": Step(15, 120, ["benchmarks.quarter_hour.golden", name]),
        "speed": Step(60, size.speed_seconds + 30, speed, "compiled-speed", compiles=True),
        "profile": Step(30, 120, ["benchmarks.quarter_hour.profile", name], "compiled-speed"),
        "together": Step(60, 240, ["benchmarks.quarter_hour.together", name]),
    }


@dataclass
class QuarterHour:
    """One call of the command.

    Attributes:
      name: of the size.
      size: what it is.
      out: folder for what is brought back.
      work: folder that is kept, so that the same command goes on.
      data: folder of the images, with ``stack1``.
      commit: of the program.
      until: when all is to be over (`time.monotonic`).
      tell: called with a line about each step.
      stops: a signal has come.
    """

    name: str
    size: Size
    out: Path
    work: Path
    data: Path
    commit: str
    until: float
    tell: Callable[[str], None]
    stops: bool = False
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def table(self) -> TableFolder:
        """The folder of the table."""
        return TableFolder(self.work / "table")

    def run(self, wanted: Sequence[str]) -> None:
        """Run the steps; one that has its result from an earlier call is not run again."""
        for handled in (signal.SIGTERM, signal.SIGINT):
            signal.signal(handled, self._stop)
        self.out.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(parents=True, exist_ok=True)
        self.results = self._earlier()
        try:
            steps = processes(self.name, self.size)
            for name in (name for name in STEPS if name in wanted):
                if name == "table":
                    self._guarded(name, self._train)
                elif self.results["steps"].get(name, {}).get("status") == "done":
                    self.tell(f"{name}: measured before, by the same program.")
                else:
                    self._guarded(name, lambda name=name: self._measure(name, steps[name]))
        finally:
            self._guarded("packing", self._pack)

    def _stop(self, number: int, _: Any) -> None:
        self.stops = True
        self.until = min(self.until, time.monotonic() + SAVE_SECONDS + PACKING_SECONDS)

    def _left(self) -> float:
        """Return the seconds until everything has to be packed."""
        return -1.0 if self.stops else self.until - PACKING_SECONDS - time.monotonic()

    def _earlier(self) -> dict[str, Any]:
        """Return the results of an earlier call of the same program at the same size, or none."""
        fresh = {"format": FORMAT, "size": self.name, "commit": self.commit}
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.work / RESULTS).read_text(encoding="utf-8"))
            if fresh.items() <= found.items():
                return found
        return {**fresh, "date": today(), "steps": {}, "unfinished": {}}

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        """Call, and note what goes wrong: no step takes the others with it."""
        began = time.monotonic()
        try:
            call()
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._note(name, status="failed", reason=reason, seconds=round(time.monotonic() - began, 1))
            self.tell(f"{name} has failed: {reason}")

    def _note(self, step: str, **fields: Any) -> None:
        """Write what is known of a step, with its result as far as there is one."""
        with contextlib.suppress(OSError, ValueError):
            fields["result"] = json.loads(self._result(step).read_text(encoding="utf-8"))
        self.results["steps"][step] = fields
        text = json.dumps(self.results, indent=1) + "\n"
        for folder in (self.out, self.work):
            write_atomically(folder / RESULTS, text)

    def _result(self, step: str) -> Path:
        return self.work / step / "result.json"

    def _log(self, step: str) -> Path:
        return self.work / step / "log.txt"

    def _environment(self, compiled: str) -> dict[str, str]:
        """Return the environment of a process; what one step or cell has compiled, the next ones read."""
        folder = (self.work / compiled).absolute()
        platforms = os.environ.get("JAX_PLATFORMS", "")
        return {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(folder),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"),
            "PYTHONUNBUFFERED": "1",
            # the device is compared with the CPU
            **({"JAX_PLATFORMS": f"{platforms},cpu"} if platforms and "cpu" not in platforms.split(",") else {}),
        }

    def _measure(self, name: str, step: Step) -> None:
        """Run a process, and bring back what it writes while it runs."""
        left = self._left()
        if left < step.least:
            short = f"{max(0, left):.0f} s are left, and it takes {step.least:.0f} or more"
            reason = "a signal has come" if self.stops else short
            self._note(name, status="skipped", reason=reason)
            self.tell(f"{name} is skipped: {reason}.")
            return
        result, log = self._result(name), self._log(name)
        result.parent.mkdir(exist_ok=True)
        result.unlink(missing_ok=True)
        if step.compiles:
            shutil.rmtree(self.work / step.compiled, ignore_errors=True)
        self.tell(f"{name}, {min(left, step.most):.0f} s at most.")
        began = time.monotonic()
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", *step.command, str(result.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self._environment(step.compiled),
                start_new_session=True,  # its own processes end with it
            )
            try:
                shown = None
                while process.poll() is None and self._left() > 0 and time.monotonic() < began + step.most:
                    time.sleep(0.2)
                    changed = result.stat().st_mtime_ns if result.exists() else None
                    if changed != shown:
                        shown = changed
                        self._note(name, status="cut", reason="this program was ended")
            finally:
                code = process.poll()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        seconds = round(time.monotonic() - began, 1)
        if code == 0:
            self._note(name, status="done", seconds=seconds)
            self.tell(f"{name}: done in {seconds:.0f} s.")
            return
        reason = "the time was over" if code is None else f"exit code {code}: {_last_line(log)}"
        self._note(name, status="cut" if code is None else "failed", reason=reason, seconds=seconds)
        self.tell(f"{name} has no whole result, after {seconds:.0f} s: {reason}")

    def _train(self) -> None:
        """Fill the table."""
        found = {name: step["result"] for name, step in self.results["steps"].items() if step.get("result")}
        rates = {int(number): rate for number, rate in found.get("together", {}).get("images_per_second", {}).items()}
        at_once = max(rates, key=lambda number: rates[number], default=1)
        # each of those that run side by side gets its share
        guess = self.size.epochs * CROPS * at_once / rates[at_once] if rates else math.inf
        device = next((found[name]["device"] for name in ("golden", "profile", "together") if name in found), "")
        (self.work / "table").mkdir(exist_ok=True)
        table = Table(
            self.table,
            self.data,
            self.size,
            self.commit,
            device,
            at_once,
            guess,
            self._log("table"),
            lambda line: self.tell(f"table: {line}"),
            self._pack_cells,
            start_seconds=self.size.start_seconds,
            environment=self._environment("compiled"),
        )
        until = self.until - PACKING_SECONDS - SAVE_SECONDS
        if self.stops or until - time.monotonic() < self.size.start_seconds:
            self._note("table", status="skipped", reason="no time is left")
            self.tell("table is skipped: no time is left.")
            return
        before = {place_of(cell) for cell in read_cells(self.table.cells)}
        table.train(until, lambda: self.stops)
        new = [place_of(cell) for cell in read_cells(self.table.cells) if place_of(cell) not in before]
        self._note("table", status="done", at_once=at_once, finished=[str(place) for place in new])

    def _pack_cells(self) -> None:
        """Bring back the cells, and the weights of the latest of them that are small enough together."""
        files: dict[str, Path | bytes] = {}
        weights = 0
        for path in sorted(self.table.cells.glob("*.json"), key=lambda path: -path.stat().st_mtime):
            files[path.name] = path
            arrays = path.with_suffix(".npz")
            if arrays.exists() and weights + arrays.stat().st_size <= WEIGHT_BYTES:
                weights += arrays.stat().st_size
                files[arrays.name] = arrays
        if files:
            write_atomically(self.out / CELLS, parts.archive(files, "gz"))

    def _pack(self) -> None:
        """Bring back everything that is not there yet."""
        self._pack_cells()
        program = self.work / "profile" / PROGRAM
        if program.exists():
            write_atomically(self.out / PROGRAM, program.read_bytes())
        logs = [f"== {name}\n{_tail(self._log(name))}" for name in STEPS if self._log(name).exists()]
        write_atomically(self.out / LOG, "\n".join(logs))
        for path in self.out.glob(f"{UNFINISHED}.*"):
            path.unlink()
        begun = unfinished_cells(self.table)
        about = {}
        if begun:
            data = parts.archive(parts.named(parts.training_files(self.table, begun[0]), self.table.path))
            about = {"place": str(begun[0]), **parts.split(data, self.out, UNFINISHED)}
            self.tell(f"{begun[0]} is not finished; its {len(data) / 1e6:.0f} MB are brought back.")
        for place in begun[1:]:
            self.tell(f"{place} is not finished either; it stays in {self.table.path}.")
        self.results["unfinished"] = about
        self._note("packing", status="done")


def _tail(path: Path) -> str:
    return path.read_bytes()[-LOG_BYTES:].decode("utf-8", errors="replace")


def _last_line(path: Path) -> str:
    lines = _tail(path).strip().splitlines()
    return lines[-1][:300] if lines else "it says nothing"
