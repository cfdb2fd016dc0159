"""Augmentation: pure functions of (key, image, label), run on the device inside the compiled step."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

Augmentation = Callable[[Array, Array, Array], tuple[Array, Array]]
"""A function of key, image `[S, S, C]` float32 and label `[S, S]` int32 that returns both, changed."""

VIEWS = 8
"""The dihedral group of the square: four rotations, each with and without a left-right flip."""

ELASTIC_SPACING = 32
"""Pixels between the places at which a random displacement is drawn."""


def dihedral_view(array: Array, view: Array | int) -> Array:
    """Return one of the 8 rotations and flips of a square array.

    Args:
      array: `[S, S, ...]`.
      view: 0 to 7; view % 4 quarter turns counter-clockwise, then a left-right flip if view >= 4; 0 is the identity.
    """

    def turned(turns: int, flip: bool) -> Callable[[Array], Array]:
        return lambda a: jnp.fliplr(jnp.rot90(a, turns)) if flip else jnp.rot90(a, turns)

    return jax.lax.switch(view, [turned(v % 4, v >= 4) for v in range(VIEWS)], array)


def opposite_view(view: Array | int) -> Array:
    """Return the view that undoes a view: the opposite turn, or the same mirror image again."""
    return jnp.where(jnp.asarray(view) < 4, -view % 4, view)


def random_dihedral(key: Array, image: Array, label: Array) -> tuple[Array, Array]:
    """Turn and flip image `[S, S, C]` and label `[S, S]` together, each of the 8 views with equal probability."""
    view = jax.random.randint(key, (), 0, VIEWS)
    return dihedral_view(image, view), dihedral_view(label, view)


def random_elastic(key: Array, image: Array, label: Array, deviation: float) -> tuple[Array, Array]:
    """Bend image `[S, S, C]` and label `[S, S]` together by a smooth random displacement.

    The displacement is normal noise on a coarse grid, one place every `ELASTIC_SPACING` pixels, with cubic
    interpolation between. Intensities are interpolated linearly, labels are those of the nearest pixel; beyond the
    border both are mirrored.

    Args:
      key: of the displacement.
      image: of any intensities.
      label: class indices.
      deviation: of the displacement at the places of the grid, in pixels along each axis.
    """
    side = label.shape[0]
    places = max(side // ELASTIC_SPACING, 1) + 1
    coarse = deviation * jax.random.normal(key, (2, places, places))
    displacement = jax.image.resize(coarse, (2, side, side), "cubic")
    position = jnp.stack(jnp.meshgrid(jnp.arange(side), jnp.arange(side), indexing="ij")) + displacement

    def bent(plane: Array, order: int) -> Array:
        return jax.scipy.ndimage.map_coordinates(plane, list(position), order, mode="mirror")

    return jax.vmap(partial(bent, order=1), in_axes=2, out_axes=2)(image), bent(label, 0)


def random_intensity(key: Array, image: Array, label: Array, strength: float) -> tuple[Array, Array]:
    """Change gamma, contrast and brightness of image `[S, S, C]`, in all channels alike, and add noise.

    With u uniform between -1 and 1, drawn anew for each: gamma is exp(strength u) between the smallest and the largest
    value of each channel, contrast exp(strength u) about its mean, brightness strength u and the deviation of the noise
    strength |u| / 4 times its standard deviation. So it does not depend on how intensities are normalised.
    """
    draw_key, noise_key = jax.random.split(key)
    gamma, contrast, brightness, noise = strength * jax.random.uniform(draw_key, (4,), minval=-1)
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    span = jnp.where(high > low, high - low, 1)
    changed = low + span * ((image - low) / span) ** jnp.exp(gamma)
    mean, deviation = changed.mean(axis=(0, 1)), changed.std(axis=(0, 1))
    changed = mean + (changed - mean) * jnp.exp(contrast) + brightness * deviation
    return changed + jnp.abs(noise) / 4 * deviation * jax.random.normal(noise_key, image.shape), label


def make_augmentation(view: str, elastic: float = 0.0, intensity: float = 0.0) -> Augmentation:
    """Return the function (key, image, label) -> (image, label) of the settings, which changes one crop.

    Args:
      view: "dihedral" or "none".
      elastic: see `random_elastic`; 0 leaves it out.
      intensity: see `random_intensity`; 0 leaves it out.
    """

    def augment(key: Array, image: Array, label: Array) -> tuple[Array, Array]:
        if elastic:
            image, label = random_elastic(jax.random.fold_in(key, 1), image, label, elastic)
        if view == "dihedral":
            image, label = random_dihedral(key, image, label)
        if intensity:
            image, label = random_intensity(jax.random.fold_in(key, 2), image, label, intensity)
        return image, label

    return augment
