"""Checkpoints of one fold: the two latest and the best, and those in the middle of an epoch; only here is Orbax named.

Every checkpoint is committed by one atomic rename, and sealed with the checksums of its files: it is whole or it is
not used. Where a training has several processes all of them save and restore, at the same time; the first one seals,
commits, deletes, and says which checkpoint is meant.
"""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from fbunet_jax import processes
from fbunet_jax.checkpoints.seal import damage, seal
from fbunet_jax.errors import RunError
from fbunet_jax.interruption import StopAtOnce
from fbunet_jax.runs import FoldDirectory

SCORE = "mean_iou"
"""The metric by which the best checkpoint is chosen: validation mean IoU of the last round."""

STATE, EPOCH, VARIABLES = "state", "epoch", "variables"
"""The parts of a checkpoint: the training state; what the epoch that is not over has measured so far; and the variables
that were validated, where they are others than the state's own."""


_DELETED = "deleted"
"""The folder into which checkpoints that are not kept are moved, to be deleted there."""


_DAMAGED = (ValueError, KeyError, TypeError, OSError, RecursionError)
"""What reading a damaged checkpoint can raise."""


class Resumption(NamedTuple):
    """Where a fold goes on.

    Attributes:
      state: of the training.
      step: how many steps it has taken.
      epoch: what the epoch under way has measured, as it was given to `save_unfinished`; None between two epochs, when
        everything up to `step` is recorded.
    """

    state: Any
    step: int
    epoch: dict[str, Any] | None


class FoldCheckpoints:
    """The checkpoints of one fold, named by their step; saving does not hold up training.

    Attributes:
      warnings: a sentence about each broken checkpoint that was set aside.
    """

    def __init__(self, directory: FoldDirectory, *, read_only: bool = False) -> None:
        """Open or create the folders; what is only read is left exactly as it is.

        A checkpoint that is broken is set aside, into ``broken/``, as long as a whole one is left.

        Raises:
          RunError: there are checkpoints, and none of them is whole.
        """
        self._directory, self._read_only = directory, read_only
        self.warnings: list[str] = []
        for folder in (directory.checkpoints, directory.unfinished):
            if folder.exists() and not folder.is_dir():
                raise RunError(f"{folder} is a file: expected the folder of the fold's checkpoints. Move it away.")
        if not read_only:
            processes.first(self._clear)
        with _readable(directory.checkpoints):
            self._scored = _SealedCheckpoints(directory.checkpoints, scored=True, read_only=read_only)
        self._unfinished: _SealedCheckpoints | None = None
        if not read_only and any(processes.from_first([directory.unfinished.is_dir()])):
            self._unfinished = _SealedCheckpoints(directory.unfinished)

    def save(self, state: Any, step: int, score: float, variables: Any = None) -> None:
        """Save the state after a validation in the background, with its score.

        Args:
          state: of the training, a pytree with ``params`` and ``batch_stats``.
          step: how many steps it has taken.
          score: of the validation.
          variables: ``params`` and ``batch_stats`` that were validated, unless they are the state's own.

        Raises:
          RunError: this one, or the one before it, could not be written; those before them are kept.
        """
        parts = {STATE: state} | ({} if variables is None else {VARIABLES: variables})
        with _writable(self._directory):
            self._scored.save(step, {name: _to_save(part) for name, part in parts.items()}, {SCORE: score})

    def save_unfinished(self, state: Any, step: int, epoch: dict[str, Any]) -> None:
        """Save the state in the middle of an epoch in the background, with what the epoch has measured so far.

        Args:
          state: of the training.
          step: how many steps it has taken.
          epoch: what JSON can hold.

        Raises:
          RunError: this one, or the one before it, could not be written; those before them are kept.
        """
        with _writable(self._directory):
            self._unfinished = self._unfinished or _SealedCheckpoints(self._directory.unfinished)
            parts = {STATE: _to_save(state), EPOCH: ocp.args.JsonSave(epoch)}
            self._unfinished.save(step, parts)

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
          RunError: something could not be written.
        """
        with _writable(self._directory):
            for checkpoints in self._opened():
                checkpoints.manager.wait_until_finished()

    def remove_unfinished(self) -> None:
        """Remove the checkpoints in the middle of an epoch, when the last epoch is over."""
        if self._unfinished:
            self._unfinished.close()
            self._unfinished = None
            processes.first(self._discard_unfinished)

    def _discard_unfinished(self) -> None:
        self._directory.unfinished.rename(self._discarded)
        shutil.rmtree(self._discarded, ignore_errors=True)

    @property
    def _discarded(self) -> Path:
        """What is half deleted must not look like broken checkpoints."""
        return self._directory.path / ".unfinished"

    def resume(self, like: Any) -> Resumption | None:
        """Return where the latest checkpoint stands, or None if there is none.

        Args:
          like: shapes, types and placement of the state.

        Raises:
          RunError: it does not fit `like`.
        """
        self.wait()
        scored = self.latest_step()
        unfinished = _step_of_first(self._unfinished) if self._unfinished else None
        if unfinished is not None and (scored is None or unfinished > scored):
            return self._restore_unfinished(unfinished, like)
        return None if scored is None else Resumption(self.restore(scored, like), scored, None)

    def latest_step(self) -> int | None:
        """Return the step of the latest checkpoint with a score, or None."""
        return _step_of_first(self._scored)

    def best_step(self) -> int | None:
        """Return the step of the best checkpoint, or None; waits for a save under way, whose score is unknown."""
        self._scored.manager.wait_until_finished()
        with _readable(self._directory.checkpoints):
            return self._scored.manager.best_step()

    def score(self, step: int) -> float:
        """Return the validation score that was saved with a step."""
        self._scored.manager.wait_until_finished()
        with _readable(self._directory.checkpoints):
            return _score(self._scored.manager.metrics(step))

    def restore(self, step: int, like: Any) -> Any:
        """Restore a state that has a score, with the shapes, types and placement of `like`.

        Raises:
          RunError: the checkpoint does not fit, or is broken.
        """
        with _fitting(self._whole(step)):
            return self._scored.manager.restore(step, args=_state_to_restore(like))[STATE]

    def restore_variables(self, step: int, like: Any, *, average: bool) -> Any:
        """Restore the variables that were validated, with the shapes, types and placement of `like`.

        Args:
          step: of a checkpoint with a score.
          like: ``params`` and ``batch_stats``.
          average: whether the training took an average of the weights. Checkpoints of earlier versions, which have no
            variables apart from the state, keep it beside the optimiser's moments.

        Raises:
          RunError: the checkpoint does not fit, or is broken.
        """
        folder = self._whole(step)
        with _fitting(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:

            def stored(part: str) -> Any:
                with _without_warnings():  # that a part alone is no whole checkpoint
                    return checkpointer.metadata((folder / part).absolute()).item_metadata.tree

            def restore(part: str, like: Any) -> Any:
                kinds = ocp.checkpoint_utils.construct_restore_args(like)
                arguments = ocp.args.PyTreeRestore(item=like, restore_args=kinds, partial_restore=True)
                return checkpointer.restore((folder / part).absolute(), args=arguments)

            part = VARIABLES if (folder / VARIABLES).is_dir() else STATE
            # before Orbax reads anything: it would leave reading threads behind
            if difference := _shape_difference(stored(part), like):
                raise ValueError(difference)
            if part == VARIABLES:
                return restore(VARIABLES, like)
            variables = restore(STATE, like)
            if average:
                moments, kept = jax.tree.map(ocp.utils.to_shape_dtype_struct, stored(STATE)["optimizer"])
                kept["average"] = like["params"]
                variables["params"] = restore(STATE, {"optimizer": [moments, kept]})["optimizer"][-1]["average"]
            return variables

    def _whole(self, step: int) -> Path:
        """Return the folder of a checkpoint with a score; what is only read has not been looked through yet."""
        folder = self._directory.checkpoints / str(step)
        if self._read_only and (fault := damage(folder)):
            raise RunError(
                f"The checkpoint {folder} is broken: {fault}. Copy it again if this is a copy. Otherwise give the "
                "training's command again, which sets it aside and uses another."
            )
        return folder

    def _restore_unfinished(self, step: int, like: Any) -> Resumption:
        assert self._unfinished is not None
        folder = self._directory.unfinished / str(step)
        parts = ocp.args.Composite(**_state_to_restore(like), **{EPOCH: ocp.args.JsonRestore()})
        with _fitting(folder):
            restored = self._unfinished.manager.restore(step, args=parts)
        return Resumption(restored[STATE], step, restored[EPOCH])

    def _clear(self) -> None:
        shutil.rmtree(self._discarded, ignore_errors=True)
        self._set_aside_broken()

    def _set_aside_broken(self) -> None:
        folders = [
            path
            for parent in (self._directory.checkpoints, self._directory.unfinished)
            if parent.is_dir()
            for path in parent.iterdir()
            if path.name.isdecimal()
        ]
        faults = {path: fault for path in folders if (fault := damage(path))}
        whole = set(folders) - set(faults)
        if not whole and (faults or self._directory.broken.exists()):
            details = " ".join(f"{path}: {fault}." for path, fault in faults.items())
            raise RunError(
                f"No checkpoint of {self._directory.path} is whole. {details} Put a good copy back, or start the fold "
                "again (fresh), which keeps the old one."
            )
        for path, fault in sorted(faults.items(), key=lambda item: int(item[0].name)):
            self._directory.broken.mkdir(exist_ok=True)
            place = _free_name(self._directory.broken / f"{path.parent.name}-{path.name}")
            path.rename(place)
            self.warnings.append(
                f"The checkpoint {path} is broken: {fault}. It was set aside as {place}; the others are used."
            )

    def _opened(self) -> "list[_SealedCheckpoints]":
        return [checkpoints for checkpoints in (self._scored, self._unfinished) if checkpoints]

    def close(self) -> None:
        """Wait until everything is on disk.

        Raises:
          RunError: something could not be written.
        """
        with _writable(self._directory):
            for checkpoints in self._opened():
                checkpoints.close()

    def __enter__(self) -> "FoldCheckpoints":
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; an error that is on its way is not replaced by one of closing."""
        # another process that ended would be waited for
        if isinstance(error, StopAtOnce) or (error and processes.are_many()):
            return
        with contextlib.suppress(RunError) if error else contextlib.nullcontext():
            self.close()


def _shape_difference(stored: Any, like: Any) -> str:
    """Say where stored variables first differ in shape from those that are wanted, or return an empty text."""

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        return {
            jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }

    expected, found = shapes(like), shapes({name: stored[name] for name in like if name in stored})
    for name in sorted(expected | found):
        if expected.get(name) != found.get(name):
            return f"{name} is {found.get(name, 'absent')} there, and {expected.get(name, 'absent')} in this network"
    return ""


class _SealedCheckpoints:
    """The checkpoints in one folder, each sealed just before the rename that commits it."""

    def __init__(self, folder: Path, *, scored: bool = False, read_only: bool = False) -> None:
        """Open or create a folder; the two latest are kept, and the best if they have scores."""
        self._folder, self._read_only = folder.resolve(), read_only
        self._saving = 0

        latest = checkpoint_managers.LatestN(2)
        best = checkpoint_managers.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        with _without_warnings() if read_only else contextlib.nullcontext():
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
            self.manager = ocp.CheckpointManager(self._folder, options=options)
        self._delete()

    def save(self, step: int, parts: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """Save in the background, after the save before it is on disk."""
        self.manager.wait_until_finished()
        self._delete()
        self._saving = step
        self.manager.save(step, args=ocp.args.Composite(**parts), metrics=metrics)

    def close(self) -> None:
        """Wait until everything is on disk."""
        self.manager.close()
        self._delete()

    def _delete(self) -> None:
        if not self._read_only and processes.is_first():
            shutil.rmtree(self._folder / _DELETED, ignore_errors=True)

    def _seal(self) -> None:
        if processes.is_first():
            for folder in self._folder.glob(f"{self._saving}.*"):  # its name until the rename
                # Orbax adds the time of the commit to its metadata afterwards, and restores without them
                seal(folder, leave_out={"_CHECKPOINT_METADATA"})


def _score(metrics: Any) -> float:
    """Return the score among the metrics of a checkpoint.

    Raises:
      ValueError: it is no number from 0 to 1.
    """
    value = metrics.get(SCORE) if isinstance(metrics, dict) else None
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"the score of one is {value!r}, where a number from 0 to 1 was expected")
    return float(value)


def _step_of_first(checkpoints: _SealedCheckpoints) -> int | None:
    """Return the latest step; a shared disk may show another process an older listing."""
    step = checkpoints.manager.latest_step()
    (step_of_first,) = processes.from_first([-1 if step is None else step])
    return None if step_of_first < 0 else step_of_first


def _to_save(tree: Any) -> ocp.args.StandardSave:
    return ocp.args.StandardSave(processes.global_arrays(tree))


def _state_to_restore(like: Any) -> ocp.args.Composite:
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    return ocp.args.Composite(**{STATE: ocp.args.StandardRestore(abstract)})


@contextlib.contextmanager
def _fitting(folder: Path) -> Iterator[None]:
    """Name the checkpoint in an error of restoring it."""
    try:
        yield
    except _DAMAGED as error:
        raise RunError(
            f"The checkpoint {folder} cannot be restored: {_first_line(error)}. Its files are whole, but it does not "
            "fit this version or these settings: use the version that wrote it (environment.json)."
        ) from error


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Name the folder in an error of opening it."""
    try:
        yield
    except _DAMAGED as error:
        raise RunError(
            f"The checkpoints in {folder} cannot be read: {_first_line(error)}. Give the training's command again, "
            "which sets broken ones aside."
        ) from error


@contextlib.contextmanager
def _writable(directory: FoldDirectory) -> Iterator[None]:
    """Say which folder could not be written, and what is left."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise RunError(
            f"A checkpoint could not be written to {directory.path}: {_reason(error)}. "
            "The checkpoints before it are kept. Mend that (space, permissions), and give the same command again: it "
            "goes on from there."
        ) from error


def _reason(error: Exception) -> str:
    """Return what the operating system said, which TensorStore hides in a paragraph."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"os_error_code='(\d+)'|\[OS error (\d+)", str(error))
    return os.strerror(int(number[1] or number[2])) if number else _first_line(error)


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


def _free_name(path: Path) -> Path:
    number = 1
    while (found := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return found


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
