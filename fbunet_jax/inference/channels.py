"""The files of an image to segment, opened as one: channels in files of their own are joined where they are read."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import Alpha
from fbunet_jax.data.layouts.reading import check_channels
from fbunet_jax.inference.images import OpenImage, open_image
from fbunet_jax.inference.inputs import InputImage


@contextlib.contextmanager
def open_input(image: InputImage, axes: str, alpha: Alpha = "refuse") -> Iterator[OpenImage]:
    """Open the files of an image; axes and the size of a pixel are those of the first.

    Args:
      image: to be opened.
      axes: see `fbunet_jax.data.readers.image_files.read_image`.
      alpha: likewise.

    Raises:
      DataError: a file cannot be used, see `open_image`, or differs from the first in size or type.
    """
    with contextlib.ExitStack() as opened:
        parts = [opened.enter_context(open_image(file, axes, alpha)) for file in image.files]
        first = parts[0]
        # of the shape and type of each, without memory
        empty = [
            np.broadcast_to(np.empty((), part.dtype), (part.pages, part.height, part.width, part.channels))
            for part in parts
        ]
        check_channels(empty, image.files)

        def read(page: int, rows: slice, columns: slice) -> NDArray:
            return np.concatenate([part.read(page, rows, columns) for part in parts], axis=-1)

        channels = sum(part.channels for part in parts)
        yield replace(first, name=image.name, channels=channels, read=read if len(parts) > 1 else first.read)
