"""A small network whose variables are random, and what its modules were called with."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fbunet_jax.models.feedback import FeedbackUNet

CLASSES, MOMENTUM, EPSILON = 3, 0.9, 1e-3


def make_model(**settings):
    defaults = {"classes": CLASSES, "widths": (2, 3), "momentum": MOMENTUM, "epsilon": EPSILON}
    return FeedbackUNet(**(defaults | settings))


def abstract(model, images):
    return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)


def random_variables(model, images, seed=0):
    """Return variables in which no scale, bias or statistic is 0 or 1."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.float32(
            random.normal(0, 0.5, leaf.shape) if leaf.ndim > 1 else random.uniform(0.2, 1, leaf.shape)
        ),
        abstract(model, images),
    )


def recorded(model, variables, images, kind, *, train):
    """Apply a model; return the arguments of every call of one kind of module by path, logits, and new statistics."""
    calls = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, kind) and context.method_name == "__call__":
            calls.setdefault("/".join(context.module.path), []).append(args)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        logits, updated = model.apply(variables, images, train=train, mutable=["batch_stats"] if train else [])
    return calls, logits, updated
