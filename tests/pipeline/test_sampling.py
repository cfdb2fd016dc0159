"""Batches, crops and tiles: functions of (seed, fold, step, position) that cover what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fbunet_jax.data.datasets import Dataset
from fbunet_jax.pipeline.augment import VIEWS, random_dihedral
from fbunet_jax.pipeline.normalisation import Normalisation
from fbunet_jax.pipeline.sampling import (
    batch_items,
    border_margin,
    epoch_items,
    grid_tiles,
    make_sampler,
    random_corner,
    steps_until_epoch,
)
from fbunet_jax.pipeline.store import make_store


@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 16),
    seed=st.integers(0, 5),
    fold=st.integers(0, 4),
    epochs=st.just(4),
)
@settings(deadline=None, max_examples=50)
def test_every_epoch_is_a_permutation_and_batches_run_on_into_the_next(count, batch, seed, fold, epochs):
    items = np.arange(count, dtype=np.int32)
    steps = steps_until_epoch(epochs, count, batch)
    sequence = np.concatenate([batch_items(items, step, batch, seed, fold) for step in range(steps)])
    assert 0 <= len(sequence) - epochs * count < batch
    for epoch in range(epochs):
        np.testing.assert_array_equal(np.sort(sequence[epoch * count : (epoch + 1) * count]), items)


def test_the_order_depends_on_seed_fold_and_epoch():
    items = np.arange(50, dtype=np.int32)
    orders = [
        batch_items(items, step, 50, seed, fold) for step, seed, fold in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert len({tuple(order) for order in orders}) == 4
    np.testing.assert_array_equal(orders[0], batch_items(items, 0, 50, 0, 0))


def test_an_epoch_covers_the_area_once():
    # 520 x 696 pixels are 5.5 crops of 256 x 256; an image smaller than a crop still counts once
    assert epoch_items([(520, 696), (256, 256), (100, 100)], 256).tolist() == [0] * 6 + [1, 2]


@given(
    sizes=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=4), side=st.integers(1, 32)
)
@settings(deadline=None, max_examples=50)
def test_the_grid_covers_every_pixel_exactly_once(sizes, side):
    covered = [np.zeros(size, int) for size in sizes]
    for index, top, left in grid_tiles(sizes, side):
        covered[index][top : top + side, left : left + side] += 1
    assert all((count == 1).all() for count in covered)


@pytest.fixture(scope="module")
def store():
    # intensity = label = 7 x row + column: a crop tells where it is from and how it is turned
    rows, columns = np.mgrid[:20, :20]
    label = (7 * rows + columns).astype(np.uint8)
    dataset = Dataset((label[..., None],) * 2, (label,) * 2, ("a", "b"), ("a", "b"), ("x",))
    return jax.tree.map(jnp.asarray, make_store(dataset, range(2), Normalisation("scale")))


def test_image_and_label_are_turned_together_and_all_views_occur(store):
    sample = jax.jit(make_sampler(16, random_dihedral))
    batch = sample(store, jax.random.key(3), jnp.zeros(64, jnp.int32), jnp.arange(64))
    image = np.rint(np.asarray(batch["image"])[..., 0] * 255).astype(int)
    np.testing.assert_array_equal(image, batch["label"])
    assert len({(tile[0, 1] - tile[0, 0], tile[1, 0] - tile[0, 0]) for tile in image}) == VIEWS


def test_a_position_in_the_batch_gets_the_same_crop_however_the_batch_is_shared_out(store):
    sample = jax.jit(make_sampler(8, random_dihedral))
    items, positions, key = jnp.array([0, 1, 1, 0]), jnp.arange(4), jax.random.key(5)
    whole = sample(store, key, items, positions)
    halves = [sample(store, key, items[part], positions[part]) for part in (slice(0, 2), slice(2, 4))]
    np.testing.assert_array_equal(whole["image"], np.concatenate([half["image"] for half in halves]))
    assert not np.array_equal(whole["image"], sample(store, jax.random.key(6), items, positions)["image"])


def unchanged(key, image, label):
    return image, label


def test_without_crop_border_corners_are_drawn_as_in_format_1(store):
    items, positions, key = jnp.array([0, 1, 1, 0]), jnp.array([4, 5, 6, 7]), jax.random.key(5)
    labels = jax.jit(make_sampler(8, unchanged, crop_border=False))(store, key, items, positions)["label"]
    whole = np.asarray(store.labels).reshape(2, 20, 20)
    for place, (item, position) in enumerate(zip(items, positions, strict=True)):
        corner_key = jax.random.split(jax.random.fold_in(key, position))[0]
        top, left = jax.random.randint(corner_key, (2,), 0, 20 - 8 + 1)
        np.testing.assert_array_equal(labels[place], whole[item, top : top + 8, left : left + 8])


@pytest.mark.parametrize("side", [20, 24])
def test_images_that_a_crop_covers_have_one_crop_with_crop_border_and_without(store, side):
    samplers = [make_sampler(side, random_dihedral, crop_border=beyond) for beyond in (False, True)]
    both = jax.jit(lambda *arguments: [sample(store, *arguments) for sample in samplers])
    one, other = both(jax.random.key(5), jnp.arange(2), jnp.arange(2))
    for name in ("image", "label"):
        np.testing.assert_array_equal(one[name], other[name])


def coverage(size, crop, margin):
    """How often each pixel of an axis is covered, as a multiple of the mean, by a count over all corners."""
    count = np.zeros(size)
    for corner in range(-margin, size - crop + margin + 1):
        corner = min(max(corner, 0), size - crop)
        count[corner : corner + crop] += 1
    return count / count.mean()


# without a margin: 0.09, 0.00003 and 1.77; 0.14, 0.00006 and 3.97; 0.46, 0.0007 and 1.37
@pytest.mark.parametrize(
    ("size", "outer", "least", "most"), [(1024, 0.64, 0.33, 2.32), (512, 0.62, 0.30, 2.11), (300, 0.54, 0.11, 1.37)]
)
def test_the_margin_covers_the_border(size, outer, least, most):
    axis = coverage(size, 256, int(border_margin(size - 256, 256)))
    both = np.outer(axis, axis)
    frame = np.pad(np.zeros((size - 64, size - 64), bool), 32, constant_values=True)
    np.testing.assert_allclose([both[frame].mean(), both.min(), both.max()], [outer, least, most], atol=6e-3)


def test_the_margin_is_the_most_even_for_four_crops_a_side():
    deviations = [coverage(256, 64, margin).std() for margin in range(129)]
    assert deviations[int(border_margin(256 - 64, 64))] < 1.01 * min(deviations) < 0.5 * deviations[0]


def test_drawn_corners_cover_each_axis_as_counted():
    room, crop = np.array([48, 9], np.int32), 16
    keys = jax.random.split(jax.random.key(2), 20_000)
    corners = np.asarray(jax.vmap(lambda key: random_corner(key, jnp.asarray(room), crop, crop_border=True))(keys))
    for axis, largest in enumerate(room):
        found = np.zeros(largest + crop)
        for offset in range(crop):
            np.add.at(found, corners[:, axis] + offset, 1)
        margin = 3 * min(largest, crop) // 5
        # a share p of 20,000 draws is known to 2 % of the mean or better
        np.testing.assert_allclose(found / found.mean(), coverage(largest + crop, crop, margin), atol=0.06)
