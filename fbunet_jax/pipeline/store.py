"""Images as they lie on the device: one flat array of stored pixels, from which crops of any position are gathered."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from fbunet_jax.data.datasets import Dataset
from fbunet_jax.errors import DataError
from fbunet_jax.pipeline.normalisation import Normalisation

IGNORE = 255
"""Label of pixels that count neither in the loss nor in any metric."""


class ImageStore(NamedTuple):
    """All images of one part of a fold, whatever their sizes.

    Attributes:
      pixels: `[P, C]` in the files' own type, image after image, row after row.
      labels: `[P]` uint8.
      offsets: `[N]` int32, where each image begins.
      sizes: `[N, 2]` int32, height and width.
      scale: `[N, C]` float32, see `Normalisation.affine`.
      shift: `[N, C]` float32.
    """

    pixels: Array
    labels: Array
    offsets: Array
    sizes: Array
    scale: Array
    shift: Array


def make_store(
    dataset: Dataset, items: Sequence[int] | NDArray[np.integer], normalisation: Normalisation
) -> ImageStore:
    """Lay out the chosen items of a data set (numpy arrays; put them on the devices once).

    Raises:
      DataError: the items have 2^31 pixels or more, which 32-bit positions cannot address.
    """
    images = [dataset.images[i] for i in items]
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    areas = sizes.astype(np.int64).prod(axis=1)
    check_pixels(int(areas.sum()))
    scale, shift = zip(*(normalisation.affine_of(dataset, item) for item in items), strict=True)
    arrays: dict[str, Any] = {
        "pixels": np.concatenate([image.reshape(-1, image.shape[-1]) for image in images]),
        "labels": np.concatenate([dataset.labels[i].reshape(-1) for i in items]),
        "offsets": (np.cumsum(areas) - areas).astype(np.int32),
        "sizes": sizes,
        "scale": np.stack(scale),
        "shift": np.stack(shift),
    }
    return ImageStore(**arrays)


def check_pixels(count: int) -> None:
    """Raise a DataError if one part of a fold has more pixels than 32-bit positions can address."""
    if count >= 2**31:
        raise DataError(
            f"The images of one part of the fold have {count:,} pixels together; fewer than {2**31:,} fit. "
            "Use fewer or smaller images, or more folds."
        )


def gather_crop(store: ImageStore, item: Array, corner: Array, side: int | tuple[int, int]) -> tuple[Array, Array]:
    """Read one crop on the device.

    Args:
      store: the images.
      item: [] int32, which image; -1 gives a crop in which every label is ignored.
      corner: `[2]` int32, top and left in pixels.
      side: of a square crop, or height and width, in pixels.

    Returns:
      Image `[side, side, C]` float32, normalised, mirrored beyond the border; label `[side, side]` int32, 255 there.
    """
    down, across = (side, side) if isinstance(side, int) else side
    height, width = store.sizes[item, 0], store.sizes[item, 1]
    rows, columns = corner[0] + jnp.arange(down), corner[1] + jnp.arange(across)
    inside = (rows < height)[:, None] & (columns < width)[None, :] & (item >= 0)
    flat = store.offsets[item] + mirror(rows, height)[:, None] * width + mirror(columns, width)[None, :]
    image = store.pixels[flat].astype(jnp.float32) * store.scale[item][None, None] + store.shift[item][None, None]
    return image, jnp.where(inside, store.labels[flat].astype(jnp.int32), IGNORE)


def mirror(position: Array, size: Array | int) -> Array:
    """Reflect whole positions into 0 ... size - 1 without repeating the border, as often as it takes."""
    period = jnp.maximum(2 * (size - 1), 1)
    position = position % period
    return jnp.where(position < size, position, period - position)
