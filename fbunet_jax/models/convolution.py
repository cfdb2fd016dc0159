"""Convolution, 2 x 2 deconvolution and 2 x 2 max pooling: the usual operations, in the forms that XLA computes fast."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

BAND_PIXELS = 2**14
"""Pixels of all images of a batch in one band: gradients and inputs of a band fit into a CPU's cache."""
MOST_BANDS = 16
"""Each band is compiled by itself."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@jax.custom_jvp
def convolve(inputs: Array, kernel: Array) -> Array:
    """Return the "same" convolution of `[N, H, W, C]` with `[h, w, C, F]` (h and w odd), stride 1, zero padding."""
    return _convolve(inputs, kernel)


def _convolve(inputs: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(inputs, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


@convolve.defjvp
def _convolve_tangent(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (inputs, kernel), (of_inputs, of_kernel) = primals, tangents
    return convolve(inputs, kernel), _convolve(of_inputs, kernel) + _convolve_kernel_tangent(inputs, of_kernel)


# reverse mode transposes this: the kernel's gradient is a sum over the bands
@partial(jax.checkpoint, prevent_cse=False)
def _convolve_kernel_tangent(inputs: Array, kernel: Array) -> Array:
    if (bands := _bands(inputs)) == 1:
        return _convolve(inputs, kernel)
    return lax.platform_dependent(inputs, kernel, cpu=partial(_convolve_bands, bands=bands), default=_convolve)


def _bands(inputs: Array) -> int:
    """Return into how many bands of rows the sum over all pixels is best divided."""
    batch, height, width, _ = inputs.shape
    wanted = min(-(-batch * height * width // BAND_PIXELS), MOST_BANDS)
    return next(bands for bands in range(min(wanted, height), 0, -1) if height % bands == 0)


def _convolve_bands(inputs: Array, kernel: Array, *, bands: int) -> Array:
    """Return the convolution, band by band of rows, for its gradient by the kernel.

    XLA reads a large image once for every entry of the kernel; on a CPU a band is still in the cache then (2 to 5 times
    faster at 256 x 256 pixels, JAX 0.10.2).
    """
    above, beside = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = jnp.pad(inputs, ((0, 0), (above, above), (0, 0), (0, 0)))
    rows = inputs.shape[1] // bands
    # the gradient, a sum of many parts, is not rounded to bfloat16 on its way
    sums = np.promote_types(inputs.dtype, np.float32)
    kernel = kernel.astype(sums)

    def of_band(first: int) -> Array:
        band = lax.slice_in_dim(padded, first, first + rows + 2 * above, axis=1).astype(sums)
        outputs = lax.conv_general_dilated(band, kernel, (1, 1), ((0, 0), (beside, beside)), dimension_numbers=_LAYOUT)
        return outputs.astype(inputs.dtype)

    # the last one first: the gradient adds the bands in the opposite order
    return jnp.concatenate([of_band(rows * band) for band in reversed(range(bands))][::-1], axis=1)


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


@jax.custom_jvp
def max_pool(inputs: Array) -> Array:
    """Return the 2 x 2 max pooling with stride 2 of `[N, H, W, C]`, H and W even; the first of equal maxima counts.

    What is the greatest is decided once: the gradient of a window reduction looks for it again, which is slow on a CPU,
    and that of a maximum over axes compares values that may have been rounded otherwise meanwhile.
    """
    return _pool(inputs)[0]


@max_pool.defjvp
def _max_pool_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    maxima, place = _pool(*primals)
    return maxima, _at(place, *tangents)


def _pool(inputs: Array) -> tuple[Array, Array]:
    """Return the maxima `[N, H/2, W/2, C]` and where in its window each of them is, 0 to 3 row by row, int8."""
    windows = _windows(inputs)
    rows = windows.max(axis=4), (windows[:, :, :, :, 1] > windows[:, :, :, :, 0]).astype(jnp.int8)
    (top, bottom), (top_place, bottom_place) = ((row[:, :, 0], row[:, :, 1]) for row in rows)
    return jnp.maximum(top, bottom), jnp.where(bottom > top, 2 + bottom_place, top_place)


@partial(jax.checkpoint, prevent_cse=False)
def _at(place: Array, inputs: Array) -> Array:
    """Return of each window the entry at its place."""
    places = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    return jnp.where(place[:, :, None, :, None] == places, _windows(inputs), 0).sum(axis=(2, 4))


def _windows(inputs: Array) -> Array:
    """Return `[N, H, W, C]` as `[N, H/2, 2, W/2, 2, C]`."""
    batch, height, width, channels = inputs.shape
    return inputs.reshape(batch, height // 2, 2, width // 2, 2, channels)
