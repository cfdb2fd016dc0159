"""Checkpoints of one fold: the two latest and the best; the only file that names Orbax."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from fbunet_jax.errors import RunError
from fbunet_jax.training.state import TrainState

SCORE = "mean_iou"
"""The metric by which the best checkpoint is chosen: validation mean IoU of the last round."""


class FoldCheckpoints:
    """The checkpoints in one folder, named by their step; saving does not hold up training."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Open or create the folder; one that is only read is left exactly as it is."""

        def score(metrics: dict[str, float]) -> float:
            return metrics[SCORE]

        keep = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(2),
                checkpoint_managers.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        # best_fn too: without it best_step() gives the latest
        with _without_warnings() if read_only else contextlib.nullcontext():
            options = ocp.CheckpointManagerOptions(
                preservation_policy=keep, best_fn=score, best_mode="max", read_only=read_only
            )
            self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def save(self, state: TrainState, step: int, score: float) -> None:
        """Save a state in the background, with its validation score."""
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics={SCORE: score})

    def latest_step(self) -> int | None:
        """Return the step of the latest checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Return the step of the best checkpoint, or None; waits for a save under way, whose score is unknown."""
        self._manager.wait_until_finished()
        return self._manager.best_step()

    def score(self, step: int) -> float:
        """Return the validation score that was saved with a step."""
        self._manager.wait_until_finished()
        return float(self._manager.metrics(step)[SCORE])

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Restore a state with the shapes, types and placement of `like`.

        Raises:
          RunError: the checkpoint does not fit, or is broken.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise RunError(
                f"The checkpoint of step {step} in {self._manager.directory} cannot be restored: {_first_line(error)}. "
                "If the folder is complete, use the version that wrote it (environment.json); if it is damaged, move "
                "that step's folder away to use another."
            ) from error

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> "FoldCheckpoints":
        """Return self."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Close."""
        self.close()


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
