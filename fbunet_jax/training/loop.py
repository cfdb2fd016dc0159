"""Train one fold: epochs, validations, checkpoints, records; resumes where the last checkpoint stands."""

import contextlib
import numbers
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from flax import linen as nn
from numpy.typing import NDArray

from fbunet_jax import processes
from fbunet_jax.checkpoints.fold import FoldCheckpoints
from fbunet_jax.checkpoints.trained import save_inputs
from fbunet_jax.config import BEFORE_FORMAT_2, CUSTOM, Config
from fbunet_jax.data.datasets import Dataset
from fbunet_jax.data.identity import check_passed_dataset, passed_fingerprint
from fbunet_jax.data.sampling import batch_items
from fbunet_jax.data.store import ImageStore
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.files import naming
from fbunet_jax.interruption import Interruption
from fbunet_jax.locks import fold_lock
from fbunet_jax.models.contract import has_field, multiple_of
from fbunet_jax.passed import label_of, passed_with, recorded
from fbunet_jax.runs import FoldDirectory, Run, as_begun, check_bent_crops, check_passed, default_path, set_aside
from fbunet_jax.training.logs import FoldLog, SilentLog, default_stream, duration, read_records, write_environment
from fbunet_jax.training.measures import EpochMeasures
from fbunet_jax.training.parallel import MappedValidation, Metrics, replicate
from fbunet_jax.training.plan import Stretch, calls, plan_run
from fbunet_jax.training.previews import FoldPictures
from fbunet_jax.training.setup import (
    FoldSetup,
    has_started,
    mapped_statistics,
    mapped_training,
    open_run,
    prepare_fold,
)
from fbunet_jax.training.state import TrainState, abstract_state, create_state, learning_rate_schedule, make_optimizer
from fbunet_jax.training.tiles import plan_validation
from fbunet_jax.training.validation import collapsed, validation_record


@dataclass(frozen=True)
class TrainResult:
    """What training a fold came to, as `train` returns it.

    Attributes:
      fold: its number.
      run: the run directory.
      directory: the fold's folder in it.
      steps: global steps in all.
      best_step: of the checkpoint with the best validation mean IoU.
      best_mean_iou: its validation mean IoU, 0 to 1, over the classes of the validation truth.
      iou: its validation IoU of each class by name, None for a class without a pixel of validation truth.
      was_finished: there was nothing left to do.
      images_per_second: median over the epochs, crops of the training part; without validation. The first epoch also
        compiles.

    Example:
      >>> from fbunet_jax import load_config, train
      >>> run = "runs/quickstart/unet"  # which exists already
      >>> result = train(load_config(f"{run}/config.toml"), out=run)
      >>> result.was_finished, 0 <= result.best_mean_iou <= 1, str(result.run)
      (True, True, 'runs/quickstart/unet')
    """

    fold: int
    run: Path
    directory: FoldDirectory
    steps: int
    best_step: int
    best_mean_iou: float
    iou: dict[str, float | None]
    was_finished: bool
    images_per_second: float


def train(
    config: Config,
    fold: int = 0,
    *,
    dataset: Dataset | None = None,
    model: nn.Module | None = None,
    loss: Any = None,
    out: str | Path | None = None,
    fresh: bool = False,
    stream: TextIO | None = None,
    interruption: Interruption | None = None,
) -> TrainResult:
    """Train one cross-validation fold, or resume it; a finished fold is left as it is.

    What is passed takes the place of what the settings would have built: the settings in ``[data]`` that say where
    images come from and how they are cut, the method with ``[model]``, or the weights of classes and of the Dice loss.
    The run records what was passed, by qualified name and fields; pass the same again to resume it, and to `evaluate`
    and `load`. Under JAX's distributed runtime every process calls this; the first one writes and reports
    (docs/distributed.md).

    Args:
      config: the settings.
      fold: 0 … K-1.
      dataset: images in memory, see `Dataset.from_arrays`.
      model: a Flax Linen module with ``apply(variables, images, train=...) -> logits``, from images `[N, H, W, C]`
        float32 to `[R, N, H, W, K]`, or `[N, H, W, K]` for one round. Height and width are multiples of its field
        ``multiple`` (16 without one), its batch statistics those of its field ``axis_name``.
      loss: see `fbunet_jax.losses`.
      out: run directory, runs/<config>/<method> by default, or runs/<config>/<class of the network>.
      fresh: set an existing fold aside (fold_K.old-N) and start again.
      stream: where progress is reported, standard error by default.
      interruption: how the caller can stop the training between two steps; by signals alone by default.

    Returns:
      The result; everything else lies in the run directory.

    Raises:
      UserError: settings, data, network, loss or run directory do not fit; the message says what to do.

    Example:
      >>> import io
      >>> import numpy as np
      >>> from fbunet_jax import Dataset, load_config, train
      >>> random = np.random.default_rng(0)
      >>> labels = random.integers(0, 2, (6, 16, 16))
      >>> data = Dataset.from_arrays(np.uint8(100 * labels + random.integers(0, 100, labels.shape)), labels,
      ...                            class_names=("background", "cell"))
      >>> config = load_config("quickstart", method="unet", data={"crop": 16, "folds": 2}, model={"widths": [2, 4]},
      ...                      training={"epochs": 4, "batch_size": 8, "previews": 0})
      >>> result = train(config, dataset=data, out="runs/arrays", stream=io.StringIO())
      >>> result.steps, sorted(result.iou), result.was_finished
      (1, ['background', 'cell'], False)
    """
    _check_arguments(config, fold, dataset)
    fold = int(fold)
    stream = stream or default_stream()
    if config.data.root:  # absolute in the run's config.toml, which is read from other folders too
        root = str(Path(config.data.root).expanduser().absolute())
        config = replace(config, data=replace(config.data, root=root))
    passed = passed_with("" if dataset is None else passed_fingerprint(dataset), model, loss)
    given, config = config, recorded(config, passed)
    # Everything that can be wrong with the settings is found before the run directory holds them.
    run = Run(Path(out).expanduser() if out else default_path(config, passed.label))
    directory, config = run.fold(fold), as_begun(run, config)
    (started,) = processes.from_first([has_started(directory)])
    processes.together(lambda: check_passed(run, passed))
    dataset, setup, weights = processes.together(
        # the same on every process
        lambda: prepare_fold(config, fold, run, starts=fresh or not started, dataset=dataset, model=model, loss=loss)
    )
    open_run(config, dataset, run, fold, passed=passed)
    if fresh:
        processes.first(lambda: _set_aside(directory))
    with interruption or Interruption() as interruption, naming(directory.path):
        with contextlib.ExitStack() as opened:
            # by the first process for all of them
            lock = processes.first(lambda: opened.enter_context(fold_lock(directory)))
            checkpoints = opened.enter_context(_opened_checkpoints(directory))
            with contextlib.suppress(OSError):  # a log that cannot be written stops no training
                stream.writelines(f"Warning: {warning}\n" for warning in checkpoints.warnings)
            training = FoldTraining(config, fold, setup, directory, checkpoints, interruption=interruption)
            training.still_held = lock or training.still_held
            was_finished = checkpoints.latest_step() == training.total_steps
            if was_finished:
                checkpoints.remove_unfinished()
                notes = [f"Fold {fold} in {run.path} is finished already, at step {training.total_steps}."]
            else:
                check_bent_crops(run)
                notes = _notes_on_format_1(run, started, setup) + _notes_on_passed(given, config)
            with contextlib.suppress(OSError):
                stream.writelines(f"{note}\n" for note in notes if processes.is_first())
            if not was_finished:
                processes.first(lambda: save_inputs(directory, setup.normalisation))
                training.run(weights, stream)
            result = training.result(run.path, was_finished)
        processes.check_signal(interruption.requested)
    return result


def _check_arguments(config: Any, fold: Any, dataset: Any) -> None:
    """Raise a UserError for arguments that are not what they are taken for."""
    if not isinstance(config, Config):
        raise ConfigError(f"config is of type {type(config).__name__}: expected a Config; load_config returns one.")
    if isinstance(fold, bool) or not isinstance(fold, numbers.Integral):
        raise ConfigError(f"fold = {fold!r}: expected the number of one fold, from 0 to {config.data.folds - 1}.")
    if dataset is not None:
        check_passed_dataset(dataset)


def _notes_on_passed(given: Config, used: Config) -> list[str]:
    """Name the settings that say how a data set is cut and listed, and do not apply to one that is passed."""
    names = [name for name in ("cut", "views") if getattr(given.data, name) != getattr(used.data, name)]
    settings = ", ".join(f"data.{name} = {getattr(given.data, name)!r}" for name in names)
    return [f"The data set is used as it was passed, without {settings}."] if names else []


def _notes_on_format_1(run: Run, started: int, setup: FoldSetup) -> list[str]:
    """Say what resuming a run that began in format 1 of the settings means."""
    if run.begun_format() != 1 or not started or not processes.is_first():
        return []
    names = ", ".join(BEFORE_FORMAT_2)
    notes = [f"This run began in format 1 of the settings: what these did not have yet stays as it was ({names})."]
    if absent := setup.missing_classes["validation"]:
        notes.append(
            f"Warning: the validation part has no pixel of {', '.join(absent)}. Before version 0.2.0 such a class "
            "counted as 0 if it was predicted, and now it does not count: the scores of earlier checkpoints may be "
            "lower for that alone when the best one is chosen."
        )
    return notes


def _set_aside(directory: FoldDirectory) -> None:
    if directory.path.exists():
        with fold_lock(directory):  # nobody else may be training what is set aside
            set_aside(directory)


def _opened_checkpoints(directory: FoldDirectory) -> FoldCheckpoints:
    """Open the checkpoints of a fold, unless they were taken away.

    One validation may be recorded without a checkpoint, if the process was killed between the two; but then the folder
    is there.
    """

    def check() -> None:
        gone = not directory.checkpoints.exists() and not has_started(directory)
        if gone and read_records(directory.metrics, "validation"):
            raise _checkpoints_gone(directory)

    processes.first(check)
    return FoldCheckpoints(directory)


def _checkpoints_gone(directory: FoldDirectory) -> RunError:
    return RunError(
        f"{directory.metrics} has the records of a training, but its checkpoints are gone from "
        f"{directory.checkpoints}. Put them back, or start the fold again (fresh), which keeps the old one."
    )


class FoldTraining:
    """One fold on its way from the latest checkpoint to the last step."""

    def __init__(
        self,
        config: Config,
        fold: int,
        setup: FoldSetup,
        directory: FoldDirectory,
        checkpoints: FoldCheckpoints,
        *,
        interruption: Interruption | None = None,
    ) -> None:
        """Prepare the compiled programs; nothing runs yet."""
        self.config, self.fold, self.setup = config, fold, setup
        self.directory, self.checkpoints = directory, checkpoints
        self.interruption = interruption or Interruption()
        self.still_held: Callable[[], None] = lambda: None
        self.plan = plan_run(config.training, len(setup.epoch))
        self.total_steps = self.plan[-1].last
        self.schedule = learning_rate_schedule(config.training, self.total_steps)
        root = jax.random.fold_in(jax.random.key(config.seed), fold)
        self.init_key, step_key = jax.random.split(root)
        norm_key = jax.random.fold_in(root, 2)
        self.optimizer = make_optimizer(config.training, self.total_steps)
        self.mapped = mapped_training(config, setup.model, self.optimizer, setup.loss, step_key)
        multiple, devices = multiple_of(setup.model), len(processes.all_devices())
        plan = plan_validation(config, setup.validation.sizes, devices, multiple)
        self.evaluate = MappedValidation(setup.model, len(setup.class_names), plan)
        if config.training.norm_batch_count and has_field(setup.model, "momentum"):
            self.statistics = mapped_statistics(config, setup.model, norm_key)
        self.pictures = FoldPictures(config, setup, directory)
        # on the devices, once it has started
        self.store: ImageStore
        self.validation_store: ImageStore
        self.saved_step, self.saved_at = 0, time.monotonic()
        # the latest values, for the progress bar
        self.loss_text = self.iou_text = ""

    def start(self, weights: dict[str, Any] | None) -> tuple[TrainState, int, EpochMeasures | None]:
        """Put the data on the devices, and the state of the latest checkpoint, the given weights, or a random one.

        Returns:
          The state, replicated, its step, and what the epoch under way has measured; None between two epochs.
        """
        self.store, self.validation_store = replicate((self.setup.train.store, self.setup.validation.store))
        channels = self.store.pixels.shape[-1]
        if resumption := self.checkpoints.resume(abstract_state(self.config, self.setup.model, channels)):
            self.saved_step = resumption.step
            epoch = resumption.epoch
            return replicate(resumption.state), resumption.step, EpochMeasures.from_json(epoch) if epoch else None
        processes.first(self._check_unrecorded)
        state = create_state(self.setup.model, self.optimizer, self.init_key, channels)
        if weights:
            state = state._replace(**weights, optimizer=self.optimizer.init(weights["params"]))
        return replicate(processes.state_of_first(state)), 0, None

    def _check_unrecorded(self) -> None:
        if len(read_records(self.directory.metrics, "validation")) > 1:
            raise _checkpoints_gone(self.directory)

    def log(self, first_step: int, recorded_step: int, stream: TextIO) -> FoldLog:
        """Return the open log of the fold; its records after `recorded_step` are dropped."""
        if not processes.is_first():
            return SilentLog()
        return FoldLog(
            self.directory,
            total_steps=self.total_steps,
            first_step=first_step,
            recorded_step=recorded_step,
            batch_size=self.config.training.batch_size,
            stream=stream,
        )

    def run(self, weights: dict[str, Any] | None, stream: TextIO) -> None:
        """Train to the last epoch, from the latest checkpoint, the given weights, or random ones."""
        state, step, measures = self.start(weights)
        processes.first(lambda: write_environment(self.directory, sys.argv))
        # an epoch that is not over has no records yet, or has them again
        with self.log(step, step - (measures is not None), stream) as log:
            self.announce(log, step)
            validations = read_records(self.directory.metrics, "validation")
            if step and measures is None and (not validations or validations[-1]["step"] != step):
                log.line(f"Warning: {self.directory.metrics} lacks records before step {step}: the curves have a gap.")
            processes.check_signal(self.interruption.requested)
            for stretch in self.plan:
                if stretch.last > step or (stretch.last == step and measures):
                    measures = measures or EpochMeasures()
                    state = self.train(stretch, max(step, stretch.first), state, measures, log)
                    if stretch.validates:
                        self.validate(stretch, state, measures, log)
                    measures = None
            self.checkpoints.wait()
            self.checkpoints.remove_unfinished()

    def announce(self, log: FoldLog, first_step: int) -> None:
        """Report what is about to be trained, and warn of classes that a part of the fold has to do without."""
        setup = self.setup
        label = label_of(setup.model) if self.config.method == CUSTOM else self.config.method
        hosts = f" in {jax.process_count()} processes" if processes.are_many() else ""
        start = f"goes on at step {first_step}" if first_step else "starts"
        data = self.config.data
        source = "the arrays that were passed" if data.layout == "arrays" else data.root or "the synthetic data set"
        log.line(
            f"Fold {self.fold} of {label} {start}: {len(setup.train.sizes)} training and "
            f"{len(setup.validation.sizes)} validation images of {source}, {self.total_steps} steps in "
            f"{self.config.training.epochs} epochs on {jax.device_count()} x "
            f"{jax.devices()[0].device_kind}{hosts}. The first step compiles."
        )
        for warning in setup.warnings(self.fold):
            log.line(warning)

    def train(
        self, stretch: Stretch, step: int, state: TrainState, measures: EpochMeasures, log: FoldLog
    ) -> TrainState:
        """Run the steps from `step` to the end of a stretch, and record the mean of its metrics."""
        config, mapped = self.config.training, self.mapped
        # one call ahead of an accelerator: never idle, never far from what the bar shows; a CPU would only be further
        # from stopping when it is told to
        ahead = 0 if mapped.steps_per_call == 1 else 1
        running: deque[Metrics] = deque()
        for steps in calls(step, stretch.last, mapped.steps_per_call):
            state, metrics = mapped(state, self.store, np.stack([self._items(step) for step in steps]))
            measures.add(metrics, len(steps))
            running.append(metrics)
            if len(running) > ahead:
                jax.block_until_ready(running.popleft())
            log.progress(len(steps), f"epoch {stretch.epoch}{self.loss_text}{self.iou_text}")
            self.pause(state, steps.stop, measures)
        self._check_finite(stretch.last, measures)
        mean = measures.mean()
        seconds = measures.seconds
        self.loss_text = f", loss {mean['loss']:.3f}"
        rate = (stretch.last - stretch.first) * config.batch_size / seconds
        self.still_held()
        log.record(
            {
                **{"kind": "train", "epoch": stretch.epoch, "step": stretch.last, **mean},
                "learning_rate": float(self.schedule(stretch.last - 1)),
            },
            {"seconds": seconds, "images_per_second": rate},
        )
        return state

    def _items(self, step: int) -> NDArray[np.int32]:
        config = self.config
        return batch_items(self.setup.epoch, step, config.training.batch_size, config.seed, self.fold)

    def pause(self, state: TrainState, step: int, measures: EpochMeasures) -> None:
        """Save in the middle of an epoch if it is time to, or if a signal has come.

        Raises:
          KeyboardInterrupt: a signal has come, and everything is saved.
        """
        due = time.monotonic() - self.saved_at >= 60 * self.config.training.save_minutes
        stops, due = processes.agree(self.interruption.requested, due)
        if not stops and not due:
            return
        if step > self.saved_step:
            self._check_finite(step, measures)
            self.still_held()
            self.checkpoints.save_unfinished(state, step, measures.to_json())
            self.saved_step, self.saved_at = step, time.monotonic()
        if stops:
            self.checkpoints.wait()
            raise processes.agreed(KeyboardInterrupt(f"step {step} of {self.total_steps} is saved"))

    def _check_finite(self, end: int, measures: EpochMeasures) -> None:
        """Raise a RunError at the first step before `end` that was not finite; nothing of it has been saved."""
        place = measures.first_not_finite()  # the same on every process
        if place is None:
            return
        step = end - len(measures.per_step()["loss"]) + place
        names = dict.fromkeys(self.setup.train.names[item] for item in self._items(step))
        error = RunError(
            f"The loss or its gradient was not finite at step {step} of fold {self.fold}, with learning rate "
            f"{float(self.schedule(step)):.2g}. The images of this batch: {', '.join(names)}. The checkpoints from "
            "before it are kept. Look at these images and their labels, or try a lower training.learning_rate or "
            "training.gradient_clip = 1, in a new run (out)."
        )
        raise processes.found_by_all(error)

    def validate(self, stretch: Stretch, state: TrainState, measures: EpochMeasures, log: FoldLog) -> None:
        """Validate, record, save, and tell."""
        began, epoch = time.perf_counter(), stretch.epoch

        def between() -> None:
            self.pause(state, stretch.last, measures)

        variables = self.variables(state, stretch.last, between)
        confusion = self.evaluate(variables, self.validation_store, between)
        record = validation_record(self.setup.class_names, epoch, stretch.last, confusion)
        # only one validation may be recorded whose checkpoint is not on disk, however slow the disk is
        self.checkpoints.wait()
        if processes.is_first():
            self.still_held()
            log.record(record, {"seconds": time.perf_counter() - began})
            validations = read_records(self.directory.metrics, "validation")
            if len(validations) % self.config.training.preview_every == 0 or record["step"] == self.total_steps:
                self.pictures.draw(variables, self.validation_store, epoch)
        # last: a checkpoint means that everything before it is done
        training = self.config.training
        differ = training.weight_average or training.norm_batch_count
        self.checkpoints.save(state, record["step"], record["mean_iou"], variables if differ else None)
        self.saved_step, self.saved_at = stretch.last, time.monotonic()
        if processes.is_first():
            self._tell(record, validations, log)

    def variables(self, state: TrainState, step: int, between: Callable[[], None]) -> dict[str, Any]:
        """Return what is validated and kept: the weights, or their average, with statistics of their own if set so.

        They depend on nothing but the state and the step.
        """
        variables = state.variables
        count = self.config.training.norm_batch_count
        if count and variables["batch_stats"]:
            items = np.stack([self._items(step + number) for number in range(count)])
            variables["batch_stats"] = self.statistics(variables, self.store, items, step, between)
        return variables

    def _tell(self, record: dict[str, Any], validations: list[dict[str, Any]], log: FoldLog) -> None:
        """Print a line about a validation, and warn of classes that have collapsed."""
        epoch = record["epoch"]
        classes = ", ".join(f"{name} {_percent(value)}" for name, value in record["iou"].items())
        self.iou_text = f", IoU {_percent(record['mean_iou'])} ({classes})"
        train, timing = (read_records(path, "train")[-1] for path in (self.directory.metrics, self.directory.timing))
        rate = timing["images_per_second"]
        left = (self.total_steps - record["step"]) * self.config.training.batch_size / rate
        log.line(
            f"epoch {epoch}/{self.config.training.epochs}  loss {train['loss']:.4f}  validation IoU "
            f"{_percent(record['mean_iou'])} ({classes})  {rate:.1f} images/s, {duration(left)} left"
        )
        for name, count in collapsed(validations, record["step"] == self.total_steps).items():
            latest = f"the last {count} validations" if count > 1 else "the last validation"
            log.line(
                f"Warning: the validation IoU of class {name!r} has been 0 in {latest}. Rare "
                "classes can collapse: try another seed, more weight of the class in the loss, or more images of it."
            )

    def result(self, run: Path, was_finished: bool) -> TrainResult:
        """Return what the fold came to."""
        best = self.checkpoints.best_step()
        if best is None:
            raise RunError(f"{self.directory.checkpoints} has no checkpoint with a validation score.")
        records = read_records(self.directory.metrics, "validation")
        by_class: dict[str, float | None] = next((record["iou"] for record in records if record["step"] == best), {})
        score = self.checkpoints.score(best)
        rates = [record["images_per_second"] for record in read_records(self.directory.timing, "train")]
        rate = statistics.median(rates) if rates else float("nan")
        return TrainResult(self.fold, run, self.directory, self.total_steps, best, score, by_class, was_finished, rate)


def _percent(value: float | None) -> str:
    return "n/a" if value is None or np.isnan(value) else f"{100 * value:.1f}"
