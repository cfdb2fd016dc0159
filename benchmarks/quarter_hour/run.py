"""The steps of a quarter of an hour, one after the other, each as far as the time allows, and what they have found.

Each step is a process of its own, which writes its result to a file as it finds it. That is copied to the output folder
while the step still runs: whatever ends this program, what was found is there.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from benchmarks.parents import tied
from benchmarks.quarter_hour import parts
from benchmarks.quarter_hour.measurements import read_measurements
from benchmarks.quarter_hour.sizes import Size
from benchmarks.quarter_hour.steps import STEPS, Step, end_group, processes
from benchmarks.quarter_hour.table import SAVE_SECONDS, Table, unfinished_cells
from fbunet_jax.errors import ConfigError, RunError, UserError
from fbunet_jax.experiments.cells import TableFolder, place_of, read_cells
from fbunet_jax.experiments.origin import today
from fbunet_jax.experiments.probe import examine_devices
from fbunet_jax.runs.files import read_json, write_atomically

ROOT = Path(__file__).resolve().parents[2]

FORMAT = 1
"""Version of ``quarter_hour.json``."""

PACKING_SECONDS = 10.0
"""In which everything is put into the output folder at the end."""

LOG_BYTES = 2_000_000
WEIGHT_BYTES, ALL_BYTES = 13_000_000, 64_000_000
"""Of the log's end, of the weights of finished cells, and of all together, that are brought back."""

MOST_PARTS = 4
"""Of an unfinished training."""

RESULT, EARLIER = "result.json", "earlier.json"
"""Files of a step in the folder that is kept."""

RESULTS, LOG, CELLS, PROGRAM, UNFINISHED = (
    "quarter_hour.json",
    "log.txt",
    "cells.tar.gz",
    "program.txt.gz",
    "unfinished.tar",
)
"""Files of the output folder: at most eight, with the parts of an unfinished training."""


class Results(TypedDict):
    """The content of ``quarter_hour.json``.

    Attributes:
      format: its version.
      size: name of the size.
      commit: of the program.
      machine: on which it ran.
      jax: version.
      date: of the first call, in UTC.
      steps: by name: status (done, cut, failed, skipped), reason, seconds, result.
      unfinished: the training that is brought back: its place, its parts and their checksum.
    """

    format: int
    size: str
    commit: str
    machine: str
    jax: str
    date: str
    steps: dict[str, dict[str, Any]]
    unfinished: dict[str, Any]


@dataclass
class QuarterHour:
    """One call of the command.

    Attributes:
      name: of the size.
      size: what it is.
      out: folder for what is brought back.
      work: folder that is kept, so that the same command resumes.
      data: folder of the images, with ``stack1``.
      commit: of the program.
      until: when all is to be over (`time.monotonic`).
      tell: called with a line about each step.
      at_once: cells that are trained at once; as many as were found fastest by default.
      measured: folder of earlier measurements, for how many that is where it is not measured now.
      stops: a signal has come.
      results: content of ``quarter_hour.json``.
    """

    name: str
    size: Size
    out: Path
    work: Path
    data: Path
    commit: str
    until: float
    tell: Callable[[str], None]
    at_once: int | None = None
    measured: Path | None = None
    stops: bool = False
    results: Any = None

    @property
    def table(self) -> TableFolder:
        """The folder of the table."""
        return TableFolder(self.work / "table")

    def run(self, wanted: Sequence[str]) -> None:
        """Run the steps; one that has its result from an earlier call is not run again."""
        for handled in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(handled, self._stop)
        for folder in (self.out, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        for left_behind in self.out.glob(f".{RESULTS}.*"):
            left_behind.unlink()
        self.results = self._earlier()
        self._write()
        try:
            steps = processes(self.name, self.size)
            for name in (name for name in STEPS if name in wanted):
                if name == "table":
                    self._guarded(name, self._train)
                elif self.results["steps"].get(name, {}).get("status") == "done":
                    self.tell(f"{name}: measured before, by the same program on this machine.")
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
        """Return the results of an earlier call of the same program here, at the same size, or none."""
        fresh = {"format": FORMAT, "size": self.name, "commit": self.commit, "machine": platform.node()}
        fresh |= {"jax": importlib.metadata.version("jax")}
        here, there = (_read_results(folder / RESULTS) for folder in (self.work, self.out))
        if there and not (here and fresh.items() <= there.items() and there["date"] == here["date"]):
            raise ConfigError(
                f"--out {self.out} has the results of another run: harvest them, and give another folder."
            )
        # files that are not those of a commit cannot be told apart
        if here and fresh.items() <= here.items() and not self.commit.endswith("(dirty)"):
            return {**here, "unfinished": {}}
        shutil.rmtree(self.work / "steps", ignore_errors=True)
        return {**fresh, "date": today(), "steps": {}, "unfinished": {}}

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        """Call, and note what goes wrong: no step takes the others with it."""
        began = time.monotonic()
        try:
            call()
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._note(name, "failed", reason=reason, seconds=round(time.monotonic() - began, 1))
            self.tell(f"{name} has failed: {reason}")

    def _note(self, step: str, status: str, **fields: Any) -> None:
        """Write what is known of a step, with its result as far as there is one."""
        for path in (self._file(step, RESULT), self._file(step, EARLIER)):
            with contextlib.suppress(OSError, ValueError):
                fields = {"result": json.loads(path.read_text(encoding="utf-8")), **fields}
        self.results["steps"][step] = {"status": status, **fields}
        self._write()

    def _write(self) -> None:
        text = json.dumps(self.results, indent=1) + "\n"
        for folder in (self.work, self.out):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / RESULTS, text)
            except OSError as error:
                self.tell(f"{folder} cannot be written: {error.strerror}.")

    @property
    def has_failed(self) -> bool:
        """A step has failed."""
        return any(step["status"] == "failed" for step in self.results["steps"].values())

    def _file(self, step: str, name: str) -> Path:
        return self.work / "steps" / step / name

    def _environment(self, compiled: str) -> dict[str, str]:
        """Return the environment of a process; what one step or cell has compiled, the next ones read."""
        folder = (self.work / compiled).absolute()
        platforms = os.environ.get("JAX_PLATFORMS", "")
        # a user's settings of JAX could change the numbers
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
        return {
            **kept,
            **({"JAX_PLATFORMS": platforms} if platforms else {}),
            # this program, also where another one is installed
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
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
            if name not in self.results["steps"]:  # what an earlier call has found stays
                self._note(name, "skipped", reason=reason)
            self.tell(f"{name} is skipped: {reason}.")
            return
        result, log = self._file(name, RESULT), self._file(name, "log.txt")
        result.parent.mkdir(parents=True, exist_ok=True)
        if result.exists():  # of a step that was cut: better than nothing
            result.replace(self._file(name, EARLIER))
        if step.compiles:
            shutil.rmtree(self.work / step.compiled, ignore_errors=True)
        most = min(left, step.most)
        self.tell(f"{name}, {most:.0f} s at most.")
        began = time.monotonic()
        with log.open("ab") as file:
            process = subprocess.Popen(
                tied([sys.executable, "-P", "-m", *step.command(most), str(result.absolute())], signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self._environment(step.compiled),
                start_new_session=True,  # its own processes end with it
            )
            try:
                shown = None
                while process.poll() is None and self._left() > 0 and time.monotonic() < began + most:
                    time.sleep(0.2)
                    changed = result.stat().st_mtime_ns if result.exists() else None
                    if changed != shown:
                        shown = changed
                        self._note(name, "cut", reason="this program was ended")
            finally:
                code = process.poll()
                end_group(process)
        seconds = round(time.monotonic() - began, 1)
        self._bring_program()
        if code == 0:
            self._file(name, EARLIER).unlink(missing_ok=True)
            self._note(name, "done", seconds=seconds)
            self.tell(f"{name}: done in {seconds:.0f} s.")
            return
        over = "a signal has come" if self.stops else "the time was over"
        reason = over if code is None else f"exit code {code}: {_last_line(log)}"
        self._note(name, "cut" if code is None else "failed", reason=reason, seconds=seconds)
        self.tell(f"{name} has no whole result, after {seconds:.0f} s: {reason}")

    def _train(self) -> None:
        """Fill the table."""
        found = {name: step["result"] for name, step in self.results["steps"].items() if step.get("result")}
        until = self.until - PACKING_SECONDS - SAVE_SECONDS
        reason = ""
        if self.stops or until - time.monotonic() < self.size.start_seconds:
            reason = "a signal has come" if self.stops else "too little time is left for a first step"
        elif not found.get("golden", {}).get("passes", True):
            reason = "the golden weights have failed, so that nothing that is trained here could be trusted"
        if reason:
            self._note("table", "skipped", reason=reason)
            self.tell(f"table is skipped: {reason}.")
            return
        device = self._device(found)
        rates = self._rates(found, device)
        at_once = self.at_once or max(rates, key=lambda number: rates[number], default=1)
        log = self._file("table", "log.txt")
        log.parent.mkdir(parents=True, exist_ok=True)
        self.table.path.mkdir(exist_ok=True)
        table = Table(
            self.table,
            self.data,
            self.size,
            self.commit,
            device,
            at_once,
            rates,
            log,
            lambda line: self.tell(f"table: {line}"),
            self._bring_cells,
            start_seconds=self.size.start_seconds,
            environment=self._environment("compiled"),
        )
        before = {place_of(cell) for cell in read_cells(self.table.cells)}
        table.train(until, lambda: self.stops)
        new = [place_of(cell) for cell in read_cells(self.table.cells) if place_of(cell) not in before]
        fields: dict[str, Any] = {"at_once": at_once, "finished": [str(place) for place in new]}
        if table.has_given_up:
            self._note("table", "failed", reason="one cell after the other has failed", **fields)
        else:
            self._note("table", "done", **fields)

    def _device(self, found: Mapping[str, Any]) -> str:
        """Return the kind of the device, as the results have it or else as JAX answers."""
        for name in ("golden", "profile", "together"):
            if name in found:
                return found[name]["device"]
        devices = examine_devices().values.get("devices") or [{"kind": ""}]
        return devices[0]["kind"]

    def _rates(self, found: Mapping[str, Any], device: str) -> dict[int, float]:
        """Return images a second by the number of trainings at once, measured now or else before on such a device."""
        result = found.get("together")
        if result is None and self.measured and self.measured.is_dir():
            earlier = read_measurements(self.measured).get(device, {})
            result = earlier["together"].result if "together" in earlier else None
        return {int(number): rate for number, rate in (result or {}).get("images_per_second", {}).items()}

    def _bring_cells(self, most: int = WEIGHT_BYTES) -> None:
        """Bring back the cells, and the weights of the latest of them that are small enough together."""
        files: dict[str, Path | bytes] = {}
        weights = 0
        for path in sorted(self.table.cells.glob("*.json"), key=lambda path: -path.stat().st_mtime):
            files[path.name] = path
            arrays = path.with_suffix(".npz")
            size = arrays.stat().st_size if arrays.exists() else 0
            if size and weights + size <= most:
                weights += size
                files[arrays.name] = arrays
            elif size:
                self.tell(f"The weights {arrays} are not brought back: those of later cells leave no room.")
        if files:
            write_atomically(self.out / CELLS, parts.archive(files, "gz"))

    def _bring_program(self) -> None:
        program = self._file("profile", PROGRAM)
        if program.exists():
            write_atomically(self.out / PROGRAM, program.read_bytes())

    def _pack(self) -> None:
        """Bring back what is not there yet."""
        for path in self.out.glob(f"{UNFINISHED}.*"):
            path.unlink()
        logs = [f"== {name}\n{_tail(self._file(name, 'log.txt'))}" for name in STEPS]
        write_atomically(self.out / LOG, "\n".join(logs))
        self._bring_cells()
        begun, size = unfinished_cells(self.table), 0
        if begun:
            data = parts.archive(parts.named(parts.training_files(self.table, begun[0]), self.table.path))
            size = len(data)
            if size > MOST_PARTS * parts.PART_BYTES:
                self.tell(f"{begun[0]} is not finished, and with {size / 1e6:.0f} MB stays in {self.table.path}.")
            else:
                self._bring_cells(min(WEIGHT_BYTES, ALL_BYTES - LOG_BYTES - size))
                self.results["unfinished"] = {"place": str(begun[0]), **parts.split(data, self.out, UNFINISHED)}
                self.tell(f"{begun[0]} is not finished; its {size / 1e6:.0f} MB are brought back.")
        for place in begun[1:]:
            self.tell(f"{place} is not finished either; it stays in {self.table.path}.")
        self._note("packing", "done")


def _read_results(path: Path) -> Results | None:
    """Return the results of an earlier call, None if there are none or they are damaged."""
    with contextlib.suppress(RunError):
        return read_json(path, Results)
    return None


def _tail(path: Path) -> str:
    return path.read_bytes()[-LOG_BYTES // 5 :].decode("utf-8", errors="replace") if path.exists() else ""


def _last_line(path: Path) -> str:
    lines = _tail(path).strip().splitlines()
    return lines[-1][:300] if lines else "it says nothing"
