"""The files of a segmentation: written by bands under another name, renamed when they are complete."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from fbunet_jax.figures import class_colours

UNFINISHED = ".unfinished-"
"""How the names of files begin that are not complete."""

_BIG = 2**32 - 2**25
SCRATCH_PIXELS = 2**26
_STRIP_BYTES = 2**18


class Planes:
    """An uncompressed TIFF of several planes, filled by bands of rows in any order; for what does not compress."""

    def __init__(self, path: Path, axes: str, shape: tuple[int, ...], dtype: Any, **options: Any) -> None:
        """Create the file under a temporary name.

        Args:
          path: of the file in the end.
          axes: such as ``"ZCYX"``.
          shape: of the same length.
          dtype: of the values.
          **options: of `tifffile.imwrite`; ``metadata`` is completed by the axes.
        """
        self._path, self._shape, self._dtype = path, shape, np.dtype(dtype)
        self._temporary = beside(path)
        metadata = {"axes": axes, **options.pop("metadata", {})}
        size = int(np.prod(shape)) * self._dtype.itemsize
        place: Any = tifffile.imwrite(
            self._temporary,
            shape=shape,
            dtype=self._dtype,
            photometric="minisblack",
            metadata=metadata,
            bigtiff=size > _BIG,
            returnoffset=True,
            **options,
        )
        self._offset = place[0]
        self._file = self._temporary.open("r+b")

    def write(self, plane: int, first: int, rows: NDArray) -> None:
        """Write the rows `[rows, W]` of a plane (counted through all axes but the last two) from row `first` on."""
        height, width = self._shape[-2:]
        self._file.seek(self._offset + (plane * height + first) * width * self._dtype.itemsize)
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())

    def finish(self) -> None:
        """Give the file its name."""
        self._file.close()
        self._temporary.replace(self._path)

    def discard(self) -> None:
        """Remove what is not finished."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def label_pages(pages: int, height: int, width: int, scratch: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield an array `[pages, H, W]` uint8 to be filled: in memory, or in a scratch file if it is large."""
    shape = (pages, height, width)
    if pages * height * width <= SCRATCH_PIXELS:
        yield np.zeros(shape, np.uint8)
        return
    try:
        np.memmap(scratch, np.uint8, mode="w+", shape=shape).flush()
        yield np.memmap(scratch, np.uint8, mode="r+", shape=shape)
    finally:
        scratch.unlink(missing_ok=True)


def write_labels(
    path: Path, labels: NDArray[np.uint8], class_names: tuple[str, ...], *, stacked: bool, **options: Any
) -> None:
    """Write label pages `[pages, H, W]` as an 8-bit palette TIFF with the class table in its description.

    Args:
      path: of the file.
      labels: class indices; may lie on disk.
      class_names: in class order.
      stacked: whether the file has a page axis although it may have one page.
      **options: of `tifffile.TiffWriter.write`; ``metadata`` goes into the description.
    """
    metadata = {
        "axes": "ZYX" if stacked else "YX",
        "classes": {name: index for index, name in enumerate(class_names)},
        **options.pop("metadata", {}),
    }
    colours = class_colours(len(class_names))
    palette = np.zeros((3, 256), np.uint16)
    palette[:, : len(class_names)] = colours.T.astype(np.uint16) * 257
    temporary = beside(path)
    try:
        with tifffile.TiffWriter(temporary, bigtiff=labels.size > _BIG) as writer:
            writer.write(
                labels if stacked else labels[0],
                photometric="palette",
                colormap=palette,
                compression="deflate",
                rowsperstrip=max(1, _STRIP_BYTES // labels.shape[-1]),
                metadata=metadata,
                **options,
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """Return the name that a file has until it is complete; the suffix stays."""
    return path.with_name(f"{UNFINISHED}{short_hash(path.name)}{path.suffix}")


def short_hash(name: str) -> str:
    """Return 12 characters that stand for a name: with more around it, a long one may not fit the file system."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:12]
