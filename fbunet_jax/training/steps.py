"""One step of training: a pure function, the same on one device and mapped over many."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array, lax

from fbunet_jax.losses import round_weights
from fbunet_jax.models.contract import segment_in_training, with_axis
from fbunet_jax.training.state import TrainState

Batch = Mapping[str, Array]


class TrainStep(Protocol):
    """The type of a training step."""

    def __call__(
        self, state: TrainState, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """Advance the state by one batch; see `make_train_step`."""
        ...


def make_train_step(
    model: nn.Module, optimizer: optax.GradientTransformation, loss: Any, round_weight: float
) -> TrainStep:
    """Return ``train_step(state, batch, *, axis_name=None) -> (state, metrics)``.

    Args:
      model: the network, see `fbunet_jax.models.contract`.
      optimizer: from `make_optimizer`, or any other.
      loss: see `fbunet_jax.losses`.
      round_weight: lambda, the weight of every round's loss but the last's.

    The batch holds ``image`` `[N, H, W, C]` float32 and ``label`` `[N, H, W]` int32. With ``axis_name`` the batch is
    one device's share of the global batch: loss, gradients and batch statistics are those of the global batch. The
    metrics are ``loss`` [], ``round_losses`` `[R]` and ``gradient_norm`` [], equal on all devices.
    """

    def train_step(
        state: TrainState, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        mapped = with_axis(model, axis_name)

        def loss_of(params: Any) -> tuple[Array, tuple[Array, Any]]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, batch_stats = segment_in_training(mapped, variables, batch["image"])
            losses = loss.value(over_devices(loss.statistics(logits, batch["label"]), axis_name))
            return weighted(losses), (losses, batch_stats)

        def weighted(losses: Array) -> Array:
            return (losses * round_weights(len(losses), round_weight).astype(losses.dtype)).sum()

        gradients, (losses, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
        if axis_name:
            gradients = lax.pmean(gradients, axis_name)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes floats and the whole number of the step
            updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": weighted(losses),
            "round_losses": losses,
            "gradient_norm": optax.tree.norm(gradients),
        }
        return TrainState(state.step + 1, params, batch_stats, optimizer_state), metrics

    return train_step


def over_devices(sums: Any, axis_name: str | None) -> Any:
    """Return sums of one device as those of all.

    Their value is the sum over the devices, and their derivative that of this device's own share as many times as there
    are devices: the mean of the gradients over the devices is then the gradient of the global loss.
    """
    if axis_name is None:
        return sums
    devices = lax.psum(1, axis_name)

    def total(own: Array) -> Array:
        own = jnp.asarray(own)
        everywhere = lax.stop_gradient(lax.psum(own, axis_name))
        if not jnp.issubdtype(own.dtype, jnp.floating):
            return everywhere
        scaled = own * devices
        return everywhere + (scaled - lax.stop_gradient(scaled))

    return jax.tree.map(total, sums)
