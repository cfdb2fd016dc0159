"""Images of any size, tiled, turned and averaged, give what the network gives on the whole image."""

from dataclasses import replace

import chex
import jax
import numpy as np
import pytest
import scipy.stats

import fbunet_jax
from fbunet_jax.config import load_config
from fbunet_jax.errors import ConfigError, DataError, RunError
from fbunet_jax.inference import ensemble
from fbunet_jax.inference.images import as_pages
from fbunet_jax.inference.predictor import Predictor, Tiles, sample_rows
from fbunet_jax.pipeline.normalisation import Normalisation
from fbunet_jax.training.fold import train


def whole(fold, image):
    """Return the probabilities of a whole image `[H, W, C]`, without any of the code under test."""
    scale, shift = fold.normalisation.affine(image)
    logits = fold.model.apply(fold.variables, image[None].astype(np.float32) * scale + shift, train=False)
    return np.asarray(jax.nn.softmax(logits[-1, 0]))


def test_tiled_equals_whole_beyond_the_receptive_radius_from_every_cut(make_fold, noise):
    fold = make_fold(widths=(2, 2, 2, 2, 2))
    radius = 203  # of two rounds of five levels, counted in tests/models/test_feedback.py
    height, width = 528, 912
    image = noise(height, width)
    expected = whole(fold, image[..., None])
    found = Predictor([fold], 1).predict(image, tile=512, overlap=112).probabilities
    far = np.zeros((height, width), bool)
    # tiles begin at rows 0 and 16, columns 0 and 400, and end at rows 512 and 528, columns 512 and 912
    far[16 + radius : 512 - radius, : 400 - radius] = True
    far[16 + radius : 512 - radius, 512 + radius :] = True
    assert far.sum() > 30_000
    np.testing.assert_allclose(found[far], expected[far], atol=1e-4)
    # near the cuts they differ: the comparison can tell
    assert np.abs(found - expected)[~far].max() > 2e-4


@pytest.fixture(scope="module")
def predictor(make_fold):
    return Predictor([make_fold()], 1)


@pytest.mark.parametrize("size", [(1, 1), (3, 30), (20, 27), (32, 32)])
def test_a_small_image_is_mirrored_into_one_tile(size, predictor, noise):
    image = noise(*size)
    padded = np.pad(image, [(0, 32 - size[0]), (0, 32 - size[1])], mode="reflect")
    expected = whole(predictor.folds[0], padded[..., None])[: size[0], : size[1]]
    prediction = predictor.predict(image, tile=32)
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(prediction.labels, expected.argmax(axis=-1))
    assert prediction.labels.dtype == np.uint8


def test_one_compilation_serves_every_size_fold_and_view(make_fold, noise, monkeypatch):
    traced = chex.assert_max_traces(ensemble.segment_view, n=1)
    monkeypatch.setattr(ensemble, "segment_view", traced)
    predictor = Predictor([make_fold(0), make_fold(1, 1)], 1)
    for size in ((1, 1), (5, 70), (32, 32), (100, 33), (130, 200)):
        labels = predictor.predict(noise(*size), tile=32, overlap=8, batch=2, tta=size[0] > 50).labels
        assert labels.shape == size


def test_offsets_of_each_fold_are_added_to_its_logits(make_fold, noise):
    image, folds = noise(32, 32), [make_fold(0), make_fold(1, 1)]
    offsets = [(0.0, 1.5, -2.0), (0.3, 0.0, 4.0)]
    shifted = [replace(fold, offsets=each) for fold, each in zip(folds, offsets, strict=True)]
    by_fold = []
    for fold, each in zip(folds, offsets, strict=True):
        weights = whole(fold, image[..., None]) * np.exp(np.array(each))
        by_fold.append(weights / weights.sum(axis=-1, keepdims=True))
    mean = np.mean(by_fold, axis=0)
    prediction = Predictor(shifted, 1).predict(image, tile=32)
    np.testing.assert_allclose(prediction.probabilities, mean, atol=1e-5)
    np.testing.assert_allclose(prediction.entropy, scipy.stats.entropy(mean, axis=-1) / np.log(3), atol=1e-5)
    apart = scipy.stats.entropy(mean, axis=-1) - np.mean([scipy.stats.entropy(p, axis=-1) for p in by_fold], axis=0)
    np.testing.assert_allclose(prediction.disagreement, apart / np.log(3), atol=1e-5)
    plain, zeros = (
        Predictor([replace(folds[0], offsets=each)], 1).predict(image, tile=32) for each in (None, (0.0, 0.0, 0.0))
    )
    np.testing.assert_array_equal(plain.probabilities, zeros.probabilities)
    assert len({fold.fingerprint() for fold in (folds[0], shifted[0], replace(folds[0], offsets=(0.0,) * 3))}) == 3


def test_offsets_reach_the_last_round_s_output_and_not_the_maps_that_are_fed_back(make_fold, noise):
    fold, image = make_fold(), noise(32, 32)[..., None]
    scale, shift = fold.normalisation.affine(image)
    logits = fold.model.apply(fold.variables, image[None].astype(np.float32) * scale + shift, train=False)
    expected = np.asarray(jax.nn.softmax(logits + np.array([0, 2, -1], np.float32)[None, None, None, None]))[:, 0]
    shifted = Predictor([replace(fold, offsets=(0.0, 2.0, -1.0))], 1)
    ((first, found),) = shifted.round_probabilities(lambda top, end: image[top:end], 32, 32, (scale, shift))
    assert first == 0
    np.testing.assert_allclose(np.moveaxis(found, 2, 0), expected, atol=1e-5)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_the_average_over_views_turns_with_the_image(turns, flip, predictor, noise):
    image = noise(32, 32)

    def turn(array):
        return np.rot90(array[:, ::-1] if flip else array, turns)

    straight = predictor.predict(image, tile=32, tta=True).probabilities
    turned = predictor.predict(turn(image), tile=32, tta=True).probabilities
    np.testing.assert_allclose(turned, turn(straight), atol=1e-5)
    plain = predictor.predict(image, tile=32).probabilities
    assert np.abs(predictor.predict(turn(image), tile=32).probabilities - turn(plain)).max() > 1e-3


def test_the_random_network_sees_the_image(predictor, noise):
    """Or the other tests would pass for a predictor that does not."""
    one, other = (predictor.predict(noise(32, 32, seed), tile=32).probabilities for seed in (0, 1))
    assert np.abs(one - other).mean() > 0.05


def test_the_average_over_views_is_that_of_all_eight_turned_back(predictor, noise):
    image = noise(32, 32)[..., None]
    expected = np.zeros((32, 32, 3))
    for turns in range(4):
        straight = np.rot90(image, turns)
        expected += np.rot90(whole(predictor.folds[0], straight), -turns) / 8
        mirrored = whole(predictor.folds[0], straight[:, ::-1])
        expected += np.rot90(mirrored[:, ::-1], -turns) / 8
    found = predictor.predict(image, tile=32, tta=True).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_folds_are_averaged_and_their_disagreement_is_mutual_information(make_fold, noise):
    image = noise(16, 24)
    # each fold has a normalisation of its own
    folds = [
        make_fold(seed, seed, normalisation=Normalisation("standardise", (mean,), (40.0,)))
        for seed, mean in enumerate((90.0, 120.0, 150.0))
    ]
    alone = np.stack([Predictor([fold], 1).predict(image, tile=32).probabilities for fold in folds])
    together = Predictor(folds, 1).predict(image, tile=32)
    mean = alone.mean(axis=0)
    np.testing.assert_allclose(together.probabilities, mean, atol=1e-6)
    entropy = scipy.stats.entropy(mean, base=3, axis=-1)
    np.testing.assert_allclose(together.entropy, entropy, atol=1e-5)
    expected = entropy - scipy.stats.entropy(alone, base=3, axis=-1).mean(axis=0)
    np.testing.assert_allclose(together.disagreement, expected, atol=1e-5)
    assert expected.max() > 0.01
    assert Predictor(folds[:1], 1).predict(image, tile=32).disagreement is None


def test_neither_the_batch_nor_the_bands_change_a_result(predictor, noise):
    image = noise(90, 75)
    one = predictor.predict(image, tile=32, overlap=16, batch=1)
    many = predictor.predict(image, tile=32, overlap=16, batch=5)
    np.testing.assert_allclose(one.probabilities, many.probabilities, atol=1e-6)
    np.testing.assert_allclose(one.probabilities.sum(axis=-1), 1, atol=1e-5)
    read = []

    def rows(first, last):
        read.append(last - first)
        return image[first:last, :, None]

    bands = list(predictor.bands(rows, 90, 75, Tiles(32, 16)))
    assert max(read) == 32
    assert max(len(band.labels) for band in bands) <= 32
    np.testing.assert_array_equal(np.concatenate([band.labels for band in bands]), one.labels)


def test_pages_of_a_stack_are_segmented_one_by_one(make_fold, noise):
    predictor = Predictor([make_fold(channels=3)], 3)
    pages = np.stack([noise(20, 17 * 3, seed).reshape(20, 17, 3) for seed in range(2)])
    stack = predictor.predict(pages, stack=True, tile=32)
    assert stack.probabilities.shape == (2, 20, 17, 3)
    for page, labels in zip(pages, stack.labels, strict=True):
        np.testing.assert_array_equal(labels, predictor.predict(page, tile=32).labels)


def test_percentiles_are_those_of_the_page(make_fold, noise):
    fold = make_fold(normalisation=Normalisation("percentile"))
    image = noise(32, 32).astype(np.uint16) * 100
    found = Predictor([fold], 1).predict(image, tile=32).probabilities
    np.testing.assert_allclose(found, whole(fold, image[..., None]), atol=1e-5)


def test_a_sample_of_rows_is_every_nth():
    image = np.arange(70).reshape(10, 7, 1)
    sample = sample_rows(lambda first, last: image[first:last], 10, 7, 30)
    np.testing.assert_array_equal(sample, image[::3])


def test_bfloat16_is_close_to_float32(predictor, noise):
    image = noise(32, 32)
    exact = predictor.predict(image, tile=32).probabilities
    rounded = Predictor(predictor.folds, 1, "bfloat16").predict(image, tile=32).probabilities
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).mean() < 0.03


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((8, 8, 3), {}, r"3 channels, but the network was trained with 1\. Give stack=True"),
        ((4, 8, 8), {"stack": True, "batch": 0}, "batch = 0"),
        ((2, 4, 8, 8), {}, "is no image"),
        ((8,), {}, r"expected \[H, W\]"),
        ((0, 8), {}, "is no image"),
        ((8, 8), {"tile": 30}, "tile = 30"),
        ((8, 8), {"tile": 32.0}, r"tile = 32\.0: expected a whole number"),
        ((8, 8), {"batch": 1.5}, r"batch = 1\.5: expected a whole number"),
        ((8, 8), {"overlap": True}, "overlap = True"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(shape, options, message, predictor):
    with pytest.raises((DataError, ConfigError), match=message):
        predictor.predict(np.zeros(shape, np.uint8), **options)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), 2**40), "int64"),
        (np.zeros((4, 4), complex), "complex"),
        (np.zeros((4, 4), bool), "expected intensities"),
        ([[1, 2], [3]], "is no array"),
        ([[[1, 2], [3, 4]]], "with 2 channels"),
    ],
)
def test_values_that_no_file_holds_are_refused(image, message, predictor):
    with pytest.raises(DataError, match=message):
        predictor.predict(image)


@pytest.mark.parametrize(("largest", "dtype"), [(2**31 - 1, np.int32), (2**32 - 1, np.uint32)])
def test_64_bit_integers_that_fit_are_taken(largest, dtype):
    image = [[0, 1], [2, largest]]
    np.testing.assert_array_equal(as_pages(image, 1, stack=False)[0, ..., 0], np.array(image, dtype), strict=True)


def test_64_bit_integers_are_refused_where_the_type_decides(make_fold):
    scaled = Predictor([make_fold(normalisation=Normalisation("scale"))], 1)
    with pytest.raises(DataError, match="Give the type of the files"):
        scaled.predict(np.zeros((4, 4), np.int64))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    data = {"synthetic_images": 6, "synthetic_size": 32, "crop": 32, "folds": 3}
    training = {"epochs": 1, "batch_size": 8}
    config = load_config("quickstart", data=data, model={"widths": [2, 3]}, training=training)
    for fold in (0, 2):
        train(config, fold, out=out)
    return out


def test_a_run_is_loaded_in_three_lines_and_left_as_it_is(run, noise):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    predictor = fbunet_jax.load(run)
    assert [fold.fold for fold in predictor.folds] == [0, 2]
    prediction = predictor.predict(noise(40, 50))
    assert prediction.class_names == predictor.class_names == ("cytoplasm", "membrane", "mitochondria", "synapse")
    assert prediction.labels.shape == prediction.disagreement.shape == (40, 50)
    assert [fold.fold for fold in fbunet_jax.load(run, fold=2).folds] == [2]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_fold_that_is_not_there_is_named(run, tmp_path):
    with pytest.raises(RunError, match=r"Fold 1 of .* has no checkpoint"):
        fbunet_jax.load(run, fold=1)
    with pytest.raises(RunError, match="no fold 3: expected a fold from 0 to 2"):
        fbunet_jax.load(run, fold=3)
    with pytest.raises(RunError, match="is not a run directory"):
        fbunet_jax.load(tmp_path)
