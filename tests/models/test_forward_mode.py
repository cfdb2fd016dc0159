"""Forward-mode differentiation through the whole network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbunet_jax.models.contract import abstract_variables
from fbunet_jax.models.feedback import FeedbackUNet


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(7).normal(size=(2, 4, 6, 1))


@pytest.mark.parametrize(("train", "rematerialise"), [(False, False), (True, False), (True, True)])
def test_forward_mode_through_the_network_is_the_transpose_of_reverse_mode(images, train, rematerialise):
    with jax.enable_x64(True):
        logits, at, along = in_float64(images, train=train, rematerialise=rematerialise)
        outputs, forward = jax.jit(lambda *arguments: jax.jvp(logits, *arguments))((at,), (along,))
        weights = np.random.default_rng(9).normal(size=outputs.shape)
        backward = jax.jit(jax.grad(lambda arguments: jnp.vdot(weights, logits(arguments))))(at)
        assert forward.dtype == jnp.float64
        np.testing.assert_allclose(inner_product(weights, forward), inner_product(backward, along), rtol=1e-9)


def test_a_product_with_the_networks_hessian_is_the_same_forward_over_reverse_and_in_reverse_twice(images):
    with jax.enable_x64(True):
        logits, at, along = in_float64(images, train=True, rounds=1, convlstm="a")
        gradient = jax.grad(lambda arguments: jnp.square(logits(arguments)).sum())
        # compiled as these tests usually are, the second derivatives of the same network in operations of lax alone are
        # NaN too (JAX 0.10.2 on a CPU)
        optimised = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})
        twice = optimised(jax.grad(lambda arguments: inner_product(gradient(arguments), along)))(at)
        forward = optimised(lambda arguments: jax.jvp(gradient, (arguments,), (along,))[1])(at)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), forward, twice)


def in_float64(images, *, train, **settings):
    """Return the logits as a function of parameters and images, where to differentiate it, and in which direction."""
    model = FeedbackUNet(classes=3, widths=(2, 3), dtype=jnp.float64, **settings)
    random = np.random.default_rng(8)
    # no scale, bias or statistic is 0 or 1
    variables = jax.tree.map(
        lambda leaf: random.normal(0, 0.5, leaf.shape) if leaf.ndim > 1 else random.uniform(0.2, 1, leaf.shape),
        abstract_variables(model, 1),
    )

    def logits(arguments):
        parameters, inputs = arguments
        applied = model.apply(
            variables | {"params": parameters}, inputs, train=train, mutable=["batch_stats"] if train else []
        )
        return applied[0]

    at = variables["params"], images
    return logits, at, jax.tree.map(lambda leaf: random.normal(size=leaf.shape), at)


def inner_product(left, right):
    return sum(jnp.vdot(one, other) for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))
