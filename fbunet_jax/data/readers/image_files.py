"""One image or label file becomes an array, or an error that names the file, what was found, and the fix.

Nothing is guessed: axes come from OME or ImageJ metadata or from the setting ``data.axes``, a decoder's exception or
complaint is an error, and a file that is not complete is never read as far as it goes.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.readers.pixels import check_size, drop_opaque_alpha, intensities, label_values
from fbunet_jax.data.readers.tiff import CHANNEL_AXES, arrange, checked_tiff, has_alpha
from fbunet_jax.errors import DataError

LABEL_SUFFIXES = (".tif", ".tiff", ".png")
IMAGE_SUFFIXES = (*LABEL_SUFFIXES, ".jpg", ".jpeg")
_SIGNATURES = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
}
_SUFFIX_OF = {"TIFF": ".tif", "PNG": ".png", "JPEG": ".jpg"}
_JPEG_PIXELS_A_BYTE = 8 * 64
"""A block of 64 pixels takes at least one bit; what is missing is grey without a word."""
_PNG_END = b"IEND\xaeB`\x82"


def read_image(path: Path, axes: str = "") -> np.ndarray:
    """Read an image of one or more pages.

    Channels go last; a palette PNG becomes its colours; an opaque alpha channel is dropped; 1-bit images become 0
    and 1, half and double precision float32.

    Args:
      path: a TIFF (8, 16 or 32 bits), PNG (1 to 16 bits) or JPEG file.
      axes: order of the axes of a TIFF with more than two dimensions, such as "YXC" or "ZYX"; it overrides the
        file's own metadata, and is not used for files with another number of dimensions.

    Returns:
      ``[pages, H, W, C]`` in the file's own integer type or float32; a single image is one page.

    Raises:
      DataError: the file is missing, damaged, too large, of another kind than its suffix says, of a type that is
        not supported, has axes that are not known, transparent pixels, or values that are not finite.
    """
    path = Path(path)
    return intensities(path, _read(path, axes, IMAGE_SUFFIXES, _read_png, what="image"))


def read_label(path: Path, axes: str = "") -> np.ndarray:
    """Read a label image of one or more pages; the values are returned as stored.

    The values of a palette PNG are its indices, those of a 1-bit file 0 and 1.

    Args:
      path: a TIFF or PNG file (JPEG changes values, so it is refused).
      axes: order of the axes of the images the labels belong to; channel axes do not count for labels.

    Returns:
      ``[pages, H, W]`` of an integer type; a single label image is one page.

    Raises:
      DataError: as for `read_image`; also for colours, several channels, and floating-point values.
    """
    path = Path(path)
    page_axes = "".join(axis for axis in axes.upper() if axis not in CHANNEL_AXES)
    return label_values(path, _read(path, page_axes, LABEL_SUFFIXES, _read_png_indices, what="label"))


def read_colours(path: Path) -> np.ndarray:
    """Read a label file that `read_label` refuses for its channels; ``[pages, H, W, C]``.

    Raises:
      DataError: as for `read_image`.
    """
    return _read(path, "", LABEL_SUFFIXES, _read_png, what="label")


def _read(
    path: Path, axes: str, suffixes: tuple[str, ...], read_png: Callable[[Path], np.ndarray], what: str
) -> np.ndarray:
    """Return ``[pages, H, W, C]``; every exception of a decoder becomes a DataError."""
    kind = _kind(path, suffixes, what)
    with decoding(path, kind):
        if kind == "TIFF":
            return _read_tiff(path, axes, what)
        return (read_png(path) if kind == "PNG" else _read_jpeg(path))[None]


@contextlib.contextmanager
def decoding(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a DataError."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise Fault("file-size", path, "does not fit into the memory.", "Cut it into smaller files.") from error
    except Exception as error:
        detail = str(error).strip().rstrip(".") or type(error).__name__
        found = f"cannot be read ({detail}): the {kind} file is damaged or incomplete."
        raise Fault("damaged-file", path, found, "Copy or export it again.") from error


def _kind(path: Path, suffixes: tuple[str, ...], what: str) -> str:
    """Return TIFF, PNG or JPEG if the file's content agrees with its suffix."""
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        lossy = suffix in IMAGE_SUFFIXES
        reason = "; JPEG compression changes the values of labels" if lossy else ""
        refusal = f"cannot be used as {what}: expected {', '.join(suffixes)}{reason}."
        raise Fault("label-jpeg" if lossy else "foreign-file", path, refusal, "Save it as TIFF.")
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise Fault("missing-file", path, "does not exist.", "Check the name, or restore the file.") from None
    except OSError as error:
        refusal = f"cannot be opened: {error.strerror}."
        raise Fault("missing-file", path, refusal, "Mend the permissions, or copy it again.") from error
    if not head:
        raise Fault("empty-file", path, "is empty (0 bytes).", "Copy or export it again.")
    expected = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(suffix, "TIFF")
    found = next((name for signature, name in _SIGNATURES.items() if head.startswith(signature)), None)
    if found != expected:
        content = f"but holds a {found} file" if found else f"but is no {expected} file"
        remedy = f"Rename it to {_SUFFIX_OF[found]}." if found else "Export it again."
        raise Fault("wrong-suffix", path, f"is named {path.suffix} {content}.", remedy)
    return expected


def _png_header(path: Path, data: bytes) -> tuple[int, int]:
    """Return the bit depth and colour type of a PNG file whose size is acceptable and whose end is there."""
    if len(data) < 33 or _PNG_END not in data:
        found = "ends too early: the PNG file is damaged or incomplete."
        raise Fault("damaged-file", path, found, "Copy or export it again.")
    depth, colour_type = data[24], data[25]
    channels = {2: 3, 3: 4, 4: 2, 6: 4}.get(colour_type, 1)
    shape = (int.from_bytes(data[20:24]), int.from_bytes(data[16:20]), channels)
    check_size(path, shape, itemsize=2 if depth == 16 else 1)
    return depth, colour_type


def _read_png(path: Path) -> np.ndarray:
    data = path.read_bytes()
    depth, colour_type = _png_header(path, data)
    array = imagecodecs.png_decode(data)
    if depth < 8 and colour_type == 0:
        # the decoder stretches 1, 2 and 4 bits over 0 … 255; we want the values as stored
        array = array // (255 // (2**depth - 1))
    array = array.reshape(*array.shape[:2], -1)
    return drop_opaque_alpha(path, array) if array.shape[-1] in (2, 4) else array


def _read_png_indices(path: Path) -> np.ndarray:
    """Read a PNG label; of a palette file the indices."""
    data = path.read_bytes()
    _, colour_type = _png_header(path, data)
    if colour_type != 3:
        return _read_png(path)
    imagecodecs.png_decode(data)  # raises where Pillow makes up what is missing
    return _pillow(path)[..., None]


def _read_jpeg(path: Path) -> np.ndarray:
    array = _pillow(path, pixels_a_byte=_JPEG_PIXELS_A_BYTE)
    return array.reshape(*array.shape[:2], -1)


def _pillow(path: Path, pixels_a_byte: float = math.inf) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            check_size(path, (image.height, image.width, len(image.getbands())))
            if image.height * image.width > pixels_a_byte * path.stat().st_size:
                found = f"holds too few bytes for {image.height} x {image.width} pixels: it is damaged or incomplete."
                raise Fault("damaged-file", path, found, "Copy or export it again.")
            if image.mode not in ("L", "RGB", "P"):
                found = f"has the colour mode {image.mode}; expected grey or RGB."
                raise Fault("colour-mode", path, found, "Save it as TIFF.")
            if image.getexif().get(0x0112, 1) != 1:
                raise Fault(
                    "orientation",
                    path,
                    "is marked to be shown turned or mirrored (EXIF orientation), so it is not clear how it and its "
                    "label lie.",
                    "Turn the pixels themselves, and save it as TIFF.",
                )
            return np.array(image)


def _read_tiff(path: Path, axes: str, what: str) -> np.ndarray:
    with checked_tiff(path, axes, what) as (series, order):
        return _whole_series(path, series, order)


def _whole_series(path: Path, series: tifffile.TiffPageSeries, order: str) -> np.ndarray:
    array = arrange(series.asarray(), order)
    return drop_opaque_alpha(path, array) if has_alpha(series) else array


@contextlib.contextmanager
def open_tiff(path: Path, axes: str = "") -> Iterator[tuple[tifffile.TiffPageSeries, str]]:
    """Open the image series of a TIFF without reading it; `read_opened` reads it.

    Args:
      path: of the file.
      axes: see `read_image`.

    Yields:
      The series, and one letter of YXCSZTIQ for each of its dimensions.

    Raises:
      DataError: as for `read_image`, but for what only the values tell (see `intensities`).
    """
    _kind(path, (".tif", ".tiff"), "image")
    with decoding(path, "TIFF"), checked_tiff(path, axes, "image") as opened:
        yield opened


def read_opened(path: Path, series: tifffile.TiffPageSeries, order: str) -> np.ndarray:
    """Return what `read_image` returns of a file, from what `open_tiff` yields."""
    return intensities(path, _whole_series(path, series, order))
