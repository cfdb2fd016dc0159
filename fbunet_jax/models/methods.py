"""The paper's five methods, its ablations, and three controls that it lacks: each one named setting of one network."""

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from fbunet_jax.config import Config, FeedbackMode, ModelConfig
from fbunet_jax.errors import ConfigError
from fbunet_jax.models.feedback import FeedbackUNet, check_channels


@dataclass(frozen=True)
class Method:
    """What sets a method apart; letters as in `fbunet_jax.models.unet`."""

    description: str
    rounds: int = 2
    feedback: FeedbackMode = "replace"
    convlstm: str = ""
    recurrent: str = ""
    widened_to: str = ""
    """Name of the method whose number of parameters this one reaches with wider levels."""


METHODS: dict[str, Method] = {
    "unet": Method("U-Net (Ronneberger et al. 2015), Table 1 row 1", rounds=1, feedback="image"),
    "unet-wide": Method(
        "U-Net with the parameters of feedback-convlstm (control: is it only size?)",
        rounds=1,
        feedback="image",
        widened_to="feedback-convlstm",
    ),
    "ru-net": Method("Recurrent U-Net (Alom et al. 2018), row 2", rounds=1, feedback="image", recurrent="*"),
    "feedback-recurrent": Method("Feedback with recurrent convolutions at a to e, row 3", recurrent="abcde"),
    "feedback-conv": Method("Feedback without ConvLSTM, row 4"),
    "feedback-convlstm": Method("Feedback with six ConvLSTMs at a to e, row 5: the paper's method", convlstm="abcde"),
    "feedback-convlstm-a": Method("ConvLSTM at a only, Table 3", convlstm="a"),
    "feedback-convlstm-b": Method("ConvLSTM at b only, Table 3", convlstm="b"),
    "feedback-convlstm-c": Method("ConvLSTMs at c only, Table 3", convlstm="c"),
    "feedback-convlstm-d": Method("ConvLSTM at d only, Table 3", convlstm="d"),
    "feedback-convlstm-e": Method("ConvLSTM at e only, Table 3", convlstm="e"),
    "feedback-convlstm-abde": Method("ConvLSTMs at a, b, d and e, Table 3", convlstm="abde"),
    "convlstm-one-round": Method("The paper's network, one round (control: no feedback)", rounds=1, convlstm="abcde"),
    "convlstm-no-feedback": Method(
        "Two rounds, states carried, round 2 sees the image again (control: recurrence without feedback)",
        feedback="image",
        convlstm="abcde",
    ),
}


def build_model(config: Config, *, classes: int, channels: int) -> FeedbackUNet:
    """Return the network of a configuration.

    Args:
      config: its method and model settings.
      classes: number of classes K.
      channels: number of image channels C.

    Raises:
      ConfigError: rounds or feedback are set for a method of one round, or the channels do not fit the feedback.
    """
    model = _build(config.method, config.model, classes, channels)
    check_channels(channels, model.feedback, classes)
    return model


def count_parameters(model: FeedbackUNet, channels: int) -> int:
    """Return the number of parameters (kernels, biases, scales; without running statistics)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_variables(model, channels)["params"]))


def abstract_variables(model: FeedbackUNet, channels: int) -> dict[str, Any]:
    """Return shapes and types of ``params`` and ``batch_stats`` without computing them."""
    size = 2 ** (len(model.widths) - 1)
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    return jax.eval_shape(lambda image: model.init(jax.random.key(0), image, train=False), images)


def _build(name: str, settings: ModelConfig, classes: int, channels: int) -> FeedbackUNet:
    method = METHODS[name]
    if method.rounds == 1 and settings.rounds not in (None, 1):
        raise ConfigError(
            f"method {name!r} has one round, so model.rounds = {settings.rounds} cannot be. Leave it out."
        )
    if method.rounds == 1 and method.feedback == "image" and settings.feedback not in (None, "image"):
        raise ConfigError(
            f"method {name!r} has no feedback, so model.feedback = {settings.feedback!r} cannot be. Leave it out, "
            "or use a feedback method."
        )
    widths = settings.widths
    if method.widened_to:
        widths = _widths_for_parameters_of(method.widened_to, settings, classes, channels)
    return FeedbackUNet(
        classes=classes,
        widths=widths,
        rounds=settings.rounds or method.rounds,
        feedback=settings.feedback or method.feedback,
        convlstm=method.convlstm,
        recurrent=method.recurrent,
        gate_activation=settings.gate_activation,
        momentum=settings.batch_norm_momentum,
        epsilon=settings.batch_norm_epsilon,
        dtype=jnp.dtype(settings.precision),
        rematerialise=settings.rematerialise,
    )


@lru_cache
def _widths_for_parameters_of(name: str, settings: ModelConfig, classes: int, channels: int) -> tuple[int, ...]:
    """Scale the widths until a plain U-Net has as many parameters as the named method, within 1 % if they are wide."""
    plain = _build("unet", settings, classes, channels)
    # the image's channels do not change the size of the named method by more than the first kernel
    target = count_parameters(_build(name, settings, classes, 1), 1)

    def scaled(bottleneck: int) -> tuple[int, ...]:
        factor = bottleneck / settings.widths[-1]
        return tuple(max(1, round(width * factor)) for width in settings.widths)

    def parameters(widths: tuple[int, ...]) -> int:
        return count_parameters(dataclasses.replace(plain, widths=widths), channels)

    def error(widths: tuple[int, ...]) -> float:
        return abs(parameters(widths) - target) / target

    # the count grows with the square of the widths
    guess = round(settings.widths[-1] * math.sqrt(target / parameters(settings.widths)))
    widths = min(map(scaled, range(guess - 1, guess + 3)), key=error)
    # in a narrow network one channel at every level is more than 1 %, so levels move one by one
    for level in range(len(widths)):
        if error(widths) > 0.01:
            before, width, after = widths[:level], widths[level], widths[level + 1 :]
            widths = min(((*before, max(1, width + step), *after) for step in (-1, 0, 1)), key=error)
    return widths
