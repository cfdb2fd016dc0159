"""The files of a Zarr array's chunks: which are there, and whether one that is not was left out or lost."""

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fbunet_jax.errors import DataError

_AGAIN = "Copy or export it again."
_STYLES = {".": "0.0", "/": "0/0", "c.": "c.0.0", "c/": "c/0/0"}
"""How chunks are named: separator, after c if the names begin with it; and what the first of an image is called."""


class ChunkFiles:
    """Looks for the chunks that a rectangle needs, because TensorStore gives the fill value for any that is not there.

    That is right for what was never written. It is not for what is there under another name, or was being copied.
    """

    def __init__(self, path: Path, folder: Path, array: Any) -> None:
        """Look at the names of the files.

        Args:
          path: of the image, for messages.
          folder: of the array.
          array: as TensorStore opened it.

        Raises:
          DataError: there is a chunk whose name is not of the kind that the metadata say.
        """
        self._path, self._folder, self._rank = path, folder, array.rank
        self._chunk = array.chunk_layout.write_chunk.shape
        self._fill = array.fill_value
        self._style = _style_of(array.spec().to_json()["metadata"])
        self._seen: set[tuple[int, ...]] = set()
        self._odd: dict[Path, list[str]] = {}
        self._check_names()

    def check(self, index: Sequence[int | slice], shape: Sequence[int]) -> None:
        """Check the chunks of a part of the array.

        Raises:
          DataError: there is no chunk at all, or one is not there, and its pixels are not defined, or were lost.
        """
        if self._is_empty:
            raise DataError(
                f"{self._folder} has no chunk at all: the array was created and never written, holds nothing but its "
                f"fill value, or only its metadata were copied. {_AGAIN}"
            )
        ranges = []
        for at, size, side in zip(index, shape, self._chunk, strict=True):
            first, last, _ = at.indices(size) if isinstance(at, slice) else (at, at + 1, 1)
            ranges.append(range(first // side, -(-last // side)))
        for place in itertools.product(*ranges):
            if place not in self._seen:
                self._check_chunk(place)
                self._seen.add(place)

    def _check_names(self) -> None:
        with os.scandir(self._folder) as entries:
            found = {style: entry.name for entry in entries if (style := self._named_as(entry))}
        others = sorted(found.keys() - {self._style})
        if others:
            raise DataError(
                f"{self._folder} holds {found[others[0]]}, so its chunks have names such as {_STYLES[others[0]]}, but "
                f"its metadata say names such as {_STYLES[self._style]}: it would be read as an empty image. "
                "Fix dimension_separator or chunk_key_encoding in the metadata, or export it again."
            )
        self._is_empty = not found

    def _named_as(self, entry: os.DirEntry[str]) -> str:
        """Return the style of a file or folder of the array that belongs to its chunks, or empty."""
        digits = r"\.".join([r"\d+"] * self._rank)
        for style, pattern in ((".", digits), ("/", r"\d+"), ("c.", rf"c\.{digits}"), ("c/", "c")):
            if re.fullmatch(pattern, entry.name) and (style[-1] == ".") != entry.is_dir():
                return style
        return ""

    def _check_chunk(self, place: tuple[int, ...]) -> None:
        separator, numbers = self._style[-1], [str(each) for each in place]
        name = separator.join(["c", *numbers] if len(self._style) > 1 else numbers)
        file = self._folder / name
        if file.exists():
            return
        while not file.parent.exists():
            file = file.parent
        lost = re.compile(rf"\.?{re.escape(file.name)}[._~ -].+")
        rest = next((each for each in self._odd_names(file.parent) if lost.fullmatch(each)), "")
        if rest:
            raise DataError(
                f"{self._folder} lacks the chunk {name}, and has {rest} in its place: copying or writing it was "
                f"interrupted. {_AGAIN}"
            )
        if self._fill is None:
            raise DataError(
                f"{self._folder} lacks the chunk {name}, and its metadata say no fill value (null): the pixels are "
                "not defined. Export it again with a fill_value, such as 0."
            )
        if np.isnan(self._fill):
            raise DataError(
                f"{self._folder} lacks the chunk {name}, whose fill value is NaN: there is nothing to segment. Cut the "
                "image to what was written, or export it again with a finite fill_value."
            )

    def _odd_names(self, folder: Path) -> list[str]:
        """Return the names in a folder that are no chunks'; each folder is looked at once."""
        if folder not in self._odd:
            usual = re.compile(r"\d+" if self._style[-1] == "/" else r"(c\.)?\d+(\.\d+)*")
            with os.scandir(folder) as entries:
                self._odd[folder] = [entry.name for entry in entries if not usual.fullmatch(entry.name)]
        return self._odd[folder]


def _style_of(metadata: dict[str, Any]) -> str:
    if metadata["zarr_format"] == 2:
        return str(metadata.get("dimension_separator", "."))
    encoding = metadata["chunk_key_encoding"]
    is_default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if is_default else ".")
    return f"c{separator}" if is_default else str(separator)
