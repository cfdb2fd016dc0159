"""Checkpoints in one folder, each committed by one atomic rename and sealed before it; only here is Orbax named.

All processes of a training save and restore, at the same time; the first one seals, commits, deletes, and says which
checkpoint is meant.
"""

import contextlib
import hashlib
import importlib
import json
import logging
import shutil
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from fbunet_jax.errors import RunError
from fbunet_jax.runs import processes
from fbunet_jax.runs.disks import reason
from fbunet_jax.runs.files import write_atomically

SCORE = "mean_iou"
"""The metric by which the best checkpoint is chosen: validation mean IoU of the last round."""

_DELETED = "deleted"
"""The folder into which checkpoints that are not kept are moved, to be deleted there."""

_DAMAGED = (ValueError, KeyError, TypeError, OSError, RecursionError)
"""What reading a damaged checkpoint can raise."""


class SealedCheckpoints:
    """The checkpoints in one folder, named by their step: the two latest, and the best if they have scores."""

    def __init__(self, folder: Path, *, scored: bool = False, read_only: bool = False) -> None:
        """Open or create a folder.

        Raises:
          RunError: what is there cannot be read, or the folder cannot be created.
        """
        self._path, self._folder, self._read_only = folder, folder.resolve(), read_only
        self._saving = 0
        latest = checkpoint_managers.LatestN(2)
        best = checkpoint_managers.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        naming = _readable(folder) if folder.exists() else _writable(folder.parent)
        with naming, _without_warnings() if read_only else contextlib.nullcontext():
            options = ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best]) if scored else latest,
                best_fn=_score if scored else None,  # without it best_step() gives the latest
                best_mode="max",
                read_only=read_only,
                # left by a process that was killed while it wrote; whoever writes here holds the fold's lock
                cleanup_tmp_directories=not read_only,
                # by a rename first: one that is half deleted when the process is killed must not look like a broken one
                todelete_subdir=_DELETED,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            )
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._delete()

    def save(
        self, step: int, trees: Mapping[str, Any], *, table: Mapping[str, Any] | None = None, score: float | None = None
    ) -> None:
        """Save in the background, after the save before it is on disk.

        Args:
          step: its name.
          trees: parts of arrays, by name.
          table: parts that JSON can hold, by name.
          score: by which the best is chosen.

        Raises:
          RunError: this one, or the one before it, could not be written; those before them are kept.
        """
        parts = {name: ocp.args.StandardSave(processes.global_arrays(tree)) for name, tree in trees.items()}
        parts |= {name: ocp.args.JsonSave(part) for name, part in (table or {}).items()}
        with _writable(self._path.parent):
            self._manager.wait_until_finished()
            self._delete()
            self._saving = step
            metrics = None if score is None else {SCORE: score}
            self._manager.save(step, args=ocp.args.Composite(**parts), metrics=metrics)

    def restore(self, step: int, likes: Mapping[str, Any], *, tables: tuple[str, ...] = ()) -> dict[str, Any]:
        """Restore parts of a checkpoint by name.

        Args:
          step: of the checkpoint.
          likes: shapes, types and placement of the parts of arrays.
          tables: the parts of JSON.

        Raises:
          RunError: it does not fit.
        """
        parts: dict[str, Any] = {
            name: ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
            for name, like in likes.items()
        }
        parts |= {name: ocp.args.JsonRestore() for name in tables}
        with fitting(self._path / str(step)):
            return dict(self._manager.restore(step, args=ocp.args.Composite(**parts)).items())

    def latest_step(self) -> int | None:
        """Return the latest step, or None; a shared disk may show another process an older listing."""
        step = self._manager.latest_step()
        (step_of_first,) = processes.from_first([-1 if step is None else step])
        return None if step_of_first < 0 else step_of_first

    def best_step(self) -> int | None:
        """Return the step of the best score, or None; waits for a save under way, whose score is unknown."""
        self.wait()
        with _readable(self._path):
            return self._manager.best_step()

    def score(self, step: int) -> float:
        """Return the score that was saved with a step."""
        self.wait()
        with _readable(self._path):
            return _score(self._manager.metrics(step))

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
          RunError: something could not be written.
        """
        with _writable(self._path.parent):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until everything is on disk, see `wait`."""
        with _writable(self._path.parent):
            self._manager.close()
        self._delete()

    def _delete(self) -> None:
        if not self._read_only and processes.is_first():
            shutil.rmtree(self._folder / _DELETED, ignore_errors=True)

    def _seal(self) -> None:
        if processes.is_first():
            for folder in self._folder.glob(f"{self._saving}.*"):  # its name until the rename
                # Orbax adds the time of the commit to its metadata afterwards, and restores without them
                seal(folder, leave_out={"_CHECKPOINT_METADATA"})


_usual: dict[str, dict[str, Any]] = {}
"""What Orbax writes with by itself, by the name of its setting; empty as long as nothing else was needed."""


def write_in(way: Mapping[str, Any]) -> None:
    """Let the checkpoints of this process be written in one of `disks.WAYS` from now on.

    Raises:
      RunError: it is not the usual one, and Orbax, which has no public setting for it, has changed.
    """
    if not way and not _usual:
        return
    try:
        module = importlib.import_module("orbax.checkpoint._src.serialization.tensorstore_utils")
        contexts = {name: getattr(module, name) for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT")}
    except (ImportError, AttributeError) as error:
        raise RunError(
            f"The disk lacks locks or fsync, and Orbax {ocp.__version__} cannot be set to do without: {error}. Install "
            "orbax-checkpoint 0.12.8, or choose a run directory (out) on another disk.",
            argument="out",
        ) from error
    for name, context in contexts.items():
        usual = _usual.setdefault(name, dict(context))
        context.clear()
        context.update(usual | dict(way))


@contextlib.contextmanager
def parts_of(folder: Path) -> Iterator[tuple[Callable[[str], Any], Callable[[str, Any], Any]]]:
    """Read some of the arrays of a checkpoint.

    Yields:
      What gives the tree of a part as it is stored, without arrays; and what restores a part as far as it is in a tree
      of shapes, types and placement.
    """
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:

        def stored(part: str) -> Any:
            with _without_warnings():  # that a part alone is not a whole checkpoint
                return checkpointer.metadata((folder / part).absolute()).item_metadata.tree

        def restore(part: str, like: Any) -> Any:
            kinds = ocp.checkpoint_utils.construct_restore_args(like)
            arguments = ocp.args.PyTreeRestore(item=like, restore_args=kinds, partial_restore=True)
            return checkpointer.restore((folder / part).absolute(), args=arguments)

        yield stored, restore


def _score(metrics: Any) -> float:
    """Return the score among the metrics of a checkpoint.

    Raises:
      ValueError: it is not a number from 0 to 1.
    """
    value = metrics.get(SCORE) if isinstance(metrics, dict) else None
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"the score of one is {value!r}, where a number from 0 to 1 was expected")
    return float(value)


def fitting(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Name the checkpoint in an error of restoring it."""
    return _explained(
        _DAMAGED,
        lambda error: (
            f"The checkpoint {folder} cannot be restored: {_first_line(error)}. Its files are whole, but it "
            "does not fit this version or these settings: use the version that wrote it (environment.json)."
        ),
    )


def _readable(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Name the folder in an error of opening it."""
    return _explained(
        _DAMAGED,
        lambda error: (
            f"The checkpoints in {folder} cannot be read: {_first_line(error)}. Give the training's command "
            "again, which sets broken ones aside."
        ),
    )


def _writable(fold: Path) -> contextlib.AbstractContextManager[None]:
    """Say which fold could not be written, and what is left."""
    return _explained(
        (OSError, ValueError),
        lambda error: (
            f"A checkpoint could not be written to {fold}: {reason(error)}. The checkpoints before it are "
            "kept. Fix that (space, permissions), and give the same command again: it resumes from there."
        ),
    )


@contextlib.contextmanager
def _explained(kinds: tuple[type[Exception], ...], sentence: Callable[[Exception], str]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise RunError(sentence(error)) from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep Orbax from warning that a folder is read only, which was asked for."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


SEAL = "checksums.json"


def seal(folder: Path, leave_out: Container[str] = ()) -> None:
    """Write the size and the BLAKE2 checksum of every file below a folder into its ``checksums.json``.

    Args:
      folder: whose files are complete.
      leave_out: paths in the folder that may still change, or be missing.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: _facts(path) for name, path in paths.items() if name not in leave_out}
    write_atomically(folder / SEAL, json.dumps(files, indent=1) + "\n")


def damage(folder: Path) -> str | None:
    """Return what is wrong with a sealed folder, the first file that differs, or None if it is whole.

    Raises:
      RunError: a file cannot be read now, which says nothing about what is in it.
    """
    try:
        files = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        expected = {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
    except FileNotFoundError:
        return f"{SEAL} is missing"
    except OSError as error:
        raise _unreadable(folder / SEAL, error) from error
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"{SEAL} cannot be read"
    for name, (size, digest) in expected.items():
        try:
            found = _facts(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except (IsADirectoryError, NotADirectoryError):
            return f"{name} is no file"
        except OSError as error:
            raise _unreadable(folder / name, error) from error
        if found[0] != size:
            return f"{name} has {found[0]} of {size} bytes"
        if found[1] != digest:
            return f"the bytes of {name} have changed"
    return None


def _unreadable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path} cannot be read: {error.strerror}. Nothing was changed. Fix that (disk, network, permissions), and "
        "give the same command again."
    )


def _facts(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))  # type: ignore[arg-type]
    return path.stat().st_size, digest.hexdigest()
