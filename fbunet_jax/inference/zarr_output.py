"""OME-Zarr 0.5 arrays that are written chunk by chunk through TensorStore, by one process or by several."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from numpy.typing import NDArray

from fbunet_jax.errors import RunError
from fbunet_jax.figures import class_colours
from fbunet_jax.inference.axes import KINDS, Axis, place_of_page, transformations
from fbunet_jax.inference.label_values import ClassValues
from fbunet_jax.runs.disks import reason, way_to_write
from fbunet_jax.runs.files import write_atomically

COARSEST_PIXELS = 1024
"""Levels are added until a plane is at most this wide and high."""
SMALLEST_CHUNK = 128
"""Side of the chunks of the coarsest level, at least: each level has as many files as the one before."""

_ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": True}}


class ZarrImage:
    """A multiscale image with the axes of the input.

    A chunk of level n holds every 2^n-th row and column of the same chunk of level 0, and is 2^n times smaller. So
    whoever computes a chunk writes it in every level, and nobody else writes these files.
    """

    def __init__(self, path: Path, axes: Sequence[Axis], dtype: Any, chunk: int, channels: int = 0) -> None:
        """Describe the arrays; nothing is created yet.

        Args:
          path: folder of the group.
          axes: of the input's pages, as they are counted, then y and x.
          dtype: of the values.
          chunk: side of the chunks in pixels.
          channels: size of a channel axis, or 0 for none.
        """
        self.path, self._dtype, self._chunk = path, np.dtype(dtype), chunk
        self._counted = {axis.name: axis.size for axis in axes[:-2]}
        every = [*axes, Axis("c", channels)] if channels else axes
        self._axes = tuple(sorted(every, key=lambda axis: list(KINDS).index(axis.name)))
        self._levels = 1
        side = max(axis.size for axis in axes[-2:])
        # chunks of every level begin where chunks of level 0 do
        while (
            side > COARSEST_PIXELS << (self._levels - 1)
            and chunk >> self._levels >= SMALLEST_CHUNK
            and chunk % 2**self._levels == 0
        ):
            self._levels += 1
        self._arrays: list[Any] = []
        self._way: dict[str, Any] = {}

    def create(self, metadata: dict[str, Any]) -> None:
        """Create the group and its arrays, or open those that another process, or an earlier one, has created.

        Args:
          metadata: of the group besides the multiscales.

        Raises:
          RunError: they cannot be written, or are those of another image.
        """
        datasets = [
            {"path": str(level), "coordinateTransformations": transformations(self._axes, 2**level)}
            for level in range(self._levels)
        ]
        multiscale = {
            "name": self.path.name.removesuffix(".zarr").removesuffix(".ome"),
            "axes": [axis.metadata() for axis in self._axes],
            "datasets": datasets,
            "type": "nearest",
        }
        ome = {"version": "0.5", "multiscales": [multiscale], **metadata}
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "zarr.json", json.dumps(group, indent=1) + "\n")
        try:
            self._way = way_to_write(self.path)
        except (OSError, ValueError, NotImplementedError) as error:
            raise RunError(_not_written(self.path, error)) from error
        self._arrays = [self._open(level) for level in range(self._levels)]

    def is_written(self, page: int, row: int, column: int) -> bool:
        """Say whether the chunk in this row and column of chunks of a page is on disk, in every level."""
        place = {**place_of_page(page, self._counted), "c": 0, "y": row, "x": column}
        return self.path.joinpath("0", "c", *(str(place[axis.name]) for axis in self._axes)).exists()

    def write(self, page: int, rows: range, columns: range, values: NDArray) -> None:
        """Write a chunk; that of level 0 is the last, and is there when this returns.

        Args:
          page: its number.
          rows: of level 0, beginning at a multiple of the chunk.
          columns: likewise.
          values: `[h, w]`, or `[h, w, C]` with a channel axis.

        Raises:
          RunError: it cannot be written.
        """
        planes = np.moveaxis(values, -1, 0) if values.ndim > 2 else values
        for level, array in reversed(list(enumerate(self._arrays))):
            step = 2**level
            index: dict[str, Any] = {**place_of_page(page, self._counted), "c": slice(None)}
            index["y"] = slice(rows.start // step, -(-rows.stop // step))
            index["x"] = slice(columns.start // step, -(-columns.stop // step))
            part = array[tuple(index[axis.name] for axis in self._axes)]
            try:
                part.write(planes[..., ::step, ::step].astype(self._dtype)).result()
            except (ValueError, NotImplementedError) as error:
                raise RunError(_not_written(self.path, error)) from error

    def _open(self, level: int) -> Any:
        step, chunk = 2**level, self._chunk >> level
        halved = [replace(axis, size=-(-axis.size // step)) if axis.name in "yx" else axis for axis in self._axes]
        chunks = {"y": chunk, "x": chunk}
        metadata = {
            "shape": [axis.size for axis in halved],
            "data_type": self._dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [_chunk_size(axis, chunks) for axis in halved]},
            },
            "chunk_key_encoding": {"name": "default"},
            "fill_value": 0,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, _ZSTD],
            "dimension_names": [axis.name for axis in halved],
        }
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str((self.path / str(level)).resolve())},
            "metadata": metadata,
            # a chunk without a class but the first is a file as well: that is how it is known to be done
            "store_data_equal_to_fill_value": True,
        }
        # each chunk is written once, so none is worth keeping
        context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}, **self._way})
        try:
            return tensorstore.open(spec, open=True, create=True, context=context).result()
        except (ValueError, NotImplementedError) as error:
            raise RunError(_not_written(self.path, error)) from error


def label_metadata(classes: ClassValues, source: str = "") -> dict[str, Any]:
    """Return OME-Zarr's ``image-label``: names and colours of the classes; the first is clear, as in the overlays.

    Args:
      classes: and their values.
      source: path of the input's group from that of the labels, or empty.
    """
    written = list(classes.written.values())
    colours = class_colours(len(written)).tolist()
    properties: list[dict[str, Any]] = [
        {"label-value": value, "class": name, "class-index": index}
        for index, (name, value) in enumerate(classes.written.items())
    ]
    for each, value in zip(properties, classes.label_values, strict=False):
        each["data-set-value"] = value
    label: dict[str, Any] = {
        "colors": [
            {"label-value": value, "rgba": [*rgb, 255 if index else 0]}
            for index, (value, rgb) in enumerate(zip(written, colours, strict=True))
        ],
        "properties": properties,
    }
    return {"image-label": label | ({"source": {"image": source}} if source else {})}


def channel_metadata(names: Sequence[str]) -> dict[str, Any]:
    """Return the ``omero`` metadata with which viewers show the names of channels from 0 to 1."""
    colours = class_colours(len(names)).tolist()
    window = {"min": 0, "max": 1, "start": 0, "end": 1}
    channels = [
        {"label": name, "color": bytes(rgb).hex().upper(), "window": window, "active": True}
        for name, rgb in zip(names, colours, strict=True)
    ]
    return {"omero": {"channels": channels}}


def _chunk_size(axis: Axis, chunks: dict[str, int]) -> int:
    """Return a chunk's size along an axis: a rectangle of one page with all its channels."""
    return axis.size if axis.name == "c" else chunks.get(axis.name, 1)


def _not_written(path: Path, error: Exception) -> str:
    return f"{path} cannot be written: {reason(error)}. Fix that, and give the same command again."
