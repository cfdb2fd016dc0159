"""A rehearsal of training: every part of it in a temporary folder, then the time and memory of the whole run."""

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import jax

import fbunet_jax
from fbunet_jax.checkpoints.fold import FoldCheckpoints
from fbunet_jax.checkpoints.trained import save_inputs
from fbunet_jax.config import Config
from fbunet_jax.data.datasets import Dataset
from fbunet_jax.data.identity import describe
from fbunet_jax.errors import RunError
from fbunet_jax.models.contract import multiple_of
from fbunet_jax.processes import all_devices
from fbunet_jax.runs import FoldDirectory, Run, as_begun, check_bent_crops, compare, default_path
from fbunet_jax.training.estimate import Costs, Work, fold_work
from fbunet_jax.training.logs import FoldLog, read_records
from fbunet_jax.training.loop import FoldTraining
from fbunet_jax.training.measures import EpochMeasures
from fbunet_jax.training.memory import peak_device_bytes, peak_host_bytes
from fbunet_jax.training.parallel import MappedValidation
from fbunet_jax.training.plan import Stretch
from fbunet_jax.training.setup import FoldSetup, open_run, prepare_fold
from fbunet_jax.training.state import TrainState
from fbunet_jax.training.tiles import plan_validation

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

    Everything is written into a temporary folder, which is removed. A run that exists is read, to see whether these
    settings may go on with it, and otherwise left alone; the estimate is that of a run from its beginning.

    Args:
      config: the settings.
      folds: the folds that would be trained.
      out: the run directory that training would use, runs/<config>/<method> by default.
      tell: called with a line about each part that works.

    Raises:
      UserError: whatever training would refuse.
    """
    run, fold = Run(Path(out).expanduser() if out else default_path(config)), folds[0]
    config, began = as_begun(run, config), time.perf_counter()
    dataset, setup, weights = prepare_fold(config, fold, run)
    if run.config.exists():
        compare(run, config, describe(dataset))
        check_bent_crops(run)
    with tempfile.TemporaryDirectory(prefix="fbunet-dry-run-") as folder:
        trial = Run(Path(folder) / "run")
        trial.path.mkdir()
        if run.folds.exists():
            trial.folds.write_bytes(run.folds.read_bytes())
        open_run(config, dataset, trial)
        trial.fold(fold).path.mkdir()
        save_inputs(trial.fold(fold), setup.normalisation)
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


class _Rehearsal:
    """The parts of one fold's training, each run until its cost is known."""

    def __init__(self, config: Config, fold: int, setup: FoldSetup, directory: FoldDirectory, tell: Tell) -> None:
        # drawing is timed by itself; validation is that of the first batches only
        self.config = replace(config, training=replace(config.training, preview_every=2**31 - 1))
        self.fold, self.directory, self.tell = fold, directory, tell
        self.setup = setup
        plan = plan_validation(config, setup.validation.sizes, len(all_devices()), multiple_of(setup.model))
        longest = max(plan, key=lambda each: len(each.tiles))
        count = min(len(longest.tiles), VALIDATION_BATCHES)
        self.plan = [longest._replace(tiles=longest.tiles[:count], complete=longest.complete[:count])]
        self.batches = len(self.plan[0].tiles)

    def measure(self, start: float, weights: dict[str, Any] | None) -> tuple[Costs, int]:
        """Train two steps, validate, save, go on from there, time everything, and return the costs.

        Args:
          start: seconds that preparing the fold took.
          weights: initial ones, if any.

        Returns:
          The costs, and the number of groups of steps that were timed.
        """
        with FoldCheckpoints(self.directory) as checkpoints:
            training = FoldTraining(self.config, self.fold, self.setup, self.directory, checkpoints)
            training.evaluate = MappedValidation(self.setup.model, len(self.setup.class_names), self.plan)
            creating, (state, *_) = _timed(lambda: training.start(weights))
            with training.log(0, 0, io.StringIO()) as log:
                first_steps, state = _timed(lambda: _train(training, Stretch(1, 0, 2, True), state, log))
                self.tell(f"trained      2 steps in {creating + first_steps:.1f} s, compiling included")
                first_validation, _ = _timed(lambda: _validate(training, Stretch(1, 0, 2, True), state, log))
                first_picture, _ = _timed(lambda: training.pictures.draw(state.variables, training.validation_store, 1))
                count, seconds = (self.plan[0].tiles[..., 0] >= 0).sum(), first_validation + first_picture
                self.tell(f"validated    {count} tiles, and drawn, in {seconds:.1f} s, compiling included")
        with FoldCheckpoints(self.directory) as checkpoints:
            training.checkpoints = checkpoints
            state, step, _ = training.start(None)
            if step != 2:
                raise RunError(f"The checkpoint of step 2 was saved in {self.directory.checkpoints}, but not found.")
            with training.log(step, step, io.StringIO()) as log:
                state = _train(training, Stretch(2, step, step + 1, False), state, log)
                self.tell("resumed      from the checkpoint of step 2")
                state, step, step_cost, record = self._time_steps(training, state, step + 1, log)
                groups = len(read_records(self.directory.timing, "train")) - 2
                validation, _ = _timed(lambda: _validate(training, Stretch(3, step - 1, step, True), state, log))
                evaluating = read_records(self.directory.timing, "validation")[-1]["seconds"]
                picture, _ = _timed(lambda: training.pictures.draw(state.variables, training.validation_store, 3))
                norm, _ = _timed(lambda: jax.block_until_ready(training.variables(state, step, lambda: None)))
            saving, _ = _timed(checkpoints.close)
        firsts = (first_steps - 2 * step_cost, first_validation - validation, first_picture - picture)
        compiling = creating + sum(max(0.0, first) for first in firsts)
        save = validation - evaluating + norm + saving
        return Costs(start, compiling, step_cost, record, (evaluating - norm) / self.batches, save, picture), groups

    def _time_steps(
        self, training: FoldTraining, state: TrainState, step: int, log: FoldLog
    ) -> tuple[TrainState, int, float, float]:
        """Return the state and step after the timed ones, the seconds of a step, and those of a record."""
        single = read_records(self.directory.timing, "train")[-1]["seconds"]
        calls = training.mapped.steps_per_call
        # a second or more, and several calls where a call has several steps: there the host runs ahead of the device
        size = max(1, round(1 / single)) if calls == 1 else max(2, round(1 / single / calls)) * calls
        seconds: list[float] = []
        wholes: list[float] = []
        while len(seconds) < TIMED_GROUPS or sum(seconds) < TIMED_SECONDS:
            stretch = Stretch(3, step, step + size, False)
            whole, state = _timed(lambda: _train(training, stretch, state, log))  # noqa: B023
            step += size
            wholes.append(whole)
            seconds.append(read_records(self.directory.timing, "train")[-1]["seconds"])
        record = statistics.median(whole - inner for whole, inner in zip(wholes, seconds, strict=True))
        return state, step, statistics.median(seconds) / size, record


def _train(training: FoldTraining, stretch: Stretch, state: TrainState, log: FoldLog) -> TrainState:
    return training.train(stretch, stretch.first, state, EpochMeasures(), log)


def _validate(training: FoldTraining, stretch: Stretch, state: TrainState, log: FoldLog) -> None:
    training.validate(stretch, state, EpochMeasures(), log)


def _predict_one(run: Run, fold: int, dataset: Dataset, tell: Tell) -> None:
    """Predict the smallest image as a user would: with the checkpoint of the run."""
    image = min(dataset.images, key=lambda image: image.size)
    seconds, prediction = _timed(lambda: fbunet_jax.load(run.path, fold=fold).predict(image))
    height, width = prediction.labels.shape
    tell(f"predicted    an image of {height} x {width} pixels in {seconds:.1f} s, compiling included")


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
