"""Confusion matrices and intersection over union: counts in integers, on the device and off."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray


def confusion_matrix(labels: Array, predictions: Array, classes: int) -> Array:
    """Count pixels by true and predicted class, on the device.

    Args:
      labels: integer classes of any shape; values outside 0 ... classes - 1 (255 = ignore) do not count.
      predictions: integer classes 0 ... classes - 1, same shape.
      classes: K.

    Returns:
      `[K, K]` int32, rows truth, columns prediction. Sum over steps in int64 on the host.
    """
    # uint8, as labels are stored, would overflow in the product from 16 classes on
    labels, predictions = jnp.asarray(labels, jnp.int32), jnp.asarray(predictions, jnp.int32)
    counted = (labels >= 0) & (labels < classes)
    pairs = jnp.where(counted, labels * classes + predictions, classes * classes)
    counts = jnp.bincount(pairs.reshape(-1), length=classes * classes + 1)
    return counts[:-1].reshape(classes, classes).astype(jnp.int32)


def iou(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return TP / (TP + FP + FN) of each class, `[..., K]`; NaN for a class without a pixel of truth.

    Such a class has only false positives. Each of them is a false negative of the class that the pixel has, and lowers
    the IoU of that class.

    Args:
      confusion: `[..., K, K]` counts, rows truth, columns prediction.
    """
    confusion = np.asarray(confusion)
    true_positives = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    truth = confusion.sum(axis=-1)
    union = truth + confusion.sum(axis=-2) - true_positives
    return np.divide(true_positives, union, out=np.full_like(true_positives, np.nan), where=truth > 0)


def mean_iou(confusion: NDArray[np.integer]) -> float:
    """Return the mean IoU of counts `[K, K]` over the classes that have a pixel of truth; NaN if none has."""
    values = iou(confusion)
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
