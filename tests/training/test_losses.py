"""The loss against Optax and a count by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import f1_score

from fbunet_jax.errors import ConfigError
from fbunet_jax.training.losses import class_weights, dice_losses, dice_sums, round_losses, round_weights


def test_the_loss_is_optax_cross_entropy_weighted_by_class_over_counted_pixels():
    random = np.random.default_rng(0)
    logits = random.normal(size=(2, 3, 4, 5, 3)).astype(np.float32)
    labels = random.integers(0, 3, (3, 4, 5))
    weights = np.array([0.2, 1.0, 3.0], np.float32)
    sums, count = round_losses(jnp.asarray(logits), jnp.asarray(labels), weights)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, np.broadcast_to(labels, (2, 3, 4, 5)))
    np.testing.assert_allclose(sums, (expected * weights[labels]).sum(axis=(1, 2, 3)), rtol=1e-5)
    assert count == labels.size


def test_ignored_pixels_neither_add_nor_count():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(1, 1, 2, 2, 2)))
    labels = jnp.array([[[0, 255], [255, 1]]])
    sums, count = round_losses(logits, labels, np.ones(2))
    kept = [-np.log(np.exp(z[k]) / np.exp(z).sum()) for z, k in ((logits[0, 0, 0, 0], 0), (logits[0, 0, 1, 1], 1))]
    assert count == 2
    assert float(sums[0]) == pytest.approx(float(sum(kept)), rel=1e-5)


def test_the_dice_loss_of_certain_predictions_is_one_minus_scikit_learns_f1():
    random = np.random.default_rng(2)
    # class 3 is predicted, but has no pixel: it is left out
    truth, predicted = random.integers(0, 3, (2, 4, 5)), random.integers(0, 4, (2, 2, 4, 5))
    truth[0, 0, :3] = 255
    losses = dice_losses(dice_sums(100 * jnp.eye(4)[predicted], jnp.asarray(truth)))
    kept = truth != 255
    expected = [
        1 - f1_score(truth[kept], each[kept], labels=[0, 1, 2], average="macro", zero_division=0) for each in predicted
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_the_dice_loss_of_uncertain_predictions_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    logits = jnp.log(jnp.asarray(probabilities))[None, None, None]
    # 2 (0.9 + 0.2) / (1.7 + 2) and 2 x 0.4 / (1.3 + 1)
    loss = dice_losses(dice_sums(logits, jnp.array([[[0, 1, 0]]])))
    np.testing.assert_allclose(loss, [1 - (2.2 / 3.7 + 0.8 / 2.3) / 2], rtol=1e-5)
    assert dice_losses(dice_sums(logits, jnp.full((1, 1, 3), 255))).tolist() == [0]


def test_earlier_rounds_weigh_lambda_and_the_last_1():
    assert round_weights(1, 0.5).tolist() == [1]
    assert round_weights(2, 0.5).tolist() == [0.5, 1]
    assert round_weights(4, 0.25).tolist() == [0.25, 0.25, 0.25, 1]


def test_median_frequency_by_hand():
    counts = np.array([800, 150, 50])
    np.testing.assert_allclose(class_weights(counts, "median-frequency"), [150 / 800, 1, 3])
    np.testing.assert_allclose(class_weights(counts, "sqrt-median-frequency"), np.sqrt([150 / 800, 1, 3]), rtol=1e-6)
    np.testing.assert_allclose(class_weights(counts, "none"), [1, 1, 1])
    np.testing.assert_allclose(class_weights(counts, (1.0, 2.0, 3.0)), [1, 2, 3])


def test_a_class_without_pixels_weighs_0_and_leaves_the_median():
    np.testing.assert_allclose(class_weights(np.array([90, 0, 10]), "median-frequency"), [50 / 90, 0, 5])


def test_a_list_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="has 2 numbers, but the data set has 3 classes"):
        class_weights(np.array([1, 1, 1]), (1.0, 2.0))
