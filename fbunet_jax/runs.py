"""The run directory: names, format version, lock; the only file that knows what lies where in a run."""

import contextlib
import json
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast

import typeguard

from fbunet_jax.config import FORMAT, Config, from_table, read_toml, to_table, to_toml
from fbunet_jax.errors import RunError

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 120.0

_MOST_CHANNELS = 2**16
_RESTORE = "Copy it again if the run is a copy, or start a new run."


@dataclass(frozen=True)
class FoldDirectory:
    """The files of one fold of a run."""

    path: Path

    checkpoints = property(lambda self: self.path / "checkpoints", doc="Orbax checkpoints: the two latest, the best.")
    unfinished = property(lambda self: self.path / "unfinished", doc="Checkpoints in the middle of an epoch.")
    broken = property(lambda self: self.path / "broken", doc="Checkpoints that were found damaged and set aside.")
    inputs = property(lambda self: self.path / "inputs.json", doc="Normalisation: what the weights expect to see.")
    metrics = property(lambda self: self.path / "metrics.jsonl", doc="Deterministic values, one line a record.")
    timing = property(lambda self: self.path / "timing.jsonl", doc="Times and rates, which differ between runs.")
    environment = property(lambda self: self.path / "environment.json", doc="Versions, devices, command.")
    curves = property(lambda self: self.path / "curves.png", doc="Loss and validation IoU over epochs.")
    previews = property(lambda self: self.path / "previews", doc="Pictures of validation images, truth and rounds.")
    tensorboard = property(lambda self: self.path / "tensorboard", doc="TensorBoard event files.")
    lock = property(lambda self: self.path / "lock", doc="Who trains this fold now.")

    def evaluation(self, split: str) -> Path:
        """Return the file of one split's evaluation."""
        return self.path / _evaluation_name(split)

    def items(self, split: str) -> Path:
        """Return the file of one split's counts by image."""
        return self.path / ("items.npz" if split == "test" else f"items-{split}.npz")


@dataclass(frozen=True)
class Run:
    """A run directory: one configuration, all its folds."""

    path: Path

    config = property(lambda self: self.path / "config.toml", doc="The settings, written by the first process.")
    folds = property(lambda self: self.path / "folds.json", doc="The cross-validation folds, likewise.")
    dataset = property(lambda self: self.path / "dataset.json", doc="Classes, channels and fingerprint of the data.")

    def fold(self, index: int) -> FoldDirectory:
        """Return the directory of a fold."""
        return FoldDirectory(self.path / f"fold_{index}")

    def evaluation(self, split: str) -> Path:
        """Return the file of one split's evaluation over all folds."""
        return self.path / _evaluation_name(split)

    def report(self, split: str) -> Path:
        """Return the page of one split's numbers and pictures."""
        return self.path / ("report.html" if split == "test" else f"report-{split}.html")

    def read_config(self) -> Config:
        """Read the settings of the run.

        Raises:
          RunError: the folder is no run, or its format is newer than this version.
        """
        if not self.config.is_file():
            raise RunError(
                f"{self.path} is not a run directory: it has no config.toml. Expected a folder that train.py wrote, "
                "such as runs/quickstart/feedback-convlstm."
            )
        table = read_toml(self.config)
        version = table.pop("format", None)
        if version != FORMAT:
            raise RunError(
                f"{self.config} has format {version!r}; this version reads format {FORMAT}. Use the version that wrote "
                "it."
            )
        return from_table(Config, table, str(self.config))

    def read_dataset(self) -> "DatasetDescription":
        """Read the description of the data.

        Raises:
          RunError: the file is missing or damaged.
        """
        found = cast(DatasetDescription, read_json(self.dataset, DatasetDescription))
        names = found["class_names"]
        readable = names and len(set(names)) == len(names) and all(name.isprintable() for name in names)
        if found["format"] != FORMAT or not readable or not 1 <= found["channels"] <= _MOST_CHANNELS:
            raise RunError(
                f"{self.dataset} is damaged: expected format {FORMAT}, class names that differ, and 1 to "
                f"{_MOST_CHANNELS} channels. {_RESTORE}"
            )
        return found


class DatasetDescription(TypedDict):
    """What a run remembers of its data set: ``dataset.json``."""

    format: int
    class_names: list[str]
    channels: int
    fingerprint: str


def _evaluation_name(split: str) -> str:
    return "evaluation.json" if split == "test" else f"evaluation-{split}.json"


def default_path(config: Config) -> Path:
    """Return runs/<config>/<method>, with -seed<s> for a seed other than 0."""
    return Path("runs") / config.name / (config.method + (f"-seed{config.seed}" if config.seed else ""))


def create_or_open(path: Path, config: Config, *, folds: str, dataset: Mapping[str, Any]) -> Run:
    """Create a run directory, or compare an existing one with these settings.

    Args:
      path: of the run.
      config: its settings.
      folds: text of ``folds.json``, written once; a run that exists keeps its own.
      dataset: content of ``dataset.json``: ``class_names``, ``channels`` and ``fingerprint``.

    Raises:
      RunError: the run exists with other settings (each difference is named), or cannot be written.
    """
    run = Run(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        create_once(run.config, to_toml(config))
        create_once(run.folds, folds)
        create_once(run.dataset, json.dumps({"format": FORMAT, **dataset}, indent=1) + "\n")
    except OSError as error:
        raise RunError(
            f"The run directory {path} cannot be written: {error.strerror}. Choose another with --out, or mend the "
            "permissions."
        ) from error
    if compare(run, config, dataset) != config:
        write_atomically(run.config, to_toml(config))
    return run


def compare(run: Run, config: Config, dataset: Mapping[str, Any]) -> Config:
    """Return the settings that a run began with, if these settings and data may go on with it; nothing is written.

    Raises:
      RunError: they may not (each difference is named).
    """
    before = run.read_config()
    old, new = to_table(before), to_table(config)
    differences = _explain_epochs(_differences(old, new), old, new)
    for key, value in run.read_dataset().items():
        if key in dataset and dataset[key] != value:
            differences.append(f"{key} of the data was {value!r} and is now {dataset[key]!r}")
    if differences:
        raise RunError(
            f"The run {run.path} began with other settings: {'; '.join(differences)}. Use the same settings to "
            "continue it, or another --out for a new run."
        )
    return before


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in {**old, **new}:
        before, now = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping) and key != "classes":
            found += _differences(before, now, f"{prefix}{key}.")
        elif before != now and prefix + key not in _MAY_DIFFER:
            found.append(f"{prefix}{key} was {before!r} and is now {now!r}")
    return found


def _explain_epochs(found: list[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Take away that the epochs of a constant schedule have grown, or say why they may not differ."""
    item = next((item for item in found if item.startswith("training.epochs ")), None)
    if item is None:
        return found
    others, schedule = [other for other in found if other != item], new["training"]["schedule"]
    if schedule != "constant":
        return [*others, f"{item} (with the {schedule} schedule the learning rate of every step depends on them)"]
    return (
        others if new["training"]["epochs"] > old["training"]["epochs"] else [*others, f"{item} (they can only grow)"]
    )


# Where the data lie may differ between machines: their fingerprint is compared. The others do not change a result.
_MAY_DIFFER = {
    *("data.root", "name", "model.rematerialise"),
    *("training.previews", "training.preview_every", "training.save_minutes"),
}


def create_once(path: Path, text: str) -> None:
    """Write a file atomically unless it exists: of several processes at once, one wins, whole."""
    temporary = _write_aside(path, text)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write or replace a file: a reader sees the old content or the new one, never a part."""
    _write_aside(path, content).replace(path)


def _write_aside(path: Path, content: str | bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the operating system name a path; that of a full disk does not say where."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_json(path: Path, expected: Any = Any) -> Any:
    """Read a JSON file of a run.

    Args:
      path: of the file.
      expected: the type that its content has, such as a TypedDict.

    Raises:
      RunError: it is missing or broken, holds something else, or a number that is not finite.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
        strategy = typeguard.CollectionCheckStrategy.ALL_ITEMS
        return typeguard.check_type(content, expected, collection_check_strategy=strategy)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: the run directory is incomplete.") from error
    except typeguard.TypeCheckError as error:
        raise RunError(f"{path} is damaged: {error}. {_RESTORE}") from error
    except (ValueError, RecursionError, OSError) as error:
        raise RunError(f"{path} cannot be read as JSON: {error}.") from error


def _whole(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"the whole number {text[:9]}… has {len(text)} characters")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def set_aside(fold: FoldDirectory) -> Path:
    """Rename a fold's folder to fold_K.old-N, the first free N, and return the new path."""
    number = 1
    while (target := fold.path.with_name(f"{fold.path.name}.old-{number}")).exists():
        number += 1
    fold.path.rename(target)
    FoldDirectory(target).lock.unlink(missing_ok=True)
    return target


@contextlib.contextmanager
def fold_lock(fold: FoldDirectory) -> Iterator[Callable[[], None]]:
    """Hold a fold for this process; a heartbeat tells others on any host that it lives.

    Yields:
      A function that raises a RunError when another process has taken the fold over, because this one was suspended.

    Raises:
      RunError: another process holds it (its host and process id are named).
    """
    try:
        fold.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"The folder {fold.path} cannot be created: {error.strerror}.") from error
    _acquire(fold.lock)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(fold.lock, stop), daemon=True)
    thread.start()

    def check() -> None:
        try:
            mine = fold.lock.read_text(encoding="utf-8") == _my_name()
        except FileNotFoundError as error:
            raise RunError(
                f"{fold.path} or the lock in it is gone: somebody moved or removed it. Nothing more is written there. "
                "Put it back, and give the same command again."
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"The lock {fold.lock} cannot be read any more: {error}.") from error
        if not mine:
            raise RunError(
                f"{fold.path} is not held by this process any more: while it was suspended, another one took it over. "
                "That one goes on; nothing more is written here."
            )

    try:
        yield check
    finally:
        stop.set()
        thread.join()
        if _is_mine(fold.lock):
            fold.lock.unlink(missing_ok=True)


def _my_name() -> str:
    return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "system": _system()})


def _system() -> str:
    """Return what tells apart the systems of one host name: since when it runs, and containers with own processes."""
    facts = []
    with contextlib.suppress(OSError):  # Linux only
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(facts)


def _is_mine(lock: Path) -> bool:
    """Say whether this process holds the lock still; while it was suspended, another may have taken it over."""
    with contextlib.suppress(OSError):
        return lock.read_text(encoding="utf-8") == _my_name()
    return False


def _acquire(lock: Path) -> None:
    while True:
        temporary = _write_aside(lock, _my_name())
        try:
            os.link(temporary, lock)
            return
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        holder = _holder(lock)
        if holder and not holder.abandoned:
            raise RunError(
                f"{lock.parent} is being trained by process {holder.process} on host {holder.host}. Wait for it, or "
                f"stop it; a lock without a heartbeat for {STALE_SECONDS:.0f} seconds is taken over."
            )
        _remove_abandoned(lock)


class _Holder(NamedTuple):
    host: str
    process: int
    abandoned: bool
    """Without a heartbeat, or a process of this host that ended."""


def _holder(lock: Path) -> _Holder | None:
    """Return who holds a lock, or None if there is none."""
    try:
        stale = time.time() - lock.stat().st_mtime >= STALE_SECONDS
        name = json.loads(lock.read_text(encoding="utf-8"))
        host, process, system = str(name["host"]), int(name["process"]), str(name.get("system", ""))
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise RunError(f"{lock} is a folder: expected the file that says who trains this fold. Remove it.") from error
    except (ValueError, TypeError, KeyError, AttributeError):  # damaged: whoever wrote it may live
        return _Holder("unknown", 0, stale)
    return _Holder(host, process, stale or (system == _system() and _died_here(host, process)))


def _remove_abandoned(lock: Path) -> None:
    """Remove a lock that nobody holds; one process at a time, or the second would remove the first one's new lock."""
    guard = lock.with_name(f"{lock.name}.takeover")
    try:
        guard.mkdir()
    except FileExistsError:
        with contextlib.suppress(OSError):
            if time.time() - guard.stat().st_mtime >= STALE_SECONDS:
                guard.rmdir()
        time.sleep(0.01)
        return
    try:
        # not when it is gone: another process may be about to create its own
        holder = _holder(lock)
        if holder and holder.abandoned:
            lock.unlink(missing_ok=True)
    finally:
        guard.rmdir()


def _died_here(host: str, process: int) -> bool:
    """Say whether the holder was a process of this host that no longer exists."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _beat(lock: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        if _is_mine(lock):
            with contextlib.suppress(OSError):
                os.utime(lock)
