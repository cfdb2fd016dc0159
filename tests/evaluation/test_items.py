"""Counts by image: equal to those of whole folds, and to the label maps that the pictures show."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.items import count_items, read_items
from fbunet_jax.evaluation.segmentation import FoldSegmentation, load_run_data
from fbunet_jax.inference.loading import load
from fbunet_jax.inference.predictor import Predictor
from fbunet_jax.models.feedback import feature_maps
from fbunet_jax.pipeline.normalisation import Normalisation
from fbunet_jax.runs.directory import Run


@pytest.fixture(scope="module")
def segmentation(make_run, tmp_path_factory):
    """A fold of a run whose images of 40 pixels are no multiple of the tile of 32."""
    run = Run(make_run(tmp_path_factory.mktemp("runs") / "run", folds=(0,)))
    config, dataset = load_run_data(run)
    labels = [label.copy() for label in dataset.labels]
    labels[1][:9] = 255
    object.__setattr__(dataset, "labels", tuple(labels))
    return FoldSegmentation(run, config, dataset, 0)


@pytest.fixture(scope="module")
def counts(segmentation):
    return count_items(segmentation, segmentation.dataset, np.array([1, 4]))


def test_ignored_pixels_do_not_count(counts):
    assert counts.confusion[0, 0].sum() == 31 * 40
    assert counts.confusion[1, 0].sum() == 40 * 40


def test_the_segmentation_is_that_of_predict(segmentation):
    predictor = Predictor([segmentation.trained], 1)
    for item, rounds in zip([1, 4], segmentation.label_maps([1, 4], [1, 1]), strict=True):
        labels = predictor.predict(segmentation.dataset.images[item]).labels
        # rounding differs between programs: a tie may go the other way in a pixel or two
        assert (rounds[-1] != labels).sum() <= 2
        assert len(np.unique(labels)) > 1


def test_counts_are_scikit_learns_on_the_label_maps(segmentation, counts):
    maps = segmentation.label_maps([1, 4], [1, 1])
    for item, rounds, confusion in zip([1, 4], maps, counts.confusion, strict=True):
        label = segmentation.dataset.labels[item]
        assert rounds.shape == (2, 40, 40)
        for predicted, matrix in zip(rounds, confusion, strict=True):
            kept = label != 255
            np.testing.assert_array_equal(confusion_matrix(label[kept], predicted[kept], labels=range(4)), matrix)


def test_moves_add_up_to_the_first_and_the_last_round(counts):
    np.testing.assert_array_equal(counts.moves.sum(axis=3), counts.confusion[:, 0])
    np.testing.assert_array_equal(counts.moves.sum(axis=2), counts.confusion[:, -1])
    stayed = np.einsum("ntkk->n", counts.moves)
    assert (stayed < counts.moves.sum(axis=(1, 2, 3))).all()  # otherwise this test says little


@pytest.mark.parametrize("stride", [2, 3, 7])
def test_reduced_label_maps_are_every_stride_th_pixel_of_the_whole_ones(segmentation, stride):
    whole = segmentation.label_maps([1, 4], [1, 1])
    reduced = segmentation.label_maps([1, 4], [stride, 1])
    np.testing.assert_array_equal(reduced[0], whole[0][:, ::stride, ::stride])
    np.testing.assert_array_equal(reduced[1], whole[1])


def test_the_first_block_has_the_size_of_a_tile_or_of_a_smaller_image(segmentation):
    assert segmentation.first_block(0).shape == (32, 32)
    assert segmentation.first_block(0).std() > 0


def test_tiles_are_evaluated_with_the_intensities_that_prediction_of_the_whole_image_has(make_run, tmp_path):
    run = Run(make_run(tmp_path / "run", folds=(0,), synthetic_size=64, cut=32, normalisation="percentile"))
    config, dataset = load_run_data(run)
    names = ["00/r0c0", "00/r0c1", "00/r1c0", "00/r1c1"]
    items = [dataset.names.index(name) for name in names]
    segmentation = FoldSegmentation(run, config, dataset, 0)
    tiles = segmentation.label_maps(items, [1] * 4)
    (image,) = load_dataset(replace(config.data, cut=0, synthetic_images=1)).images
    # without overlap every tile is segmented by itself, as in evaluation
    page = load(run.path).predict(image, tile=32, overlap=0).labels
    # rounding differs between programs: a tie may go the other way in a pixel or two
    assert (np.block([[tiles[0][-1], tiles[1][-1]], [tiles[2][-1], tiles[3][-1]]]) != page).sum() <= 3
    scale, shift = Normalisation("percentile").affine(image)
    inputs = (image[:32, 32:] * scale + shift)[None]
    features = feature_maps(segmentation.trained.model, segmentation.trained.variables, inputs)["encoder_0_first"]
    np.testing.assert_allclose(segmentation.first_block(items[1]), features[0], rtol=2e-3, atol=2e-3)


def test_counts_are_read_back_as_written_and_a_broken_file_is_named(counts, tmp_path):
    counts.save(tmp_path / "items.npz")
    again = read_items(tmp_path / "items.npz")
    assert (again.fold, again.step, again.names, again.groups) == (0, 1, counts.names, counts.groups)
    np.testing.assert_array_equal(again.confusion, counts.confusion)
    np.testing.assert_array_equal(again.moves, counts.moves)
    (tmp_path / "items.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(RunError, match=r"items\.npz cannot be read"):
        read_items(tmp_path / "items.npz")
