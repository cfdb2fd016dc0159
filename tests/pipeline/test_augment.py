"""Augmentation: views of NumPy, displacements read from coordinates, intensities that keep to their scale."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbunet_jax.pipeline.augment import (
    ELASTIC_SPACING,
    VIEWS,
    cubic_weights,
    dihedral_view,
    make_augmentation,
    opposite_view,
    random_dihedral,
    random_elastic,
    random_intensity,
    smooth_noise,
)

SIDE = 96


def test_the_8_views_are_those_of_numpy():
    array = np.random.default_rng(0).random((5, 5, 2))
    for view in range(VIEWS):
        turned = np.rot90(array, view % 4)
        seen = dihedral_view(jnp.asarray(array), view)
        np.testing.assert_allclose(seen, np.fliplr(turned) if view >= 4 else turned)
        np.testing.assert_array_equal(dihedral_view(seen, opposite_view(view)), array.astype(np.float32))


def test_random_views_are_equally_likely():
    image = jnp.arange(4.0).reshape(2, 2, 1)
    views = jax.vmap(lambda key: random_dihedral(key, image, image[..., 0])[0])(
        jax.random.split(jax.random.key(0), 4000)
    )
    _, counts = np.unique(np.asarray(views).reshape(4000, -1), axis=0, return_counts=True)
    assert len(counts) == VIEWS
    assert counts.min() > 400
    assert counts.max() < 600


@pytest.fixture(scope="module")
def bent():
    """Coordinates, their squares and random labels, bent by each of 20 keys with a deviation of 3 pixels."""
    rows, columns = np.meshgrid(np.arange(SIDE, dtype=np.float32), np.arange(SIDE, dtype=np.float32), indexing="ij")
    image = np.stack([rows, columns, rows**2 / SIDE, columns**2 / SIDE], axis=-1)
    label = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE))
    keys = jax.random.split(jax.random.key(1), 20)
    bend = jax.jit(jax.vmap(lambda key: random_elastic(key, jnp.asarray(image), jnp.asarray(label), 3.0)))
    values, labels = map(np.asarray, bend(keys))
    return image[..., :2], label, values[..., :2], labels, values[..., 2:]


def test_labels_are_bent_like_the_image(bent):
    _, label, positions, labels, _ = bent
    # an image of coordinates tells where each pixel came from, but for those that were mirrored at the border
    inner = (slice(None), slice(16, -16), slice(16, -16))
    found = positions[inner]
    nearest = np.rint(found).astype(int)
    clear = (np.abs(found - nearest) < 0.49).all(axis=-1)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(labels[inner][clear], label[nearest[..., 0], nearest[..., 1]][clear])


def test_displacements_are_smooth_random_and_as_large_as_asked(bent):
    image, _, positions, _, _ = bent
    displacement = (positions - image)[:, 16:-16, 16:-16]
    assert 2.6 < displacement.std() < 3.4
    assert abs(displacement.mean()) < 0.5
    assert np.abs(np.diff(displacement, axis=1)).max() < 1
    assert np.abs(np.diff(displacement, axis=2)).max() < 1
    # both axes, and every key, have their own
    correlation = np.corrcoef(displacement.transpose(0, 3, 1, 2).reshape(40, -1))
    assert np.abs(correlation - np.eye(40)).max() < 0.95


def test_intensities_are_interpolated_to_the_second_degree(bent):
    _, _, positions, _, squares = bent
    inner = (slice(None), slice(16, -16), slice(16, -16))
    np.testing.assert_allclose(squares[inner], positions[inner] ** 2 / SIDE, atol=3e-4)


def test_the_weights_are_those_of_the_kernel_of_keys():
    def kernel(distance):  # Keys 1981, equation 15
        s = np.abs(distance)
        return np.where(s < 1, 1.5 * s**3 - 2.5 * s**2 + 1, -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2)

    fraction = np.linspace(0, 1, 33, dtype=np.float32)
    for offset, weights in zip(range(-1, 3), cubic_weights(jnp.asarray(fraction)), strict=True):
        np.testing.assert_allclose(weights, kernel(fraction - offset), atol=1e-6)


def test_the_displacement_varies_alike_at_every_pixel():
    side = 2 * ELASTIC_SPACING + 7  # with places of the grid, middles between them, borders, and no whole spacing
    draws = jax.jit(jax.vmap(lambda key: smooth_noise(key, side)))(jax.random.split(jax.random.key(6), 4000))
    # the deviation of so many normal values is known to 1 / sqrt(2 * 4000) = 1.1 %
    np.testing.assert_allclose(np.std(draws, axis=0), 1, atol=0.06)
    np.testing.assert_allclose(np.mean(draws, axis=0), 0, atol=0.08)


def test_no_displacement_is_the_image_itself():
    image = jnp.asarray(np.random.default_rng(2).normal(size=(24, 24, 3)), jnp.float32)
    label = jnp.arange(24 * 24).reshape(24, 24)
    same, labels = jax.jit(random_elastic)(jax.random.key(0), image, label, 0.0)
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(labels, label)


def intensities():
    return np.random.default_rng(3).gamma(2, size=(32, 32, 2)).astype(np.float32)


def test_intensities_change_alike_however_they_are_normalised():
    image, label = intensities(), jnp.zeros((32, 32), jnp.int32)
    for seed in range(8):
        changed, kept = random_intensity(jax.random.key(seed), jnp.asarray(image), label, 0.5)
        scaled, _ = random_intensity(jax.random.key(seed), jnp.asarray(100 * image - 7), label, 0.5)
        np.testing.assert_allclose(scaled, 100 * np.asarray(changed) - 7, rtol=2e-3, atol=0.05)
        np.testing.assert_array_equal(kept, label)


def test_the_strength_bounds_contrast_and_brightness_and_reaches_far():
    image = intensities()
    keys = jax.random.split(jax.random.key(4), 400)
    changed = np.asarray(
        jax.vmap(lambda key: random_intensity(key, jnp.asarray(image), jnp.zeros((32, 32)), 0.2)[0])(keys)
    )
    # gamma alone changes mean and deviation too: e^0.2 at most doubles what the others do
    contrast = changed.std(axis=(1, 2)) / image.std(axis=(0, 1))
    brightness = (changed.mean(axis=(1, 2)) - image.mean(axis=(0, 1))) / image.std(axis=(0, 1))
    assert 0.6 < contrast.min() < 0.85
    assert 1.15 < contrast.max() < 1.6
    assert -0.7 < brightness.min() < -0.15
    assert 0.15 < brightness.max() < 0.7
    # the noise is that of each pixel, and small
    rough = np.abs(np.diff(changed - changed.mean(axis=0), axis=1)).mean()
    assert rough > 0


def test_a_crop_of_one_intensity_stays_finite():
    changed, _ = random_intensity(jax.random.key(0), jnp.full((8, 8, 1), 3.0), jnp.zeros((8, 8)), 1.0)
    np.testing.assert_allclose(changed, 3.0)


def test_without_strengths_only_the_view_changes():
    image, label = jnp.asarray(intensities()), jnp.arange(32 * 32).reshape(32, 32)
    key = jax.random.key(9)
    for view, expected in (("none", (image, label)), ("dihedral", random_dihedral(key, image, label))):
        for one, other in zip(make_augmentation(view)(key, image, label), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    options = {"elastic": 2.0, "elastic_probability": 1.0}
    everything = jax.jit(make_augmentation("dihedral", **options, intensity=0.2))(key, image, label)
    bent_only = jax.jit(make_augmentation("dihedral", **options))(key, image, label)
    np.testing.assert_array_equal(everything[1], bent_only[1])
    assert not np.allclose(everything[0], bent_only[0], atol=1e-3)
    assert not np.array_equal(bent_only[1], random_dihedral(key, image, label)[1])


def test_a_share_of_the_crops_is_bent_and_all_are_turned_as_before():
    image, label = jnp.asarray(intensities()), jnp.arange(32 * 32).reshape(32, 32)
    keys = jax.random.split(jax.random.key(8), 500)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def variants(key, probability):
        bent = random_elastic(jax.random.fold_in(key, 1), image, label, 2.0)
        augmented = make_augmentation("dihedral", 2.0, elastic_probability=probability)(key, image, label)
        return augmented, random_dihedral(key, image, label), random_dihedral(key, *bent)

    for probability in (0.0, 0.3, 1.0):
        (images, labels), turned, bent = jax.device_get(variants(keys, probability))
        kept = (images == turned[0]).all(axis=(1, 2, 3))
        np.testing.assert_allclose(kept.mean(), 1 - probability, atol=0.06 * (0 < probability < 1))  # 3 standard errors
        np.testing.assert_array_equal(labels[kept], turned[1][kept])
        np.testing.assert_allclose(images[~kept], bent[0][~kept], atol=1e-5)
        np.testing.assert_array_equal(labels[~kept], bent[1][~kept])
