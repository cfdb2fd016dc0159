"""How much work a run is, and how long it takes when the cost of each thing is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import Config
from fbunet_jax.data.datasets import Dataset
from fbunet_jax.inference.validation import plan_validation
from fbunet_jax.pipeline.sampling import Size, epoch_items
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.opening import part_items
from fbunet_jax.training.plan import plan_run


@dataclass(frozen=True)
class Work:
    """How much of everything one fold has.

    Attributes:
      steps: of training.
      records: of the mean over an epoch.
      validations: each of which saves a checkpoint.
      batches: of validation tiles, in all validations together.
      pictures: times that curves and previews are drawn.
    """

    steps: int
    records: int
    validations: int
    batches: int
    pictures: int


@dataclass(frozen=True)
class Costs:
    """Seconds that each thing takes once, compiled and warm.

    Attributes:
      start: reading the data and preparing them, once a fold.
      compiling: until everything is compiled and warm, once a fold; not part of `seconds`.
      step: of training.
      record: what stands between two epochs.
      batch: of validation.
      save: of a checkpoint, with its records, and statistics of batch normalisation if they are estimated.
      picture: curves and previews.
    """

    start: float
    compiling: float
    step: float
    record: float
    batch: float
    save: float
    picture: float

    def seconds(self, work: Work) -> float:
        """Return the time of a fold, without compiling."""
        return (
            self.start
            + work.steps * self.step
            + work.records * self.record
            + work.batches * self.batch
            + work.validations * self.save
            + work.pictures * self.picture
        )


def fold_work(config: Config, run: Run, dataset: Dataset, folds: Sequence[int], devices: int) -> dict[int, Work]:
    """Count the work of each fold.

    Args:
      config: the settings.
      run: whose folds are used if it exists; nothing is written.
      dataset: all images.
      folds: which folds.
      devices: which share each batch.
    """
    work = {}
    for fold in folds:
        items = part_items(config, run, dataset, fold)
        train, validation = (image_sizes(dataset, items[part]) for part in ("train", "validation"))
        work[fold] = count_work(config, train, validation, devices)
    return work


def image_sizes(dataset: Dataset, items: NDArray[np.integer]) -> list[Size]:
    """Return height and width of some images, in pixels."""
    return [(dataset.images[i].shape[0], dataset.images[i].shape[1]) for i in items]


def count_work(config: Config, train: Sequence[Size], validation: Sequence[Size], devices: int) -> Work:
    """Count the work of a fold.

    Args:
      config: the settings.
      train: height and width of each training image, in pixels.
      validation: likewise.
      devices: which share each batch.
    """
    plan = plan_run(config.training, len(epoch_items(train, config.data.crop)))
    validations = sum(stretch.validates for stretch in plan)
    tiles = plan_validation(config, validation, devices, config.model.multiple)
    return Work(
        steps=plan[-1].last,
        records=len(plan),
        validations=validations,
        batches=validations * sum(len(each.tiles) for each in tiles),
        # every so often, and at the end
        pictures=-(-validations // config.training.preview_every),
    )
