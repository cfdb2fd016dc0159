"""What keeps a training: where it resumes, and when its state is saved."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from fbunet_jax.errors import RunError
from fbunet_jax.runs import processes
from fbunet_jax.runs.checkpoints import FoldCheckpoints
from fbunet_jax.runs.directory import FoldDirectory
from fbunet_jax.runs.interruption import Interruption
from fbunet_jax.runs.records import ValidationRecord, read_records
from fbunet_jax.training.measures import EpochMeasures
from fbunet_jax.training.programs import FoldPrograms
from fbunet_jax.training.state import TrainState


class Keeper:
    """Restores one fold, saves it after each validation and in the middle of long epochs, and stops it on a signal.

    Attributes:
      still_held: raises a RunError when another process has taken the fold over; called before records, and before
        saves in the middle of an epoch.
    """

    def __init__(
        self,
        programs: FoldPrograms,
        directory: FoldDirectory,
        checkpoints: FoldCheckpoints,
        *,
        interruption: Interruption | None = None,
        still_held: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin; nothing is read yet. The directory and the open checkpoints are those of the fold of the programs."""
        self._programs, self._directory, self._checkpoints = programs, directory, checkpoints
        self._interruption = interruption or Interruption()
        self.still_held = still_held
        self._saved_step, self._saved_at = 0, time.monotonic()

    def restore(self, weights: Mapping[str, Any] | None) -> tuple[TrainState, int, EpochMeasures | None]:
        """Return the state of the latest checkpoint, or the one before the first step.

        Args:
          weights: initial ``params`` and ``batch_stats``, where there is no checkpoint; random ones by default.

        Returns:
          The state, replicated, its step, and what the epoch under way has measured; None between two epochs.
        """
        like = self._programs.abstract_state().stored()
        if resumption := self._checkpoints.resume(like):
            self._saved_step, epoch = resumption.step, resumption.epoch
            state = processes.replicate(TrainState.from_stored(resumption.state))
            return state, resumption.step, EpochMeasures.from_json(epoch) if epoch else None
        processes.first(lambda: check_records(self._directory, most=1))
        return self._programs.first_state(weights), 0, None

    def pause(self, state: TrainState, step: int, measures: EpochMeasures) -> None:
        """Save in the middle of an epoch if it is time to, or if a signal has come.

        Raises:
          KeyboardInterrupt: a signal has come, and everything is saved.
        """
        due = time.monotonic() - self._saved_at >= 60 * self._programs.config.training.save_minutes
        stops, due = processes.agree(self._interruption.requested, due)
        if not stops and not due:
            return
        if step > self._saved_step:
            self._programs.check_finite(step, measures)
            self.still_held()
            self._checkpoints.save_unfinished(state.stored(), step, measures.to_json())
            self._saved_step, self._saved_at = step, time.monotonic()
        if stops:
            self._checkpoints.wait()
            raise processes.agreed(KeyboardInterrupt(f"step {step} of {self._programs.total_steps} is saved"))

    def check_signal(self) -> None:
        """Raise a KeyboardInterrupt if a signal has come."""
        processes.check_signal(self._interruption.requested)

    def wait(self) -> None:
        """Wait until everything is on disk."""
        self._checkpoints.wait()

    def save(self, state: TrainState, record: ValidationRecord, variables: Mapping[str, Any]) -> None:
        """Save the state after a validation, with its score and what was validated."""
        training, step, score = self._programs.config.training, record["step"], record["mean_iou"]
        assert score is not None  # the validation part has labelled pixels
        differ = training.weight_average or training.norm_batch_count
        self._checkpoints.save(state.stored(), step, score, variables if differ else None)
        self._saved_step, self._saved_at = step, time.monotonic()

    def finish(self) -> None:
        """Wait until the last checkpoint is on disk, and remove those in the middle of an epoch."""
        self._checkpoints.wait()
        self._checkpoints.remove_unfinished()


def check_records(directory: FoldDirectory, *, most: int) -> None:
    """Raise a RunError if a fold without a checkpoint has the records of more than so many validations."""
    if len(read_records(directory.metrics, ValidationRecord)) > most:
        raise RunError(
            f"{directory.metrics} has the records of a training, but its checkpoints are gone from "
            f"{directory.checkpoints}. Put them back, or start the fold again (fresh), which keeps the old one.",
            argument="fresh",
        )
