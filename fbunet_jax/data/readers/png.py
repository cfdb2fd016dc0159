"""PNG files: their pixels as stored, whatever the chunks beside them say."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.readers.pixels import DEFLATE, check_size

_END = b"IEND\xaeB`\x82"
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_MOST_SIDE = 10**6
_CHANNELS = {_RGB: 3, _RGB_ALPHA: 4, _GREY_ALPHA: 2}


class Png(NamedTuple):
    """The chunks of a file that hold its pixels.

    Attributes:
      depth: bits of a sample.
      colour_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
      header: of the whole image.
      rest: palette and pixels, as they stand in the file.
      transparent: content of tRNS, or empty.
    """

    depth: int
    colour_type: int
    header: bytes
    rest: tuple[memoryview, ...]
    transparent: bytes

    def decoded(self, *, with_transparency: bool = False) -> NDArray:
        """Return `[H, W, C]` as stored, or the colours of a palette."""
        tags = (_chunk(b"tRNS", self.transparent),) if with_transparency and self.transparent else ()
        # the transparency of a palette follows it
        place = next((i for i, each in enumerate(self.rest) if each[4:8] == b"IDAT"), 0)
        data = b"".join((b"\x89PNG\r\n\x1a\n", self.header, *self.rest[:place], *tags, *self.rest[place:]))
        array = imagecodecs.png_decode(data)
        if self.depth < 8 and self.colour_type == _GREY:
            # the decoder stretches 1, 2 and 4 bits over 0 … 255; we want the values as stored
            array = array // (255 // (2**self.depth - 1))
        return array.reshape(*array.shape[:2], -1)

    def colours(self) -> list[tuple[int, int, int]]:
        """Return the colours of a palette file, in the order of the indices; of another file none."""
        entries = (
            next((each[8:-4] for each in self.rest if each[4:8] == b"PLTE"), b"") if self.colour_type == 3 else b""
        )
        return [(entries[i], entries[i + 1], entries[i + 2]) for i in range(0, len(entries) // 3 * 3, 3)]

    def indices(self) -> NDArray:
        """Return the indices `[H, W, 1]` of a palette file, as stored."""
        self.decoded()  # raises for a damaged palette
        header = self.header[:8] + self.header[8:17] + bytes([_GREY]) + self.header[18:21]
        grey = self._replace(
            colour_type=_GREY,
            header=_chunk(b"IHDR", header[8:]),
            rest=tuple(each for each in self.rest if each[4:8] != b"PLTE"),
        )
        return grey.decoded()


def open_png(path: Path) -> Png:
    """Return the chunks of a PNG file whose size is acceptable and whose end is there.

    Chunks that only describe the pixels (colour profiles, texts, times, resolution) are left out: they may be damaged.

    Raises:
      DataError: the file is not complete, or too large.
    """
    data = path.read_bytes()
    if len(data) < 33 or _END not in data:
        raise _damaged(path, "ends too early")
    depth, colour_type = data[24], data[25]
    chunks = list(_chunks(path, memoryview(data)))
    if chunks[0][4:8] != b"IHDR" or len(chunks[0]) != 25 or not _is_whole(chunks[0]):
        raise _damaged(path, "has a header that is not one")
    height, width = int.from_bytes(data[20:24]), int.from_bytes(data[16:20])
    shape, in_a_byte = (height, width, _CHANNELS.get(colour_type, 1)), max(1, 8 // max(depth, 1))
    check_size(path, shape, 2 if depth == 16 else 1, expansion=DEFLATE * in_a_byte)
    if max(height, width) > _MOST_SIDE:
        found = f"is {max(height, width):,} pixels long on one side; libpng, which reads it, takes {_MOST_SIDE:,}."
        raise Fault("file-size", path, found, "Save it as TIFF.")
    # an upper-case letter first: without it the pixels cannot be decoded
    critical = tuple(each for each in chunks[1:] if not each[4] & 0x20)
    transparent = next((bytes(each[8:-4]) for each in chunks if each[4:8] == b"tRNS" and _is_whole(each)), b"")
    return Png(depth, colour_type, bytes(chunks[0]), critical, transparent)


def declared_pixels(path: Path) -> int:
    """Return the number of pixels that a file's header declares; any number for a file that is not a PNG.

    Raises:
      OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(24)
    return int.from_bytes(head[16:20]) * int.from_bytes(head[20:24])


def hidden_pixels(png: Png, array: NDArray) -> int:
    """Return the number of pixels of a grey or RGB image `[H, W, C]` that tRNS marks as transparent."""
    size = 2 * array.shape[-1]
    if len(png.transparent) != size or png.colour_type not in (_GREY, _RGB):
        return 0
    key = np.frombuffer(png.transparent, ">u2") & (2**png.depth - 1)
    return int(np.count_nonzero((array == key).all(axis=-1)))


def _chunks(path: Path, data: memoryview) -> Iterator[memoryview]:
    """Yield the chunks up to the last, each with its length, kind and checksum."""
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunk = data[place : place + 12 + length]
        if len(chunk) < 12 + length:
            break
        yield chunk
        if chunk[4:8] == b"IEND":
            return
        place += 12 + length
    raise _damaged(path, "ends too early")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _is_whole(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])


def _damaged(path: Path, found: str) -> Fault:
    return Fault("damaged-file", path, f"{found}: the PNG file is damaged or incomplete.", "Copy or export it again.")
