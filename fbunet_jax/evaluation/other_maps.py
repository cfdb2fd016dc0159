"""A trained fold whose later rounds are given other class maps than the image's own, and which image's those are."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.evaluation.variants import Maps
from fbunet_jax.inference.images import Rows
from fbunet_jax.inference.tiling import mirrored
from fbunet_jax.models.contract import multiple_of, segment
from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.models.given_maps import given_maps_of_another, given_zeros, why_not_fed_back
from fbunet_jax.runs.trained import TrainedFold


def with_maps(trained: TrainedFold, maps: Maps, run: str) -> TrainedFold:
    """Return a trained fold whose later rounds are given these maps; of another image, it takes both, see `beside`.

    Args:
      trained: the fold.
      maps: which class maps.
      run: its run, for the message.

    Raises:
      ConfigError: no class maps are fed back in its network.
      RunError: what it feeds back cannot be made of zeros.
    """
    if maps == "own":
        return trained
    if why := why_not_fed_back(trained.model):
        raise ConfigError(
            f"maps = {maps!r}: the network of {run} cannot be given other class maps: {why}. Leave maps out, or "
            "evaluate a run whose later rounds are given class maps, such as one of method 'feedback-convlstm'."
        )
    model = cast(FeedbackUNet, trained.model)
    if maps == "other":
        return replace(trained, model=given_maps_of_another(model), channels=2 * trained.channels)
    with_zeros = replace(trained, model=given_zeros(model))
    if callable(model.feedback):
        _check_numbers(with_zeros, run)
    return with_zeros


def _check_numbers(with_zeros: TrainedFold, run: str) -> None:
    """Raise a RunError if a feedback of the user's own makes something of zeros that is not a number."""
    shape = (1, multiple_of(with_zeros.model), multiple_of(with_zeros.model), with_zeros.channels)
    image = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    logits = jax.jit(partial(segment, with_zeros.model))(with_zeros.variables, image)
    if not np.isfinite(logits).all():
        raise RunError(
            f"maps = 'zeros': the network of {run} returns values that are not numbers if its feedback is called with "
            "class maps of zeros. Does it take their logarithm, or divide by their sum? Use maps = 'other' instead."
        )


def other_items(items: Sequence[int] | NDArray[np.intp], views: int, part: str) -> dict[int, int]:
    """Return for each item of a part the one whose class maps it is given: of the image half the part further on.

    Args:
      items: of the part, in order.
      views: how many items in a row are views of one image; the other is seen in the same view.
      part: what to call it in the message.

    Raises:
      ConfigError: the part has one image only.
    """
    images = len(items) // views
    if images < 2:
        raise ConfigError(
            f"maps = 'other': the {part} has one image, and the maps of another one are needed. Use maps = 'zeros'."
        )
    others = np.roll(items, -views * (images // 2))
    return {int(item): int(other) for item, other in zip(items, others, strict=True)}


def beside(image: NDArray, other: NDArray) -> Rows:
    """Return what gives rows `[rows, W, 2C]` of an image: its own channels, then those of another one.

    The other is turned by half a turn, because sections of a stack show almost the same cells at the same place, and
    mirrored or cropped to the size of the image.

    Args:
      image: `[H, W, C]`.
      other: `[H', W', C]`.
    """
    turned = other[::-1, ::-1]
    columns = mirrored(0, image.shape[1], turned.shape[1])

    def rows(first: int, last: int) -> NDArray:
        numbers = mirrored(first, last - first, turned.shape[0])
        return np.concatenate([image[first:last], turned[np.ix_(numbers, columns)]], axis=-1)

    return rows
