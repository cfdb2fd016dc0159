"""The one table of the methods: the paper's five, its ablations, and three controls that it lacks.

Names and fields only: neither JAX nor Flax is imported, so that ``--help`` stays quick.
"""

from dataclasses import dataclass
from typing import Literal

from fbunet_jax.errors import ModelError, did_you_mean

FeedbackName = Literal["replace", "concat", "image"]
"""The feedbacks that have a name, see `FeedbackUNet`."""


@dataclass(frozen=True)
class Method:
    """What sets a method apart: fields of `FeedbackUNet`, letters as there.

    Attributes:
      description: what it is, and where the paper has it.
      rounds: number of rounds.
      feedback: what later rounds see.
      convlstm: letters with ConvLSTMs.
      recurrent: letters with recurrent convolutions.
      widened_to: name of the method whose number of parameters this one reaches with wider levels; empty for none.
    """

    description: str
    rounds: int = 2
    feedback: FeedbackName = "replace"
    convlstm: str = ""
    recurrent: str = ""
    widened_to: str = ""


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
"""Method by name, in the order of the paper's tables."""


def method_named(name: str) -> Method:
    """Return a method of the table.

    Raises:
      ModelError: there is none of this name.
    """
    if name not in METHODS:
        raise ModelError(
            f"{name!r} is not a method.{did_you_mean(name, METHODS)} The methods are: {', '.join(METHODS)}."
        )
    return METHODS[name]


def fits_replace(channels: int, classes: int) -> bool:
    """Say whether images of C channels can be the first input of feedback ``"replace"``, which is K maps later."""
    return channels in (1, classes)


def check_channels(channels: int, feedback: object, classes: int) -> None:
    """Raise a ModelError unless images of this many channels can be fed to the first round."""
    if feedback == "replace" and not fits_replace(channels, classes):
        raise ModelError(
            f"The images have {channels} channels and there are {classes} classes: feedback 'replace' puts the class "
            f"maps in the place of the image, so it needs 1 or {classes} channels. Use feedback 'concat', which takes "
            "any number.",
            "feedback",
        )
