"""One image or label file becomes an array, or an error that names the file, what was found, and the fix.

Nothing is guessed: axes come from OME or ImageJ metadata or from the setting ``data.axes``, a decoder's exception or
complaint is an error, and a file that is not complete is never read as far as it goes.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL.JpegImagePlugin import JpegImageFile

from fbunet_jax.config import Alpha, NoDataRule
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.no_data import no_data_fault
from fbunet_jax.data.readers.jpeg import is_turned, without_descriptions
from fbunet_jax.data.readers.pixels import (
    MORE_MEMORY,
    check_size,
    intensities,
    label_values,
    transparent,
    without_alpha,
)
from fbunet_jax.data.readers.png import hidden_pixels, open_png
from fbunet_jax.data.readers.tiff import CHANNEL_AXES, arrange, checked_tiff
from fbunet_jax.data.readers.tiff_meaning import declared_no_data, has_alpha
from fbunet_jax.data.readers.tiff_parts import stored_bytes
from fbunet_jax.errors import DataError
from fbunet_jax.user_files import missing, suffix

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
_JPEG_SIDE, _JPEG_COPIES = 65_500, 4


class _Use(NamedTuple):
    """What a file is read as: an "image" or a "label", what its alpha channel is, and a value named as no data."""

    what: str
    alpha: Alpha
    no_data: NoDataRule = "refuse"

    @property
    def suffixes(self) -> tuple[str, ...]:
        return LABEL_SUFFIXES if self.what == "label" else IMAGE_SUFFIXES


def read_image(path: Path, axes: str = "", alpha: Alpha = "refuse", no_data: NoDataRule = "refuse") -> np.ndarray:
    """Read an image of one or more pages.

    Channels go last; a palette PNG becomes its colours; an opaque alpha channel is dropped; 1-bit images become 0
    and 1, half and double precision float32.

    Args:
      path: a TIFF (8, 16 or 32 bits), PNG (1 to 16 bits) or JPEG file.
      axes: order of the axes of a TIFF with more than two dimensions, such as "YXC" or "ZYX"; it overrides the
        file's own metadata, and is not used for files with another number of dimensions.
      alpha: what a channel is that is tagged as transparency, see `fbunet_jax.data.readers.pixels.without_alpha`.
      no_data: "refuse" refuses pixels of the value that GDAL has marked as no data; "keep" takes them as they are.

    Returns:
      ``[pages, H, W, C]`` in the file's own integer type or float32; a single image is one page.

    Raises:
      DataError: the file is missing, damaged, too large, of another kind than its suffix says, of a type that is
        not supported, has axes that are not known, another colour space than grey and RGB, transparent pixels, values
        that are not finite or that GDAL has marked as no data.
    """
    path = Path(path)
    return intensities(path, _read(path, axes, _Use("image", alpha, no_data)))


def read_label(path: Path, axes: str = "") -> np.ndarray:
    """Read a label image of one or more pages; the values are returned as stored.

    The values of a palette PNG are its indices, those of a 1-bit file 0 and 1; transparency does not change them.

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
    return label_values(path, _read(path, page_axes, _Use("label", "drop")))


def read_colours(path: Path) -> np.ndarray:
    """Read a label file that `read_label` refuses for its channels; ``[pages, H, W, C]``.

    Raises:
      DataError: as for `read_image`.
    """
    if suffix(path) == ".png":
        return _read(path, "", _Use("image", "drop"))
    return _read(path, "", _Use("label", "drop"))


def _read(path: Path, axes: str, use: _Use) -> np.ndarray:
    """Return ``[pages, H, W, C]``; every exception of a decoder becomes a DataError."""
    kind = _kind(path, use.suffixes, use.what)
    with decoding(path, kind):
        if kind == "TIFF":
            with checked_tiff(path, axes, use.what) as (series, order):
                array = _whole_series(path, series, order, use.alpha)
                named = declared_no_data(series) if use.what == "image" and use.no_data == "refuse" else None
            if named is not None and (fault := no_data_fault(path, array, named)):
                raise fault
            return array
        return (_read_png(path, use) if kind == "PNG" else _read_jpeg(path))[None]


@contextlib.contextmanager
def decoding(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a DataError."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise Fault("file-size", path, "does not fit into the memory.", MORE_MEMORY) from error
    except Exception as error:
        detail = str(error).strip().rstrip(".") or type(error).__name__
        found = f"cannot be read ({detail}): the {kind} file is damaged or incomplete."
        raise Fault("damaged-file", path, found, "Copy or export it again.") from error


def _kind(path: Path, suffixes: tuple[str, ...], what: str) -> str:
    """Return TIFF, PNG or JPEG if the file's content agrees with its suffix."""
    ending = suffix(path)
    if ending not in suffixes:
        lossy = ending in IMAGE_SUFFIXES
        reason = "; JPEG compression changes the values of labels" if lossy else ""
        refusal = f"cannot be used as {what}: expected {', '.join(suffixes)}{reason}."
        raise Fault("label-jpeg" if lossy else "foreign-file", path, refusal, "Save it as TIFF.")
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise Fault("missing-file", path, f"{missing(path)}.", "Check the name, or restore the file.") from None
    except OSError as error:
        refusal = f"cannot be opened: {error.strerror}."
        raise Fault("missing-file", path, refusal, "Fix the permissions or the link, or copy it again.") from error
    if not head:
        raise Fault("empty-file", path, "is empty (0 bytes).", "Copy or export it again.")
    expected = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(ending, "TIFF")
    found = next((name for signature, name in _SIGNATURES.items() if head.startswith(signature)), None)
    if found != expected:
        content = f"but holds a {found} file" if found else f"but is no {expected} file"
        remedy = f"Rename it to {_SUFFIX_OF[found]}." if found else "Export it again."
        raise Fault("wrong-suffix", path, f"is named {path.suffix} {content}.", remedy)
    return expected


def _read_png(path: Path, use: _Use) -> np.ndarray:
    """Read a PNG; of a palette file the colours, or of a label the indices."""
    png = open_png(path)
    if png.colour_type == 3:
        if use.what == "label":
            return png.indices()
        array = png.decoded(with_transparency=True)
        # the transparency of a palette is not a channel of the file
        if use.alpha != "drop" and (hidden := int(np.count_nonzero(array[..., 3:] != 255))):
            raise transparent(path, f"has {hidden} pixels of colours that the palette marks as not opaque (tRNS)")
        return array[..., :3]
    array = png.decoded()
    if use.alpha != "drop" and (hidden := hidden_pixels(png, array)):
        raise transparent(path, f"has {hidden} pixels of the value that is marked as transparent (tRNS)")
    return without_alpha(path, array, use.alpha) if png.colour_type in (4, 6) else array


def _read_jpeg(path: Path) -> np.ndarray:
    data = path.read_bytes()
    # not Image.open, which takes honest images of 179 megapixels for bombs
    with JpegImageFile(io.BytesIO(without_descriptions(data))) as image:
        check_size(path, (image.height, image.width, len(image.getbands())), copies=_JPEG_COPIES)
        if max(image.size) > _JPEG_SIDE:
            found = f"is {max(image.size):,} pixels long on one side; libjpeg, which reads it, takes {_JPEG_SIDE:,}."
            raise Fault("file-size", path, found, "Save it as TIFF.")
        if image.height * image.width > _JPEG_PIXELS_A_BYTE * len(data):
            found = f"holds too few bytes for {image.height} x {image.width} pixels: it is damaged or incomplete."
            raise Fault("damaged-file", path, found, "Copy or export it again.")
        if image.mode not in ("L", "RGB"):
            found = f"has the colour mode {image.mode}; expected grey or RGB."
            raise Fault("colour-mode", path, found, "Convert it to grey or RGB.")
        if is_turned(data):
            raise Fault(
                "orientation",
                path,
                "is marked to be shown turned or mirrored (EXIF orientation), so it is not clear how it and its label "
                "lie.",
                "Turn the pixels themselves, and save it as TIFF.",
            )
        array = np.array(image)
    return array.reshape(*array.shape[:2], -1)


def _whole_series(path: Path, series: tifffile.TiffPageSeries, order: str, alpha: Alpha) -> np.ndarray:
    check_size(path, series.shape, series.dtype.itemsize, stored=stored_bytes(series))
    array = arrange(series.asarray(), order)
    return without_alpha(path, array, alpha) if has_alpha(series) else array


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


def read_opened(path: Path, series: tifffile.TiffPageSeries, order: str, alpha: Alpha = "refuse") -> np.ndarray:
    """Return what `read_image` returns of a file, from what `open_tiff` yields."""
    return intensities(path, _whole_series(path, series, order, alpha))
