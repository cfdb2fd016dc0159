"""Small pictures of an image and its label, for the page of the check."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fbunet_jax.data.layouts.description import IGNORE
from fbunet_jax.figures import colour_label

THUMBNAILS = 24
"""Images shown, spread evenly over the data set; half as many more may be added because of their findings."""
SIDE = 160
"""Longer side of a thumbnail, pixels."""
_COLOURS = 8


@dataclass(frozen=True)
class Thumbnail:
    """One image and its label, small.

    Attributes:
      name: of the unit that it is from.
      image: `[h, w, 3]` uint8.
      label: `[h, w, 3]` uint8, in the colours of the classes.
    """

    name: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


def thumbnail(name: str, image: NDArray, label: NDArray, *, described: bool) -> Thumbnail:
    """Return the thumbnails of an image `[H, W, C]` and a label `[H, W]`.

    Args:
      name: shown under it.
      image: three channels are shown as red, green and blue, of others the first; from the 1st to the 99th percentile.
      label: class indices; stored values if the classes are not ``described``: every eighth has the same colour then.
      described: see above.
    """
    height, width = label.shape
    factor = SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    shown = image if image.shape[-1] == 3 else image[..., :1]
    reduced = np.stack(
        [
            np.asarray(Image.fromarray(shown[..., c].astype(np.float32)).resize(size, Image.Resampling.BOX))
            for c in range(shown.shape[-1])
        ],
        axis=-1,
    )
    low, high = np.percentile(reduced, (1, 99))
    grey = np.clip((reduced - low) / (high - low if high > low else 1), 0, 1)
    picture = np.broadcast_to((255 * grey).astype(np.uint8), (*grey.shape[:2], 3))
    values = label if described else label % _COLOURS
    small = np.asarray(Image.fromarray(values.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    return Thumbnail(name, picture, colour_label(small, IGNORE))
