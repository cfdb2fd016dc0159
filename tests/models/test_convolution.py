"""The fast forms of convolution, deconvolution and pooling are the usual operations, with the usual gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from fbunet_jax.models import convolution
from fbunet_jax.models.convolution import Deconvolution, convolve, max_pool


def usual(inputs, kernel):
    return lax.conv_general_dilated(inputs, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def weighted(operation, weights):
    """Return a scalar function whose gradient meets every output with another weight."""
    return lambda *arguments: (operation(*arguments) * weights).sum()


@pytest.mark.parametrize(
    ("shape", "bands"),
    [((2, 16, 12, 3), 1), ((2, 96, 96, 3), 2), ((1, 254, 130, 2), 2), ((2, 135, 128, 1), 3), ((8, 256, 256, 1), 16)],
)
def test_convolution_and_its_gradients_are_the_usual_ones_in_bands_and_whole(shape, bands):
    random = np.random.default_rng(0)
    assert convolution._bands(jnp.zeros(shape)) == bands
    with jax.enable_x64(True):
        inputs, kernel, weights = (random.normal(size=s) for s in (shape, (3, 3, shape[3], 4), (*shape[:3], 4)))
        np.testing.assert_allclose(convolve(inputs, kernel), usual(inputs, kernel), rtol=1e-12, atol=1e-12)
        found, expected = (
            jax.jit(jax.grad(weighted(operation, weights), argnums=(0, 1)))(inputs, kernel)
            for operation in (convolve, usual)
        )
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == jnp.float64
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_a_bfloat16_gradient_in_bands_is_as_exact_as_a_whole_one():
    random = np.random.default_rng(3)
    inputs, kernel, weights = (
        jnp.asarray(random.normal(size=s), jnp.bfloat16) for s in ((4, 256, 64, 2), (3, 3, 2, 4), (4, 256, 64, 4))
    )
    assert convolution._bands(inputs) == 4
    exact = jax.grad(weighted(usual, weights.astype(jnp.float32)), argnums=1)(
        inputs.astype(jnp.float32), kernel.astype(jnp.float32)
    )
    _, gradient = jax.vjp(convolve, inputs, kernel)
    found = gradient(weights)[1]
    assert found.dtype == jnp.bfloat16
    # half a unit in the last place of bfloat16, and a little for sums of float32
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=2**-8, atol=0.02)


def test_a_kernel_gradient_on_an_accelerator_is_one_convolution():
    """Bands are for the cache of a CPU: lowered for a GPU or TPU, none is left."""
    shapes = jax.ShapeDtypeStruct((4, 128, 128, 2), jnp.float32), jax.ShapeDtypeStruct((3, 3, 2, 2), jnp.float32)
    gradient = jax.jit(jax.grad(lambda x, k: convolve(x, k).sum(), argnums=1)).trace(*shapes)
    counts = {
        platform: gradient.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.convolution")
        for platform in ("cpu", "cuda", "tpu")
    }
    # one of the input in each, which is not needed and removed later
    assert counts == {"cpu": counts["cuda"] + 3, "cuda": counts["tpu"], "tpu": counts["tpu"]}


@pytest.mark.parametrize(("shape", "bands"), [((2, 16, 12, 3), 1), ((2, 96, 96, 3), 2)])
def test_forward_mode_through_a_convolution_is_the_usual_one(shape, bands):
    random = np.random.default_rng(4)
    with jax.enable_x64(True):
        primals, tangents = ([random.normal(size=s) for s in (shape, (3, 3, 3, 4))] for _ in range(2))
        assert convolution._bands(primals[0]) == bands
        found, expected = (jax.jvp(operation, primals, tangents) for operation in (convolve, usual))
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == jnp.float64
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rematerialise", [False, True])
def test_second_derivatives_are_the_usual_ones_forward_over_reverse_and_reverse_over_reverse(rematerialise):
    random = np.random.default_rng(5)
    with jax.enable_x64(True):
        at, along = ([random.normal(size=s) for s in ((2, 96, 96, 1), (3, 3, 1, 2))] for _ in range(2))
        expected = products_with_hessian(partial(curved, usual, pooled_by_flax), at, along)
        function = partial(curved, convolve, max_pool)
        found = products_with_hessian(jax.checkpoint(function) if rematerialise else function, at, along)
        for product in (*found, expected[1]):
            for one, other in zip(product, expected[0], strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def curved(convolution, pooling, inputs, kernel):
    """Return a scalar with second derivatives by the inputs, by the kernel, and by both."""
    return jnp.sin(pooling(jnp.tanh(convolution(inputs, kernel)))).sum()


def products_with_hessian(function, at, along):
    """Return the product of a Hessian and a vector, forward over reverse and reverse over reverse."""
    gradient = jax.grad(function, argnums=(0, 1))

    def along_gradient(*arguments):
        return sum(jnp.vdot(one, other) for one, other in zip(gradient(*arguments), along, strict=True))

    return jax.jvp(gradient, at, along)[1], jax.grad(along_gradient, argnums=(0, 1))(*at)


def test_the_gradient_of_one_convolution_needs_its_arguments_and_that_of_one_pooling_the_places():
    def kept(operation, *arguments):
        _, gradient = jax.vjp(operation, *arguments)
        return sorted((leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(gradient))

    inputs, kernel = jnp.ones((2, 96, 96, 3)), jnp.ones((3, 3, 3, 4))
    assert kept(convolve, inputs, kernel) == [(inputs.shape, "float32"), (kernel.shape, "float32")]
    assert kept(max_pool, inputs) == [((2, 48, 48, 3), "int8")]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_deconvolution_is_that_of_flax_with_the_same_parameters(dtype):
    random = np.random.default_rng(1)
    inputs = random.normal(size=(2, 5, 3, 4)).astype(np.float32)
    ours, theirs = Deconvolution(6, dtype), nn.ConvTranspose(6, (2, 2), (2, 2), dtype=dtype)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), theirs.init(jax.random.key(0), inputs))
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), inputs)) == jax.tree.map(jnp.shape, params)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(
        ours.apply(params, inputs).astype(np.float32),
        theirs.apply(params, inputs).astype(np.float32),
        rtol=tolerance,
        atol=tolerance,
    )


def pooled_by_flax(inputs):
    return nn.max_pool(inputs, window_shape=(2, 2), strides=(2, 2))


def test_max_pooling_is_that_of_flax_with_its_derivatives():
    random = np.random.default_rng(2)
    inputs, tangents = random.normal(size=(2, 2, 6, 8, 3)).astype(np.float32)
    weights = random.normal(size=(2, 3, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(max_pool(inputs), pooled_by_flax(inputs))
    found, expected = (jax.grad(weighted(pool, weights))(inputs) for pool in (max_pool, pooled_by_flax))
    np.testing.assert_array_equal(found, expected)
    with jax.enable_x64(True):
        at, along = inputs.astype(np.float64), tangents.astype(np.float64)
        found, expected = (jax.jvp(pool, (at,), (along,)) for pool in (max_pool, pooled_by_flax))
        assert found[1].dtype == jnp.float64
        np.testing.assert_array_equal(found, expected)


def test_the_first_of_equal_maxima_has_the_derivative():
    for values, expected in (([1, 3, 3, 0], [0, 1, 0, 0]), ([2, 0, 2, 2], [1, 0, 0, 0]), ([0, 0, 1, 1], [0, 0, 1, 0])):
        gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.array(values, jnp.float32).reshape(1, 2, 2, 1))
        np.testing.assert_array_equal(gradient.reshape(4), expected)
        forward = jax.jacfwd(lambda x: max_pool(x.reshape(1, 2, 2, 1)))(jnp.array(values, jnp.float32))
        np.testing.assert_array_equal(forward.reshape(4), expected)
