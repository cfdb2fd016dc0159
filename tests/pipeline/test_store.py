"""Crops gathered on the device are those of numpy, and a normalised image is what the setting says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbunet_jax.data.datasets import Dataset
from fbunet_jax.pipeline.normalisation import Normalisation, fit_normalisation
from fbunet_jax.pipeline.store import gather_crop, make_store


def mixed_dataset(dtype=np.uint8):
    random = np.random.default_rng(0)
    sizes = [(20, 33), (7, 9), (48, 16), (1, 1)]
    return Dataset(
        images=tuple(random.integers(0, 200, (*size, 2)).astype(dtype) for size in sizes),
        labels=tuple(random.integers(0, 3, size).astype(np.uint8) for size in sizes),
        names=("a", "b", "c", "d"),
        groups=("a", "b", "c", "d"),
        class_names=("x", "y", "z"),
    )


@pytest.mark.parametrize(
    ("item", "top", "left"), [(0, 0, 0), (0, 4, 17), (0, 16, 32), (1, 0, 0), (2, 32, 0), (3, 0, 0)]
)
def test_a_crop_is_the_image_padded_by_numpy_reflection(item, top, left):
    dataset, side = mixed_dataset(), 16
    store = jax.tree.map(jnp.asarray, make_store(dataset, range(4), Normalisation("scale")))
    image, label = jax.jit(gather_crop, static_argnums=3)(store, jnp.int32(item), jnp.array([top, left]), side)
    height, width = dataset.labels[item].shape
    padding = ((0, top + side), (0, left + side))
    expected = np.pad(dataset.images[item], (*padding, (0, 0)), mode="reflect")[top : top + side, left : left + side]
    np.testing.assert_allclose(image, expected / 255, rtol=1e-6)
    inside = np.zeros((side, side), bool)
    inside[: max(height - top, 0), : max(width - left, 0)] = True
    true = np.pad(dataset.labels[item], padding)[top : top + side, left : left + side]
    np.testing.assert_array_equal(label, np.where(inside, true, 255))


def test_item_minus_one_ignores_every_label():
    store = jax.tree.map(jnp.asarray, make_store(mixed_dataset(), range(4), Normalisation("scale")))
    assert (gather_crop(store, jnp.int32(-1), jnp.zeros(2, jnp.int32), 16)[1] == 255).all()


def test_only_the_chosen_items_are_laid_out_in_their_own_type():
    dataset = mixed_dataset(np.uint16)
    store = make_store(dataset, np.array([2, 0]), Normalisation("scale"))
    assert store.pixels.dtype == np.uint16
    assert store.sizes.tolist() == [[48, 16], [20, 33]]
    assert store.offsets.tolist() == [0, 48 * 16]
    np.testing.assert_array_equal(store.pixels[48 * 16 :].reshape(20, 33, 2), dataset.images[0])


def test_standardise_gives_mean_0_and_deviation_1_over_the_training_images():
    images = mixed_dataset(np.uint16).images
    normalisation = fit_normalisation("standardise", images)
    scale, shift = normalisation.affine(images[0])
    values = np.concatenate([(image * scale + shift).reshape(-1, 2) for image in images])
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-5)


def test_percentile_maps_the_1st_and_99th_percentile_of_each_image_to_0_and_1():
    image = np.random.default_rng(1).normal(500, 90, (40, 40, 1)).astype(np.float32)
    scale, shift = Normalisation("percentile").affine(image)
    low, high = np.percentile(image, (1, 99))
    np.testing.assert_allclose((np.array([low, high]) * scale + shift), [0, 1], atol=1e-5)


def test_scale_divides_integers_by_their_range_and_leaves_floats():
    for dtype, largest in ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1)):
        scale, shift = Normalisation("scale").affine(np.zeros((2, 2, 1), dtype))
        assert scale * np.float32(largest) == pytest.approx(1)
        assert shift == 0


def test_a_constant_channel_becomes_0_and_stays_finite():
    constant = np.full((4, 4, 1), 7, np.uint8)
    for kind in ("standardise", "percentile"):
        scale, shift = fit_normalisation(kind, [constant]).affine(constant)
        np.testing.assert_allclose(constant * scale + shift, 0, atol=1e-6)
