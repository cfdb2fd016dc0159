"""The rounds: what one round predicts is fed back as the input of the next.

Shibuya & Hotta 2020, section 3 and figure 4. The rounds are unrolled; convolutions are shared between them.
"""

import numbers
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from fbunet_jax.errors import ModelError, did_you_mean
from fbunet_jax.models.convlstm import GATES
from fbunet_jax.models.methods import FeedbackName, check_channels
from fbunet_jax.models.unet import LETTERS, States, UNet, check_size

Feedback = Callable[[Array, Array | None], Array]
"""Images `[N, H, W, C]` and the probabilities of the round before `[N, H, W, K]`, None in the first round, become the
input of a round, `[N, H, W, C']`."""


class FeedbackUNet(nn.Module):
    """A U-Net applied for several rounds, the class probabilities of a round fed back into the next.

    The paper's network has the default fields; `build_method` sets them for each method by name. The variables are the
    collections ``params`` and ``batch_stats``, in float32.

    Attributes:
      classes: number of classes K.
      widths: channels of each level, from full resolution to the bottleneck.
      rounds: R >= 1; 2 in the paper.
      feedback: what a round sees. ``"replace"``: in later rounds the K probability maps instead of the image (an image
        of one channel is repeated to K in round 1). ``"concat"``: image and maps, zeros for the maps in round 1.
        ``"image"``: the image again, no feedback. Or a function or Linen module of your own, called as
        ``feedback(images, probabilities)``: `[N, H, W, C]` and `[N, H, W, K]`, None in round 1, become
        `[N, H, W, C']`, with the same C' in every round because the convolutions are shared. A module may have
        parameters; they are the same in every round. It is not told whether the call is one of training, so
        batch normalisation and dropout have no place in it (`nn.LayerNorm` and `nn.GroupNorm` have).
      convlstm: letters a to e with ConvLSTMs: a and b are the two convolutions of the top encoder level, c both of the
        bottleneck, d and e the two of the top decoder level.
      recurrent: letters a to e with recurrent convolutions, ``"*"`` for every 3x3 convolution.
      gate_activation: of the ConvLSTMs, ``"hard_sigmoid"`` or ``"sigmoid"``.
      momentum: batch normalisation, weight of the old value in the running statistics.
      epsilon: batch normalisation, added to the variance.
      dtype: type of the computation; parameters and statistics are float32.
      axis_name: the mapped axis over which batch statistics are averaged, if any.
      rematerialise: less memory in training for more time: activations inside a block are computed twice.

    Raises:
      ModelError: a field has a value that it cannot have.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fbunet_jax import FeedbackUNet
      >>> network = FeedbackUNet(classes=3, widths=(4, 8, 16))
      >>> images = jnp.zeros((2, 32, 48, 1))
      >>> variables = network.init(jax.random.key(0), images, train=False)
      >>> network.apply(variables, images, train=False).shape  # rounds, images, height, width, classes
      (2, 2, 32, 48, 3)
    """

    classes: int
    widths: tuple[int, ...] = (8, 16, 32, 64, 128)
    rounds: int = 2
    feedback: FeedbackName | Feedback = "replace"
    convlstm: str = "abcde"
    recurrent: str = ""
    gate_activation: str = "hard_sigmoid"
    momentum: float = 0.99
    epsilon: float = 1e-3
    dtype: Any = jnp.float32
    axis_name: str | None = None
    rematerialise: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        if isinstance(self.widths, list):  # so that the network can be hashed
            object.__setattr__(self, "widths", tuple(self.widths))
        if isinstance(self.dtype, str):
            object.__setattr__(self, "dtype", _named_dtype(self.dtype))
        _check_fields(self)
        super().__post_init__()

    @property
    def multiple(self) -> int:
        """What height and width must be a multiple of, pixels: 2^(levels - 1)."""
        return 2 ** (len(self.widths) - 1)

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Segment images.

        Args:
          images: `[N, H, W, C]` normalised intensities; H and W divisible by `multiple`.
          train: use the batch's statistics and update the running ones (collection ``batch_stats``).

        Returns:
          Logits of every round, `[R, N, H, W, K]` float32; the segmentation is the last round's.

        Raises:
          ModelError: the size or the number of channels does not fit.
        """
        check_size(images.shape[1], images.shape[2], self.multiple)
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        unet = UNet(
            self.classes,
            self.widths,
            self.convlstm,
            self.recurrent,
            self.gate_activation,
            norm,
            self.dtype,
            self.rematerialise,
            name="unet",
        )
        states: States = {}
        logits: list[Array] = []
        channels = None
        for round_index in range(self.rounds):
            previous = jax.nn.softmax(logits[-1]) if logits else None
            try:
                inputs = round_inputs(images, previous, self.feedback, self.classes)
            except Exception as error:
                maps = "None" if previous is None else f"of shape {list(previous.shape)}"
                error.add_note(
                    f"Raised by the feedback in round {round_index + 1}, where the probabilities are {maps}."
                )
                raise
            channels = channels or getattr(inputs, "shape", (images.shape[-1],))[-1]
            _check_inputs(inputs, images, channels, round_index)
            round_logits, states = unet(inputs, states, round_index)
            logits.append(round_logits)
        return jnp.stack(logits)


def round_inputs(images: Array, probabilities: Array | None, feedback: FeedbackName | Feedback, classes: int) -> Array:
    """Return the input of a round, `[N, H, W, C']`.

    Args:
      images: `[N, H, W, C]`.
      probabilities: of the round before, `[N, H, W, K]`, or None in the first round.
      feedback: see `FeedbackUNet`.
      classes: K.

    Raises:
      ModelError: ``"replace"`` with a number of channels that is neither 1 nor K.
    """
    if callable(feedback):
        return feedback(images, probabilities)
    check_channels(images.shape[-1], feedback, classes)
    if feedback == "image":
        return images
    shape = (*images.shape[:-1], classes)
    if feedback == "concat":
        maps = jnp.zeros(shape, images.dtype) if probabilities is None else probabilities
        return jnp.concatenate([images, maps.astype(images.dtype)], axis=-1)
    if probabilities is not None:
        return probabilities
    return jnp.broadcast_to(images, shape)


def _check_inputs(inputs: Any, images: Array, channels: int, round_index: int) -> None:
    """Raise a ModelError unless a round's input fits the images, and the channels of the first round's."""
    expected = (*images.shape[:-1], channels)
    found = getattr(inputs, "shape", None)
    if found != expected:
        zeros = " Put zeros into round 1 where later rounds have maps." if round_index else ""
        shown = f"an array of shape {list(found)}" if found is not None else f"a {type(inputs).__name__}"
        why = "the convolutions are shared by the rounds" if round_index else "its first axes are those of the images"
        raise ModelError(
            f"The feedback returned {shown} in round {round_index + 1}; expected "
            f"{list(expected)}, because {why}.{zeros}",
            "feedback",
        )


def _check_fields(model: FeedbackUNet) -> None:
    """Raise a ModelError for a field with a value that it cannot have."""
    for name in ("classes", "rounds"):
        value = getattr(model, name)
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ModelError(f"{name} = {value!r}: expected a whole number of at least 1.", name)
    widths = model.widths
    if not isinstance(widths, tuple) or len(widths) < 2 or not all(_is_positive(width) for width in widths):
        raise ModelError(
            f"widths = {widths!r}: expected at least two levels, each of at least 1 channel, such as "
            "(8, 16, 32, 64, 128).",
            "widths",
        )
    if not 0 <= model.momentum < 1:
        raise ModelError(f"momentum = {model.momentum!r}: expected a number from 0 to below 1.", "momentum")
    for name, known in (("convlstm", LETTERS), ("recurrent", LETTERS + "*")):
        value = getattr(model, name)
        if not isinstance(value, str):
            raise ModelError(f"{name} = {value!r}: expected letters of {known!r}, such as {known[:2]!r}.", name)
        if strange := set(value) - set(known):
            raise ModelError(
                f"{name} = {getattr(model, name)!r} has {', '.join(sorted(strange))}: expected letters of {known!r}.",
                name,
            )
    for name, values in (("gate_activation", tuple(GATES)), ("feedback", get_args(FeedbackName))):
        value = getattr(model, name)
        if isinstance(value, type):
            raise ModelError(f"{name} is the class {value.__name__}: pass an instance, {value.__name__}().", name)
        if not (callable(value) and name == "feedback") and value not in values:
            hint = did_you_mean(value, values) if isinstance(value, str) else ""
            own = ", or a function or module of your own" if name == "feedback" else ""
            raise ModelError(f"{name} = {value!r}: expected one of {', '.join(values)}{own}.{hint}", name)


def _named_dtype(name: str) -> Any:
    try:
        return jnp.dtype(name)
    except TypeError as error:
        raise ModelError(f"dtype = {name!r}: expected float32 or bfloat16.", "dtype") from error


def _is_positive(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and int(value) > 0


def feature_maps(
    model: FeedbackUNet, variables: Mapping[str, Any], images: Array, round_index: int = -1
) -> dict[str, Array]:
    """Return the ReLU output of every 3x3 layer in one round, summed over channels (figure 8 of the paper).

    Args:
      model: the network.
      variables: ``params`` and ``batch_stats``.
      images: `[N, H, W, C]` normalised intensities.
      round_index: 0-based round; the last by default.

    Returns:
      Layer name (``"encoder_0_first"`` is the paper's figure 8) to `[N, h, w]` float32.
    """
    _, sown = model.apply(variables, images, train=False, mutable=["intermediates"])
    layers = sown["intermediates"]["unet"]
    return {name: layer["relu"][round_index].astype(jnp.float32).sum(axis=-1) for name, layer in layers.items()}
