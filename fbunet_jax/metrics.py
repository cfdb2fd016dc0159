"""Confusion matrices and intersection over union: counts in integers, on the device and off.

Example:
  >>> import numpy as np
  >>> from fbunet_jax import metrics
  >>> confusion = metrics.confusion_matrix(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), classes=2)
  >>> metrics.iou(confusion).round(3).tolist()
  [0.5, 0.667]
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from fbunet_jax.errors import UserError


def confusion_matrix(labels: Array, predictions: Array, classes: int) -> Array:
    """Count pixels by true and predicted class, on the device.

    Args:
      labels: integer classes of any shape; values outside 0 ... classes - 1 (255 = ignore) do not count.
      predictions: integer classes 0 ... classes - 1, same shape.
      classes: K.

    Returns:
      `[K, K]` int32, rows truth, columns prediction. Sum over steps in int64 on the host.

    Raises:
      UserError: the shapes differ, or the numbers are not whole ones.

    Example:
      >>> import jax.numpy as jnp
      >>> from fbunet_jax import metrics
      >>> metrics.confusion_matrix(jnp.array([0, 0, 1, 255]), jnp.array([0, 1, 1, 1]), classes=2).tolist()
      [[1, 1], [0, 1]]
    """
    # uint8, as labels are stored, would overflow in the product from 16 classes on
    shapes = jnp.shape(labels), jnp.shape(predictions)
    if shapes[0] != shapes[1] or not all(
        jnp.issubdtype(jnp.result_type(each), jnp.integer) for each in (labels, predictions)
    ):
        raise UserError(
            f"Labels of shape {list(shapes[0])} and predictions of shape {list(shapes[1])}: expected whole numbers, "
            "and the same shape for both. Of probabilities take argmax(axis=-1)."
        )
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

    Example:
      >>> import numpy as np
      >>> from fbunet_jax import metrics
      >>> metrics.iou(np.array([[1, 1], [0, 1]])).tolist()
      [0.5, 0.5]
    """
    confusion = np.asarray(confusion)
    true_positives = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    truth = confusion.sum(axis=-1)
    union = truth + confusion.sum(axis=-2) - true_positives
    return np.divide(true_positives, union, out=np.full_like(true_positives, np.nan), where=truth > 0)


def mean_iou(confusion: NDArray[np.integer]) -> float:
    """Return the mean IoU over the classes that have a pixel of truth; NaN if none has.

    Args:
      confusion: `[K, K]` counts, rows truth, columns prediction.

    Example:
      >>> import numpy as np
      >>> from fbunet_jax import metrics
      >>> metrics.mean_iou(np.array([[3, 1, 0], [0, 1, 1], [0, 0, 0]]))  # no pixel of class 2
      0.5416666666666666
    """
    values = iou(confusion)
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
