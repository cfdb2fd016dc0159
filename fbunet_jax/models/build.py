"""A method by name becomes a network."""

import dataclasses
import math
from functools import lru_cache
from typing import Any

from fbunet_jax.errors import ModelError, did_you_mean
from fbunet_jax.models.contract import count_parameters
from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.models.methods import check_channels, method_named

_OF_THE_METHOD = ("convlstm", "recurrent")
_OF_FLAX = ("parent", "name")


def build_method(name: str, *, classes: int, channels: int, **fields: Any) -> FeedbackUNet:
    """Return the network of one of the paper's methods, ablations or controls.

    Args:
      name: a key of `METHODS`.
      classes: number of classes K.
      channels: number of image channels C.
      **fields: other fields of `FeedbackUNet`, such as ``widths`` or ``dtype``; None takes the method's own, or the
        default.

    Raises:
      ModelError: there is no such method or field, a field does not fit the method, or the channels do not fit the
        feedback.

    Example:
      >>> from fbunet_jax import METHODS, build_method
      >>> network = build_method("feedback-convlstm", classes=4, channels=1, widths=(4, 8, 16))
      >>> network.rounds, network.feedback, network.multiple
      (2, 'replace', 4)
      >>> METHODS["feedback-convlstm"].description
      "Feedback with six ConvLSTMs at a to e, row 5: the paper's method"
    """
    _check_names(name, fields)
    given = {key: value for key, value in fields.items() if value is not None}
    if isinstance(given.get("widths"), list):  # so that it can be hashed
        given["widths"] = tuple(given["widths"])
    model = _build(name, classes, channels, tuple(given.items()))
    check_channels(channels, model.feedback, classes)
    return model


def _check_names(name: str, fields: dict[str, Any]) -> None:
    """Raise a ModelError for a method or fields that do not exist, or that the method sets itself."""
    method_named(name)
    known = [each.name for each in dataclasses.fields(FeedbackUNet) if each.name not in (*_OF_THE_METHOD, *_OF_FLAX)]
    for key in fields:
        if key in _OF_THE_METHOD:
            raise ModelError(
                f"{key} is what sets method {name!r} apart, so it cannot be changed. Build another network with "
                f"FeedbackUNet(classes=..., {key}=...).",
                key,
            )
        if key not in known:
            raise ModelError(
                f"A network has no field {key!r}.{did_you_mean(key, known)} The fields are: {', '.join(known)}.", key
            )


def _build(name: str, classes: int, channels: int, given: tuple[tuple[str, Any], ...]) -> FeedbackUNet:
    method, fields = method_named(name), dict(given)
    if method.rounds == 1 and fields.get("rounds", 1) != 1:
        raise ModelError(
            f"Method {name!r} has one round, and rounds = {fields['rounds']} was given. Leave it out, or use a "
            "feedback method.",
            "rounds",
        )
    if method.rounds == 1 and method.feedback == "image" and fields.get("feedback", "image") != "image":
        raise ModelError(
            f"Method {name!r} has no feedback, and feedback = {fields['feedback']!r} was given. Leave it out, or use "
            "a feedback method.",
            "feedback",
        )
    own = {"rounds": method.rounds, "feedback": method.feedback}
    model = FeedbackUNet(classes, convlstm=method.convlstm, recurrent=method.recurrent, **(own | fields))
    if not method.widened_to:
        return model
    return model.clone(widths=_widths_for_parameters_of(method.widened_to, model, channels, given))


@lru_cache
def _widths_for_parameters_of(
    name: str, plain: FeedbackUNet, channels: int, given: tuple[tuple[str, Any], ...]
) -> tuple[int, ...]:
    """Scale the widths until a plain U-Net has as many parameters as the named method, within 1 % if they are wide."""
    # the image's channels do not change the size of the named method by more than the first kernel
    target = count_parameters(_build(name, plain.classes, 1, given), 1)

    def scaled(bottleneck: int) -> tuple[int, ...]:
        factor = bottleneck / plain.widths[-1]
        return tuple(max(1, round(width * factor)) for width in plain.widths)

    def parameters(widths: tuple[int, ...]) -> int:
        return count_parameters(plain.clone(widths=widths), channels)

    def error(widths: tuple[int, ...]) -> float:
        return abs(parameters(widths) - target) / target

    # the count grows with the square of the widths
    guess = round(plain.widths[-1] * math.sqrt(target / parameters(plain.widths)))
    widths = min(map(scaled, range(guess - 1, guess + 3)), key=error)
    # in a narrow network one channel at every level is more than 1 %, so levels move one by one
    for level in range(len(widths)):
        if error(widths) > 0.01:
            before, width, after = widths[:level], widths[level], widths[level + 1 :]
            widths = min(((*before, max(1, width + step), *after) for step in (-1, 0, 1)), key=error)
    return widths
