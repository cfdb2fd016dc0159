"""What any network must keep to be trained, validated and used here: a Linen module, see docs/library.md.

`FeedbackUNet` is one of them. ``apply(variables, images, train=...)`` returns logits `[R, N, H, W, K]`, or
`[N, H, W, K]` for one round; the collections are ``params`` and, if there are running statistics, ``batch_stats``.
"""

import dataclasses
import inspect
import math
import numbers
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import InvalidRngError, ScopeParamShapeError
from jax import Array

from fbunet_jax.errors import ModelError
from fbunet_jax.models.feedback import FeedbackUNet

DEFAULT_MULTIPLE = 16


def has_field(model: nn.Module, name: str) -> bool:
    """Say whether a network has a field of this name, which `clone` can change."""
    return name in {field.name for field in dataclasses.fields(model)}


def multiple_of(model: nn.Module) -> int:
    """Return what height and width of its images must be a multiple of: the field ``multiple``, 16 without one."""
    return int(getattr(model, "multiple", DEFAULT_MULTIPLE))


def with_axis(model: nn.Module, axis_name: str | None, **fields: Any) -> nn.Module:
    """Return the network with batch statistics over a mapped axis, if it has any, and other fields changed."""
    if has_field(model, "axis_name"):
        fields["axis_name"] = axis_name
    return model.clone(**fields)


def segment(model: nn.Module, variables: Mapping[str, Any], images: Array) -> Array:
    """Return the logits of every round, `[R, N, H, W, K]`, of images `[N, H, W, C]`, with the running statistics."""
    return _as_rounds(cast(Array, model.apply(_present(variables), images, train=False)))


def segment_in_training(model: nn.Module, variables: Mapping[str, Any], images: Array) -> tuple[Array, Any]:
    """Return the logits of every round, `[R, N, H, W, K]`, and the new ``batch_stats``."""
    logits, updates = model.apply(_present(variables), images, train=True, mutable=["batch_stats"])
    return _as_rounds(logits), updates.get("batch_stats", {})


def initial_variables(model: nn.Module, key: Array, channels: int) -> dict[str, Any]:
    """Return ``params`` and ``batch_stats`` (empty without any) from a random key."""
    size = multiple_of(model)
    variables = model.init(key, jnp.zeros((1, size, size, channels)), train=False)
    return {"params": variables.get("params", {}), "batch_stats": variables.get("batch_stats", {})}


def abstract_variables(model: nn.Module, channels: int) -> dict[str, Any]:
    """Return shapes and types of ``params`` and ``batch_stats`` without computing them."""
    return jax.eval_shape(lambda key: initial_variables(model, key, channels), jax.random.key(0))


def count_parameters(model: nn.Module, channels: int) -> int:
    """Return the number of parameters (kernels, biases, scales; without running statistics)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_variables(model, channels)["params"]))


def count_rounds(model: nn.Module, variables: Mapping[str, Any], channels: int) -> int:
    """Return the number of rounds R of a network; variables may be shapes and types."""
    if type(model) is FeedbackUNet:
        return model.rounds
    size = multiple_of(model)
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    return jax.eval_shape(lambda v, i: segment(model, v, i), variables, images).shape[0]


def check_network(model: nn.Module, *, classes: int, channels: int, devices: int = 1, side: int = 0) -> None:
    """Check that a network keeps the contract; nothing is computed.

    Args:
      model: the network.
      classes: number of classes K of the data.
      channels: number of image channels C.
      devices: over which a training is mapped.
      side: of the crops in training, pixels, a multiple of the network's; 0 if it is not to be trained.

    Raises:
      ModelError: it does not. What the network itself raises is not caught.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"The network is of type {type(model).__name__}; expected a Flax Linen module that is ready to be applied, "
            "such as FeedbackUNet(classes=3)."
        )
    name, size = type(model).__name__, getattr(model, "multiple", DEFAULT_MULTIPLE)
    if not isinstance(size, numbers.Integral) or int(size) < 1:
        raise ModelError(f"The network {name} has multiple = {size!r}; expected a number of pixels of at least 1.")
    arguments = inspect.signature(model.__call__).parameters.values()
    if not any(each.name == "train" or each.kind is each.VAR_KEYWORD for each in arguments):
        raise ModelError(f"The network {name} takes no argument train; expected __call__(self, images, *, train).")
    model = with_axis(model, None)
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    crop = side if side and side % size == 0 else size
    crops = jax.ShapeDtypeStruct((2, crop, crop, channels), jnp.float32)

    def init(image: Array) -> Any:
        return model.init(jax.random.key(0), image, train=False)

    def apply(train: bool) -> Any:
        mutable = ["batch_stats"] if train else []
        return jax.eval_shape(lambda v, i: model.apply(v, i, train=train, mutable=mutable), variables, crops)

    try:
        variables = jax.eval_shape(init, images)
        applied = {f"train={train}": apply(train) for train in (False, True)}
    except ScopeParamShapeError as error:
        raise ModelError(
            f"The parameters of the network {name} have the size of the images: they were made for {size} x {size} and "
            f"do not fit {crop} x {crop} pixels. Use parameters that fit every size, or set multiple = {crop} and "
            "crops of that size."
        ) from error
    except InvalidRngError as error:
        raise ModelError(
            f"The network {name} asks for random numbers, as for dropout, and apply is given none. Leave them out."
        ) from error
    if strange := set(variables) - {"params", "batch_stats", "intermediates"}:
        raise ModelError(
            f"The network {name} has variables in {', '.join(sorted(strange))}; only the collections params and "
            "batch_stats are trained and stored. Keep what changes in batch_stats."
        )
    if "params" not in variables:
        raise ModelError(f"The network {name} has no parameters, so there is nothing to train.")
    if devices > 1 and "batch_stats" in variables and not _shares_statistics(model, variables, images):
        raise ModelError(
            f"The batch statistics of the network {name} are each device's own on {devices} devices. Add the field "
            "axis_name: str | None = None, hand it to every nn.BatchNorm(axis_name=self.axis_name), or train on one "
            "device."
        )
    before, after = (_shapes(tree.get("batch_stats", {})) for tree in (variables, applied["train=True"][1]))
    if before != after:
        differing = min(name for name in before | after if before.get(name) != after.get(name))
        raise ModelError(
            f"The batch statistics of the network {name} are not those of the beginning after a step: {differing} "
            "differs. Create all of them in every call, with train=False too."
        )
    for call, (logits, _) in applied.items():
        _check_logits(logits, f"The network {name} returned logits of {{}} with {call}", crops.shape, classes)


def _check_logits(logits: Any, returned: str, images: tuple[int, ...], classes: int) -> None:
    """Raise a ModelError unless logits fit images `[N, H, W, C]` and K classes; `returned` begins the sentence."""
    found, expected = getattr(logits, "shape", None), [*images[:-1], classes]
    if found is None or len(found) not in (4, 5) or list(found[-4:]) != expected:
        shown = f"shape {list(found)}" if found is not None else f"type {type(logits).__name__}"
        raise ModelError(
            f"{returned.format(shown)}; expected [N, H, W, K] or [R, N, H, W, K] for images [N, H, W, C] = "
            f"{list(images)} and K = {classes} classes of the data: {expected}, with the rounds in front."
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ModelError(f"{returned.format(f'type {logits.dtype}')}; expected floating-point numbers.")


def _shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves}


def _shares_statistics(model: nn.Module, variables: Any, images: jax.ShapeDtypeStruct) -> bool:
    """Say whether the new statistics of two devices are the same, whatever images each has; nothing is computed."""
    mapped = with_axis(model, "devices")

    def statistics(variables: Any, images: Array) -> Any:
        return segment_in_training(mapped, variables, images)[1]

    # an output without an axis cannot depend on a device's own images
    both = jax.vmap(statistics, in_axes=(None, 0), out_axes=None, axis_name="devices")
    try:
        jax.eval_shape(both, variables, jax.ShapeDtypeStruct((2, *images.shape), images.dtype))
    except ValueError as error:
        if "out_axes" in str(error):
            return False
        raise
    return True


def _as_rounds(logits: Array) -> Array:
    """Add the axis of rounds where there is one round; losses and softmax are computed in float32 at least."""
    logits = logits.astype(np.promote_types(logits.dtype, np.float32))
    return logits if logits.ndim == 5 else logits[None]


def _present(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the collections that are empty: Flax would take them for given ones."""
    return {name: tree for name, tree in variables.items() if tree}
