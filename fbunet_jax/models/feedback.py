"""The rounds: the class probabilities of one round are fed back as the input of the next.

Shibuya & Hotta 2020, section 3 and figure 4. The rounds are unrolled; convolutions are shared between them.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from fbunet_jax.config import FeedbackMode
from fbunet_jax.errors import ConfigError
from fbunet_jax.models.unet import States, UNet, check_size


class FeedbackUNet(nn.Module):
    """A U-Net applied for several rounds.

    Attributes:
      classes: number of classes K.
      widths: channels of each level.
      rounds: R >= 1; 2 in the paper.
      feedback: what later rounds see. ``"replace"``: the K probability maps instead of the image (the image of one
        channel is repeated to K in round 1). ``"concat"``: image and maps, zeros for the maps in round 1.
        ``"image"``: the image again, no feedback.
      convlstm: letters a to e with ConvLSTMs (see `unet`).
      recurrent: letters a to e with recurrent convolutions, ``"*"`` for all.
      gate_activation: of the ConvLSTMs.
      momentum: batch normalisation, weight of the old value in the running statistics.
      epsilon: batch normalisation, added to the variance.
      dtype: type of the computation; parameters and statistics are float32.
      axis_name: the mapped axis over which batch statistics are averaged, if any.
      rematerialise: less memory in training for more time: activations inside a block are computed twice.
    """

    classes: int
    widths: tuple[int, ...] = (8, 16, 32, 64, 128)
    rounds: int = 2
    feedback: FeedbackMode = "replace"
    convlstm: str = "abcde"
    recurrent: str = ""
    gate_activation: str = "hard_sigmoid"
    momentum: float = 0.99
    epsilon: float = 1e-3
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    rematerialise: bool = False

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Segment images.

        Args:
          images: `[N, H, W, C]` normalised intensities; H and W divisible by 2^(levels - 1).
          train: use the batch's statistics and update the running ones (collection ``batch_stats``).

        Returns:
          Logits of every round, `[R, N, H, W, K]` float32; the segmentation is the last round's.

        Raises:
          UserError: the size or the number of channels does not fit.
        """
        check_size(images.shape[1], images.shape[2], len(self.widths))
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
        for round_index in range(self.rounds):
            previous = jax.nn.softmax(logits[-1]) if logits else None
            inputs = round_inputs(images, previous, self.feedback, self.classes)
            round_logits, states = unet(inputs, states, round_index)
            logits.append(round_logits)
        return jnp.stack(logits)


def round_inputs(images: Array, probabilities: Array | None, feedback: FeedbackMode, classes: int) -> Array:
    """Return the input of a round, `[N, H, W, C']`.

    Args:
      images: `[N, H, W, C]`.
      probabilities: of the round before, `[N, H, W, K]`, or None in the first round.
      feedback: see `FeedbackUNet`.
      classes: K.

    Raises:
      ConfigError: ``"replace"`` with a number of channels that is neither 1 nor K.
    """
    channels = images.shape[-1]
    if feedback == "image":
        return images
    if feedback == "concat":
        maps = jnp.zeros((*images.shape[:-1], classes), images.dtype) if probabilities is None else probabilities
        return jnp.concatenate([images, maps.astype(images.dtype)], axis=-1)
    check_channels(channels, feedback, classes)
    if probabilities is not None:
        return probabilities
    return jnp.broadcast_to(images, (*images.shape[:-1], classes)) if channels == 1 else images


def check_channels(channels: int, feedback: FeedbackMode, classes: int) -> None:
    """Raise a ConfigError unless images of this many channels can be fed to the first round."""
    if feedback == "replace" and channels not in (1, classes):
        raise ConfigError(
            f"The images have {channels} channels and there are {classes} classes: feedback 'replace' puts the class "
            f"maps in the place of the image, so it needs 1 or {classes} channels. Use --model.feedback concat, which "
            "takes any number."
        )


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
