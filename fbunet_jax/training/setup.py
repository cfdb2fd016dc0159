"""What a fold needs before its first step: its images in host memory, the network, the loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from numpy.typing import NDArray

from fbunet_jax.config import CUSTOM, Config
from fbunet_jax.data.datasets import Dataset, load_dataset
from fbunet_jax.data.folds import (
    missing_classes,
)
from fbunet_jax.errors import ConfigError, DataError, ModelError, RunError
from fbunet_jax.losses import CrossEntropy, SoftDice, check_loss, class_weights
from fbunet_jax.models.contract import (
    abstract_variables,
    check_network,
    count_rounds,
    has_field,
    multiple_of,
    with_axis,
)
from fbunet_jax.models.unet import check_size
from fbunet_jax.networks import build_network
from fbunet_jax.pipeline.normalisation import ImageKind, Normalisation, fit_normalisation, measure_kind
from fbunet_jax.pipeline.sampling import epoch_items, grid_tiles, steps_until_epoch
from fbunet_jax.pipeline.store import ImageStore, make_store
from fbunet_jax.runs import processes
from fbunet_jax.runs.checkpoints import shape_difference
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.opening import part_items
from fbunet_jax.runs.trained import load_trained_fold
from fbunet_jax.training.parallel import check_batch_size
from fbunet_jax.training.state import learning_rate_schedule

_WITHOUT = {
    "train": ("training", "its weight is 0, and the network does not learn it"),
    "validation": ("validation", "its validation IoU is n/a, and the best checkpoint is chosen without it"),
    "test": ("test", "its IoU there is n/a, and the mean of this fold leaves it out"),
}


@dataclass(frozen=True)
class Part:
    """The images of one part of a fold, in host memory.

    Attributes:
      store: the images.
      names: of the images.
      sizes: height and width of each.
      tiles: `[T, 3]` tiles of `data.crop` pixels, of which previews show some, see `grid_tiles`.
    """

    store: ImageStore
    names: tuple[str, ...]
    sizes: list[tuple[int, int]]
    tiles: NDArray[np.int32]


@dataclass(frozen=True)
class FoldSetup:
    """Everything that one fold's training is made of, and nothing that changes in it.

    Attributes:
      train: the training part.
      validation: the validation part.
      epoch: image index of every crop of an epoch, see `epoch_items`.
      model: the network.
      loss: see `fbunet_jax.losses`.
      normalisation: fitted on the training part.
      class_names: in class order.
      missing_classes: names of the classes without a pixel in each part, see `missing_classes`.
      images: what the images of the training part are.
    """

    train: Part
    validation: Part
    epoch: NDArray[np.int32]
    model: nn.Module
    loss: Any
    normalisation: Normalisation
    class_names: tuple[str, ...]
    missing_classes: Mapping[str, tuple[str, ...]]
    images: ImageKind | None = None

    def warnings(self, fold: int) -> list[str]:
        """Return a line for each class that a part of this fold has to do without, and what follows from it."""
        return [
            f"Warning: class {name!r} has no pixel in the {_WITHOUT[part][0]} part of fold {fold}: {_WITHOUT[part][1]}."
            for part, names in self.missing_classes.items()
            for name in names
        ]


def make_part(dataset: Dataset, items: NDArray[np.intp], normalisation: Normalisation, tile: int) -> Part:
    """Lay out the images of one part of a fold."""
    sizes = [(int(dataset.images[i].shape[0]), int(dataset.images[i].shape[1])) for i in items]
    names = tuple(dataset.names[i] for i in items)
    return Part(make_store(dataset, items, normalisation), names, sizes, grid_tiles(sizes, tile))


def prepare_fold(
    config: Config,
    fold: int,
    run: Run,
    *,
    starts: bool = True,
    dataset: Dataset | None = None,
    model: nn.Module | None = None,
    loss: Any = None,
) -> tuple[Dataset, FoldSetup, dict[str, Any] | None]:
    """Read the data, set up a fold and, if it `starts`, find its initial weights, if any; nothing is written.

    Args:
      config: the settings.
      fold: 0 ... K-1.
      run: which may not exist yet.
      starts: whether the fold has no checkpoint yet.
      dataset: in place of the one that the settings describe.
      model: likewise.
      loss: likewise.

    Raises:
      UserError: anything that can be wrong with the settings, the data, or both together.
    """
    check_batch_size(config.training.batch_size, len(processes.all_devices()))
    dataset = dataset or load_dataset(config.data)
    setup = set_up_fold(config, dataset, run, fold, model=model, loss=loss)
    total_steps = steps_until_epoch(config.training.epochs, len(setup.epoch), config.training.batch_size)
    learning_rate_schedule(config.training, total_steps)
    channels = setup.train.store.pixels.shape[-1]
    weights = initial_weights(config, fold, setup.model, channels) if starts else None
    return dataset, setup, weights


def set_up_fold(
    config: Config, dataset: Dataset, run: Run, fold: int, *, model: nn.Module | None = None, loss: Any = None
) -> FoldSetup:
    """Prepare one fold; nothing is written. A network and a loss take the place of those of the settings.

    Raises:
      UserError: the fold does not exist, or settings, data, network and loss do not fit each other.
    """
    items = part_items(config, run, dataset, fold)
    classes, channels = len(dataset.class_names), dataset.images[0].shape[-1]
    if model is None:
        model = build_network(config, classes=classes, channels=channels)
    else:
        devices = len(processes.all_devices())
        check_network(model, classes=classes, channels=channels, devices=devices, side=config.data.crop)
        model = with_axis(model, None)
        _check_statistics(config, model, channels)
    check_crop(config, multiple_of(model))
    if loss is not None:
        rounds = count_rounds(model, abstract_variables(model, channels), channels)
        check_loss(loss, rounds=rounds, classes=classes)
    normalisation = fit_normalisation(config.data.normalisation, [dataset.images[i] for i in items["train"]])
    train = make_part(dataset, items["train"], normalisation, config.data.crop)
    validation = make_part(dataset, items["validation"], normalisation, config.data.crop)
    for name, part in (("training", train), ("validation", validation)):
        if (np.asarray(part.store.labels) >= classes).all():
            raise DataError(
                f"The {name} part of fold {fold} has no labelled pixel: all of them are ignored. Label some, or use "
                "fewer folds."
            )
    counts = np.bincount(train.store.labels, minlength=256)[:classes]
    present = np.stack([np.bincount(label.ravel(), minlength=256)[:classes] > 0 for label in dataset.labels])
    return FoldSetup(
        train=train,
        validation=validation,
        epoch=epoch_items(train.sizes, config.data.crop),
        model=model,
        loss=settings_loss(config, counts) if loss is None else loss,
        normalisation=normalisation,
        class_names=dataset.class_names,
        missing_classes=missing_classes(items, present, dataset.class_names),
        images=measure_kind([dataset.images[i] for i in items["train"]]),
    )


def settings_loss(config: Config, counts: NDArray[np.integer]) -> Any:
    """Return the loss of a configuration.

    Args:
      config: the settings.
      counts: `[K]` pixels of each class in the training part.

    Raises:
      ConfigError: the settings list a number of weights that is not the number of classes, or stand for a loss that a
        program passed.
    """
    if config.training.class_weights == CUSTOM:
        raise ConfigError(
            f"training.class_weights = {CUSTOM!r} stands for a loss that a Python program passed, so the settings "
            "alone do not describe it: pass it again as loss=."
        )
    try:
        return loss_with(config, class_weights(counts, config.training.class_weights))
    except ModelError as error:
        raise ConfigError(f"training.{error}") from error


def loss_with(config: Config, weights: NDArray[np.float32]) -> Any:
    """Return the loss of a configuration with these weights of the classes, `[K]`."""
    loss = CrossEntropy(weights)
    return loss + config.training.dice_weight * SoftDice() if config.training.dice_weight else loss


def _check_statistics(config: Config, model: nn.Module, channels: int) -> None:
    has_any = bool(abstract_variables(model, channels)["batch_stats"])
    if config.training.norm_batch_count and has_any and not has_field(model, "momentum"):
        raise ModelError(
            f"The network {type(model).__name__} has no field momentum, so its batch statistics cannot be estimated "
            "apart from the running ones. Add the field and hand it to nn.BatchNorm, or set training.norm_batches = 0."
        )


def check_crop(config: Config, multiple: int) -> None:
    """Raise a ConfigError unless crops of `data.crop` pixels are of a size that the network takes."""
    try:
        check_size(config.data.crop, config.data.crop, multiple)
    except ModelError as error:
        raise ConfigError(f"data.crop = {config.data.crop}: {error}") from error


def initial_weights(config: Config, fold: int, model: nn.Module, channels: int) -> dict[str, Any] | None:
    """Return the variables that the best checkpoint of the same fold of `training.initial_weights` holds, if any.

    Raises:
      RunError: the run or the fold is missing, or the shapes differ (the first difference is named).
    """
    path = config.training.initial_weights
    if not path:
        return None
    run = Run(Path(path))
    # another network may have the same weights: the shapes decide
    try:
        old = load_trained_fold(run, fold, model if run.read_passed().model else None, is_same=False)
    except RunError as error:
        raise RunError(f"training.initial_weights = {path}: {error}") from error
    if difference := shape_difference(old.variables, abstract_variables(model, channels)):
        raise RunError(
            f"training.initial_weights = {path}: {difference}. Use the method, widths, classes and channels of that "
            "run."
        )
    return old.variables
