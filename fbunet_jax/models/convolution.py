"""Convolution, 2 x 2 deconvolution and 2 x 2 max pooling: the usual operations, in the forms that XLA computes fast."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

BAND_PIXELS = 2**14
"""Pixels of all images of a batch in one band: gradients and inputs of a band fit into a CPU's cache."""
MOST_BANDS = 16
"""Each band is compiled by itself."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@jax.custom_vjp
def convolve(inputs: Array, kernel: Array) -> Array:
    """Return the "same" convolution of `[N, H, W, C]` with `[h, w, C, F]` (h and w odd), stride 1, zero padding."""
    return _convolve(inputs, kernel)


def _convolve(inputs: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(inputs, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


def _forward(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(inputs, kernel), (inputs, kernel)


def _backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    inputs, kernel = residuals
    of_inputs = _convolve(gradient, kernel[::-1, ::-1].swapaxes(2, 3))
    whole = partial(_kernel_gradient, size=kernel.shape[:2], bands=1)
    if (bands := _bands(inputs)) == 1:
        return of_inputs, whole(inputs, gradient)
    banded = partial(_kernel_gradient, size=kernel.shape[:2], bands=bands)
    return of_inputs, lax.platform_dependent(inputs, gradient, cpu=banded, default=whole)


convolve.defvjp(_forward, _backward)


def _bands(inputs: Array) -> int:
    """Return into how many bands of rows the sum over all pixels is best divided."""
    batch, height, width, _ = inputs.shape
    wanted = min(-(-batch * height * width // BAND_PIXELS), MOST_BANDS)
    return next(bands for bands in range(min(wanted, height), 0, -1) if height % bands == 0)


def _kernel_gradient(inputs: Array, gradient: Array, *, size: tuple[int, ...], bands: int) -> Array:
    """Return the gradient of a kernel `[h, w, C, F]`, summed over bands of rows.

    XLA reads a large image once for every entry of the kernel; on a CPU a band is still in the cache then (2 to 5 times
    faster at 256 x 256 pixels, JAX 0.10.2).
    """
    above, beside = size[0] // 2, size[1] // 2
    padded = jnp.pad(inputs, ((0, 0), (above, above), (0, 0), (0, 0)))
    rows = inputs.shape[1] // bands

    def of_band(first: int) -> Array:
        band = lax.slice_in_dim(padded, first, first + rows + 2 * above, axis=1)
        weights = lax.slice_in_dim(gradient, first, first + rows, axis=1)
        # the images of the batch are summed over, as channels are in a convolution
        layout = ("CHWN", "IHWO", "HWNC")
        return lax.conv_general_dilated(
            band, weights, (1, 1), ((0, 0), (beside, beside)), dimension_numbers=layout, preferred_element_type=sums
        )

    # a sum of many parts is not rounded to bfloat16 on its way
    sums = jnp.promote_types(inputs.dtype, jnp.float32) if bands > 1 else inputs.dtype
    return sum((of_band(rows * band) for band in range(1, bands)), start=of_band(0)).astype(inputs.dtype)


def flax_convolution(inputs: Array, kernel: Array, strides: Any, padding: Any, **others: Any) -> Array:
    """Take the place of `lax.conv_general_dilated` in `flax.linen.Conv`, which must be as `convolve` is."""
    del strides, padding, others
    return convolve(inputs, kernel)


class Deconvolution(nn.Module):
    """The 2 x 2 deconvolution with stride 2, as a product of matrices: no two outputs share an input.

    The parameters are those of `flax.linen.ConvTranspose`: ``kernel`` `[2, 2, C, features]`, ``bias`` `[features]`.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Map `[N, H, W, C]` to `[N, 2H, 2W, features]`."""
        batch, height, width, channels = inputs.shape
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (2, 2, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        # Flax correlates: the output at (0, 0) meets the kernel's last entry
        product = jnp.einsum("nhwc,abcf->nhawbf", inputs.astype(self.dtype), kernel[::-1, ::-1].astype(self.dtype))
        return product.reshape(batch, 2 * height, 2 * width, self.features) + bias.astype(self.dtype).reshape(
            1, 1, 1, -1
        )


@jax.custom_vjp
def max_pool(inputs: Array) -> Array:
    """Return the 2 x 2 max pooling with stride 2 of `[N, H, W, C]`, H and W even; the first of equal maxima counts.

    What is the greatest is decided once: the gradient of a window reduction looks for it again, which is slow on a CPU,
    and that of a maximum over axes compares values that may have been rounded otherwise meanwhile.
    """
    return _pool(inputs)[0]


def _pool(inputs: Array) -> tuple[Array, Array]:
    """Return the maxima `[N, H/2, W/2, C]` and where in its window each of them is, 0 to 3 row by row, int8."""
    batch, height, width, channels = inputs.shape
    windows = inputs.reshape(batch, height // 2, 2, width // 2, 2, channels)
    rows = windows.max(axis=4), (windows[:, :, :, :, 1] > windows[:, :, :, :, 0]).astype(jnp.int8)
    (top, bottom), (top_place, bottom_place) = ((row[:, :, 0], row[:, :, 1]) for row in rows)
    return jnp.maximum(top, bottom), jnp.where(bottom > top, 2 + bottom_place, top_place)


def _unpool(place: Array, gradient: Array) -> tuple[Array]:
    batch, height, width, channels = gradient.shape
    places = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    windows = jnp.where(place[:, :, None, :, None] == places, gradient[:, :, None, :, None], 0)
    return (windows.reshape(batch, 2 * height, 2 * width, channels),)


max_pool.defvjp(_pool, _unpool)
