"""Augmentation: pure functions of (key, image, label), run on the device inside the compiled step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from fbunet_jax.pipeline.store import mirror

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
    view = jax.random.randint(key, (), 0, VIEWS, jnp.int32)
    return dihedral_view(image, view), dihedral_view(label, view)


def _gathered_dihedral(key: Array, image: Array, label: Array) -> tuple[Array, Array]:
    """Do what `random_dihedral` does by one gather: XLA would compute what was costly again for each of the views."""
    rows, columns = random_dihedral(key, *jnp.indices(label.shape))
    return image[rows, columns], label[rows, columns]


def random_elastic(key: Array, image: Array, label: Array, deviation: Array | float) -> tuple[Array, Array]:
    """Bend image `[S, S, C]` and label `[S, S]` together by a smooth random displacement.

    The displacement is `smooth_noise`. Intensities are interpolated by cubic convolution, which blurs less than linear
    interpolation; labels are those of the nearest pixel. Beyond the border both are mirrored.

    Args:
      key: of the displacement.
      image: of any intensities.
      label: class indices.
      deviation: standard deviation of the displacement at every pixel along each axis, in pixels; 0 changes nothing.
    """
    side = label.shape[0]
    displacement = deviation * smooth_noise(key, side)
    whole = jnp.floor(displacement)
    corner = jnp.indices((side, side)) + whole.astype(jnp.int32)
    rows, columns = ([mirror(axis + offset, side) for offset in range(-1, 3)] for axis in corner)
    down, right = ([w.astype(image.dtype)[..., None] for w in cubic_weights(axis)] for axis in displacement - whole)
    # sixteen gathers, because one of all 4 x 4 neighbours is seven times slower with XLA for CPUs
    lines = [sum(right[j] * image[row, columns[j]] for j in range(4)) for row in rows]
    bent = sum(down[i] * lines[i] for i in range(4))
    nearest_row, nearest_column = mirror(jnp.indices((side, side)) + jnp.rint(displacement).astype(jnp.int32), side)
    return jnp.asarray(bent), label[nearest_row, nearest_column]


def cubic_weights(fraction: Array) -> tuple[Array, Array, Array, Array]:
    """Return the weights of the pixels at -1, 0, 1 and 2 in the value at a place from 0 to 1.

    Cubic convolution with a = -1/2 (Keys, IEEE Trans. ASSP 29, 1981, equation 15): it keeps the values of the pixels,
    and every polynomial of second degree.
    """
    t = fraction
    return (
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    )


def smooth_noise(key: Array, side: int) -> Array:
    """Return two smooth planes `[2, side, side]` float32 of normal noise, of standard deviation 1 at every pixel.

    Independent values, one place every `ELASTIC_SPACING` pixels of both axes, are interpolated by cubic convolution.
    Its weights are divided by the root of the sum of their squares, which is 1 at the places and 0.8 between two.
    """
    place, offset = jnp.divmod(jnp.arange(side), ELASTIC_SPACING)
    weights = jnp.stack(cubic_weights(offset.astype(jnp.float32) / ELASTIC_SPACING))
    # the variance of a weighted sum of independent values is the sum of the squared weights
    weights /= jnp.sqrt((weights**2).sum(axis=0, keepdims=True))
    places = (side - 1) // ELASTIC_SPACING + 4
    spread = jnp.zeros((side, places)).at[jnp.arange(side), place[None] + jnp.arange(4)[:, None]].set(weights)
    coarse = jax.random.normal(key, (2, places, places), jnp.float32)
    return jnp.einsum("ia,nab,jb->nij", spread, coarse, spread, precision="highest")


def random_intensity(key: Array, image: Array, label: Array, strength: float) -> tuple[Array, Array]:
    """Change gamma, contrast and brightness of image `[S, S, C]`, in all channels alike, and add noise.

    With u uniform between -1 and 1, drawn anew for each: gamma is exp(strength u) between the smallest and the largest
    value of each channel, contrast exp(strength u) about its mean, brightness strength u and the deviation of the noise
    strength |u| / 4 times its standard deviation. So it does not depend on how intensities are normalised.
    """
    draw_key, noise_key = jax.random.split(key)
    gamma, contrast, brightness, noise = strength * jax.random.uniform(draw_key, (4,), jnp.float32, minval=-1)
    low, high = image.min(axis=(0, 1), keepdims=True), image.max(axis=(0, 1), keepdims=True)
    span = jnp.where(high > low, high - low, 1)
    changed = low + span * ((image - low) / span) ** jnp.exp(gamma)
    mean, deviation = changed.mean(axis=(0, 1), keepdims=True), changed.std(axis=(0, 1), keepdims=True)
    changed = mean + (changed - mean) * jnp.exp(contrast) + brightness * deviation
    return changed + jnp.abs(noise) / 4 * deviation * jax.random.normal(noise_key, image.shape, jnp.float32), label


def make_augmentation(
    view: str, elastic: float = 0.0, intensity: float = 0.0, *, elastic_probability: float = 0.3
) -> Augmentation:
    """Return the function (key, image, label) -> (image, label) of the settings, which changes one crop.

    Args:
      view: "dihedral" or "none".
      elastic: see `random_elastic`; 0 leaves it out.
      intensity: see `random_intensity`; 0 leaves it out.
      elastic_probability: share of the crops that are bent. Interpolation blurs a little, and the images of a
        prediction are not blurred: the others keep the network used to that.
    """

    def augment(key: Array, image: Array, label: Array) -> tuple[Array, Array]:
        if elastic:
            bends = jax.random.bernoulli(jax.random.fold_in(key, 3), elastic_probability)
            image, label = random_elastic(jax.random.fold_in(key, 1), image, label, elastic * bends.astype(jnp.float32))
        if view == "dihedral":
            image, label = (_gathered_dihedral if elastic else random_dihedral)(key, image, label)
        if intensity:
            image, label = random_intensity(jax.random.fold_in(key, 2), image, label, intensity)
        return image, label

    return augment
