"""Later rounds are given other class maps than the network's own: does it use what is fed back?

What is returned keeps the contract of a network (`fbunet_jax.models.contract`) and takes the variables of the network
that it was made of. All that is not fed back stays the image's own: its pixels, the states of its ConvLSTMs, and the
running statistics.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from fbunet_jax.models.feedback import Feedback, FeedbackUNet, round_inputs
from fbunet_jax.models.methods import FeedbackName


def why_not_fed_back(model: nn.Module) -> str:
    """Return why the rounds of a network cannot be given other class maps, as a clause; empty if they can."""
    if type(model) is not FeedbackUNet:
        return f"only a FeedbackUNet shows what its rounds are given, and this one is of type {type(model).__name__}"
    if model.rounds == 1:
        return "it has one round, so nothing is fed back"
    if isinstance(model.feedback, str) and model.feedback == "image":
        return "its later rounds see the image again (feedback 'image'), not class maps"
    return ""


def given_zeros(model: FeedbackUNet) -> FeedbackUNet:
    """Return the network with zeros in place of the class maps that are fed back."""
    return _with_maps(model, jnp.zeros_like)


def given_maps_of_another(model: FeedbackUNet) -> nn.Module:
    """Return a network of two images that segments the first one with the class maps of the second one fed back.

    Its images have 2C channels: those of the image, then those of the other. In every later round both are given the
    other's maps of the round before, so that the other is segmented as it always is.
    """
    return _OfTwoImages(_with_maps(model, _of_second_half))


class _GivenMaps(nn.Module):
    """A feedback that is called with changed class maps; its variables are those of the feedback by itself."""

    feedback: FeedbackName | Feedback
    classes: int
    change: Callable[[Array], Array]

    def setup(self) -> None:
        if isinstance(self.feedback, nn.Module):
            nn.share_scope(self, self.feedback)

    def __call__(self, images: Array, probabilities: Array | None) -> Array:
        given = None if probabilities is None else self.change(probabilities)
        return round_inputs(images, given, self.feedback, self.classes)


class _OfTwoImages(nn.Module):
    """One batch of the images and, behind them, of the others, which lie side by side on the axis of channels."""

    network: FeedbackUNet

    @property
    def multiple(self) -> int:
        return self.network.multiple

    def setup(self) -> None:
        nn.share_scope(self, self.network)

    def __call__(self, images: Array, *, train: bool) -> Any:
        both = jnp.concatenate(jnp.split(images, 2, axis=-1))
        return self.network(both, train=train)[:, : len(images)]


def _with_maps(model: FeedbackUNet, change: Callable[[Array], Array]) -> FeedbackUNet:
    return model.clone(feedback=_GivenMaps(model.feedback, model.classes, change))


def _of_second_half(maps: Array) -> Array:
    other = maps[len(maps) // 2 :]
    return jnp.concatenate([other, other])
