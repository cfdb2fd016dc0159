"""Images of any size become OME-Zarr, chunk by chunk: in bounded memory, by several processes, with interruptions."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fbunet_jax.errors import ConfigError, DataError
from fbunet_jax.inference.channels import open_input
from fbunet_jax.inference.images import OpenImage
from fbunet_jax.inference.inputs import InputImage
from fbunet_jax.inference.intensities import page_warning
from fbunet_jax.inference.output_folder import OutputFolder
from fbunet_jax.inference.prediction import Band
from fbunet_jax.inference.predictor import Predictor, Tiles
from fbunet_jax.inference.segment_file import Settings, other_channels
from fbunet_jax.inference.windows import PageWindows
from fbunet_jax.inference.zarr_input import is_zarr
from fbunet_jax.inference.zarr_output import ZarrImage, channel_metadata, label_metadata
from fbunet_jax.user_files import real, stem

DEFAULT_CHUNK = 1024
CHUNK_UNIT = 16
"""A chunk's side is a multiple of it."""


@dataclass(frozen=True)
class Shard:
    """The part of the chunks that one process computes: `index` of `count`, counted from 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return what "1/4" says.

        Raises:
          ConfigError: it says something else.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ConfigError(
                f"--shard {text}: expected I/N with I from 1 to N, such as 1/4 for the first of four processes."
            )
        return cls(int(index), int(count))

    def part(self, total: int) -> range:
        """Return which of so many chunks are this shard's: neighbours, so that they can share tiles."""
        return range(total * (self.index - 1) // self.count, total * self.index // self.count)


@dataclass(frozen=True)
class Chunk:
    """One chunk of a page of the output: its place in the grid of chunks, and its pixels."""

    page: int
    row: int
    column: int
    rows: range
    columns: range

    @property
    def pixels(self) -> int:
        """Return the number of pixels."""
        return len(self.rows) * len(self.columns)


class Volume:
    """An input and the arrays that its segmentation is written into.

    The input is open from the first chunk that is segmented until `close`.
    """

    def __init__(
        self, given: InputImage, predictor: Predictor, folder: OutputFolder, settings: Settings, chunk: int
    ) -> None:
        """Describe the outputs of an image, which is not kept open; nothing is created yet.

        Raises:
          DataError: a file cannot be used, or the channels are not those of the network.
        """
        with open_input(given, settings.axes, settings.alpha) as image:
            if image.channels != predictor.channels:
                raise DataError(other_channels(given, image.channels, predictor.channels))
            self.given, self.axes, self.dtype = given, image.axes, image.dtype
            self._pages, self._height, self._width = image.pages, image.height, image.width
        self._predictor, self._chunk, self._settings = predictor, chunk, settings
        self._opened = contextlib.ExitStack()
        self._image: OpenImage | None = None
        name = f"{given.name}.ome.zarr"
        self.classes = settings.classes(predictor.class_names)
        self.labels = ZarrImage(folder.path / "labels" / name, self.axes, self.classes.dtype, chunk)
        self.maps: dict[str, tuple[ZarrImage, list[str]]] = {}
        kinds: list[tuple[str, bool, list[str], Any]] = [
            ("probabilities", settings.probabilities, list(predictor.class_names), np.float16),
            ("uncertainty", settings.uncertainty, ["entropy", "disagreement"][: len(predictor.folds)], np.float32),
        ]
        for kind, wanted, names, dtype in kinds:
            if wanted:
                array = ZarrImage(folder.path / kind / name, self.axes, dtype, chunk, len(names))
                self.maps[kind] = array, names
        self._windows: tuple[int, PageWindows] | None = None

    @property
    def grid(self) -> tuple[int, int, int]:
        """Return the number of pages, and of rows and columns of chunks in each."""
        return self._pages, -(-self._height // self._chunk), -(-self._width // self._chunk)

    @property
    def chunks(self) -> int:
        """Return the number of chunks."""
        return math.prod(self.grid)

    def create(self) -> None:
        """Create the arrays, or open them if they are there."""
        here, source = self.labels.path, ""
        if is_zarr(self.given.path):  # viewers open it together with the labels
            source = os.path.relpath(real(self.given.path), real(here))
        self.labels.create(label_metadata(self.classes, source))
        for array, names in self.maps.values():
            array.create(channel_metadata(names))

    def chunk(self, number: int) -> Chunk:
        """Return a chunk by its number, which counts columns first, then rows, then pages."""
        page, row, column = (int(at) for at in np.unravel_index(number, self.grid))
        rows = range(row * self._chunk, min((row + 1) * self._chunk, self._height))
        columns = range(column * self._chunk, min((column + 1) * self._chunk, self._width))
        return Chunk(page, row, column, rows, columns)

    def is_written(self, chunk: Chunk) -> bool:
        """Say whether a chunk is on disk, in every array."""
        return self.labels.is_written(chunk.page, chunk.row, chunk.column)

    def segment(self, chunk: Chunk) -> str:
        """Compute and write a chunk; return a warning if it is the first of its page and the intensities are foreign.

        Raises:
          DataError: the input cannot be read.
          RunError: the chunk cannot be written.
        """
        warning, settings = "", self._settings
        if self._image is None:
            self._image = self._opened.enter_context(open_input(self.given, settings.axes, settings.alpha))
        if self._windows is None or self._windows[0] != chunk.page:
            tiles = Tiles(settings.tile, settings.overlap, settings.batch, settings.tta)
            warning = page_warning(self._predictor, self._image, chunk.page, settings.no_data)
            self._windows = chunk.page, PageWindows(self._predictor, self._image, chunk.page, tiles)
        self._write(chunk, self._windows[1].segment(chunk.rows, chunk.columns))
        return warning

    def close(self) -> None:
        """Close the input, and free what was kept of it."""
        self._image = self._windows = None
        self._opened.close()

    def _write(self, chunk: Chunk, band: Band) -> None:
        place = chunk.page, chunk.rows, chunk.columns
        for kind, (array, names) in self.maps.items():
            values = band.probabilities if kind == "probabilities" else band.uncertainty
            array.write(*place, values[..., : len(names)])
        # last: it stands for all
        self.labels.write(*place, self.classes.of(band.labels))


def describe_volumes(
    predictor: Predictor, images: Sequence[InputImage], folder: OutputFolder, settings: Settings, chunk: int
) -> list[Volume]:
    """Describe the inputs and their outputs, one after the other, in an order that is the same in every process.

    Raises:
      ConfigError: the chunk's side does not fit.
      DataError: an input cannot be used.
    """
    if chunk < CHUNK_UNIT or chunk % CHUNK_UNIT:
        raise ConfigError(
            f"--chunk {chunk}: expected a multiple of {CHUNK_UNIT}, at least {CHUNK_UNIT}, such as {DEFAULT_CHUNK}."
        )
    # not as they are given: a shell sorts *.zarr by its language
    ordered = sorted(images, key=lambda image: image.path.resolve())
    return [Volume(image, predictor, folder, settings, chunk) for image in ordered]


def parts_of(volumes: Sequence[Volume], shard: Shard) -> Iterator[tuple[Volume, Iterator[Chunk]]]:
    """Yield the chunks of a shard, volume by volume; the chunks of all volumes are numbered together."""
    mine, first = shard.part(sum(volume.chunks for volume in volumes)), 0
    for volume in volumes:
        numbers = range(max(mine.start - first, 0), min(mine.stop - first, volume.chunks))
        if numbers:
            yield volume, map(volume.chunk, numbers)
        first += volume.chunks


def record_of(volumes: Sequence[Volume]) -> dict[str, Any]:
    """Return what prediction.json says of the inputs: name and files where the first file does not say them."""
    record: dict[str, Any] = {}
    for volume in volumes:
        given = volume.given
        found: dict[str, Any] = {"shape": [axis.size for axis in volume.axes], "dtype": str(volume.dtype)}
        found |= {"name": given.name} if given.name != stem(given.path) else {}
        found |= {"files": [str(real(file)) for file in given.files]} if len(given.files) > 1 else {}
        record[str(real(given.path))] = found
    return record
