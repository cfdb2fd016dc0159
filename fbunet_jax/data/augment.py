"""Augmentation: pure functions of (key, image, label), run on the device inside the compiled step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

VIEWS = 8
"""The dihedral group of the square: four rotations, each with and without a left-right flip."""


def dihedral_view(array: Array, view: Array | int) -> Array:
    """Return one of the 8 rotations and flips of a square array.

    Args:
      array: `[S, S, ...]`.
      view: 0 to 7; view % 4 quarter turns counter-clockwise, then a left-right flip if view >= 4; 0 is the identity.
    """

    def turned(turns: int, flip: bool) -> Callable[[Array], Array]:
        return lambda a: jnp.fliplr(jnp.rot90(a, turns)) if flip else jnp.rot90(a, turns)

    return jax.lax.switch(view, [turned(v % 4, v >= 4) for v in range(VIEWS)], array)


def random_dihedral(key: Array, image: Array, label: Array) -> tuple[Array, Array]:
    """Turn and flip image `[S, S, C]` and label `[S, S]` together, each of the 8 views with equal probability."""
    view = jax.random.randint(key, (), 0, VIEWS)
    return dihedral_view(image, view), dihedral_view(label, view)


def no_augmentation(key: Array, image: Array, label: Array) -> tuple[Array, Array]:
    """Return image and label as they are."""
    del key
    return image, label


AUGMENTATIONS: dict[str, Callable[[Array, Array, Array], tuple[Array, Array]]] = {
    "none": no_augmentation,
    "dihedral": random_dihedral,
}
