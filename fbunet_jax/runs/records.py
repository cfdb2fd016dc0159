"""The records of a fold's training: what stands in metrics.jsonl, timing.jsonl and environment.json, typed once."""

import contextlib
import json
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

import msgspec

from fbunet_jax.errors import RunError
from fbunet_jax.runs.files import naming, read_json, typed, write_atomically
from fbunet_jax.tables import percent

_MOST = 2**63 - 1
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
_Epoch = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
_Number = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, lt=float(_MOST))]


class TrainRecord(TypedDict):
    """An epoch in metrics.jsonl.

    Attributes:
      kind: of the record.
      epoch: from 1 on.
      step: steps taken at its end.
      loss: mean over the epoch, all rounds together.
      round_losses: of every round, likewise.
      gradient_norm: likewise.
      learning_rate: of its last step.
    """

    kind: Literal["train"]
    epoch: _Epoch
    step: int
    loss: _Number
    round_losses: NotRequired[list[_Number]]
    gradient_norm: NotRequired[_Number]
    learning_rate: NotRequired[_Number]


class ValidationRecord(TypedDict):
    """A validation in metrics.jsonl.

    Attributes:
      kind: of the record.
      epoch: at whose end it was.
      step: before which it was.
      mean_iou: over the classes with a pixel of truth, last round; None if there is none, where a file may have NaN.
      iou: of each class by name; None without a pixel of truth.
      round_mean_iou: of every round.
    """

    kind: Literal["validation"]
    epoch: _Epoch
    step: int
    mean_iou: _Number | None
    iou: dict[str, _Number | None]
    round_mean_iou: NotRequired[list[_Number | None]]


class _Times(TypedDict):
    """What a record took, in timing.jsonl; see `TrainTimes` and `ValidationTimes`.

    Attributes:
      step: of the record in metrics.jsonl.
      seconds: of the epoch or the validation.
      peak_host_bytes: the most memory held by the process so far; None where the system does not say.
      peak_device_bytes: the most memory held on a device so far, likewise.
      processor_seconds: of all threads of the process, user and system, since its record before; what was computed
        twice because a process was killed counts once.
    """

    step: int
    seconds: _Seconds
    peak_host_bytes: NotRequired[_Count | None]
    peak_device_bytes: NotRequired[_Count | None]
    processor_seconds: NotRequired[_Seconds]


class TrainTimes(_Times):
    """What an epoch took, in timing.jsonl, without its validation."""

    kind: Literal["train"]
    images_per_second: _Seconds


class ValidationTimes(_Times):
    """What a validation took, in timing.jsonl."""

    kind: Literal["validation"]


Setting = bool | int | float | str | None
"""The value of a setting of JAX, XLA or a library under them."""


class Environment(TypedDict, total=False):
    """The latest process of a fold: environment.json.

    Attributes:
      command: which was given.
      python: its version.
      platform: as Python calls it.
      versions: of the packages; None for a checkout that is not installed.
      backend: of JAX.
      processes: how many trained together.
      devices: the kind of each device.
      settings: what decides the numbers beside the run's own settings, see `runs.numerics`.
    """

    command: list[str]
    python: str
    platform: str
    versions: dict[str, str | None]
    backend: str
    processes: int
    devices: list[str]
    settings: dict[str, Setting]


class _Line(TypedDict):
    """What every line of a ``.jsonl`` file has."""

    kind: str
    step: int


Record = TypeVar("Record", TrainRecord, ValidationRecord, TrainTimes, ValidationTimes)


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Return the records of one type in a ``.jsonl`` file, in order; an unfinished last line does not count.

    Raises:
      RunError: a line holds something else.
    """
    (name,) = typing.get_args(typing.get_type_hints(kind)["kind"])
    found = []
    for number, _, record in _lines(path):
        if record["kind"] == name:
            with _naming_line(path, number):
                found.append(typed(record, kind))
    return found


def scores_text(record: Mapping[str, Any]) -> str:
    """Return the scores of a validation in %, the mean and every class: ``70.2 (cytoplasm 92.0, synapse n/a)``."""
    classes = ", ".join(f"{name} {percent(value)}" for name, value in record["iou"].items())
    return f"{percent(record['mean_iou'])} ({classes})"


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append a line to a ``.jsonl`` file."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def drop_records_after(path: Path, step: int) -> None:
    """Remove the records of later steps, and an unfinished last line."""
    if path.exists():
        write_atomically(path, b"".join(line for _, line, record in _lines(path) if record["step"] <= step))


def read_environment(path: Path) -> Environment:
    """Read an environment.json; what it does not have is not known, and it may not exist.

    Raises:
      RunError: it is damaged.
    """
    content = read_json(path, dict[str, Any]) if path.is_file() else {}
    try:
        return typed(content, Environment)
    except ValueError as error:
        raise RunError(
            f"{path} is damaged: {error}. Copy it again if the run is a copy, or take it away: what it tells "
            "is then left out."
        ) from error


def _lines(path: Path) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """Yield number, bytes and content of the complete lines of a ``.jsonl`` file."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if line.endswith(b"\n"):
            with _naming_line(path, number):
                record = json.loads(line, parse_constant=_no_number)
                typed(record, _Line)
            yield number, line, record


@contextlib.contextmanager
def _naming_line(path: Path, number: int) -> Iterator[None]:
    """Let an error in a line of a file name both, and say what to do."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        text = str(error).replace("got `null`", "got NaN or `null`")
        raise RunError(
            f"{path}, line {number} is no record of a training: {text}. The checkpoints are not concerned: remove the "
            "line, or restore the file, and give the same command again."
        ) from error


def _no_number(text: str) -> float | None:
    """Return None for NaN, the mean over no class."""
    return None if text == "NaN" else float(text)


def training_seconds(timing: Path) -> float:
    """Return what the epochs and validations of a fold took on the clock, from its timing.jsonl."""
    return sum(each["seconds"] for each in _times(timing))


def processor_seconds(timing: Path) -> float | None:
    """Return those of the processor, of all threads; None where an earlier version, without them, trained a part."""
    seconds = [each.get("processor_seconds") for each in _times(timing)]
    return None if None in seconds else sum(filter(None, seconds))


def _times(timing: Path) -> list[TrainTimes | ValidationTimes]:
    return [*read_records(timing, TrainTimes), *read_records(timing, ValidationTimes)]
