"""A rehearsal of training: every part of it in a temporary folder, then the time and memory of the whole run."""

import contextlib
import io
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax

from fbunet_jax.accelerators.estimate import Costs, Work, fold_work
from fbunet_jax.config import Config
from fbunet_jax.data.datasets import Dataset
from fbunet_jax.data.identity import describe
from fbunet_jax.device_errors import device_errors
from fbunet_jax.errors import RunError
from fbunet_jax.inference.loading import load
from fbunet_jax.inference.validation import plan_validation
from fbunet_jax.models.contract import multiple_of
from fbunet_jax.runs.checkpoints import FoldCheckpoints, try_checkpoints
from fbunet_jax.runs.directory import FoldDirectory, Run, default_path
from fbunet_jax.runs.disks import DRY_RUN, remove_dry_runs
from fbunet_jax.runs.opening import as_begun, check_bent_crops, compare, open_run
from fbunet_jax.runs.processes import all_devices
from fbunet_jax.runs.records import TrainTimes, ValidationRecord, ValidationTimes, read_records
from fbunet_jax.runs.trained import save_inputs
from fbunet_jax.training import notes
from fbunet_jax.training.keeper import Keeper
from fbunet_jax.training.logs import FoldLog, open_log
from fbunet_jax.training.loop import train_and_record, validate_and_record
from fbunet_jax.training.measures import EpochMeasures
from fbunet_jax.training.memory import less_memory, peak_device_bytes, peak_host_bytes
from fbunet_jax.training.plan import Stretch
from fbunet_jax.training.previews import FoldPictures
from fbunet_jax.training.programs import FoldPrograms
from fbunet_jax.training.setup import FoldSetup, prepare_fold
from fbunet_jax.training.state import TrainState

TIMED_SECONDS = 15.0
"""How long steps are timed."""

TIMED_GROUPS = 5
"""Groups of steps that are timed at least; their median counts, so that one slow group does not."""

VALIDATION_BATCHES = 8
"""Batches of tiles that are validated at most; a larger validation takes longer in proportion."""

KEPT_CHECKPOINTS = 3
"""The two latest and the best."""

Tell = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Estimate:
    """What the whole run will take.

    Attributes:
      work: of every fold that was asked for, by its number.
      costs: measured on the first of them.
      groups: of steps, that were timed.
      host_bytes: most memory that this process has held.
      device_bytes: most memory in use on one device, None where the device does not tell.
      disk_bytes: of a fold's checkpoints.
    """

    work: dict[int, Work]
    costs: Costs
    groups: int
    host_bytes: int
    device_bytes: int | None
    disk_bytes: int

    @property
    def seconds(self) -> float:
        """Time of all folds, without compiling."""
        return sum(self.costs.seconds(work) for work in self.work.values())


def dry_run(
    config: Config, folds: Sequence[int], *, out: str | Path | None = None, tell: Tell = lambda line: None
) -> Estimate:
    """Rehearse the first of some folds: steps, validation, save, resume, prediction; then estimate all of them.

    Everything is written into a temporary folder on the disk that the run would use, and removed. A run that exists is
    read, to see whether these settings may resume it, and otherwise left alone; the estimate is that of a run from its
    beginning.

    Args:
      config: the settings.
      folds: the folds that would be trained.
      out: the run directory that training would use, runs/<config>/<method> by default.
      tell: called with a line about each part that works.

    Raises:
      UserError: whatever training would refuse.
    """
    with device_errors("the dry run", less_memory(config)):
        return _dry_run(config, folds, out, tell)


def _dry_run(config: Config, folds: Sequence[int], out: str | Path | None, tell: Tell) -> Estimate:
    run, fold = Run(Path(out) if out else default_path(config)), folds[0]
    config, began = as_begun(run, config), time.perf_counter()
    dataset, setup, weights = prepare_fold(config, fold, run)
    if run.has(run.config):
        compare(run, config, describe(dataset))
        check_bent_crops(run)
    with _beside(run) as folder:
        trial = Run(Path(folder) / "run")
        trial.path.mkdir()
        if run.has(run.folds):
            trial.folds.write_bytes(run.folds.read_bytes())
        open_run(config, dataset, trial)
        trial.fold(fold).path.mkdir()
        try_checkpoints(trial.fold(fold).path)
        save_inputs(trial.fold(fold), setup.normalisation, setup.images)
        start = time.perf_counter() - began
        tell(f"read         {len(dataset.images)} images; {len(setup.train.sizes)} of them train fold {fold}")
        for warning in setup.warnings(fold):
            tell(warning)
        rehearsal = _Rehearsal(config, fold, setup, trial.fold(fold), tell)
        costs, groups = rehearsal.measure(start, weights)
        # before the prediction, which training does not do
        host, device = peak_host_bytes(), peak_device_bytes()
        disk = KEPT_CHECKPOINTS * max(_size(path) for path in trial.fold(fold).checkpoints.iterdir())
        _predict_one(trial, fold, dataset, tell)
    work = fold_work(config, run, dataset, folds, len(all_devices()))
    return Estimate(work, costs, groups, host, device, disk)


@contextlib.contextmanager
def _beside(run: Run) -> Iterator[str]:
    """Yield a temporary folder on the disk that the run would use.

    Raises:
      RunError: nothing can be written there.
    """
    place = next(path for path in (run.path, *run.path.absolute().parents) if path.is_dir())
    try:
        remove_dry_runs(run.path)
        folder = tempfile.mkdtemp(prefix=DRY_RUN, dir=place)
    except OSError as error:
        raise RunError(
            f"{place}, where the run directory {run.path} would be, cannot be written: {error.strerror}. Choose "
            "another (out), or fix the permissions.",
            argument="out",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Rehearsal:
    """The parts of one fold's training, each run until its cost is known."""

    def __init__(self, config: Config, fold: int, setup: FoldSetup, directory: FoldDirectory, tell: Tell) -> None:
        plan = plan_validation(config, setup.validation.sizes, len(all_devices()), multiple_of(setup.model))
        longest = max(plan, key=lambda each: len(each.tiles))
        count = min(len(longest.tiles), VALIDATION_BATCHES)
        first_batches = longest._replace(tiles=longest.tiles[:count], complete=longest.complete[:count])
        self.batches, self.tiles = count, int((first_batches.tiles[..., 0] >= 0).sum())
        self.config, self.directory, self.tell = config, directory, tell
        self.creating, self.programs = _timed(
            lambda: FoldPrograms(config, fold, setup, validation_plan=[first_batches])
        )
        self.pictures = FoldPictures(self.programs, directory)

    def measure(self, start: float, weights: dict[str, Any] | None) -> tuple[Costs, int]:
        """Train two steps, validate, save, resume from there, time everything, and return the costs.

        Args:
          start: seconds that preparing the fold took.
          weights: initial ones, if any.

        Returns:
          The costs, and the number of groups of steps that were timed.
        """
        with FoldCheckpoints(self.directory) as checkpoints:
            keeper = Keeper(self.programs, self.directory, checkpoints)
            restoring, (state, *_) = _timed(lambda: keeper.restore(weights))
            creating = self.creating + restoring
            with self._log(0) as log:
                stretch = Stretch(1, 0, 2, True)
                first_steps, state = _timed(lambda: self._train(stretch, state, log, keeper))
                self.tell(f"trained      2 steps in {creating + first_steps:.1f} s, compiling included")
                first_validation, _ = _timed(lambda: self._validate(stretch, state, log, keeper))
                first_picture, _ = _timed(lambda: self.pictures.draw(state.variables, 1))
                seconds = first_validation + first_picture
                self.tell(f"validated    {self.tiles} tiles, and drawn, in {seconds:.1f} s, compiling included")
        with FoldCheckpoints(self.directory) as checkpoints:
            keeper = Keeper(self.programs, self.directory, checkpoints)
            state, step, _ = keeper.restore(None)
            if step != 2:
                raise RunError(f"The checkpoint of step 2 was saved in {self.directory.checkpoints}, but not found.")
            with self._log(step) as log:
                state = self._train(Stretch(2, step, step + 1, False), state, log, keeper)
                self.tell("resumed      from the checkpoint of step 2")
                state, step, step_cost, record = self._time_steps(state, step + 1, log, keeper)
                groups = len(read_records(self.directory.timing, TrainTimes)) - 2
                validation, _ = _timed(lambda: self._validate(Stretch(3, step - 1, step, True), state, log, keeper))
                evaluating = read_records(self.directory.timing, ValidationTimes)[-1]["seconds"]
                picture, _ = _timed(lambda: self.pictures.draw(state.variables, 3))
                norm, _ = _timed(lambda: jax.block_until_ready(self.programs.kept_variables(state, step)))
            saving, _ = _timed(checkpoints.close)
        firsts = (first_steps - 2 * step_cost, first_validation - validation, first_picture - picture)
        compiling = creating + sum(max(0.0, first) for first in firsts)
        save = validation - evaluating + norm + saving
        return Costs(start, compiling, step_cost, record, (evaluating - norm) / self.batches, save, picture), groups

    def _log(self, step: int) -> FoldLog:
        return open_log(
            self.directory,
            total_steps=self.programs.total_steps,
            first_step=step,
            recorded_step=step,
            batch_size=self.config.training.batch_size,
            stream=io.StringIO(),
        )

    def _time_steps(
        self, state: TrainState, step: int, log: FoldLog, keeper: Keeper
    ) -> tuple[TrainState, int, float, float]:
        """Return the state and step after the timed ones, the seconds of a step, and those of a record."""
        single = read_records(self.directory.timing, TrainTimes)[-1]["seconds"]
        calls = self.programs.steps_per_call
        # a second or more, and several calls where a call has several steps: there the host runs ahead of the device
        size = max(1, round(1 / single)) if calls == 1 else max(2, round(1 / single / calls)) * calls
        seconds: list[float] = []
        wholes: list[float] = []
        while len(seconds) < TIMED_GROUPS or sum(seconds) < TIMED_SECONDS:
            stretch = Stretch(3, step, step + size, False)
            whole, state = _timed(lambda: self._train(stretch, state, log, keeper))  # noqa: B023
            step += size
            wholes.append(whole)
            seconds.append(read_records(self.directory.timing, TrainTimes)[-1]["seconds"])
        record = statistics.median(whole - inner for whole, inner in zip(wholes, seconds, strict=True))
        return state, step, statistics.median(seconds) / size, record

    def _train(self, stretch: Stretch, state: TrainState, log: FoldLog, keeper: Keeper) -> TrainState:
        measures = EpochMeasures()
        return train_and_record(self.programs, stretch, state, measures, start=stretch.first, log=log, keeper=keeper)

    def _validate(self, stretch: Stretch, state: TrainState, log: FoldLog, keeper: Keeper) -> None:
        variables, record = validate_and_record(self.programs, stretch, state, EpochMeasures(), log=log, keeper=keeper)
        keeper.save(state, record, variables)
        validations = read_records(self.directory.metrics, ValidationRecord)
        log.lines(notes.on_validation(self.programs, self.directory, validations))


def _predict_one(run: Run, fold: int, dataset: Dataset, tell: Tell) -> None:
    """Predict the smallest image as a user would: with the checkpoint of the run."""
    image = min(dataset.images, key=lambda image: image.size)
    seconds, prediction = _timed(lambda: load(run.path, fold=fold).predict(image))
    height, width = prediction.labels.shape
    tell(f"predicted    an image of {height} x {width} pixels in {seconds:.1f} s, compiling included")


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
