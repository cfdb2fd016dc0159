"""The loss of all rounds: lambda * L1 + L2 (Shibuya & Hotta 2020, equation 6), generalised to R rounds."""

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
    classes = logits.shape[-1]
    counted = (labels >= 0) & (labels < classes)
    targets = jax.nn.one_hot(jnp.where(counted, labels, -1), classes, dtype=logits.dtype)
    cross_entropy = -jnp.sum(targets * jnp.asarray(class_weights, logits.dtype) * jax.nn.log_softmax(logits), axis=-1)
    return cross_entropy.sum(axis=(1, 2, 3)), counted.sum()


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
