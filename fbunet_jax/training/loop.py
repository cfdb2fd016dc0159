"""Train one fold: epochs, validations, checkpoints, records; resumes where the last checkpoint stands."""

import itertools
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO, cast

import jax
import numpy as np
from jax import Array

from fbunet_jax import figures
from fbunet_jax.config import Config
from fbunet_jax.data.sampling import batch_items
from fbunet_jax.data.store import ImageStore, gather_crop
from fbunet_jax.errors import RunError
from fbunet_jax.metrics import iou, mean_iou
from fbunet_jax.runs import FoldDirectory, Run, default_path, fold_lock, set_aside
from fbunet_jax.training.checkpoints import FoldCheckpoints
from fbunet_jax.training.interruption import Interruption
from fbunet_jax.training.logs import FoldLog, default_stream, duration, read_records, write_environment
from fbunet_jax.training.parallel import MappedEvaluation, MappedTraining, Metrics, replicate
from fbunet_jax.training.plan import plan_run
from fbunet_jax.training.setup import FoldSetup, open_run, prepare_fold
from fbunet_jax.training.state import TrainState, create_state, learning_rate_schedule, make_optimizer
from fbunet_jax.training.steps import make_train_step
from fbunet_jax.training.trained import abstract_state, save_inputs

COLLAPSED_AFTER = 5
"""Validations with IoU 0 after which a class is warned about."""


@dataclass(frozen=True)
class FoldResult:
    """What training a fold came to.

    Attributes:
      fold: its number.
      run: the run directory.
      directory: the fold's folder in it.
      steps: global steps in all.
      best_step: of the checkpoint with the best validation mean IoU.
      best_mean_iou: its validation mean IoU, 0 to 1.
      iou: its validation IoU of each class by name, None for a class absent from truth and prediction.
      was_finished: there was nothing left to do.
    """

    fold: int
    run: Path
    directory: FoldDirectory
    steps: int
    best_step: int
    best_mean_iou: float
    iou: dict[str, float | None]
    was_finished: bool


def train_fold(
    config: Config, fold: int, *, out: str | Path | None = None, fresh: bool = False, stream: TextIO | None = None
) -> FoldResult:
    """Train one cross-validation fold, or go on with it; a finished fold is left as it is.

    Args:
      config: the settings.
      fold: 0 ... K-1.
      out: run directory, runs/<config>/<method> by default.
      fresh: set an existing fold aside (fold_K.old-N) and start again.
      stream: where progress is told, standard error by default.

    Returns:
      The result; everything else lies in the run directory.

    Raises:
      UserError: settings, data or run directory do not fit; the message says what to do.
    """
    stream = stream or default_stream()
    if config.data.root:  # absolute in the run's config.toml, which is read from other folders too
        root = str(Path(config.data.root).expanduser().absolute())
        config = replace(config, data=replace(config.data, root=root))
    # Everything that can be wrong with the settings is found before the run directory holds them.
    run = Run(Path(out).expanduser() if out else default_path(config))
    dataset, setup, weights = prepare_fold(config, fold, run)
    open_run(config, dataset, run)
    directory = run.fold(fold)
    if fresh and directory.path.exists():
        with fold_lock(directory):  # nobody else may be training what is set aside
            set_aside(directory)
    with fold_lock(directory), FoldCheckpoints(directory.checkpoints) as checkpoints:
        training = FoldTraining(config, fold, setup, directory, checkpoints)
        was_finished = checkpoints.latest_step() == training.total_steps
        if not was_finished:
            write_environment(directory, sys.argv)
            save_inputs(directory, setup.normalisation)
            training.run(weights, stream)
        return training.result(run.path, was_finished)


class FoldTraining:
    """One fold on its way from the latest checkpoint to the last step."""

    def __init__(
        self, config: Config, fold: int, setup: FoldSetup, directory: FoldDirectory, checkpoints: FoldCheckpoints
    ) -> None:
        """Prepare the compiled programs; nothing runs yet."""
        self.config, self.fold, self.setup = config, fold, setup
        self.directory, self.checkpoints = directory, checkpoints
        self.plan = plan_run(config.training, len(setup.epoch))
        self.total_steps = self.plan[-1].last
        self.schedule = learning_rate_schedule(config.training, self.total_steps)
        root = jax.random.fold_in(jax.random.key(config.seed), fold)
        self.init_key, step_key = jax.random.split(root)
        settings, crop = config.training, config.data.crop
        self.optimizer = make_optimizer(settings, self.total_steps)
        self.mapped = MappedTraining(
            make_train_step(setup.model, self.optimizer, setup.class_weights, settings.round_weight),
            crop=crop,
            augmentation=settings.augmentation,
            batch_size=settings.batch_size,
            key=step_key,
        )
        self.evaluate = MappedEvaluation(setup.model, tile=crop, batch_size=settings.batch_size)
        self.segment = jax.jit(self._segment)
        # on the devices, once it has started
        self.store: ImageStore
        self.validation_store: ImageStore
        self.interruption = Interruption()
        # the latest values, for the progress bar
        self.loss_text = self.iou_text = ""

    def start(self, weights: dict[str, Any] | None) -> tuple[TrainState, int]:
        """Put the data on the devices, and the state of the latest checkpoint, the given weights, or a random one.

        Returns:
          The state, replicated, and its step.
        """
        self.store, self.validation_store = replicate((self.setup.train.store, self.setup.validation.store))
        channels = self.store.pixels.shape[-1]
        if first_step := self.checkpoints.latest_step():
            state = self.checkpoints.restore(first_step, abstract_state(self.config, self.setup.model, channels))
        else:
            state = create_state(self.setup.model, self.optimizer, self.init_key, channels)
            if weights:
                state = state._replace(params=weights["params"], batch_stats=weights["batch_stats"])
        return replicate(state), first_step or 0

    def log(self, first_step: int, stream: TextIO) -> FoldLog:
        """Return the open log of the fold; its records after `first_step` are dropped."""
        return FoldLog(
            self.directory,
            total_steps=self.total_steps,
            first_step=first_step,
            batch_size=self.config.training.batch_size,
            stream=stream,
        )

    def run(self, weights: dict[str, Any] | None, stream: TextIO) -> None:
        """Train to the last epoch, from the latest checkpoint, the given weights, or random ones."""
        state, first_step = self.start(weights)
        with self.log(first_step, stream) as log, self.interruption:
            self.announce(log, first_step)
            for epoch, first, last, validates in self.plan:
                if last > first_step:
                    state = self.train(epoch, first, last, state, log)
                    if validates:
                        self.validate(epoch, last, state, log)
            self.interruption.check()

    def announce(self, log: FoldLog, first_step: int) -> None:
        """Tell what is about to be trained, and warn of classes without a training pixel."""
        setup = self.setup
        start = f"goes on at step {first_step}" if first_step else "starts"
        log.line(
            f"Fold {self.fold} of {self.config.method} {start}: {len(setup.train.sizes)} training and "
            f"{len(setup.validation.sizes)} validation images of "
            f"{self.config.data.root or 'the synthetic data set'}, {self.total_steps} steps in "
            f"{self.config.training.epochs} epochs on {jax.local_device_count()} x "
            f"{jax.local_devices()[0].device_kind}. The first step compiles."
        )
        for name in setup.missing_classes:
            log.line(f"Warning: class {name!r} has no pixel in the training part of fold {self.fold}; its weight is 0.")

    def train(self, epoch: int, first: int, last: int, state: TrainState, log: FoldLog) -> TrainState:
        """Run the steps from `first` up to `last`, where an epoch ends, and record the mean of their metrics."""
        config, mapped = self.config.training, self.mapped
        began, collected = time.perf_counter(), []
        running: deque[Metrics] = deque()
        for start in range(first, last, mapped.steps_per_call):
            steps = range(start, min(start + mapped.steps_per_call, last))
            items = [
                batch_items(self.setup.epoch, step, config.batch_size, self.config.seed, self.fold) for step in steps
            ]
            self.interruption.check()
            state, metrics = mapped(state, self.store, np.stack(items))
            collected.append((metrics, len(steps)))
            running.append(metrics)
            if len(running) > 1:  # one call ahead of the device: never idle, never far from what the bar shows
                jax.block_until_ready(running.popleft())
            log.progress(len(steps), f"epoch {epoch}{self.loss_text}{self.iou_text}")
        per_step = [jax.tree.map(lambda value, n=n: value[:n], jax.device_get(metrics)) for metrics, n in collected]
        self._check_finite(first, per_step)
        mean = jax.tree.map(lambda *values: np.concatenate(values).mean(axis=0, dtype=np.float64).tolist(), *per_step)
        seconds = time.perf_counter() - began
        self.loss_text = f", loss {mean['loss']:.3f}"
        log.record(
            {"kind": "train", "epoch": epoch, "step": last, **mean, "learning_rate": float(self.schedule(last - 1))},
            {"seconds": seconds, "images_per_second": (last - first) * config.batch_size / seconds},
        )
        return state

    def _check_finite(self, first: int, per_step: list[dict[str, np.ndarray]]) -> None:
        """Raise a RunError at the first step whose loss or gradient is not finite; nothing of it has been saved."""
        sums = np.concatenate([metrics["loss"] + metrics["gradient_norm"] for metrics in per_step])
        if not np.isfinite(sums).all():
            step = first + int(np.argmin(np.isfinite(sums)))
            rate = float(self.schedule(step))
            raise RunError(
                f"The loss or its gradient was not finite at step {step} of fold {self.fold}, with learning rate "
                f"{rate:.2g}. The checkpoints from before it are kept. Try a lower --training.learning_rate or "
                "--training.gradient_clip 1, in a new run (--out)."
            )

    def validate(self, epoch: int, step: int, state: TrainState, log: FoldLog) -> None:
        """Validate, record, save, and tell."""
        began = time.perf_counter()
        confusion = self.evaluate(state.variables, self.validation_store, self.setup.validation.tiles)
        record = self._validation_record(epoch, step, confusion)
        log.record(record, {"seconds": time.perf_counter() - began})
        validations = read_records(self.directory.metrics, "validation")
        if len(validations) % self.config.training.preview_every == 0 or record["step"] == self.total_steps:
            self.draw(state, epoch)
        # last: a checkpoint means that everything before it is done
        self.checkpoints.save(state, record["step"], record["mean_iou"])
        classes = ", ".join(f"{name} {_percent(value)}" for name, value in record["iou"].items())
        self.iou_text = f", IoU {_percent(record['mean_iou'])} ({classes})"
        train, timing = (read_records(path, "train")[-1] for path in (self.directory.metrics, self.directory.timing))
        rate = timing["images_per_second"]
        left = (self.total_steps - record["step"]) * self.config.training.batch_size / rate
        log.line(
            f"epoch {epoch}/{self.config.training.epochs}  loss {train['loss']:.4f}  validation IoU "
            f"{_percent(record['mean_iou'])} ({classes})  {rate:.1f} images/s, {duration(left)} left"
        )
        for name, count in _collapsed(validations, record["step"] == self.total_steps).items():
            latest = f"the last {count} validations" if count > 1 else "the last validation"
            log.line(
                f"Warning: the validation IoU of class {name!r} has been 0 in {latest}. Rare "
                "classes can collapse: try another --seed, --training.class_weights, or more images of it."
            )

    def _validation_record(self, epoch: int, step: int, confusion: np.ndarray) -> dict[str, Any]:
        names, values = self.setup.class_names, iou(confusion[-1])
        return {
            "kind": "validation",
            "epoch": epoch,
            "step": step,
            "mean_iou": mean_iou(confusion[-1]),
            "iou": {name: None if np.isnan(v) else float(v) for name, v in zip(names, values, strict=True)},
            "round_mean_iou": [mean_iou(matrix) for matrix in confusion],
        }

    def draw(self, state: TrainState, epoch: int) -> None:
        """Draw learning curves and previews of the first validation tiles."""
        train, validation = (read_records(self.directory.metrics, kind) for kind in ("train", "validation"))
        figures.draw_curves(self.directory.curves, train, validation, self.setup.class_names)
        tiles = self._preview_tiles()
        if len(tiles):
            image, label, rounds = jax.device_get(self.segment(state.variables, self.validation_store, tiles))
            path = self.directory.previews / f"epoch_{epoch:05d}.png"
            figures.draw_previews(path, image, label, rounds, self.setup.class_names)

    def _segment(self, variables: Any, store: ImageStore, tiles: Array) -> tuple[Array, Array, Array]:
        """Return image, label and the predicted classes of every round of some tiles."""
        side = self.config.data.crop
        image, label = jax.vmap(lambda tile: gather_crop(store, tile[0], tile[1:], side))(tiles)
        logits = cast(Array, self.setup.model.apply(variables, image, train=False))
        return image, label, logits.argmax(axis=-1)

    def _preview_tiles(self) -> np.ndarray:
        """Return tiles spread over the validation part."""
        tiles = self.setup.validation.tiles
        count = min(self.config.training.previews, len(tiles))
        return tiles[np.linspace(0, len(tiles) - 1, count).round().astype(int)] if count else tiles[:0]

    def result(self, run: Path, was_finished: bool) -> FoldResult:
        """Return what the fold came to."""
        best = self.checkpoints.best_step()
        if best is None:
            raise RunError(f"{self.directory.checkpoints} has no checkpoint with a validation score.")
        records = read_records(self.directory.metrics, "validation")
        by_class: dict[str, float | None] = next((record["iou"] for record in records if record["step"] == best), {})
        score = self.checkpoints.score(best)
        return FoldResult(self.fold, run, self.directory, self.total_steps, best, score, by_class, was_finished)


def _collapsed(validations: list[dict[str, Any]], is_last: bool) -> dict[str, int]:
    """Return the classes to warn about now, with the number of latest validations in which their IoU was 0.

    That is once, when COLLAPSED_AFTER of them are reached, and again at the end of the run, however many they are.
    """
    found = {}
    for name in validations[-1]["iou"]:
        zeros = [record["iou"][name] == 0 for record in reversed(validations)]
        count = len(list(itertools.takewhile(bool, zeros)))
        if count == COLLAPSED_AFTER or (is_last and count):
            found[name] = count
    return found


def _percent(value: float | None) -> str:
    return "n/a" if value is None or np.isnan(value) else f"{100 * value:.1f}"
