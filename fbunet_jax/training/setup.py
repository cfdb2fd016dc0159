"""What a fold needs before its first step: data on the device, network, weights of the classes."""

import hashlib
import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax import Array, Device
from numpy.typing import NDArray

from fbunet_jax import processes
from fbunet_jax.checkpoints.trained import load_trained_fold
from fbunet_jax.config import CUSTOM, Config, to_toml
from fbunet_jax.data.augment import Augmentation, make_augmentation
from fbunet_jax.data.datasets import Dataset, load_dataset
from fbunet_jax.data.folds import (
    check_folds,
    configured_folds,
    fold_items,
    folds_from_json,
    folds_to_json,
    missing_classes,
    select_fold,
)
from fbunet_jax.data.identity import describe
from fbunet_jax.data.normalisation import Normalisation, fit_normalisation
from fbunet_jax.data.sampling import epoch_items, grid_tiles, steps_until_epoch
from fbunet_jax.data.store import ImageStore, make_store
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
from fbunet_jax.passed import NOTHING, Passed
from fbunet_jax.runs import FoldDirectory, Run, create_or_open
from fbunet_jax.training.parallel import MappedStatistics, MappedTraining, check_batch_size
from fbunet_jax.training.state import learning_rate_schedule
from fbunet_jax.training.steps import make_train_step

_WITHOUT = {
    "train": ("training", "its weight is 0, and the network does not learn it"),
    "validation": ("validation", "its validation IoU is n/a, and the best checkpoint is chosen without it"),
    "test": ("test", "its IoU there is n/a, and the mean of this fold leaves it out"),
}

SHARED_AFTER = 60.0
"""Seconds in which a file that one host has written must be seen by the others: NFS remembers a folder that long."""


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
    """

    train: Part
    validation: Part
    epoch: NDArray[np.int32]
    model: nn.Module
    loss: Any
    normalisation: Normalisation
    class_names: tuple[str, ...]
    missing_classes: Mapping[str, tuple[str, ...]]

    def warnings(self, fold: int) -> list[str]:
        """Return a line for each class that a part of this fold has to do without, and what follows from it."""
        return [
            f"Warning: class {name!r} has no pixel in the {_WITHOUT[part][0]} part of fold {fold}: {_WITHOUT[part][1]}."
            for part, names in self.missing_classes.items()
            for name in names
        ]


def open_run(config: Config, dataset: Dataset, run: Run, fold: int | None = None, *, passed: Passed = NOTHING) -> None:
    """Create the run directory of a configuration, or check that an existing one has the same settings and data.

    Args:
      config: the settings.
      dataset: the images.
      run: the run directory.
      fold: that every process of a training must have.
      passed: what a program passed.

    Raises:
      RunError: it has others; another process of this training has others, or another fold, or does not see it.
    """
    folds = configured_folds(dataset.groups, config.data)
    text = folds_to_json(folds, config.data.fold_scheme)
    description = describe(dataset)
    # where the data lie may differ between hosts
    settings = to_toml(replace(config, data=replace(config.data, root="")))
    processes.check_same(
        hashlib.sha256(json.dumps([settings, description, fold, asdict(passed)]).encode()).digest(),
        "Process {process} has another fold, other settings or other images than process 0. Give every process of a "
        "training the same command and the same data set; to train in one alone, set --distributed.num-processes 1.",
    )
    processes.first(lambda: create_or_open(run.path, config, folds=text, dataset=description, passed=passed))
    processes.together(lambda: _check_shared(run))


def _check_shared(run: Run) -> None:
    """Wait until a network's file system shows what the first process has written there."""
    until = time.monotonic() + SHARED_AFTER
    while not run.dataset.exists():
        if time.monotonic() > until:
            raise RunError(
                f"{run.dataset}, which process 0 has written, cannot be seen by process {jax.process_index()} on "
                f"host {socket.gethostname()}. Choose a run directory (out) on a disk that all hosts share."
            )
        time.sleep(0.1)


def part_items(config: Config, run: Run, dataset: Dataset, fold: int) -> dict[str, NDArray[np.intp]]:
    """Return the item indices of ``train``, ``validation`` and ``test`` of one fold.

    They are those of the run; a run that does not exist yet will have those of the configuration.
    """
    if run.folds.exists():
        folds = folds_from_json(run.folds.read_text(encoding="utf-8"), str(run.folds))
        check_folds(folds, dataset.groups, str(run.folds))
    else:
        folds = configured_folds(dataset.groups, config.data)
    return fold_items(dataset.groups, select_fold(folds, fold))


def make_part(dataset: Dataset, items: NDArray[np.intp], normalisation: Normalisation, tile: int) -> Part:
    """Lay out the images of one part of a fold."""
    sizes = [(int(dataset.images[i].shape[0]), int(dataset.images[i].shape[1])) for i in items]
    names = tuple(dataset.names[i] for i in items)
    return Part(make_store(dataset, items, normalisation), names, sizes, grid_tiles(sizes, tile))


def has_started(directory: FoldDirectory) -> bool:
    """Say whether a fold has a checkpoint to go on from, whole or not."""
    folders = (directory.checkpoints, directory.unfinished)
    return any(path.name.isdecimal() for folder in folders if folder.is_dir() for path in folder.iterdir())


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


def mapped_training(
    config: Config,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Any,
    key: Array,
    devices: Sequence[Device] | None = None,
) -> MappedTraining:
    """Return the mapped training step of a configuration.

    Args:
      config: the settings.
      model: the network.
      optimizer: from `make_optimizer`.
      loss: see `fbunet_jax.losses`.
      key: from which the key of every step is folded.
      devices: those of all processes by default.

    Raises:
      ConfigError: the batch does not divide over the devices.
    """
    settings = config.training
    return MappedTraining(
        lambda given: make_train_step(model, optimizer, given, settings.round_weight),
        loss,
        crop=config.data.crop,
        augment=_augmentation(config),
        crop_border=settings.crop_border,
        batch_size=settings.batch_size,
        key=key,
        devices=devices,
    )


def mapped_statistics(config: Config, model: nn.Module, key: Array) -> MappedStatistics:
    """Return what estimates batch-norm statistics on the training crops of a configuration."""
    border = config.training.crop_border
    return MappedStatistics(model, crop=config.data.crop, augment=_augmentation(config), crop_border=border, key=key)


def _augmentation(config: Config) -> Augmentation:
    settings = config.training
    return make_augmentation(
        settings.augmentation,
        settings.elastic_augmentation,
        settings.intensity_augmentation,
        elastic_probability=settings.elastic_probability,
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
    expected = _shapes(abstract_variables(model, channels))
    found = _shapes(old.variables)
    for name in sorted(expected | found):
        if expected.get(name) != found.get(name):
            raise RunError(
                f"training.initial_weights = {path}: {name} is {found.get(name, 'absent')} there and "
                f"{expected.get(name, 'absent')} here. Use the method, widths, classes and channels of that run."
            )
    return old.variables


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
