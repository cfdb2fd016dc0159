"""A loss of your own: the focal loss of Lin et al. (2017), beside the soft Dice loss.

A loss returns sums over pixels and computes its value from them. A training adds the sums of all devices in between:
on 8 devices the loss and its gradient are those of the whole batch, though nothing here handles devices.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fbunet_jax import evaluate, load_config, losses, train


@dataclass(frozen=True)
class Focal(losses.Loss):
    """Cross-entropy in which a pixel counts less the surer the network is of its class: -(1 - p)^gamma log p."""

    gamma: float = 2.0

    def statistics(self, logits, labels):
        """Return the summed loss of each round, and the number of pixels that are not ignored."""
        counted, targets = losses.targets_of(labels, logits)  # [N, H, W] and [N, H, W, K]
        log_p = (targets[None] * jax.nn.log_softmax(logits)).sum(axis=-1)  # [R, N, H, W], 0 where a pixel is ignored
        return (-((1 - jnp.exp(log_p)) ** self.gamma) * log_p).sum(axis=(1, 2, 3)), counted.sum()

    def value(self, sums):
        """Return the mean over the pixels, one value a round."""
        focal, pixels = sums
        return focal / jnp.maximum(pixels.astype(focal.dtype), 1)


config = load_config(
    "quickstart",
    name="custom-loss",
    method="unet",
    data={"synthetic_images": 10, "synthetic_size": 64, "crop": 64},
    model={"widths": [4, 8, 16]},
    training={"epochs": 60, "batch_size": 4, "validate_every": 20, "previews": 0},
)
result = train(config, loss=Focal(gamma=2.0) + 0.5 * losses.SoftDice(), out="runs/custom-loss/focal")
print(f"IoU by class: {evaluate(result.run)['mean']['iou']}")
