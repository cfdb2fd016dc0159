"""One batch of tiles through every fold: mean probabilities and the disagreement between folds, on the device."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from numpy.typing import NDArray

from fbunet_jax.device_errors import device_errors
from fbunet_jax.models.contract import segment
from fbunet_jax.pipeline.augment import VIEWS, dihedral_view, opposite_view
from fbunet_jax.runs.trained import TrainedFold

Affine = tuple[NDArray[np.float32], NDArray[np.float32]]


class Ensemble:
    """The networks of the folds, compiled once for a shape and type of tiles: folds and views are its arguments.

    It may be called by several threads.
    """

    def __init__(self, folds: Sequence[TrainedFold], dtype: Any = None) -> None:
        """Put the weights on the device; compute in `dtype`, as trained by default."""
        # compiled once although every fold has a network: they differ in their weights only
        model = folds[0].model if dtype is None else folds[0].model.clone(dtype=dtype)
        self._segment = jax.jit(partial(segment_view, model))
        self._combine = jax.jit(combine)
        self._segment_rounds = jax.jit(partial(segment_rounds, model))
        self._combine_rounds = jax.jit(combine_rounds)
        self._variables = jax.device_put([fold.variables for fold in folds])
        offsets = [None if fold.offsets is None else np.array(fold.offsets, np.float32) for fold in folds]
        self._offsets = jax.device_put(offsets)
        self._compiling, self._compiled = threading.Lock(), set[tuple[Any, ...]]()

    def __call__(
        self, pixels: NDArray, affines: Sequence[Affine], weights: NDArray[np.float32], *, tta: bool = False
    ) -> Array:
        """Segment tiles.

        Args:
          pixels: `[B, T, T, C]` as stored.
          affines: scale and shift `[C]` of each fold, see `Normalisation.affine`.
          weights: `[T]` of rows and columns.
          tta: average over the 8 dihedral views.

        Returns:
          `[B, T, T, K + 1]` float32, multiplied by the weights: the mean probabilities, and the mutual information
          between class and fold in nats. Not waited for.
        """
        return self._once(self._members, pixels, affines, weights, tta)

    def rounds(
        self, pixels: NDArray, affines: Sequence[Affine], weights: NDArray[np.float32], *, tta: bool = False
    ) -> Array:
        """Return the weighted probabilities of every round of the first fold, `[B, T, T, R K]` float32.

        Arguments and the rest are those of a call.
        """
        return self._once(self._rounds, pixels, affines, weights, tta)

    def _once(self, call: Callable[..., Array], *arguments: Any) -> Array:
        """Call; threads that come while it is compiled wait, and do not compile it too."""
        pixels, *_, tta = arguments
        kind = call.__name__, pixels.shape, pixels.dtype, tta
        if kind in self._compiled:
            return call(*arguments)
        with self._compiling:
            values = call(*arguments)
            self._compiled.add(kind)
            return values

    def _members(self, pixels: NDArray, affines: Sequence[Affine], weights: NDArray[np.float32], tta: bool) -> Array:
        tiles, views = jnp.asarray(pixels), _views(tta)
        members = [
            [self._segment(variables, tiles, scale, shift, view, offsets) for view in views]
            for variables, offsets, (scale, shift) in zip(self._variables, self._offsets, affines, strict=True)
        ]
        return self._combine(members, weights)

    def _rounds(self, pixels: NDArray, affines: Sequence[Affine], weights: NDArray[np.float32], tta: bool) -> Array:
        tiles, (scale, shift) = jnp.asarray(pixels), affines[0]
        variables, offsets = self._variables[0], self._offsets[0]
        members = [self._segment_rounds(variables, tiles, scale, shift, view, offsets) for view in _views(tta)]
        return self._combine_rounds(members, weights)


def segmenting(tile: int, batch: int) -> contextlib.AbstractContextManager[None]:
    """Raise a DeviceError, which says what takes less memory, where a device cannot segment tiles."""
    return device_errors(
        f"segmenting {batch} tile{'s' * (batch > 1)} of {tile} x {tile} pixels at once",
        "Lower tile or batch, take one fold, or set precision to bfloat16.",
    )


def _views(tta: bool) -> list[np.int32]:
    return [np.int32(view) for view in range(VIEWS if tta else 1)]


def segment_view(
    model: nn.Module,
    variables: Any,
    pixels: Array,
    scale: Array,
    shift: Array,
    view: Array,
    offsets: Array | None = None,
) -> Array:
    """Return the probabilities of the last round, `[B, T, T, K]` float32, of one dihedral view, turned back.

    Args:
      model: the network; batch normalisation uses the statistics that were kept with the weights.
      variables: of one fold.
      pixels: `[B, T, T, C]` as stored.
      scale: `[C]`.
      shift: `[C]`.
      view: [] int32, 0 to 7, see `dihedral_view`; 0 is the tile as it is.
      offsets: `[K]` float32, added to the logits of every round, but not where maps are fed back; None for no offsets.
    """
    return segment_rounds(model, variables, pixels, scale, shift, view, offsets)[-1]


def segment_rounds(
    model: nn.Module,
    variables: Any,
    pixels: Array,
    scale: Array,
    shift: Array,
    view: Array,
    offsets: Array | None = None,
) -> Array:
    """Return the probabilities of every round, `[R, B, T, T, K]` float32; see `segment_view`."""
    turn = jax.vmap(dihedral_view, in_axes=(0, None))
    images = turn(pixels, view).astype(jnp.float32) * scale[None, None, None] + shift[None, None, None]
    logits = segment(model, variables, images).astype(jnp.float32)
    if offsets is not None:
        logits += offsets[None, None, None, None]
    return jax.vmap(turn, in_axes=(0, None))(jax.nn.softmax(logits), opposite_view(view))


def combine(members: Sequence[Sequence[Array]], weights: Array) -> Array:
    """Return what `Ensemble` returns from the probabilities `[B, T, T, K]` of every fold and view."""
    folds = [sum(views[1:], start=views[0]) / len(views) for views in members]
    mean = sum(folds[1:], start=folds[0]) / len(folds)
    disagreement = entropy(mean) - sum(map(entropy, folds)) / len(folds)
    values = jnp.concatenate([mean, jnp.maximum(disagreement, 0)[..., None]], axis=-1)
    return values * weights[None, :, None, None] * weights[None, None, :, None]


def combine_rounds(views: Sequence[Array], weights: Array) -> Array:
    """Return what `Ensemble.rounds` returns from the probabilities `[R, B, T, T, K]` of every view."""
    mean = jnp.moveaxis(sum(views[1:], start=views[0]) / len(views), 0, 3)
    return mean.reshape(*mean.shape[:3], -1) * weights[None, :, None, None] * weights[None, None, :, None]


def entropy(probabilities: Array) -> Array:
    """Return the entropy over the last axis in nats; 0 log 0 is 0."""
    return jax.scipy.special.entr(probabilities).sum(axis=-1)
