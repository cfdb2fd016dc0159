import numpy as np
import pytest
from scipy import ndimage

from fbunet_jax.data.layouts.synthetic import CLASS_NAMES, CYTOPLASM, MEMBRANE, MITOCHONDRIA, SYNAPSE, synthetic_image


@pytest.fixture(scope="module")
def quickstart():
    pairs = [synthetic_image(seed, 128) for seed in range(20)]
    return np.stack([image[..., 0] for image, _ in pairs]), np.stack([label for _, label in pairs])


def class_iou(grey_to_class, histogram):
    confusion = np.zeros((4, 4))
    for grey, counts in enumerate(histogram):
        confusion[:, grey_to_class[grey]] += counts
    hits = np.diag(confusion)
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def best_intensity_classifier(histogram):
    """The highest mean IoU that a mapping of grey values to classes reached: weighted majority, then hill climbing."""
    starts = [np.argmax(histogram / histogram.sum(0) ** power, axis=1) for power in (0, 0.25, 0.5, 0.75, 1)]
    best = max(starts, key=lambda start: class_iou(start, histogram).mean()).copy()
    score = class_iou(best, histogram).mean()
    for _ in range(3):
        for grey in range(256):
            for candidate in range(4):
                trial = best.copy()
                trial[grey] = candidate
                if class_iou(trial, histogram).mean() > score:
                    best, score = trial, class_iou(trial, histogram).mean()
    return score


def test_intensity_alone_does_not_give_the_classes_away(quickstart):
    images, labels = quickstart
    histogram = np.zeros((256, 4))
    np.add.at(histogram, (images.ravel(), labels.ravel()), 1)

    assert 0.3 < best_intensity_classifier(histogram) < 0.45


def test_class_shares_resemble_the_drosophila_set(quickstart):
    shares = np.bincount(quickstart[1].ravel(), minlength=4) / quickstart[1].size

    assert len(shares) == len(CLASS_NAMES)
    assert 0.60 < shares[CYTOPLASM] < 0.75
    assert 0.18 < shares[MEMBRANE] < 0.27
    assert 0.05 < shares[MITOCHONDRIA] < 0.08
    assert 0.01 < shares[SYNAPSE] < 0.03


def test_every_image_has_synapses_of_at_least_60_pixels_each(quickstart):
    for label in quickstart[1]:
        blobs, count = ndimage.label(label == SYNAPSE)
        assert count >= 2
        assert np.bincount(blobs.ravel())[1:].min() >= 60


def test_every_synapse_lies_on_a_membrane(quickstart):
    for label in quickstart[1]:
        blobs, count = ndimage.label(label == SYNAPSE)
        touching = np.unique(blobs[ndimage.binary_dilation(label == MEMBRANE)])
        assert set(range(1, count + 1)) <= set(touching.tolist())


def test_mitochondria_lie_inside_cells_away_from_membranes(quickstart):
    for label in quickstart[1]:
        near = ndimage.binary_dilation(label == MITOCHONDRIA)
        assert not np.any(near & np.isin(label, [MEMBRANE, SYNAPSE]))


def test_membranes_are_at_least_4_pixels_wide(quickstart):
    for label in quickstart[1]:
        membranes = np.pad(np.isin(label, [MEMBRANE, SYNAPSE]), 8, mode="edge")
        opened = ndimage.binary_opening(membranes, np.ones((3, 3)))
        assert (membranes & ~opened).sum() < 0.02 * membranes.sum()


def test_an_image_is_a_function_of_its_seed_and_size_only():
    image, label = synthetic_image(7, 64)
    np.random.default_rng(0).random()
    again, label_again = synthetic_image(7, 64)
    other, _ = synthetic_image(8, 64)

    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)
    assert np.any(image != other)


@pytest.mark.parametrize("size", [16, 17, 33, 64, 100])
def test_any_size_from_16_gives_uint8_image_and_label(size):
    image, label = synthetic_image(1, size)

    assert (image.shape, image.dtype) == ((size, size, 1), np.uint8)
    assert (label.shape, label.dtype) == ((size, size), np.uint8)
    assert label.max() < len(CLASS_NAMES)


@pytest.mark.parametrize("seed", range(10))
def test_an_image_of_48_pixels_has_all_classes(seed):
    assert set(np.unique(synthetic_image(seed, 48)[1])) == {CYTOPLASM, MEMBRANE, MITOCHONDRIA, SYNAPSE}
