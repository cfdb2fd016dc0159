"""What any network must keep, checked on networks that keep it and on networks that do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fbunet_jax.errors import ModelError
from fbunet_jax.models import contract
from fbunet_jax.models.feedback import FeedbackUNet


class Plain(nn.Module):
    """One 1x1 convolution: no statistics, no axis, one round."""

    classes: int = 3
    rounds: int = 7  # a field of one's own, which says nothing about the logits
    multiple: int = 1

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return nn.Conv(self.classes, (1, 1))(images)


class Normed(Plain):
    """With batch statistics that no device shares."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Conv(self.classes, (1, 1))(nn.BatchNorm(use_running_average=not train)(images))


class HalfNormed(Plain):
    """With a field that one of two norms is not given."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(images)
        return nn.Conv(self.classes, (1, 1))(nn.BatchNorm(use_running_average=not train)(x))


class AllNormed(HalfNormed):
    """With a field that every norm is given."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Conv(self.classes, (1, 1))(
            nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(images)
        )


class Dropping(Plain):
    """With dropout."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dropout(0.5, deterministic=not train)(super().__call__(images, train=train))


class Late(Plain):
    """With a statistic that begins with training."""

    @nn.compact
    def __call__(self, images, *, train):
        if train:
            self.variable("batch_stats", "calls", lambda: jnp.zeros(()))
        return super().__call__(images, train=train)


class Counting(Plain):
    """With a collection of its own."""

    @nn.compact
    def __call__(self, images, *, train):
        self.variable("calls", "count", lambda: jnp.zeros(()))
        return super().__call__(images, train=train)


class Constant(Plain):
    """Without parameters."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return jnp.broadcast_to(images[..., :1], (*images.shape[:-1], self.classes))


class Classes(Plain):
    """The class in the place of logits."""

    @nn.compact
    def __call__(self, images, *, train):
        return super().__call__(images, train=train).argmax(axis=-1)


class Integers(Plain):
    """Logits of the wrong type."""

    @nn.compact
    def __call__(self, images, *, train):
        return super().__call__(images, train=train).astype(jnp.int32)


@pytest.mark.parametrize(
    ("network", "devices", "words"),
    [
        (lambda images: images, 1, "is of type function; expected a Flax Linen module"),
        (Plain, 1, "is of type type"),
        (Plain(classes=4), 1, r"logits of shape \[2, 1, 1, 4\] with train=False; expected .* K = 3 classes"),
        (Classes(), 1, r"logits of shape \[2, 1, 1\] with train=False"),
        (Integers(), 1, "logits of type int32 with train=False; expected floating-point"),
        (Counting(), 1, "variables in calls; only the collections params and batch_stats"),
        (Constant(), 1, "has no parameters"),
        (Plain(multiple=0), 1, "has multiple = 0; expected a number of pixels"),
        (Late(), 1, r"are not those of the beginning after a step: \['calls'\] differs"),
        (nn.Conv(3, (1, 1)), 1, "The network Conv takes no argument train"),
        (
            Normed(),
            4,
            "batch statistics of the network Normed are each device's own on 4 devices. Add the field axis_name",
        ),
        (HalfNormed(), 4, "batch statistics of the network HalfNormed are each device's own"),
        (Dropping(), 1, "asks for random numbers, as for dropout"),
        (FeedbackUNet(3, (2, 4), feedback="concat", rounds=2).clone(classes=2), 1, "K = 3 classes"),
    ],
)
def test_a_network_that_breaks_the_contract_is_refused_with_what_is_expected(network, devices, words):
    with pytest.raises(ModelError, match=words):
        contract.check_network(network, classes=3, channels=1, devices=devices)


@pytest.mark.parametrize(
    "network", [Plain(), Normed(), AllNormed(), FeedbackUNet(3, (2, 4)), FeedbackUNet(3, (2, 4), axis_name="own")]
)
def test_a_network_that_keeps_it_has_rounds_parameters_and_statistics_that_are_empty_without_any(network):
    contract.check_network(network, classes=3, channels=1, devices=1 if type(network) is Normed else 4)
    network = contract.with_axis(network, None)
    variables = contract.initial_variables(network, jax.random.key(0), 1)
    rounds = network.rounds if isinstance(network, FeedbackUNet) else 1
    assert contract.count_rounds(network, variables, 1) == rounds
    assert set(variables) == {"params", "batch_stats"}
    assert bool(variables["batch_stats"]) == (type(network) is not Plain)

    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, 1)), jnp.float32)
    logits = contract.segment(network, variables, images)
    assert logits.shape == (rounds, 2, 4, 6, 3)
    trained, statistics = contract.segment_in_training(network, variables, images)
    assert trained.shape == logits.shape
    assert jax.tree.structure(statistics) == jax.tree.structure(variables["batch_stats"])


def test_without_a_field_sides_are_multiples_of_16():
    class Bare(nn.Module):
        pass

    assert contract.multiple_of(Bare()) == 16
    assert contract.multiple_of(Plain()) == 1
    assert contract.multiple_of(FeedbackUNet(3, (2, 4, 8))) == 4


def test_the_axis_goes_to_networks_that_have_the_field():
    assert contract.with_axis(Plain(), "devices") == Plain()
    assert contract.with_axis(FeedbackUNet(3), "devices", momentum=0.5) == FeedbackUNet(
        3, axis_name="devices", momentum=0.5
    )
