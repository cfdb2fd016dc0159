"""Operations of traced functions against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbunet_jax.accelerators.arithmetic import count_arithmetic
from fbunet_jax.config import load_config
from fbunet_jax.models.convolution import convolve
from fbunet_jax.networks import build_network

SIDE, WIDTHS, CLASSES = 32, (4, 8), 3


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def unet_flops(batch):
    """Count the multiplications and additions of the plain U-Net of two levels, layer by layer."""
    full, half = SIDE**2, (SIDE // 2) ** 2
    layers = [
        (full, 9, 1, 4),
        (full, 9, 4, 4),
        (half, 9, 4, 8),
        (half, 9, 8, 8),
        (full, 1, 8, 4),  # 2 x 2 deconvolution: each of its outputs meets one input
        (full, 9, 8, 4),
        (full, 9, 4, 4),
        (full, 1, 4, CLASSES),
    ]
    return [2 * batch * pixels * window * fan_in * fan_out for pixels, window, fan_in, fan_out in layers]


def unet():
    config = load_config("quickstart", method="unet", model={"widths": list(WIDTHS)})
    model = build_network(config, classes=CLASSES, channels=1)
    image = floats(5, SIDE, SIDE, 1)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    return model, variables, image


def test_the_forward_pass_of_a_network_counted_by_hand():
    model, variables, image = unet()
    counted = count_arithmetic(lambda v, x: model.apply(v, x, train=False), variables, image)
    assert counted.flops == sum(unet_flops(5))


def test_a_gradient_costs_twice_the_forward_pass_except_for_the_gradient_of_the_image():
    model, variables, image = unet()

    def loss(params, x):
        logits, _ = model.apply({**variables_of(params)}, x, train=True, mutable=["batch_stats"])
        return jnp.square(logits).sum()

    def variables_of(params):
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables["batch_stats"])
        return {"params": params, "batch_stats": zeros}

    counted = count_arithmetic(jax.grad(loss), variables["params"], image)
    layers = unet_flops(5)
    assert counted.flops == 3 * sum(layers) - layers[0]


def test_bytes_are_operands_and_results_once():
    x, kernel = floats(2, 8, 8, 3), floats(3, 3, 3, 5)
    counted = count_arithmetic(convolve, x, kernel)
    assert counted.bytes == 4 * (2 * 64 * 3 + 9 * 3 * 5 + 2 * 64 * 5)
    assert counted.flops == 2 * 2 * 64 * 9 * 3 * 5


def test_grouped_convolutions_products_and_loops():
    def grouped(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=3
        )

    assert count_arithmetic(grouped, floats(2, 8, 8, 3), floats(3, 3, 1, 6)).flops == 2 * 2 * 64 * 6 * 9
    batched = count_arithmetic(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), floats(7, 2, 3), floats(7, 3, 5))
    assert batched.flops == 2 * 7 * 2 * 3 * 5

    def repeated(a):
        return jax.lax.scan(lambda carry, _: (carry @ carry, None), a, None, length=6)[0]

    assert count_arithmetic(repeated, floats(4, 4)).flops == 6 * 2 * 4**3

    def branch(a):
        return jax.lax.cond(a[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, a)

    assert count_arithmetic(branch, floats(4, 4)).flops == 2 * 2 * 4**3


def test_xlas_own_count_of_a_convolution_without_padding_agrees():
    def valid(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x, kernel = np.ones((2, 16, 16, 8), np.float32), np.ones((3, 3, 8, 4), np.float32)
    analysis = jax.jit(valid).lower(x, kernel).compile().cost_analysis()
    told = (analysis[0] if isinstance(analysis, list) else analysis)["flops"]
    assert count_arithmetic(valid, x, kernel).flops == pytest.approx(told, rel=0.01)
