"""What a run reports: progress on the terminal, metrics.jsonl, timing.jsonl, TensorBoard events, environment.json."""

import contextlib
import importlib.metadata
import io
import json
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import jax
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar
from tqdm import tqdm

from fbunet_jax.runs import processes
from fbunet_jax.runs.directory import FoldDirectory
from fbunet_jax.runs.files import write_atomically
from fbunet_jax.runs.numerics import current_settings
from fbunet_jax.runs.records import Environment, append_record, drop_records_after, scores_text
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
        still_held: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the files; records after `recorded_step` belong to a lost part of the run and are dropped.

        `still_held` is called before each record: it raises a RunError once another process has taken the fold over.
        """
        self._fold = fold
        self._stream, self._still_held = stream, still_held
        self._latest: dict[str, str] = {}
        for records in (fold.metrics, fold.timing):
            drop_records_after(records, recorded_step)
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
        self._processor_seconds = time.process_time()

    def record(self, values: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Append one record, with its ``step`` and its ``kind``, to the files; the memory held goes with the times."""
        self._still_held()
        timing = {**timing, "peak_host_bytes": peak_host_bytes(), "peak_device_bytes": peak_device_bytes()}
        before, self._processor_seconds = self._processor_seconds, time.process_time()
        timing["processor_seconds"] = self._processor_seconds - before
        append_record(self._fold.metrics, values)
        append_record(self._fold.timing, {"step": values["step"], "kind": values["kind"], **timing})
        self._events.add(_scalars({**values, **timing}), values["step"])
        is_train = values["kind"] == "train"
        self._latest[values["kind"]] = f"loss {values['loss']:.3f}" if is_train else f"IoU {scores_text(values)}"

    def progress(self, steps: int, epoch: int) -> None:
        """Advance the progress bar (on a terminal only): images a second, time left, epoch, latest loss and IoU."""
        self._bar.set_postfix_str(", ".join([f"epoch {epoch}", *self._latest.values()]), refresh=False)
        self._bar.update(steps * self._batch_size)

    def lines(self, texts: Iterable[str]) -> None:
        """Print lines, see `line`."""
        for text in texts:
            self.line(text)

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
    """The log of a process that is not the first: nothing is written, and nothing is reported."""

    def __init__(self) -> None:
        pass

    def _nothing(self, *arguments: Any, **options: Any) -> None: ...

    record = progress = line = __exit__ = _nothing


def open_log(fold: FoldDirectory, **options: Any) -> FoldLog:
    """Return the log of a fold, see `FoldLog`; on a process that is not the first, one that writes nothing."""
    return FoldLog(fold, **options) if processes.is_first() else SilentLog()


def write_environment(fold: FoldDirectory, command: Sequence[str]) -> None:
    """Write the versions, devices, command and numerical settings of this process."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None  # run from a checkout that is not installed
    environment: Environment = {
        "command": list(command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "backend": jax.default_backend(),
        "processes": jax.process_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "settings": current_settings(),
    }
    write_atomically(fold.environment, json.dumps(environment, indent=1) + "\n")


def default_stream() -> TextIO:
    """Return where a run talks: standard error, so that a program's own output stays clean; nowhere if it is closed."""
    return sys.stderr or io.StringIO()


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


class EventFile:
    """One event file. tensorboardX's own writer has a thread, and a full disk there would make the training wait."""

    def __init__(self, folder: Path, first_step: int, tell: Callable[[str], None]) -> None:
        """Begin a file.

        Args:
          folder: of all event files of a fold.
          first_step: earlier files' events from this step on do not count.
          tell: called once, with a sentence, if events cannot be written.
        """
        self._folder, self._tell = folder, tell
        self._writer: RecordWriter | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
            self._writer = RecordWriter(str(folder / name))
        except OSError as error:
            self._give_up(error)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(
            Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.SessionStatus.START))
        )

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Write values by name."""
        for name, value in values.items():
            self._write(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        if self._writer:
            try:
                self._writer.flush()
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._writer:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None

    def _write(self, event: Event) -> None:
        if self._writer:
            try:
                self._writer.write(event.SerializeToString())
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.close()
        self._tell(f"Warning: {self._folder} has no more events for TensorBoard: {error.strerror}. Training continues.")
