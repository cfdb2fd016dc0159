"""Train one fold: opened, begun or resumed, trained to its last epoch, and its outcome."""

import contextlib
import numbers
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from flax import linen as nn

from fbunet_jax.config import Config
from fbunet_jax.data.datasets import Dataset
from fbunet_jax.data.identity import check_passed_dataset, passed_fingerprint
from fbunet_jax.device_errors import device_errors
from fbunet_jax.errors import ConfigError, DeviceError, RunError
from fbunet_jax.runs import processes
from fbunet_jax.runs.checkpoints import FoldCheckpoints, try_checkpoints
from fbunet_jax.runs.directory import FoldDirectory, Run, default_path
from fbunet_jax.runs.disks import remove_dry_runs, remove_left_behind
from fbunet_jax.runs.files import naming
from fbunet_jax.runs.interruption import Interruption
from fbunet_jax.runs.locks import fold_lock
from fbunet_jax.runs.numerics import check_resumed
from fbunet_jax.runs.opening import as_begun, check_bent_crops, check_passed, open_run
from fbunet_jax.runs.passed import passed_with, recorded
from fbunet_jax.runs.records import TrainTimes, ValidationRecord, read_records
from fbunet_jax.runs.trained import save_inputs
from fbunet_jax.training import notes
from fbunet_jax.training.keeper import Keeper, check_records
from fbunet_jax.training.logs import default_stream
from fbunet_jax.training.loop import train_epochs
from fbunet_jax.training.memory import less_memory
from fbunet_jax.training.plan import plan_run
from fbunet_jax.training.programs import FoldPrograms
from fbunet_jax.training.setup import prepare_fold


@dataclass(frozen=True)
class TrainResult:
    """The outcome of training a fold, as `train` returns it.

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
      DeviceError: a UserError: the device has too little memory, or failed; says from which step the run resumes.

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
    fold, stream = int(fold), stream or default_stream()
    passed = passed_with("" if dataset is None else passed_fingerprint(dataset), model, loss)
    given, config = config, recorded(config, passed)
    # Everything that can be wrong with the settings is found before the run directory holds them.
    run = Run(Path(out) if out else default_path(config, passed.label))
    directory, config = run.fold(fold), as_begun(run, config)
    (started,) = processes.from_first([directory.has_started()])
    processes.together(lambda: check_passed(run, passed))
    dataset, setup, weights = processes.together(
        # the same on every process
        lambda: prepare_fold(config, fold, run, starts=fresh or not started, dataset=dataset, model=model, loss=loss)
    )
    open_run(config, dataset, run, fold, passed=passed)
    if fresh:
        processes.first(lambda: _set_aside(directory))
    last_step = plan_run(config.training, len(setup.epoch))[-1].last
    with (
        interruption or Interruption() as interruption,
        naming(directory.path),
        _saying_what_is_kept(directory, last_step),
        device_errors("training", less_memory(config)),
    ):
        with _opened(directory) as (checkpoints, still_held):
            _report(stream, [f"Warning: {warning}" for warning in checkpoints.warnings])
            if was_finished := checkpoints.latest_step() == last_step:
                checkpoints.remove_unfinished()
                _report(stream, [f"Fold {fold} in {run.path} is finished already, at step {last_step}."])
            else:
                check_bent_crops(run)
                if checkpoints.latest_step() is not None:
                    processes.first(lambda: check_resumed(directory.environment))
                absent = setup.missing_classes["validation"]
                _report(stream, notes.on_format_1(run, absent) if started else [])
                _report(stream, notes.on_passed(given, config))
                processes.first(lambda: save_inputs(directory, setup.normalisation, setup.images))
                programs = FoldPrograms(config, fold, setup)
                keeper = Keeper(programs, directory, checkpoints, interruption=interruption, still_held=still_held)
                train_epochs(programs, directory, keeper, weights, stream)
            result = _result(fold, run, checkpoints, last_step, was_finished)
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


def _set_aside(directory: FoldDirectory) -> None:
    if directory.path.exists():
        with fold_lock(directory):  # nobody else may be training what is set aside
            directory.set_aside()


@contextlib.contextmanager
def _opened(directory: FoldDirectory) -> Iterator[tuple[FoldCheckpoints, Callable[[], None]]]:
    """Hold a fold, and give its checkpoints and what raises a RunError once another process has taken it over.

    One validation may be recorded without a checkpoint, if the process was killed between the two; but then the folder
    of the checkpoints is there.
    """

    def check() -> None:
        remove_left_behind(directory.path)
        remove_dry_runs(directory.path.parent)
        if not directory.checkpoints.exists() and not directory.has_started():
            check_records(directory, most=0)

    with contextlib.ExitStack() as opened:
        # by the first process for all of them
        still_held = processes.first(lambda: opened.enter_context(fold_lock(directory)))
        processes.first(check)
        try_checkpoints(directory.path)
        yield opened.enter_context(FoldCheckpoints(directory)), still_held or (lambda: None)


@contextlib.contextmanager
def _saying_what_is_kept(directory: FoldDirectory, last_step: int) -> Iterator[None]:
    """Add to a DeviceError where the training resumes; entered before the checkpoints, which are complete by then."""
    try:
        yield
    except DeviceError as error:
        if (step := directory.latest_saved()) is None:
            kept = "No checkpoint had been written yet. With other settings choose another run directory (out)."
        else:
            kept = (
                f"The checkpoint of step {step} of {last_step} is kept, and the same command resumes from there; "
                "model.rematerialise can be changed for that, other settings take a new run (out)."
            )
        raise DeviceError(f"{error} {kept}", error.kind, argument="out") from error


def _report(stream: TextIO, lines: Iterable[str]) -> None:
    if processes.is_first():
        with contextlib.suppress(OSError):  # a log that cannot be written stops no training
            stream.writelines(f"{line}\n" for line in lines)


def _result(fold: int, run: Run, checkpoints: FoldCheckpoints, steps: int, was_finished: bool) -> TrainResult:
    """Return the outcome of the fold."""
    directory, best = run.fold(fold), checkpoints.best_step()
    if best is None:
        raise RunError(f"{directory.checkpoints} has no checkpoint with a validation score.")
    records = read_records(directory.metrics, ValidationRecord)
    by_class: dict[str, float | None] = next((record["iou"] for record in records if record["step"] == best), {})
    rates = [record["images_per_second"] for record in read_records(directory.timing, TrainTimes)]
    return TrainResult(
        fold=fold,
        run=run.path,
        directory=directory,
        steps=steps,
        best_step=best,
        best_mean_iou=checkpoints.score(best),
        iou=by_class,
        was_finished=was_finished,
        images_per_second=statistics.median(rates) if rates else float("nan"),
    )
