"""What a run tells: progress on the terminal, metrics.jsonl, timing.jsonl, TensorBoard events, environment.json."""

import contextlib
import importlib.metadata
import io
import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import jax
from tqdm import tqdm

from fbunet_jax.errors import RunError
from fbunet_jax.files import naming, write_atomically
from fbunet_jax.runs import FoldDirectory
from fbunet_jax.training.events import EventFile
from fbunet_jax.training.memory import peak_device_bytes, peak_host_bytes

_PACKAGES = ("fbunet-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tifffile")


class FoldLog:
    """The log of one fold. Values that a rerun would repeat go to metrics.jsonl, times to timing.jsonl."""

    def __init__(
        self,
        fold: FoldDirectory,
        *,
        total_steps: int,
        first_step: int,
        recorded_step: int,
        batch_size: int,
        stream: TextIO,
    ) -> None:
        """Open the files; records after `recorded_step` belong to a lost part of the run and are dropped."""
        self._fold = fold
        self._stream = stream
        for records in (fold.metrics, fold.timing):
            _drop_records_after(records, recorded_step)
        self._batch_size = batch_size
        self._bar = tqdm(
            total=total_steps * batch_size,
            initial=first_step * batch_size,
            unit=" images",
            unit_scale=True,
            file=stream,
            disable=not stream.isatty(),
            dynamic_ncols=True,
        )
        self._events = EventFile(fold.tensorboard, recorded_step + 1, self.line)

    def record(self, values: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Append one record, with its ``step`` and its ``kind``, to the files; the memory held goes with the times."""
        timing = {**timing, "peak_host_bytes": peak_host_bytes(), "peak_device_bytes": peak_device_bytes()}
        _append(self._fold.metrics, values)
        _append(self._fold.timing, {"step": values["step"], "kind": values["kind"], **timing})
        self._events.add(_scalars({**values, **timing}), values["step"])

    def progress(self, steps: int, text: str) -> None:
        """Advance the progress bar (on a terminal only): images a second, time left, and the given text."""
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(steps * self._batch_size)

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one; a log that cannot be written stops no training."""
        with contextlib.suppress(OSError):
            if self._bar.disable:
                print(text, file=self._stream, flush=True)
            else:
                self._bar.write(text, file=self._stream)

    def __enter__(self) -> "FoldLog":
        """Return self."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the bar and the event file."""
        self._bar.close()
        self._events.close()


class SilentLog(FoldLog):
    """The log of a process that is not the first: nothing is written, and nothing is told."""

    def __init__(self) -> None:
        pass

    def record(self, values: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Write nothing."""

    def progress(self, steps: int, text: str) -> None:
        """Show nothing."""

    def line(self, text: str) -> None:
        """Print nothing."""

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close nothing."""


def read_records(path: Path, kind: str) -> list[dict[str, Any]]:
    """Return the records of one kind of a ``.jsonl`` file, in order; an unfinished last line does not count."""
    return [record for _, record in _lines(path) if record["kind"] == kind]


def write_environment(fold: FoldDirectory, command: Sequence[str]) -> None:
    """Write the versions, devices and command of this process."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None  # run from a checkout that is not installed
    environment = {
        "command": list(command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "backend": jax.default_backend(),
        "processes": jax.process_count(),
        "devices": [device.device_kind for device in jax.devices()],
    }
    write_atomically(fold.environment, json.dumps(environment, indent=1) + "\n")


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits it, such as "3 min"."""
    minutes = seconds / 60
    return f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"


def default_stream() -> TextIO:
    """Return where a run talks: standard error, so that a program's own output stays clean; nowhere if it is closed."""
    return sys.stderr or io.StringIO()


def _append(path: Path, record: Mapping[str, Any]) -> None:
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _drop_records_after(path: Path, step: int) -> None:
    if path.exists():
        write_atomically(path, b"".join(line for line, record in _lines(path) if record["step"] <= step))


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield the complete lines of a ``.jsonl`` file with their records."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if line.endswith(b"\n"):
            try:
                record = json.loads(line)
                known = isinstance(record["step"], int) and isinstance(record["kind"], str)
            except (ValueError, TypeError, KeyError, RecursionError):
                known = False
            if not known:
                raise RunError(
                    f"{path}, line {number} is no record of a training. The checkpoints are not concerned: remove the "
                    "line, or restore the file, and give the same command again."
                )
            yield line, record


def _scalars(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            found |= _scalars({str(i): item for i, item in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "step":
            found[prefix + name] = value
    return found
