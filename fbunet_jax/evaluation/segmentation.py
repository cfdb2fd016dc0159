"""The trained network of one fold over images of its data set: what the numbers and the report's pictures come from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from numpy.typing import NDArray

from fbunet_jax.config import Config
from fbunet_jax.data.cutting import VIEWS, fitting_sides
from fbunet_jax.data.datasets import Dataset, load_dataset
from fbunet_jax.data.identity import check_passed_dataset, describe, passed_fingerprint
from fbunet_jax.errors import ConfigError, DataError, RunError
from fbunet_jax.evaluation.other_maps import beside, other_items, with_maps
from fbunet_jax.evaluation.variants import DEFAULT, Variant
from fbunet_jax.inference.ensemble import Affine
from fbunet_jax.inference.images import Rows
from fbunet_jax.inference.predictor import Predictor, Tiles
from fbunet_jax.inference.tiling import Tiling
from fbunet_jax.models.feedback import FeedbackUNet, feature_maps
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.offsets import with_offsets
from fbunet_jax.runs.trained import load_trained_fold


def load_run_data(
    run: Run, root: str = "", variant: Variant = DEFAULT, *, dataset: Dataset | None = None
) -> tuple[Config, Dataset]:
    """Return the settings of a run and the data set that it was trained with.

    Args:
      run: the run.
      root: folder of the data set, where it is no longer where the run found it.
      variant: with `whole` the images are as they were before `data.cut`, with `crops` they are cut; and so say the
        settings.
      dataset: the data set, if a program passed one to the training: the same again.

    Raises:
      UserError: the folder is no run, or the data cannot be read or are not those of the run.
    """
    config = run.read_config()
    if dataset is not None or run.read_passed().dataset:
        if dataset is not None:
            check_passed_dataset(dataset)
        given = "" if dataset is None else passed_fingerprint(dataset)
        run.read_passed().check("dataset", given, str(run.path), resumes=False)
        assert dataset is not None
        if root:
            raise ConfigError(f"root = {root!r}: the data set is passed, so no folder is read. Leave root out.")
        for name in ("whole", "crops"):
            if getattr(variant, name):
                raise ConfigError(f"{name}: the images of {run.path} were passed as they are; leave the option out.")
        return config, dataset
    if root:
        config = replace(config, data=replace(config.data, root=root))
    try:
        dataset = load_dataset(config.data)
    except DataError as error:
        raise DataError(f"{error} If the data set has moved, give its folder (root).", argument="root") from error
    if describe(dataset)["fingerprint"] != run.read_dataset()["fingerprint"]:
        raise RunError(
            f"The images in {config.data.root or 'the synthetic data set'} are not those that {run.path} was trained "
            "with. Give the folder of the same data set (root).",
            argument="root",
        )
    if variant.whole and not config.data.cut:
        raise ConfigError(f"whole: the images of {run.path} are not cut (data.cut = 0); leave the option out.")
    if variant.crops and config.data.cut:
        raise ConfigError(
            f"crops: the images of {run.path} are cut already (data.cut = {config.data.cut}); leave the option out."
        )
    if variant.crops:
        _check_crops(dataset, variant.crops)
    if variant.whole or variant.crops:
        config = replace(config, data=replace(config.data, cut=variant.crops))
        dataset = load_dataset(config.data)
    return config, dataset


def _check_crops(dataset: Dataset, side: int) -> None:
    """Raise a ConfigError if crops of this side do not cover an image."""
    for name, label in zip(dataset.names, dataset.labels, strict=True):
        height, width = label.shape
        if height % side or width % side:
            raise ConfigError(
                f"crops = {side}: the sides of image {name!r}, {height} x {width} pixels, are not multiples of it. "
                f"Crops of {fitting_sides(height, width)} pixels fit."
            )


class FoldSegmentation:
    """The best checkpoint of one fold, which segments items of the run's data set as prediction does."""

    def __init__(
        self,
        run: Run,
        config: Config,
        dataset: Dataset,
        fold: int,
        variant: Variant = DEFAULT,
        *,
        part: Sequence[int] | NDArray[np.intp] = (),
        model: nn.Module | None = None,
    ) -> None:
        """Restore the fold, which then segments as the variant says.

        Args:
          run: the run.
          config: its settings.
          dataset: its data set.
          fold: number of the fold.
          variant: what is changed.
          part: the items that are to be segmented, in order, where the maps of another one of them are fed back.
          model: the network, if a program passed one to the training.

        Raises:
          RunError: the fold has no checkpoint, or it cannot be read, or it lacks the offsets of the variant.
          ConfigError: its network, or the part, cannot be segmented as the variant says.
        """
        self.trained = load_trained_fold(run, fold, model)
        if variant.offsets:
            [self.trained] = with_offsets(run, [self.trained])
        self.dataset = dataset
        self.tile = config.data.crop
        segmenting = with_maps(self.trained, variant.maps, str(run.path))
        self._predictor = Predictor([segmenting], segmenting.channels)
        self._others: dict[int, int] = {}
        if variant.maps == "other":
            views = VIEWS if config.data.views == "dihedral" else 1
            self._others = other_items(part, views, f"evaluated part of fold {fold}")
        self._tiles = Tiles(tta=variant.tta)

    @property
    def has_features(self) -> bool:
        """Whether the network's layers are known by name."""
        return isinstance(self.trained.model, FeedbackUNet)

    @property
    def tiling(self) -> Tiling:
        """The tiles of large items; a small one is a tile of its own."""
        return self._predictor.tiling(self._tiles)

    def bands(self, item: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield the bands of an item, from top to bottom: first row, classes of every round `[R, rows, W]` uint8."""
        yield from self._predictor.rounds(*self._page(item), self._tiles)

    def probabilities(self, item: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the bands of an item: first row, and the probabilities of the last round `[rows, W, K]` float32."""
        for first, probabilities in self._predictor.round_probabilities(*self._page(item), self._tiles):
            yield first, probabilities[:, :, -1]

    def _page(self, item: int) -> tuple[Rows, int, int, Affine]:
        """Return an item's rows, with those of the other one where there is one, height, width, scale and shift."""
        images, normalisation = self.dataset.images, self.trained.normalisation
        own, affine = images[item], normalisation.affine_of(self.dataset, item)
        height, width = own.shape[:2]
        if not self._others:
            return lambda first, last: own[first:last], height, width, affine
        other = self._others[item]
        scale, shift = map(np.concatenate, zip(affine, normalisation.affine_of(self.dataset, other), strict=True))
        return beside(own, images[other]), height, width, (scale, shift)

    def label_maps(self, items: Sequence[int], strides: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return the classes of every round `[R, h, w]` uint8 of each item, every ``strides[i]``-th row and column."""
        return [
            np.concatenate([c[:, -first % stride :: stride, ::stride] for first, c in self.bands(item)], axis=1)
            for item, stride in zip(items, strides, strict=True)
        ]

    def first_block(self, item: int) -> NDArray[np.float32]:
        """Return the summed features of the first layer, last round, in an item's upper left crop `[h, w]` (Fig. 8)."""
        image = self.dataset.images[item][: self.tile, : self.tile]
        height, width = image.shape[:2]
        scale, shift = self.trained.normalisation.affine_of(self.dataset, item)
        # the network takes multiples of its unit only: smaller images are mirrored
        margins = ((0, self.tile - height), (0, self.tile - width), (0, 0))
        inputs = np.pad(image.astype(np.float32) * scale + shift, margins, mode="reflect")
        features = self._first_features(self.trained.variables, jnp.asarray(inputs[None]))
        return np.asarray(features)[0, :height, :width]

    @cached_property
    def _first_features(self) -> Callable[[Mapping[str, Any], Array], Array]:
        model = cast(FeedbackUNet, self.trained.model)
        return jax.jit(lambda variables, images: feature_maps(model, variables, images)["encoder_0_first"])
