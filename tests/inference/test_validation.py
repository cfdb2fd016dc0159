"""Validation in prediction's tiles: every pixel once, whatever the devices, and as prediction segments it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from fbunet_jax.data.datasets import Dataset
from fbunet_jax.inference import tiling
from fbunet_jax.inference.predictor import Predictor
from fbunet_jax.inference.validation import MappedValidation, plan_separate_tiles, plan_tiles
from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.pipeline.normalisation import Normalisation
from fbunet_jax.runs.processes import replicate
from fbunet_jax.runs.trained import TrainedFold
from fbunet_jax.training.setup import make_part

SIZES = [(17, 75), (32, 32), (5, 9), (80, 33), (16, 16), (70, 70)]


class IntensityModel(nn.Module):
    """Class = intensity / 60 in round 1, class 1 everywhere in round 2: predictions known without a network."""

    classes: int = 3
    rounds: int = 2

    @nn.compact
    def __call__(self, images, *, train):
        del train
        first = jax.nn.one_hot((images[..., 0] * 255 / 60).astype(int), self.classes)
        return jnp.stack([first, jnp.zeros_like(first).at[..., 1].set(1)])


@pytest.fixture(scope="module")
def dataset():
    """Images of mixed sizes, none a multiple of the tile, with ignored pixels; class 2 is absent."""
    random = np.random.default_rng(0)
    labels = [random.choice(np.array([0, 1, 255], np.uint8), size, p=[0.6, 0.3, 0.1]) for size in SIZES]
    images = [random.integers(0, 120, (*size, 1)).astype(np.uint8) for size in SIZES]
    names = tuple("abcdef")
    return Dataset(tuple(images), tuple(labels), names, names, ("x", "y", "z"))


@pytest.fixture
def small_tiles(monkeypatch):
    """Let prediction cut these small images as it does large ones, into tiles of 32 that share 16 pixels."""
    monkeypatch.setattr(tiling, "DEFAULT_TILE", 32)
    monkeypatch.setattr(tiling, "SMALL_STEP", 8)


@pytest.mark.parametrize("kind", ["separate", "overlapping"])
@pytest.mark.parametrize(("devices", "pixels"), [(1, 1), (4, 16 * 1024), (8, 7 * 1024)])
def test_counts_are_scikit_learns_for_every_batch_size_and_number_of_devices(
    dataset, devices, pixels, kind, small_tiles
):
    part = make_part(dataset, np.arange(len(SIZES)), Normalisation("scale"), 16)
    if kind == "separate":
        plan = plan_separate_tiles(SIZES, 16, devices=devices, pixels=pixels)
    else:
        plan = plan_tiles(SIZES, 4, devices=devices, pixels=pixels)
        assert {batches.width > 0 for batches in plan} == {True, False}
    used = jax.devices()[:devices]
    confusion = MappedValidation(IntensityModel(), 3, plan, devices=used)({}, replicate(part.store, used))
    truth = np.concatenate([label.reshape(-1) for label in dataset.labels])
    predicted = np.concatenate([image.reshape(-1) for image in dataset.images]) // 60
    kept = truth != 255
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(confusion[0], confusion_matrix(truth[kept], predicted[kept], labels=range(3)))
    np.testing.assert_array_equal(confusion[1], confusion_matrix(truth[kept], np.ones(kept.sum()), labels=range(3)))


def test_counts_are_those_of_what_prediction_gives(dataset, small_tiles):
    model = FeedbackUNet(3, (3, 4), convlstm="ad")
    variables = model.init(jax.random.key(1), jnp.zeros((1, 8, 8, 3)), train=False)
    images = tuple(np.repeat(image, 3, axis=2) for image in dataset.images)
    dataset = Dataset(images, dataset.labels, dataset.names, dataset.groups, dataset.class_names)
    predictor = Predictor([TrainedFold(0, 1, model, variables, Normalisation("scale"), dataset.class_names, 3)], 3)
    predicted = np.concatenate([predictor.predict(image).labels.reshape(-1) for image in images])
    truth = np.concatenate([label.reshape(-1) for label in dataset.labels])
    kept = truth != 255
    expected = confusion_matrix(truth[kept], predicted[kept], labels=range(3))
    assert (expected.sum(axis=0) > 100).sum() > 1  # otherwise this test says little

    part = make_part(dataset, np.arange(len(SIZES)), Normalisation("scale"), 16)
    used = jax.devices()[:2]
    plan = plan_tiles(SIZES, 2, devices=2, pixels=4 * 1024)
    confusion = MappedValidation(model, model.classes, plan, devices=used)(*replicate((variables, part.store), used))
    # rounding differs between programs: a tie may go the other way in a pixel or two
    np.testing.assert_allclose(confusion[-1], expected, atol=3)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 1500), st.integers(1, 1500)), min_size=1, max_size=5),
    devices=st.integers(1, 4),
    pixels=st.integers(1, 2**21),
)
def test_every_tile_of_every_image_is_in_the_plan_once_and_every_row_is_completed(sizes, devices, pixels):
    plan = plan_tiles(sizes, 16, devices=devices, pixels=pixels)
    found = [
        (int(item), int(top), int(left), batches.tiling.tile)
        for batches in plan
        for item, top, left in batches.tiles.reshape(-1, 3)
        if item >= 0
    ]
    expected = []
    rows = 0
    for item, (height, width) in enumerate(sizes):
        cut = tiling.Tiling.fitting(16, page=(height, width))
        places = [(top, left) for top in cut.origins(height) for left in cut.origins(width)]
        expected += [(item, top, left, cut.tile) for top, left in places]
        rows += places[-1][0] + cut.tile if len(places) > 1 else 0
    assert sorted(found) == sorted(expected)
    assert sum(int(batches.complete.sum()) for batches in plan) == rows
