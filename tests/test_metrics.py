import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from fbunet_jax.errors import UserError
from fbunet_jax.metrics import confusion_matrix, iou, mean_iou

IGNORE = 255


@pytest.fixture(scope="module")
def count():
    return jax.jit(confusion_matrix, static_argnums=2)


def pixels(seed, classes, shape=(4, 5, 6)):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, shape, dtype=np.int32)
    labels[random.random(shape) < 0.2] = IGNORE
    return labels, random.integers(0, classes, shape, dtype=np.int32)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), classes=st.sampled_from([2, 4]))
def test_the_confusion_matrix_and_iou_equal_scikit_learn(count, seed, classes):
    labels, predictions = pixels(seed, classes)
    counted = labels != IGNORE
    truth, predicted, names = labels[counted], predictions[counted], list(range(classes))

    confusion = count(labels, predictions, classes)

    expected = sklearn.metrics.confusion_matrix(truth, predicted, labels=names)
    np.testing.assert_array_equal(confusion, expected)
    assert confusion.dtype == jnp.int32
    scores = sklearn.metrics.jaccard_score(truth, predicted, labels=names, average=None)
    np.testing.assert_allclose(iou(confusion), scores, rtol=1e-12)
    assert mean_iou(confusion) == pytest.approx(scores.mean())


def test_iou_by_hand_with_an_absent_class_and_ignored_pixels(count):
    labels = jnp.array([[0, 0, 0, 1], [1, 3, IGNORE, IGNORE]])
    predictions = jnp.array([[0, 0, 1, 1], [0, 0, 1, 3]])

    confusion = count(labels, predictions, 4)

    np.testing.assert_array_equal(confusion, [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    # class 0: 2 right, 1 missed, 2 too many; class 1: 1, 1, 1; class 2 is nowhere; class 3 is missed
    np.testing.assert_allclose(iou(confusion), [2 / 5, 1 / 3, np.nan, 0])
    assert mean_iou(confusion) == pytest.approx((2 / 5 + 1 / 3 + 0) / 3)


def test_a_class_without_truth_has_no_iou_and_its_false_positives_count_against_the_others():
    confusion = np.array([[90, 10, 0], [10, 80, 10], [0, 0, 0]])
    np.testing.assert_allclose(iou(confusion), [90 / 110, 80 / 110, np.nan])
    assert mean_iou(confusion) == pytest.approx((90 / 110 + 80 / 110) / 2)
    # as scikit-learn has it for the labels that are there
    truth, predicted = (np.repeat(axis.ravel(), confusion.ravel()) for axis in np.indices((3, 3)))
    scores = sklearn.metrics.jaccard_score(truth, predicted, labels=[0, 1], average=None)
    np.testing.assert_allclose(iou(confusion)[:2], scores)


def test_one_stray_pixel_of_an_absent_class_moves_the_mean_by_one_pixel():
    confusion = np.diag([700, 700, 700, 0])
    confusion[0, 1] = confusion[1, 2] = confusion[2, 0] = 180
    stray = confusion.copy()
    stray[0, 0] -= 1
    stray[0, 3] += 1
    assert 0 < mean_iou(confusion) - mean_iou(stray) < 1 / 1000


def test_nothing_to_count_gives_no_number_rather_than_0(count):
    confusion = count(jnp.full((2, 2), IGNORE), jnp.zeros((2, 2), jnp.int32), 3)

    assert not np.asarray(confusion).any()
    assert np.isnan(iou(confusion)).all()
    assert np.isnan(mean_iou(confusion))


def test_counts_add_up_over_parts(count):
    labels, predictions = pixels(0, 4, (6, 5, 5))
    parts = [np.asarray(count(labels[i : i + 2], predictions[i : i + 2], 4), np.int64) for i in (0, 2, 4)]
    np.testing.assert_array_equal(sum(parts), count(labels, predictions, 4))


def test_labels_of_the_stored_type_count_as_well_for_many_classes():
    labels, predictions = pixels(1, 30)
    np.testing.assert_array_equal(
        confusion_matrix(jnp.asarray(labels, jnp.uint8), jnp.asarray(predictions, jnp.uint8), 30),
        confusion_matrix(labels, predictions, 30),
    )


def test_iou_takes_a_stack_of_matrices_with_counts_beyond_32_bits():
    confusion = np.array([[[3, 1], [1, 5]], [[2**40, 2**40], [0, 2**41]]], np.int64)
    np.testing.assert_allclose(iou(confusion), [[3 / 5, 5 / 7], [1 / 2, 2 / 3]])


@pytest.mark.parametrize("predictions", [np.zeros((2, 3), int), np.zeros(4), np.zeros((4, 1), int)])
def test_predictions_of_another_shape_or_type_are_refused(predictions):
    with pytest.raises(UserError, match=r"Labels of shape \[4\] and predictions of shape"):
        confusion_matrix(np.zeros(4, int), predictions, 2)
