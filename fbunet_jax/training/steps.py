"""One step of training and of evaluation: pure functions, the same on one device and mapped over many."""

from collections.abc import Mapping
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.typing import ArrayLike

from fbunet_jax.metrics import confusion_matrix
from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.training.losses import dice_losses, dice_sums, round_losses, round_weights
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
    model: FeedbackUNet,
    optimizer: optax.GradientTransformation,
    class_weights: ArrayLike,
    round_weight: float,
    dice_weight: float = 0.0,
) -> TrainStep:
    """Return ``train_step(state, batch, *, axis_name=None) -> (state, metrics)``.

    Args:
      model: the network.
      optimizer: from `make_optimizer`, or any other.
      class_weights: `[K]`.
      round_weight: lambda, the weight of every round's loss but the last's.
      dice_weight: of the soft Dice loss in the loss of each round.

    The batch holds ``image`` `[N, H, W, C]` float32 and ``label`` `[N, H, W]` int32. With ``axis_name`` the batch is
    one device's share of the global batch: loss, gradients and batch statistics are those of the global batch. The
    metrics are ``loss`` [], ``round_losses`` `[R]` and ``gradient_norm`` [], equal on all devices.
    """
    weights = round_weights(model.rounds, round_weight)

    def train_step(
        state: TrainState, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        mapped = model.clone(axis_name=axis_name)

        def mean_over_devices(tree: Any) -> Any:
            return lax.pmean(tree, axis_name) if axis_name else tree

        def share_of_loss(params: Any) -> tuple[Array, tuple[Array, Any]]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, updates = mapped.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
            sums, count = round_losses(logits, batch["label"], class_weights)
            # The mean over devices of sum / (mean count) is the global sum / global count.
            losses = sums / jnp.maximum(mean_over_devices(count.astype(sums.dtype)), 1)
            if dice_weight:
                dice = dice_sums(logits, batch["label"])
                # Its value is the mean over devices, its derivative this device's: the mean of the gradients over
                # devices is then the gradient of the mean.
                dice += lax.stop_gradient(mean_over_devices(dice) - dice)
                losses += dice_weight * dice_losses(dice)
            return (losses * weights.astype(losses.dtype)).sum(), (losses, updates["batch_stats"])

        gradients, (losses, batch_stats) = jax.grad(share_of_loss, has_aux=True)(state.params)
        gradients, losses = mean_over_devices((gradients, losses))
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": (losses * weights.astype(losses.dtype)).sum(),
            "round_losses": losses,
            "gradient_norm": optax.tree.norm(gradients),
        }
        return TrainState(state.step + 1, params, batch_stats, optimizer_state), metrics

    return train_step


def eval_step(model: FeedbackUNet, variables: Mapping[str, Any], batch: Batch) -> Array:
    """Return the confusion matrices of every round, `[R, K, K]` int32, of one batch (see `make_train_step`)."""
    logits = cast(Array, model.apply(variables, batch["image"], train=False))
    predictions = logits.argmax(axis=-1)
    return jnp.stack([confusion_matrix(batch["label"], prediction, model.classes) for prediction in predictions])
