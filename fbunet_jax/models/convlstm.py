"""The convolutional LSTM: pure functions of parameters, state and input.

The variant is that of Keras 2's ``ConvLSTM2D``: convolutional input and recurrent transformations, no peephole
connections, hyperbolic tangent, and by default the piecewise linear gates clip(0.2 x + 0.5, 0, 1).
Source: Shi et al. 2015, equation 3, without the peephole terms; Shibuya & Hotta 2020, sections 2.2 and 3.1.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from fbunet_jax.models.convolution import convolve

Gate = Callable[[Array], Array]


class LSTMState(NamedTuple):
    """What a ConvLSTM carries from one round to the next; both `[batch, height, width, features]`."""

    hidden: Array
    cell: Array


def hard_sigmoid(x: Array) -> Array:
    """Return clip(0.2 x + 0.5, 0, 1), Keras 2's gate; `jax.nn.hard_sigmoid` has slope 1/6."""
    return jnp.clip(0.2 * x + 0.5, 0, 1)


GATES: Mapping[str, Gate] = {"hard_sigmoid": hard_sigmoid, "sigmoid": jax.nn.sigmoid}


def convlstm_step(
    params: Mapping[str, Array],
    state: LSTMState | None,
    inputs: Array,
    *,
    gate: Gate = hard_sigmoid,
) -> tuple[LSTMState, Array]:
    """Advance a ConvLSTM by one step.

    Args:
      params: ``kernel`` `[3, 3, C, 4F]`, ``recurrent_kernel`` `[3, 3, F, 4F]`, ``bias`` `[4F]`; gates in the
        order input, forget, candidate cell, output.
      state: hidden and cell `[N, H, W, F]`, or None before the first round: the recurrent convolution and the
        forget gate would only meet zeros, so they are not computed.
      inputs: `[N, H, W, C]`.
      gate: the activation of the three gates.

    Returns:
      The new state, and its hidden part `[N, H, W, F]`; all in the type of the inputs.
    """
    kernel, recurrent, bias = (params[name].astype(inputs.dtype) for name in ("kernel", "recurrent_kernel", "bias"))
    bias = bias.reshape(1, 1, 1, -1)
    if state is None:
        kernel, bias = _without_forget_gate(kernel), _without_forget_gate(bias)
        i, c, o = jnp.split(convolve(inputs, kernel) + bias, 3, axis=-1)
        cell = gate(i) * jnp.tanh(c)
    else:
        both = convolve(jnp.concatenate([inputs, state.hidden], axis=-1), jnp.concatenate([kernel, recurrent], axis=2))
        i, f, c, o = jnp.split(both + bias, 4, axis=-1)
        cell = gate(f) * state.cell + gate(i) * jnp.tanh(c)
    hidden = gate(o) * jnp.tanh(cell)
    return LSTMState(hidden, cell), hidden


def _without_forget_gate(parameter: Array) -> Array:
    i, _, c, o = jnp.split(parameter, 4, axis=-1)
    return jnp.concatenate([i, c, o], axis=-1)


class ConvLSTM(nn.Module):
    """The parameters of one ConvLSTM, initialised as Keras does: Glorot uniform, orthogonal, forget bias 1."""

    features: int
    gate_activation: str = "hard_sigmoid"

    @nn.compact
    def __call__(self, state: LSTMState | None, inputs: Array) -> tuple[LSTMState, Array]:
        """Apply `convlstm_step`; inputs `[N, H, W, C]`, hidden `[N, H, W, features]`."""
        gates = 4 * self.features
        params = {
            "kernel": self.param("kernel", nn.initializers.glorot_uniform(), (3, 3, inputs.shape[-1], gates)),
            "recurrent_kernel": self.param(
                "recurrent_kernel", nn.initializers.orthogonal(), (3, 3, self.features, gates)
            ),
            "bias": self.param("bias", forget_bias_one, (gates,)),
        }
        return convlstm_step(params, state, inputs, gate=GATES[self.gate_activation])


def forget_bias_one(key: Array, shape: tuple[int], dtype: jnp.dtype = jnp.float32) -> Array:
    """Return the bias `[4F]` that starts by remembering: 1 for the forget gate, else 0. The key is not used."""
    features = shape[0] // 4
    return jnp.zeros(shape, dtype).at[features : 2 * features].set(1)
