"""The files of a segmentation: written by bands under another name, renamed when they are complete."""

import contextlib
import errno
import hashlib
import json
import math
import mmap
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
from numpy.typing import DTypeLike, NDArray

from fbunet_jax.figures import class_colours
from fbunet_jax.inference.images import OpenImage
from fbunet_jax.inference.label_values import ClassValues
from fbunet_jax.inference.pixel_size import imagej_options, ome_metadata

UNFINISHED = ".unfinished-"
"""How the names of files begin that are not complete."""

_BIG = 2**32 - 2**25
SCRATCH_PIXELS = 2**26
_STRIP_BYTES = 2**18
_STRIP_ROWS = 1024
_IMAGEJ_AXES = ("YX", "ZYX", "TYX", "TZYX")
_TYPES = {"imagej": ("uint8", "uint16"), "ome": ("uint8", "uint16", "int16", "uint32", "int32")}
_GREY = {"photometric": "minisblack"}


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
def label_pages(pages: int, height: int, width: int, scratch: Path, dtype: DTypeLike = np.uint8) -> Iterator[NDArray]:
    """Yield an array `[pages, H, W]` to be filled: in memory, or in a scratch file if it is large."""
    shape = (pages, height, width)
    if pages * height * width <= SCRATCH_PIXELS:
        yield np.zeros(shape, dtype)
        return
    try:
        with _mapped_file(scratch, math.prod(shape) * np.dtype(dtype).itemsize) as file:
            yield np.memmap(file, dtype, mode="r+", shape=shape)
    finally:
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def _mapped_file(scratch: Path, size: int) -> Iterator[IO[bytes]]:
    """Yield a file of zeros that can be mapped, on the disk of the results if that can map one, or a temporary one."""
    with contextlib.ExitStack() as opened:
        file: IO[bytes] = opened.enter_context(scratch.open("w+b"))
        file.truncate(size)
        try:
            mmap.mmap(file.fileno(), size).close()
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise
            file = opened.enter_context(tempfile.TemporaryFile())
            file.truncate(size)
        # now, because a full disk ends a process that writes into a mapped page without a word
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise OSError(error.errno, error.strerror, str(scratch)) from error
        yield file


@contextlib.contextmanager
def stored_values(indices: NDArray[np.uint8], classes: ClassValues, scratch: Path) -> Iterator[NDArray[np.integer]]:
    """Yield what is written for class indices `[pages, H, W]`: the same array, or one of values, as `label_pages`."""
    if list(classes.written.values()) == list(range(len(classes.names))):
        yield indices
        return
    pages, height, width = indices.shape
    with label_pages(pages, height, width, scratch, classes.dtype) as values:
        for page, first in np.ndindex(pages, -(-height // _STRIP_ROWS)):
            rows = slice(first * _STRIP_ROWS, (first + 1) * _STRIP_ROWS)
            values[page, rows] = classes.of(indices[page, rows])
        yield values


def write_labels(
    path: Path, values: NDArray[np.integer], image: OpenImage, classes: ClassValues, origin: Mapping[str, Any]
) -> None:
    """Write label pages as a TIFF with the metadata of the image's kind, the size of its pixels, and the class table.

    Values up to 255 are 8 bits with a palette. The class table is the description in JSON, of ImageJ's files the
    "Info", of OME-TIFFs the description of the image.

    Args:
      path: of the file.
      values: `[pages, H, W]`, see `stored_values`; may lie on disk.
      image: that they belong to.
      classes: that the values stand for.
      origin: what else the metadata say.
    """
    table = {**classes.metadata(), **origin}
    size = values.size * values.itemsize
    kind, axes = image.kind, "".join(axis.name for axis in image.axes).upper()
    if values.dtype not in _TYPES.get(kind, ()) or (kind == "imagej" and (size > _BIG or axes not in _IMAGEJ_AXES)):
        kind = ""
    options: dict[str, Any] = {"compression": "deflate", **(_palette(classes) if values.dtype == np.uint8 else _GREY)}
    if kind == "imagej":
        options |= imagej_options(image.axes)
        options["metadata"] |= {"axes": axes, "Info": json.dumps(table, indent=1)}
        if image.pages > 1:
            # ImageJ takes the pages of its own stacks for one block of data
            options["compression"] = None
    elif kind == "ome":
        file = f"{image.name}{path.suffix}" if image.name else path.name
        name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{file} {json.dumps(table)}"))
        options["metadata"] = {"axes": axes, "Name": path.stem, "UUID": name, **ome_metadata(image.axes)}
        options["metadata"]["Description"] = json.dumps(table)
        options |= image.resolution
    else:
        options |= {"metadata": {"axes": "ZYX" if image.stacked else "YX", **table}, **image.resolution}
    shape = values.shape[not image.stacked :] if not kind else [axis.size for axis in image.axes]
    temporary = beside(path)
    try:
        with tifffile.TiffWriter(temporary, bigtiff=size > _BIG, imagej=kind == "imagej", ome=kind == "ome") as writer:
            writer.write(
                values.reshape(shape),
                rowsperstrip=max(1, _STRIP_BYTES // (values.shape[-1] * values.itemsize)),
                **options,
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _palette(classes: ClassValues) -> dict[str, Any]:
    """Return the palette of the values, as arguments of `tifffile.imwrite`."""
    palette = np.zeros((3, 256), np.uint16)
    palette[:, list(classes.written.values())] = class_colours(len(classes.names)).T.astype(np.uint16) * 257
    return {"photometric": "palette", "colormap": palette}


def beside(path: Path) -> Path:
    """Return the name that a file has until it is complete; the suffix stays."""
    return path.with_name(f"{UNFINISHED}{short_hash(path.name)}{path.suffix}")


def short_hash(name: str) -> str:
    """Return 12 characters that stand for a name: with more around it, a long one may not fit the file system."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:12]
