"""The recurrent convolutional layer of RU-Net (Liang & Hu 2015, equation 1; Alom et al. 2018, section III)."""

from collections.abc import Callable

import jax
from flax import linen as nn
from jax import Array

TIME_STEPS = 2
"""Recurrent steps after the feed-forward one, as in RU-Net."""


class RecurrentConv(nn.Module):
    """y(0) = Wf * x + b;  y(t) = Wf * x + Wr * ReLU(BN(y(t-1))) + b  for t = 1, 2;  output ReLU(BN(y(2))).

    Wf and Wr are separate kernels; Wf * x + b is computed once; each time step has its own batch normalisation in
    each round.
    """

    features: int
    convolution: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, inputs: Array, round_index: int) -> Array:
        """Map `[N, H, W, C]` to `[N, H, W, features]`."""
        forward = self.convolution(self.features, name="forward")(inputs)
        recurrent = self.convolution(self.features, use_bias=False, name="recurrent")
        y = forward
        for time in range(TIME_STEPS + 1):
            if time:
                y = forward + recurrent(y)
            with jax.numpy_dtype_promotion("standard"):  # see Block in fbunet_jax.models.unet
                y = nn.relu(self.norm(name=f"norm_round_{round_index}_time_{time}")(y))
        return y
