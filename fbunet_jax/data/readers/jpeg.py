"""JPEG files: what decides their pixels, without the segments that only describe them."""

import io
import struct
import threading
import warnings

from PIL.JpegImagePlugin import JpegImageFile

_FILTERS = threading.Lock()  # of warnings belong to the whole process

_KEPT = (0xE0, 0xEE)
"""JFIF, and Adobe, which says how colours are stored."""


def without_descriptions(data: bytes) -> bytes:
    """Return a JPEG without comments and application data but JFIF and Adobe's: whatever is damaged in them is gone.

    A file whose segments cannot be followed is returned as it is.
    """
    kept, place = [data[:2]], 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker == 0xDA:
            return b"".join((*kept, data[place:]))
        (length,) = struct.unpack_from(">H", data, place + 2)
        segment = data[place : place + 2 + length]
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker in _KEPT:
            kept.append(segment)
        place += 2 + length
    return data


def is_turned(data: bytes) -> bool:
    """Say whether EXIF data mark a JPEG to be shown turned or mirrored; damaged ones mark nothing."""
    try:
        with _FILTERS, warnings.catch_warnings(action="ignore"), JpegImageFile(io.BytesIO(data)) as image:
            return image.getexif().get(0x0112, 1) in range(2, 9)
    except Exception:  # whatever damaged descriptions make Pillow raise
        return False
