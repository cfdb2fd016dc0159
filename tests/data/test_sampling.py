"""Batches, crops and tiles: functions of (seed, fold, step, position) that cover what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fbunet_jax.data.augment import VIEWS, random_dihedral
from fbunet_jax.data.datasets import Dataset
from fbunet_jax.data.normalisation import Normalisation
from fbunet_jax.data.sampling import batch_items, epoch_items, grid_tiles, make_sampler, steps_until_epoch
from fbunet_jax.data.store import make_store


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
