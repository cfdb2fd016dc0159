"""A function or module of one's own decides what a round sees, and what does not fit is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fbunet_jax.errors import ModelError
from fbunet_jax.models.unet import UNet
from tests.models.small_network import CLASSES, abstract, make_model, random_variables, recorded


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(7).normal(size=(2, 4, 6, 1)), jnp.float32)


def entropy(images, probabilities):
    doubt = jnp.zeros_like(images[..., :1])
    if probabilities is not None:
        doubt = -(probabilities * jnp.log(probabilities)).sum(axis=-1, keepdims=True)
    return jnp.concatenate([images, doubt], axis=-1)


class Gate(nn.Module):
    """Maps times a learned number a class."""

    @nn.compact
    def __call__(self, images, probabilities):
        gate = self.param("gate", nn.initializers.constant(0.25), (1, 1, 1, CLASSES))
        maps = jnp.zeros((*images.shape[:-1], CLASSES)) if probabilities is None else probabilities
        return jnp.concatenate([images, gate * maps], axis=-1)


def test_a_function_decides_what_every_round_sees(images):
    model = make_model(rounds=3, feedback=entropy)
    variables = random_variables(model, images)
    calls, logits, _ = recorded(model, variables, images, UNet, train=False)

    for index, (inputs, *_) in enumerate(calls["unet"]):
        expected = np.zeros(images.shape)
        if index:
            p = np.exp(np.asarray(logits[index - 1], np.float64))
            p /= p.sum(axis=-1, keepdims=True)
            expected = -(p * np.log(p)).sum(axis=-1, keepdims=True)
        np.testing.assert_array_equal(inputs[..., :1], images)
        np.testing.assert_allclose(inputs[..., 1:], expected, rtol=1e-4, atol=1e-6)


def test_a_module_learns_with_the_same_parameters_in_every_round(images):
    model = make_model(rounds=3, feedback=Gate())
    variables = random_variables(model, images)
    assert abstract(model, images)["params"]["feedback"]["gate"].shape == (1, 1, 1, CLASSES)
    gate = jnp.full((1, 1, 1, CLASSES), 0.25)
    variables = {**variables, "params": variables["params"] | {"feedback": {"gate": gate}}}
    calls, logits, _ = recorded(model, variables, images, UNet, train=False)
    for index in (1, 2):
        expected = 0.25 * jax.nn.softmax(logits[index - 1])
        np.testing.assert_allclose(calls["unet"][index][0][..., 1:], expected, rtol=1e-5)

    def loss(params):
        return (model.apply(variables | {"params": params}, images, train=False)[-1] ** 2).sum()

    assert jnp.abs(jax.grad(loss)(variables["params"])["feedback"]["gate"]).min() > 0


@pytest.mark.parametrize(
    ("feedback", "words"),
    [
        (lambda images, p: images if p is None else p, r"\[2, 4, 6, 3\] in round 2; expected \[2, 4, 6, 1\]"),
        (lambda images, p: None, "returned a NoneType in round 1"),
        (lambda images, p: images[:, ::2], r"\[2, 2, 6, 1\] in round 1; expected \[2, 4, 6, 1\]"),
    ],
)
def test_a_feedback_whose_maps_do_not_fit_is_named_with_the_round_and_both_shapes(images, feedback, words):
    with pytest.raises(ModelError, match=words):
        abstract(make_model(feedback=feedback), images)


def test_an_error_of_a_feedback_says_in_which_round_it_was():
    with pytest.raises(TypeError) as error:
        abstract(make_model(feedback=lambda images, p: jnp.concatenate([images, p], -1)), jnp.zeros((1, 4, 4, 1)))
    assert "Raised by the feedback in round 1, where the probabilities are None." in error.value.__notes__
