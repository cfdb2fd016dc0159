from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fbunet_jax.models.recurrent_conv import RecurrentConv

CHANNELS, FEATURES = 3, 4
EPSILON = 1e-3


class TwoRounds(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, inputs):
        norm = partial(nn.BatchNorm, use_running_average=not self.train, momentum=0.9, epsilon=EPSILON)
        layer = RecurrentConv(FEATURES, partial(nn.Conv, kernel_size=(3, 3)), norm, name="layer")
        return layer(inputs, 0), layer(inputs, 1)


@pytest.fixture(scope="module")
def inputs():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, CHANNELS)), jnp.float32)


@pytest.fixture(scope="module")
def variables(inputs):
    shapes = jax.eval_shape(TwoRounds(train=False).init, jax.random.key(0), inputs)
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(random.uniform(0.2, 1, leaf.shape) - 0.3 * (leaf.ndim > 1)), shapes)


@pytest.mark.parametrize("train", [True, False])
def test_the_layer_is_the_equation_of_liang_and_hu(variables, inputs, train):
    variables = jax.tree.map(np.asarray, variables)
    params = variables["params"]["layer"]
    stats = variables["batch_stats"]["layer"]

    def convolve(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return np.asarray(jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout))

    def norm_and_relu(y, name):
        y = np.asarray(y, np.float64)
        mean = y.mean(axis=(0, 1, 2)) if train else stats[name]["mean"]
        variance = y.var(axis=(0, 1, 2)) if train else stats[name]["var"]
        normed = (y - mean) / np.sqrt(variance + EPSILON) * params[name]["scale"] + params[name]["bias"]
        return np.maximum(normed, 0).astype(np.float32)

    forward, recurrent = params["forward"]["kernel"], params["recurrent"]["kernel"]
    bias = params["forward"]["bias"]
    expected = []
    for r in range(2):
        y0 = convolve(inputs, forward) + bias
        y1 = convolve(inputs, forward) + convolve(norm_and_relu(y0, f"norm_round_{r}_time_0"), recurrent) + bias
        y2 = convolve(inputs, forward) + convolve(norm_and_relu(y1, f"norm_round_{r}_time_1"), recurrent) + bias
        expected.append(norm_and_relu(y2, f"norm_round_{r}_time_2"))

    outputs, _ = TwoRounds(train=train).apply(variables, inputs, mutable=["batch_stats"])

    np.testing.assert_allclose(jnp.stack(outputs), np.stack(expected), rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(outputs[0] - outputs[1]).max()) > 0.1


def test_kernels_are_shared_by_steps_and_rounds_and_norms_are_not(variables):
    norms = {f"norm_round_{r}_time_{t}" for r in range(2) for t in range(3)}

    assert set(variables["params"]["layer"]) == {"forward", "recurrent"} | norms
    assert set(variables["batch_stats"]["layer"]) == norms
    # the bias belongs to the equation once, not once a kernel
    assert set(variables["params"]["layer"]["recurrent"]) == {"kernel"}


def test_the_forward_convolution_is_computed_once_a_round(variables, inputs):
    jaxpr = jax.make_jaxpr(TwoRounds(train=False).apply)(variables, inputs)
    assert str(jaxpr).count("conv_general_dilated[") == 2 * (1 + 2)
