"""One pass through the encoder and decoder; batch normalisation is indexed by the round.

Shibuya & Hotta 2020, section 3.1 and figure 4. The letters a to e name the places where the paper puts ConvLSTMs:
a and b the two convolutions of the top encoder level, c both of the bottleneck, d and e the two of the top decoder
level.
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from fbunet_jax.errors import ModelError
from fbunet_jax.models.convlstm import ConvLSTM, LSTMState
from fbunet_jax.models.convolution import Deconvolution, flax_convolution, max_pool
from fbunet_jax.models.recurrent_conv import RecurrentConv

LETTERS = "abcde"
"""The places of the paper's ConvLSTMs."""

States = Mapping[str, LSTMState]
BlockKind = Literal["convolution", "convlstm", "recurrent"]


class Block(nn.Module):
    """A 3x3 layer (convolution, ConvLSTM or recurrent convolution) -> batch norm of the round -> ReLU."""

    features: int
    kind: BlockKind
    norm: partial[nn.BatchNorm]
    gate_activation: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: Array, state: LSTMState | None, round_index: int) -> tuple[Array, LSTMState | None]:
        """Map `[N, H, W, C]` to `[N, H, W, features]`, and a ConvLSTM's state to the next round's."""
        convolution = partial(
            nn.Conv,
            kernel_size=(3, 3),
            kernel_init=nn.initializers.glorot_uniform(),
            dtype=self.dtype,
            conv_general_dilated=flax_convolution,
        )
        if self.kind == "recurrent":
            outputs = RecurrentConv(self.features, convolution, self.norm, name="recurrent_conv")(inputs, round_index)
        else:
            if self.kind == "convlstm":
                state, outputs = ConvLSTM(self.features, self.gate_activation, name="convlstm")(state, inputs)
            else:
                outputs = convolution(self.features, name="conv")(inputs)
            with jax.numpy_dtype_promotion("standard"):  # inside Flax, bfloat16 meets the float32 statistics
                outputs = nn.relu(self.norm(name=f"norm_round_{round_index}")(outputs))
        self.sow("intermediates", "relu", outputs)
        return outputs, state


class UNet(nn.Module):
    """The U-Net of one round; its convolutions serve every round, its batch normalisations one round each.

    Attributes:
      classes: number of classes K.
      widths: channels of each level, the last one the bottleneck's.
      convlstm: letters a to e whose convolutions are ConvLSTMs.
      recurrent: letters a to e whose convolutions are recurrent; ``"*"`` for every convolution.
      gate_activation: of the ConvLSTMs.
      norm: batch normalisation, complete but for its name.
      dtype: type of the computation.
      rematerialise: keep no more than the inputs of each block for the gradient, and compute the rest again.
    """

    classes: int
    widths: tuple[int, ...]
    convlstm: str
    recurrent: str
    gate_activation: str
    norm: partial[nn.BatchNorm]
    dtype: jnp.dtype
    rematerialise: bool = False

    @nn.compact
    def __call__(self, inputs: Array, states: States, round_index: int) -> tuple[Array, States]:
        """Run one round.

        Args:
          inputs: `[N, H, W, C]`, H and W divisible by 2^(levels - 1).
          states: what the ConvLSTMs left in the round before, by name; empty in the first round.
          round_index: 0-based; chooses the batch normalisations.

        Returns:
          Logits `[N, H, W, K]` float32, and the new states.
        """
        x, new_states = inputs.astype(self.dtype), {}
        # the round is a Python number: argument 3, counted from self
        block_type = nn.remat(Block, static_argnums=(3,)) if self.rematerialise else Block

        def double_block(x: Array, features: int, place: str, letters: str) -> Array:
            for position, letter in zip(("first", "second"), letters, strict=True):
                name = f"{place}_{position}"
                kind = self._kind(letter)
                block = block_type(features, kind, self.norm, self.gate_activation, self.dtype, name=name)
                x, state = block(x, states.get(name), round_index)
                if state is not None:
                    new_states[name] = state
            return x

        skips = []
        for level, features in enumerate(self.widths[:-1]):
            x = double_block(x, features, f"encoder_{level}", "ab" if level == 0 else "--")
            skips.append(x)
            x = max_pool(x)
        x = double_block(x, self.widths[-1], "bottleneck", "cc")
        for level, features in reversed(list(enumerate(self.widths[:-1]))):
            up = Deconvolution(features, self.dtype, name=f"up_{level}")
            x = jnp.concatenate([up(x), skips[level]], axis=-1)
            x = double_block(x, features, f"decoder_{level}", "de" if level == 0 else "--")
        glorot = nn.initializers.glorot_uniform()
        output = nn.Conv(self.classes, (1, 1), kernel_init=glorot, dtype=self.dtype, name="output")
        return output(x).astype(np.promote_types(self.dtype, np.float32)), new_states

    def _kind(self, letter: str) -> BlockKind:
        if letter in self.convlstm:
            return "convlstm"
        return "recurrent" if self.recurrent == "*" or letter in self.recurrent else "convolution"


def check_size(height: int, width: int, multiple: int) -> None:
    """Raise a ModelError unless height and width (pixels) are multiples of what the network needs."""
    for name, size in (("height", height), ("width", width)):
        if size % multiple or size == 0:
            below = size // multiple * multiple
            fits = " or ".join(str(s) for s in (below, below + multiple) if s)
            raise ModelError(
                f"An image of {height} x {width} pixels does not fit the network: its {name} {size} must be a multiple "
                f"of {multiple}, 2^(levels - 1) for a U-Net. The nearest sizes that fit are {fits}."
            )
