"""The run directory: names, format version, lock; the only file that knows what lies where in a run."""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fbunet_jax.config import FORMAT, Config, from_table, read_toml, to_table, to_toml
from fbunet_jax.errors import RunError

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 120.0


@dataclass(frozen=True)
class FoldDirectory:
    """The files of one fold of a run."""

    path: Path

    checkpoints = property(lambda self: self.path / "checkpoints", doc="Orbax checkpoints: the two latest, the best.")
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

    def read_dataset(self) -> dict[str, Any]:
        """Read the description of the data: ``class_names``, ``channels``, ``fingerprint``."""
        return read_json(self.dataset)


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
    differences = _differences(to_table(before), to_table(config))
    for key, value in run.read_dataset().items():
        if key in dataset and dataset[key] != value:
            differences.append(f"{key} of the data was {value!r} and is now {dataset[key]!r}")
    if differences:
        raise RunError(
            f"The run {run.path} began with other settings: {'; '.join(differences)}. Use the same settings to "
            "continue it (only the epochs of a constant schedule can grow), or another --out for a new run."
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
    extended = [item for item in found if item.startswith("training.epochs ")]
    schedule = new.get("training", {}).get("schedule")
    if extended and schedule == "constant" and new["training"]["epochs"] > old["training"]["epochs"]:
        found.remove(extended[0])
    return found


# Where the data lie may differ between machines: their fingerprint is compared. The others do not change a result.
_MAY_DIFFER = {"data.root", "name", "training.previews", "training.preview_every"}


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
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
      RunError: it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: the run directory is incomplete.") from error
    except (ValueError, OSError) as error:
        raise RunError(f"{path} cannot be read as JSON: {error}.") from error


def set_aside(fold: FoldDirectory) -> Path:
    """Rename a fold's folder to fold_K.old-N, the first free N, and return the new path."""
    number = 1
    while (target := fold.path.with_name(f"{fold.path.name}.old-{number}")).exists():
        number += 1
    fold.path.rename(target)
    FoldDirectory(target).lock.unlink(missing_ok=True)
    return target


@contextlib.contextmanager
def fold_lock(fold: FoldDirectory) -> Iterator[None]:
    """Hold a fold for this process; a heartbeat tells others on any host that it lives.

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
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if _is_mine(fold.lock):
            fold.lock.unlink(missing_ok=True)


def _my_name() -> str:
    return json.dumps({"host": socket.gethostname(), "process": os.getpid()})


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
    except FileNotFoundError:
        return None
    return _Holder(name["host"], name["process"], stale or _died_here(name["host"], name["process"]))


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
