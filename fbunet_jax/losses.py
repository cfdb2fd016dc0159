"""Losses of all rounds: softmax cross-entropy (Shibuya & Hotta 2020, equation 2), soft Dice, and your own.

A loss is an object with two methods. ``statistics(logits, labels)`` returns a tree of sums over pixels, and
``value(sums)`` the loss of each round from such sums. A training makes the sums those of all devices in between, so a
loss need not handle devices. `Loss` is the class to derive your own from: it adds ``+``, ``*`` and a call.

Example:
  >>> from fbunet_jax import losses
  >>> loss = losses.CrossEntropy(class_weights=(0.5, 2.0)) + 0.5 * losses.SoftDice()
  >>> [type(term).__name__ for term in loss.terms]
  ['CrossEntropy', 'Scaled']
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from numpy.typing import NDArray

from fbunet_jax.errors import ModelError, did_you_mean

_RULES = ("median-frequency", "sqrt-median-frequency", "none")


class Loss:
    """The base of a loss; a subclass defines `statistics` and `value`, here those of a focal loss (Lin et al. 2017).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fbunet_jax import losses
      >>> class Focal(losses.Loss):
      ...     def statistics(self, logits, labels):
      ...         counted, targets = losses.targets_of(labels, logits)
      ...         log_p = (targets[None] * jax.nn.log_softmax(logits)).sum(axis=-1)
      ...         return -((1 - jnp.exp(log_p)) ** 2 * log_p).sum(axis=(1, 2, 3)), counted.sum()
      ...
      ...     def value(self, sums):
      ...         focal, pixels = sums
      ...         return focal / jnp.maximum(pixels.astype(focal.dtype), 1)
      >>> logits, labels = jnp.zeros((2, 1, 4, 4, 3)), jnp.zeros((1, 4, 4), jnp.int32)
      >>> [round(float(each), 4) for each in (Focal() + losses.SoftDice())(logits, labels)]  # of each round
      [0.9883, 0.9883]
    """

    def statistics(self, logits: Array, labels: Array) -> Any:
        """Return what the loss is made of.

        Args:
          logits: `[R, N, H, W, K]` float, of every round.
          labels: `[N, H, W]` int32, the true class; any value outside 0 … K-1, such as 255, is ignored.

        Returns:
          A tree of arrays, each a sum over pixels: their sums over parts of a batch are those of the batch.
        """
        raise NotImplementedError

    def value(self, sums: Any) -> Array:
        """Return the loss of each round, `[R]`, from the `statistics` of a batch."""
        raise NotImplementedError

    def __call__(self, logits: Array, labels: Array) -> Array:
        """Return the loss of each round, `[R]`, of one batch on one device; arguments as in `statistics`."""
        return self.value(self.statistics(logits, labels))

    __array_ufunc__ = None  # a NumPy number leaves the product to the loss

    def __add__(self, other: Any) -> "Sum":
        """Return the sum of two losses."""
        return Sum((*_terms(self), *_terms(other))) if _is_loss(other) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        """Return the sum of two losses; that of 0 and a loss, with which `sum` begins, is the loss."""
        if isinstance(other, int) and other == 0:
            return self
        return Sum((*_terms(other), *_terms(self))) if _is_loss(other) else NotImplemented

    def __mul__(self, factor: Any) -> "Scaled":
        """Return the loss multiplied by a number."""
        try:
            number = float(factor)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ModelError(f"A loss is multiplied by {factor!r}; expected a finite number, such as 0.5.")
        return Scaled(self, number)

    __rmul__ = __mul__


def _is_loss(value: Any) -> bool:
    return all(callable(getattr(value, method, None)) for method in ("statistics", "value"))


def _terms(loss: Any) -> tuple[Any, ...]:
    return loss.terms if isinstance(loss, Sum) else (loss,)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sum(Loss):
    """The sum of losses, which ``+`` makes."""

    terms: tuple[Any, ...]

    def statistics(self, logits: Array, labels: Array) -> tuple[Any, ...]:
        """Return those of each term."""
        return tuple(term.statistics(logits, labels) for term in self.terms)

    def value(self, sums: tuple[Any, ...]) -> Array:
        """Return the sum of the values, `[R]`."""
        first, *others = (term.value(own) for term, own in zip(self.terms, sums, strict=True))
        return sum(others, start=first)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scaled(Loss):
    """A loss multiplied by a number, which ``*`` makes."""

    loss: Any
    factor: float = field(metadata={"static": True})

    def statistics(self, logits: Array, labels: Array) -> Any:
        """Return those of the loss."""
        return self.loss.statistics(logits, labels)

    def value(self, sums: Any) -> Array:
        """Return the value multiplied by the factor, `[R]`."""
        return self.factor * self.loss.value(sums)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy, mean over the pixels that count (equation 2): ``sum(w_t * -log p_t) / count``.

    Attributes:
      class_weights: `[K]`, the weight w of each class; None for 1. See `class_weights`.

    Raises:
      ModelError: the weights are not one for each class.

    Example:
      >>> import jax.numpy as jnp
      >>> from fbunet_jax import losses
      >>> logits = jnp.zeros((2, 1, 4, 4, 3))  # rounds, images, height, width, classes: all alike
      >>> labels = jnp.zeros((1, 4, 4), jnp.int32)
      >>> [round(float(each), 4) for each in losses.CrossEntropy()(logits, labels)]  # log 3
      [1.0986, 1.0986]
    """

    class_weights: ArrayLike | None = None

    def statistics(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        """Return the summed cross-entropy of each round `[R]`, and the number of pixels that count, [] int32."""
        counted, targets = targets_of(labels, logits)
        if logits.ndim != 5:
            raise ModelError(f"The logits have the shape {list(logits.shape)}; expected [R, N, H, W, K].")
        if isinstance(self.class_weights, str):
            raise ModelError(
                f"class_weights = {self.class_weights!r}: expected a number for each class, such as "
                "losses.class_weights(counts, rule) returns."
            )
        if self.class_weights is not None:
            weights = jnp.asarray(self.class_weights, logits.dtype)
            if weights.shape != logits.shape[-1:]:
                raise ModelError(
                    f"class_weights have the shape {list(weights.shape)}, but there are {logits.shape[-1]} classes: "
                    "give one number for each class, in class order."
                )
            targets = targets * weights.reshape(1, 1, 1, -1)
        cross_entropy = -jnp.sum(targets[None] * jax.nn.log_softmax(logits), axis=-1)
        return cross_entropy.sum(axis=(1, 2, 3)), counted.sum()

    def value(self, sums: tuple[Array, Array]) -> Array:
        """Return the mean over the pixels, `[R]`; 0 without any."""
        cross_entropy, pixels = sums
        return cross_entropy / jnp.maximum(pixels.astype(cross_entropy.dtype), 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SoftDice(Loss):
    """Soft Dice loss: 1 - 2 sum(p t) / (sum(p) + sum(t)), mean over the classes that the batch has.

    The sums are those of the whole batch, not of each image (Milletari et al. 2016, without the squares); a class
    without a true pixel in the batch is left out, and without any class the loss is 0. It is not in the paper.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from fbunet_jax import losses
      >>> labels = jnp.array([[[0, 1], [1, 0]]])
      >>> logits = 50.0 * jax.nn.one_hot(labels, 2)[None]  # certain, and right
      >>> [round(float(each), 4) for each in losses.SoftDice()(logits, labels)]
      [0.0]
    """

    def statistics(self, logits: Array, labels: Array) -> Array:
        """Return `[3, R, K]`: probability of the class where it is the true one, everywhere, and the true pixels."""
        counted, targets = targets_of(labels, logits)
        probabilities = jax.nn.softmax(logits) * counted[None, ..., None].astype(logits.dtype)
        sums = [probabilities * targets[None], probabilities, jnp.broadcast_to(targets, logits.shape)]
        return jnp.stack(sums).sum(axis=(2, 3, 4))

    def value(self, sums: Array) -> Array:
        """Return the loss of each round, `[R]`."""
        intersection, probability, truth = sums
        present = truth > 0
        dice = 2 * intersection / jnp.where(present, probability + truth, 1)
        return jnp.where(present, 1 - dice, 0).sum(axis=-1) / jnp.maximum(present.sum(axis=-1, dtype=dice.dtype), 1)


def targets_of(labels: Array, logits: Array) -> tuple[Array, Array]:
    """Return which pixels count, and the true classes.

    Args:
      labels: `[N, H, W]` int32; any value outside 0 … K-1, such as 255, is ignored.
      logits: `[..., K]`, for K and the type.

    Returns:
      `[N, H, W]` bool, and `[N, H, W, K]` in the type of the logits: 1 for the true class, 0 for the others and where
      a pixel is ignored.

    Example:
      >>> import jax.numpy as jnp
      >>> from fbunet_jax import losses
      >>> counted, targets = losses.targets_of(jnp.array([[[1, 255]]]), jnp.zeros((2, 1, 1, 2, 2)))
      >>> counted.tolist(), targets.tolist()
      ([[[True, False]]], [[[[0.0, 1.0], [0.0, 0.0]]]])
    """
    if labels.shape != logits.shape[-4:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ModelError(
            f"The labels have the shape {list(labels.shape)} and the type {labels.dtype}; expected whole numbers of "
            f"the shape [N, H, W] = {list(logits.shape[-4:-1])}, as the logits have it."
        )
    classes = logits.shape[-1]
    counted = (labels >= 0) & (labels < classes)
    return counted, jax.nn.one_hot(jnp.where(counted, labels, -1), classes, dtype=logits.dtype)


def round_weights(rounds: int, earlier: float) -> Array:
    """Return the weight of each round's loss `[R]`: lambda for all but the last, 1 for the last (equation 2)."""
    return jnp.full((rounds,), earlier).at[-1].set(1)


def class_weights(counts: NDArray[np.integer], rule: str | tuple[float, ...]) -> NDArray[np.float32]:
    """Return the weight of each class `[K]` float32.

    Args:
      counts: `[K]` pixels of each class in the training part.
      rule: ``"median-frequency"`` (median(count) / count over the classes that occur), its square root
        ``"sqrt-median-frequency"``, ``"none"`` (all 1), or the weights themselves. A class without pixels gets 0.

    Raises:
      ModelError: the rule is unknown, a list has another length than there are classes, or no class has a pixel.

    Example:
      >>> import numpy as np
      >>> from fbunet_jax import losses
      >>> weights = losses.class_weights(np.array([800, 150, 50]), "median-frequency")
      >>> [round(float(each), 4) for each in weights]
      [0.1875, 1.0, 3.0]
      >>> loss = losses.CrossEntropy(weights)
    """
    counts = np.asarray(counts, np.float64)
    if isinstance(rule, str) and rule not in _RULES:
        raise ModelError(
            f"class_weights: {rule!r} is no rule.{did_you_mean(rule, _RULES)} The rules are {', '.join(_RULES)}, or "
            "give a number for each class.",
            "class_weights",
        )
    if not counts.any():
        raise ModelError("class_weights: no class has a pixel, so there is nothing to weigh.", "class_weights")
    if rule == "none":
        weights = np.ones_like(counts)
    elif isinstance(rule, str):
        present = counts[counts > 0]
        weights = np.median(present) / np.maximum(counts, 1)
        weights = np.sqrt(weights) if rule.startswith("sqrt") else weights
    else:
        if len(rule) != len(counts):
            raise ModelError(
                f"class_weights has {len(rule)} numbers, but the data set has {len(counts)} classes: give one number "
                "for each class, in class order.",
                "class_weights",
            )
        weights = np.asarray(rule, np.float64)
    return np.where(counts > 0, weights, 0).astype(np.float32)


def check_loss(loss: Any, *, rounds: int, classes: int) -> None:
    """Check that a loss keeps the contract, on two small images.

    Args:
      loss: the loss.
      rounds: R.
      classes: K.

    Raises:
      ModelError: it does not. What the loss itself raises is not caught.
    """
    name = type(loss).__name__
    if not _is_loss(loss) or isinstance(loss, type):
        raise ModelError(
            f"The loss is of type {name}; expected an object with the methods statistics(logits, labels) and "
            "value(sums), such as losses.CrossEntropy(). Derive your own from losses.Loss."
        )
    random = np.random.default_rng(0)
    logits = jnp.asarray(random.normal(size=(rounds, 2, 16, 16, classes)), jnp.float32)
    labels = jnp.asarray(random.integers(0, classes + 1, (2, 16, 16)), jnp.int32)  # some are ignored
    sums = loss.statistics(logits, labels)
    parts = [loss.statistics(logits[:, place : place + 1], labels[place : place + 1]) for place in (0, 1)]
    for (path, whole), one, other in zip(
        jax.tree_util.tree_leaves_with_path(sums), *map(jax.tree.leaves, parts), strict=True
    ):
        if not np.allclose(whole, jnp.asarray(one) + jnp.asarray(other), rtol=1e-3, atol=1e-5, equal_nan=True):
            place = jax.tree_util.keystr(path)
            raise ModelError(
                f"statistics{place} of the loss {name} is no sum over pixels: that of two images differs from the "
                "sum of each image's own. Return sums, and divide in value: the loss is then the same on any devices."
            )
    value = loss.value(sums)
    if getattr(value, "shape", None) != (rounds,):
        found = f"shape {list(value.shape)}" if hasattr(value, "shape") else f"type {type(value).__name__}"
        raise ModelError(
            f"The value of the loss {name} has {found}; expected {[rounds]}, one number for each round: sum over the "
            "axes of images and pixels (1, 2, 3), and not over the rounds."
        )
    if not jnp.issubdtype(value.dtype, jnp.floating) or not jnp.isfinite(value).all():
        raise ModelError(
            f"The value of the loss {name} is {value.tolist()} of type {value.dtype} for logits around 0; expected "
            "finite floating-point numbers."
        )
    slope = jax.grad(lambda x: loss.value(loss.statistics(x, labels)).sum())(logits)
    if not jnp.any(slope):
        raise ModelError(f"The loss {name} does not depend on the logits, so nothing would be learnt.")
