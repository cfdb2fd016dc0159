"""Later rounds are given zeros, or the class maps of another image, and nothing else is changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fbunet_jax.models.contract import check_network
from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.models.given_maps import given_maps_of_another, given_zeros, why_not_fed_back
from fbunet_jax.models.unet import UNet
from tests.models.small_network import CLASSES, abstract, make_model, random_variables, recorded


def random_images(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, 4, 6, 1)), jnp.float32)


IMAGES, OTHERS = random_images(1), random_images(2)


class Learned(nn.Module):
    """The image, and two channels that a layer, which is handed over, makes of the maps, times a number."""

    layer: nn.Module

    @nn.compact
    def __call__(self, images, probabilities):
        scale = self.param("scale", nn.initializers.ones, (1, 1, 1, 2))
        maps = jnp.zeros((*images.shape[:-1], CLASSES)) if probabilities is None else probabilities
        return jnp.concatenate([images, scale * self.layer(maps)], axis=-1)


def by_hand(feedback, variables):
    """Return what a feedback makes of images and maps, None in round 1, without the module that it may be."""
    if feedback == "replace":
        return lambda images, maps: jnp.tile(images, CLASSES) if maps is None else maps

    def learned(images, maps):
        parameters = variables["params"]["feedback"]
        maps = jnp.zeros((*images.shape[:-1], CLASSES)) if maps is None else maps
        made = maps @ parameters["layer"]["kernel"] + parameters["layer"]["bias"][None, None, None]
        return jnp.concatenate([images, parameters["scale"] * made], axis=-1)

    return learned


@pytest.fixture(params=["replace", Learned(nn.Dense(2))], ids=["by name", "module"])
def network(request):
    """A network of three rounds with a ConvLSTM, its variables, and its feedback by hand."""
    model = make_model(rounds=3, feedback=request.param, convlstm="b")
    variables = random_variables(model, IMAGES)
    # so large that other maps are seen in the logits
    variables = jax.tree.map(lambda leaf: 2 * leaf if leaf.ndim > 1 else leaf, variables)
    return model, variables, by_hand(request.param, variables)


def with_given(model, variables, feedback, images, given):
    """Return the logits of a network whose later rounds are given explicit maps, one after the other."""
    left = iter(given)
    explicit = model.clone(feedback=lambda images, maps: feedback(images, None if maps is None else next(left)))
    without = {**variables, "params": {"unet": variables["params"]["unet"]}}
    return explicit.apply(without, images, train=False)


def test_zeros_are_what_a_feedback_that_is_given_zeros_makes_of_them(network):
    model, variables, feedback = network
    found = given_zeros(model).apply(variables, IMAGES, train=False)
    zeros = jnp.zeros((*IMAGES.shape[:-1], CLASSES))
    expected = with_given(model, variables, feedback, IMAGES, [zeros, zeros])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    own = model.apply(variables, IMAGES, train=False)
    np.testing.assert_array_equal(found[0], own[0])
    assert np.abs(found[1] - own[1]).max() > 0.1 < np.abs(found[2] - own[2]).max()


def test_the_maps_of_another_image_are_those_it_has_by_itself_round_by_round(network):
    model, variables, feedback = network
    both = jnp.concatenate([IMAGES, OTHERS], axis=-1)
    found = given_maps_of_another(model).apply(variables, both, train=False)
    given = jax.nn.softmax(model.apply(variables, OTHERS, train=False))
    expected = with_given(model, variables, feedback, IMAGES, [given[0], given[1]])
    assert found.shape == expected.shape == (3, 2, 4, 6, CLASSES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    own = model.apply(variables, IMAGES, train=False)
    assert np.abs(found[1] - own[1]).max() > 0.1 < np.abs(found[2] - own[2]).max()


def test_an_image_that_is_given_its_own_maps_is_segmented_as_ever(network):
    model, variables, _ = network
    both = jnp.concatenate([IMAGES, IMAGES], axis=-1)
    found = given_maps_of_another(model).apply(variables, both, train=False)
    np.testing.assert_allclose(found, model.apply(variables, IMAGES, train=False), rtol=1e-4, atol=1e-3)


def test_states_stay_the_image_s_own(network):
    model, variables, _ = network
    own, *_ = recorded(model, variables, IMAGES, UNet, train=False)
    zeros, *_ = recorded(given_zeros(model), variables, IMAGES, UNet, train=False)
    both = jnp.concatenate([IMAGES, OTHERS], axis=-1)
    another, *_ = recorded(given_maps_of_another(model), variables, both, UNet, train=False)
    _, states, _ = next(iter(own.values()))[1]  # what round 2 is called with: that of round 1
    assert len(jax.tree.leaves(states)) == 2  # hidden state and cell
    for calls in (zeros, another):
        _, found, _ = next(iter(calls.values()))[1]
        halves = jax.tree.map(lambda leaf: leaf[:2], found)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), halves, states)


def test_the_variables_are_those_of_the_network_and_the_contract_is_kept(network):
    model, *_ = network
    expected = abstract(model, IMAGES)
    assert abstract(given_zeros(model), IMAGES) == expected
    another = given_maps_of_another(model)
    assert abstract(another, jnp.concatenate([IMAGES, OTHERS], axis=-1)) == expected
    check_network(another, classes=CLASSES, channels=2)
    assert given_zeros(model).multiple == another.multiple == model.multiple


class Own(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(CLASSES)(images)


class Changed(FeedbackUNet):
    """What its rounds see may not follow from its fields."""


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (make_model(rounds=1), "one round"),
        (make_model(feedback="image"), "see the image again"),
        (Own(), "of type Own"),
        (Changed(CLASSES), "of type Changed"),
        (make_model(), ""),
        (make_model(feedback="concat"), ""),
        (make_model(feedback=Learned(nn.Dense(2))), ""),
    ],
)
def test_where_no_maps_are_fed_back_it_is_said_why(model, why):
    found = why_not_fed_back(model)
    assert why in found
    assert bool(why) == bool(found)
