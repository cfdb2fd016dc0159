"""Checkpoints of one fold: the two latest and the best, and those in the middle of an epoch.

Training calls `FoldCheckpoints.save` (and `save_unfinished`) and `resume`; everything else, `restore_variables`. What
makes them safe: each is committed by one atomic rename and sealed with the checksums of its files (`runs.sealed`), so
it is whole or it is not used; a broken one is set aside, never deleted, when a training opens the folder; and what
only reads changes nothing.
"""

import contextlib
import shutil
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from fbunet_jax.errors import RunError
from fbunet_jax.runs import processes
from fbunet_jax.runs.directory import FoldDirectory, free_name
from fbunet_jax.runs.disks import WAYS, refused, scratch_folder, try_disk
from fbunet_jax.runs.interruption import StopAtOnce
from fbunet_jax.runs.sealed import SealedCheckpoints, damage, fitting, parts_of, write_in

STATE, EPOCH, VARIABLES = "state", "epoch", "variables"
"""The parts of a checkpoint: the training state; what the epoch that is not over has measured so far; and the variables
that were validated, where they are others than the state's own."""


class Resumption(NamedTuple):
    """Where a fold resumes.

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
        self._scored = SealedCheckpoints(directory.checkpoints, scored=True, read_only=read_only)
        self._unfinished: SealedCheckpoints | None = None
        if not read_only and any(processes.from_first([directory.unfinished.is_dir()])):
            self._unfinished = SealedCheckpoints(directory.unfinished)

    def save(self, state: Any, step: int, score: float, variables: Any = None) -> None:
        """Save the state after a validation in the background, with its score.

        Args:
          state: of the training, a dictionary with ``params`` and ``batch_stats``.
          step: how many steps it has taken.
          score: of the validation.
          variables: ``params`` and ``batch_stats`` that were validated, unless they are the state's own.

        Raises:
          RunError: this one, or the one before it, could not be written; those before them are kept.
        """
        self._scored.save(step, {STATE: state} | ({} if variables is None else {VARIABLES: variables}), score=score)

    def save_unfinished(self, state: Any, step: int, epoch: dict[str, Any]) -> None:
        """Save the state in the middle of an epoch in the background, with what the epoch has measured so far.

        Args:
          state: of the training.
          step: how many steps it has taken.
          epoch: what JSON can hold.

        Raises:
          RunError: this one, or the one before it, could not be written; those before them are kept.
        """
        self._unfinished = self._unfinished or SealedCheckpoints(self._directory.unfinished)
        self._unfinished.save(step, {STATE: state}, table={EPOCH: epoch})

    def resume(self, like: Any) -> Resumption | None:
        """Return where the latest checkpoint stands, or None if there is none.

        Args:
          like: shapes, types and placement of the state.

        Raises:
          RunError: it does not fit `like`.
        """
        self.wait()
        scored = self.latest_step()
        unfinished = self._unfinished.latest_step() if self._unfinished else None
        if self._unfinished and unfinished is not None and (scored is None or unfinished > scored):
            restored = self._unfinished.restore(unfinished, {STATE: like}, tables=(EPOCH,))
            return Resumption(restored[STATE], unfinished, restored[EPOCH])
        return None if scored is None else Resumption(self.restore(scored, like), scored, None)

    def restore(self, step: int, like: Any) -> Any:
        """Restore a state that has a score, with the shapes, types and placement of `like`.

        Raises:
          RunError: the checkpoint does not fit, or is broken.
        """
        self._whole(step)
        return self._scored.restore(step, {STATE: like})[STATE]

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
        part = VARIABLES if (folder / VARIABLES).is_dir() else STATE
        with fitting(folder), parts_of(folder) as (stored, restore):
            # before Orbax reads anything: it would leave reading threads behind
            if difference := shape_difference(stored(part), like):
                raise ValueError(difference)
            variables = restore(part, like)
            if part == STATE and average:
                here = jax.tree.leaves(like)[0].sharding
                struct = partial(jax.ShapeDtypeStruct, sharding=here)
                moments, kept = jax.tree.map(lambda leaf: struct(leaf.shape, leaf.dtype), stored(STATE)["optimizer"])
                kept["average"] = like["params"]
                variables["params"] = restore(STATE, {"optimizer": [moments, kept]})["optimizer"][-1]["average"]
            return variables

    def latest_step(self) -> int | None:
        """Return the step of the latest checkpoint with a score, or None."""
        return self._scored.latest_step()

    def best_step(self) -> int | None:
        """Return the step of the best checkpoint, or None; waits for a save under way, whose score is unknown."""
        return self._scored.best_step()

    def score(self, step: int) -> float:
        """Return the validation score that was saved with a step."""
        return self._scored.score(step)

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
          RunError: something could not be written.
        """
        for checkpoints in self._opened():
            checkpoints.wait()

    def remove_unfinished(self) -> None:
        """Remove the checkpoints in the middle of an epoch, when the last epoch is over."""
        if self._unfinished:
            self._unfinished.close()
            self._unfinished = None
            processes.first(self._discard_unfinished)

    def close(self) -> None:
        """Wait until everything is on disk.

        Raises:
          RunError: something could not be written.
        """
        for checkpoints in self._opened():
            checkpoints.close()

    def __enter__(self) -> Self:
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

    def _opened(self) -> list[SealedCheckpoints]:
        return [checkpoints for checkpoints in (self._scored, self._unfinished) if checkpoints]

    def _discard_unfinished(self) -> None:
        self._directory.unfinished.rename(self._discarded)
        shutil.rmtree(self._discarded, ignore_errors=True)

    @property
    def _discarded(self) -> Path:
        """What is half deleted must not look like broken checkpoints."""
        return self._directory.path / ".unfinished"

    def _whole(self, step: int) -> Path:
        """Return the folder of a checkpoint with a score; what is only read has not been looked through yet."""
        folder: Path = self._directory.checkpoints / str(step)
        if self._read_only and (fault := damage(folder)):
            raise RunError(
                f"The checkpoint {folder} is broken: {fault}. Copy it again if this is a copy. Otherwise give the "
                "training's command again, which sets it aside and uses another."
            )
        return folder

    def _clear(self) -> None:
        """Remove what is half deleted, and set broken checkpoints aside as long as a whole one is left."""
        shutil.rmtree(self._discarded, ignore_errors=True)
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
                "again (fresh), which keeps the old one.",
                argument="fresh",
            )
        for path, fault in sorted(faults.items(), key=lambda item: int(item[0].name)):
            self._directory.broken.mkdir(exist_ok=True)
            place = free_name(self._directory.broken / f"{path.parent.name}-{path.name}")
            path.rename(place)
            self.warnings.append(
                f"The checkpoint {path} is broken: {fault}. It was set aside as {place}; the others are used."
            )


def try_checkpoints(folder: Path) -> None:
    """Try in a folder what checkpoints need of its disk, and let all processes write them as they can be there.

    Called by every process; the first one tries.

    Raises:
      RunError: says what the disk cannot do.
    """
    found = processes.first(lambda: WAYS.index(try_disk(folder)))
    (way,) = processes.from_first([found or 0])
    processes.together(lambda: write_in(WAYS[way]))
    # not the usual one, so whether it does for a checkpoint is tried too; many would have to save it together
    if way and not processes.are_many():
        try:
            with scratch_folder(folder) as scratch:
                checkpoints = SealedCheckpoints(scratch / "checkpoints")
                checkpoints.save(1, {STATE: {"tried": np.zeros(1, np.float32)}})
                checkpoints.close()
        except (OSError, ValueError, NotImplementedError) as error:  # a RunError has the sentence of a training
            raise refused(folder, "saving a checkpoint", error.__cause__ or error) from error


def shape_difference(stored: Any, like: Any) -> str:
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
