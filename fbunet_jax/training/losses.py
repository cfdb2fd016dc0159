"""The loss of all rounds: lambda * L1 + L2 (Shibuya & Hotta 2020, equation 2), generalised to R rounds.

The soft Dice loss, which can be added, is not the paper's.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from numpy.typing import NDArray

from fbunet_jax.errors import ConfigError


def round_losses(logits: Array, labels: Array, class_weights: ArrayLike) -> tuple[Array, Array]:
    """Return summed weighted softmax cross-entropy of each round, and the number of pixels that count.

    Args:
      logits: `[R, N, H, W, K]` float32.
      labels: `[N, H, W]` int32; 255 (any value outside 0 ... K-1) is ignored.
      class_weights: `[K]` float32.

    Returns:
      Sums `[R]` in the type of the logits, and the count [] int32; the loss is their quotient over the global batch.
    """
    counted, targets = _targets(logits, labels)
    cross_entropy = -jnp.sum(targets * jnp.asarray(class_weights, logits.dtype) * jax.nn.log_softmax(logits), axis=-1)
    return cross_entropy.sum(axis=(1, 2, 3)), counted.sum()


def dice_sums(logits: Array, labels: Array) -> Array:
    """Return what the soft Dice loss is made of: sums over the pixels that count, `[3, R, K]` in the logits' type.

    They are the probability of the class where it is the true one, the probability everywhere, and the true pixels.
    `dice_losses` takes their sum over the whole batch, or any multiple of it.
    """
    counted, targets = _targets(logits, labels)
    probabilities = jax.nn.softmax(logits) * counted[..., None]
    sums = [probabilities * targets, probabilities, jnp.broadcast_to(targets, logits.shape)]
    return jnp.stack(sums).sum(axis=(2, 3, 4))


def dice_losses(sums: Array) -> Array:
    """Return the soft Dice loss of each round `[R]`: 1 - 2 sum(p t) / (sum(p) + sum(t)), mean over the classes present.

    The sums are those of the whole batch, not of each image (Milletari et al. 2016, without the squares); a class
    without a true pixel in the batch is left out, and without any class the loss is 0.
    """
    intersection, probability, truth = sums
    present = truth > 0
    dice = 2 * intersection / jnp.where(present, probability + truth, 1)
    return jnp.where(present, 1 - dice, 0).sum(axis=-1) / jnp.maximum(present.sum(axis=-1), 1)


def _targets(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Return which pixels count `[N, H, W]` bool, and the true classes `[N, H, W, K]`, 1 or 0."""
    classes = logits.shape[-1]
    counted = (labels >= 0) & (labels < classes)
    return counted, jax.nn.one_hot(jnp.where(counted, labels, -1), classes, dtype=logits.dtype)


def round_weights(rounds: int, earlier: float) -> Array:
    """Return the weight of each round's loss `[R]`: lambda for every round but the last, 1 for the last."""
    return jnp.full((rounds,), earlier).at[-1].set(1)


def class_weights(counts: NDArray[np.integer], setting: str | tuple[float, ...]) -> NDArray[np.float32]:
    """Return the weight of each class `[K]` float32.

    Args:
      counts: `[K]` pixels of each class in the training part.
      setting: ``"median-frequency"`` (median(count) / count over the classes that occur), its square root
        ``"sqrt-median-frequency"``, ``"none"`` (all 1), or the weights themselves. A class without pixels gets 0.

    Raises:
      ConfigError: a list whose length is not the number of classes.
    """
    counts = np.asarray(counts, np.float64)
    if setting == "none":
        weights = np.ones_like(counts)
    elif isinstance(setting, str):
        present = counts[counts > 0]
        weights = np.median(present) / np.maximum(counts, 1)
        weights = np.sqrt(weights) if setting.startswith("sqrt") else weights
    else:
        if len(setting) != len(counts):
            raise ConfigError(
                f"training.class_weights has {len(setting)} numbers, but the data set has {len(counts)} classes: give "
                "one number for each class, in class order."
            )
        weights = np.asarray(setting, np.float64)
    return np.where(counts > 0, weights, 0).astype(np.float32)
