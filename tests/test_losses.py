"""The loss against Optax and a count by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import f1_score

from fbunet_jax.errors import ModelError
from fbunet_jax.losses import CrossEntropy, Loss, SoftDice, check_loss, class_weights, round_weights
from fbunet_jax.training.steps import over_devices


def test_the_loss_is_optax_cross_entropy_weighted_by_class_over_counted_pixels():
    random = np.random.default_rng(0)
    logits = random.normal(size=(2, 3, 4, 5, 3)).astype(np.float32)
    labels = random.integers(0, 3, (3, 4, 5))
    weights = np.array([0.2, 1.0, 3.0], np.float32)
    sums, count = CrossEntropy(weights).statistics(jnp.asarray(logits), jnp.asarray(labels))
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, np.broadcast_to(labels, (2, 3, 4, 5)))
    np.testing.assert_allclose(sums, (np.asarray(expected) * weights[labels]).sum(axis=(1, 2, 3)), rtol=1e-5)
    assert count == labels.size


def test_ignored_pixels_neither_add_nor_count():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(1, 1, 2, 2, 2)))
    labels = jnp.array([[[0, 255], [255, 1]]])
    sums, count = CrossEntropy(np.ones(2)).statistics(logits, labels)
    kept = [-np.log(np.exp(z[k]) / np.exp(z).sum()) for z, k in ((logits[0, 0, 0, 0], 0), (logits[0, 0, 1, 1], 1))]
    assert count == 2
    assert float(sums[0]) == pytest.approx(float(sum(kept)), rel=1e-5)


def test_the_dice_loss_of_certain_predictions_is_one_minus_scikit_learns_f1():
    random = np.random.default_rng(2)
    # class 3 is predicted, but has no pixel: it is left out
    truth, predicted = random.integers(0, 3, (2, 4, 5)), random.integers(0, 4, (2, 2, 4, 5))
    truth[0, 0, :3] = 255
    losses = SoftDice()(100 * jnp.eye(4)[predicted], jnp.asarray(truth))
    kept = truth != 255
    expected = [
        1 - f1_score(truth[kept], each[kept], labels=[0, 1, 2], average="macro", zero_division=0) for each in predicted
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_the_dice_loss_of_uncertain_predictions_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    logits = jnp.log(jnp.asarray(probabilities))[None, None, None]
    # 2 (0.9 + 0.2) / (1.7 + 2) and 2 x 0.4 / (1.3 + 1)
    loss = SoftDice()(logits, jnp.array([[[0, 1, 0]]]))
    np.testing.assert_allclose(loss, [1 - (2.2 / 3.7 + 0.8 / 2.3) / 2], rtol=1e-5)
    assert SoftDice()(logits, jnp.full((1, 1, 3), 255)).tolist() == [0]


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


def test_an_unknown_rule_and_counts_of_nothing_are_refused():
    with pytest.raises(ModelError, match=r"'median-freqency' is no rule. Did you mean 'median-frequency'\?"):
        class_weights(np.array([1, 1, 1]), "median-freqency")
    with pytest.raises(ModelError, match="no class has a pixel"):
        class_weights(np.zeros(3, int), "median-frequency")


def test_a_list_of_another_length_is_refused():
    with pytest.raises(ModelError, match="has 2 numbers, but the data set has 3 classes"):
        class_weights(np.array([1, 1, 1]), (1.0, 2.0))


@pytest.fixture
def batch():
    random = np.random.default_rng(4)
    return jnp.asarray(random.normal(size=(2, 3, 4, 5, 3)), jnp.float32), jnp.asarray(random.integers(0, 4, (3, 4, 5)))


def test_sums_and_multiples_of_losses_are_those_of_their_values(batch):
    cross_entropy, dice = CrossEntropy(), SoftDice()
    expected = cross_entropy(*batch) + 0.5 * dice(*batch)
    np.testing.assert_allclose((cross_entropy + 0.5 * dice)(*batch), expected, rtol=1e-6)
    np.testing.assert_allclose((cross_entropy + dice * 0.25 * 2)(*batch), expected, rtol=1e-6)
    np.testing.assert_allclose(sum([cross_entropy, np.float32(0.5) * dice])(*batch), expected, rtol=1e-6)
    np.testing.assert_allclose((cross_entropy + jnp.array(0.5) * dice)(*batch), expected, rtol=1e-6)
    with pytest.raises(TypeError, match="unsupported operand"):
        cross_entropy + 1
    with pytest.raises(ModelError, match=r"multiplied by inf; expected a finite number"):
        float("inf") * dice


def test_no_class_weights_are_weights_of_1(batch):
    np.testing.assert_array_equal(CrossEntropy()(*batch), CrossEntropy(np.ones(3))(*batch))


def test_class_weights_of_another_number_of_classes_are_refused(batch):
    with pytest.raises(ModelError, match=r"class_weights have the shape \[2\], but there are 3 classes"):
        CrossEntropy((1.0, 2.0))(*batch)


def test_the_arrays_of_a_loss_are_its_leaves_so_that_one_program_serves_all_class_weights():
    weights = np.array([1.0, 2.0])
    assert [leaf is weights for leaf in jax.tree.leaves(CrossEntropy(weights) + 0.5 * SoftDice())] == [True]
    assert jax.tree.structure(0.5 * SoftDice()) != jax.tree.structure(0.25 * SoftDice())


class _OverEverything(Loss):
    def statistics(self, logits, labels):
        return logits.sum(), labels.sum()

    def value(self, sums):
        return sums[0]


class _Mean(Loss):
    def statistics(self, logits, labels):
        return {"mean": logits.mean(axis=(1, 2, 3, 4)), "pixels": labels.size}

    def value(self, sums):
        return sums["mean"]


def test_what_is_no_loss_is_refused_with_what_was_expected():
    with pytest.raises(ModelError, match=r"of type function; expected an object with the methods statistics"):
        check_loss(lambda logits, labels: 0, rounds=2, classes=3)
    with pytest.raises(ModelError, match=r"_OverEverything has shape \[\]; expected \[2\], one number for each round"):
        check_loss(_OverEverything(), rounds=2, classes=3)
    with pytest.raises(ModelError, match=r"statistics\['mean'\] of the loss _Mean is no sum over pixels"):
        check_loss(_Mean(), rounds=2, classes=3)
    with pytest.raises(ModelError, match="expected an object"):
        check_loss(CrossEntropy, rounds=2, classes=3)
    with pytest.raises(ModelError, match="does not depend on the logits"):
        check_loss(0 * CrossEntropy(), rounds=2, classes=3)
    with pytest.raises(ModelError, match="expected finite"):
        check_loss(CrossEntropy((np.nan, 1.0, 1.0)), rounds=2, classes=3)
    with pytest.raises(ModelError, match="class_weights = 'median-frequency': expected a number for each class"):
        check_loss(CrossEntropy("median-frequency"), rounds=2, classes=3)
    check_loss(CrossEntropy() + SoftDice(), rounds=2, classes=3)


def test_labels_and_logits_of_other_shapes_are_refused(batch):
    logits, labels = batch
    for wrong in (
        (logits, labels[..., None]),
        (logits, labels[:1]),
        (logits, labels.astype(float)),
        (logits[0], labels),
    ):
        with pytest.raises(ModelError, match="have the shape"):
            CrossEntropy()(*wrong)


def losses_before_they_were_objects(logits, labels, class_weights, dice_weight):
    """Return the loss of each round as version 0.1.0 computed it on one device, with its silent promotions."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return _losses_before_they_were_objects(logits, labels, class_weights, dice_weight)


def _losses_before_they_were_objects(logits, labels, class_weights, dice_weight):
    counted = (labels >= 0) & (labels < logits.shape[-1])
    targets = jax.nn.one_hot(jnp.where(counted, labels, -1), logits.shape[-1], dtype=logits.dtype)
    cross_entropy = -jnp.sum(targets * jnp.asarray(class_weights, logits.dtype) * jax.nn.log_softmax(logits), axis=-1)
    losses = cross_entropy.sum(axis=(1, 2, 3)) / jnp.maximum(counted.sum().astype(logits.dtype), 1)
    probabilities = jax.nn.softmax(logits) * counted[..., None]
    sums = [probabilities * targets, probabilities, jnp.broadcast_to(targets, logits.shape)]
    intersection, probability, truth = jnp.stack(sums).sum(axis=(2, 3, 4))
    present = truth > 0
    dice = 2 * intersection / jnp.where(present, probability + truth, 1)
    dice = jnp.where(present, 1 - dice, 0).sum(axis=-1) / jnp.maximum(present.sum(axis=-1), 1)
    return losses + dice_weight * dice


@pytest.mark.parametrize("mapped", [False, True], ids=["jitted", "mapped-over-one-device"])
def test_cross_entropy_and_dice_are_those_of_before_to_the_bit_on_one_device(batch, mapped):
    weights = np.array([0.3, 1.0, 2.7], np.float32)
    loss = CrossEntropy(weights) + 0.5 * SoftDice()

    def now(logits, labels, axis_name=None):
        return (loss.value(over_devices(loss.statistics(logits, labels), axis_name)) * jnp.array([0.5, 1])).sum()

    def before(logits, labels):
        return (losses_before_they_were_objects(logits, labels, weights, 0.5) * jnp.array([0.5, 1])).sum()

    expected = jax.jit(jax.value_and_grad(before))(*batch)
    if mapped:
        step = jax.value_and_grad(partial(now, axis_name="devices"))
        call = jax.pmap(step, axis_name="devices", devices=jax.devices()[:1])
        found = jax.tree.map(lambda value: value[0], call(*(each[None] for each in batch)))
    else:
        found = jax.jit(jax.value_and_grad(now))(*batch)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
