"""One image or label file becomes an array, or an error that names the file, what was found, and the fix.

Nothing is guessed: axes come from OME or ImageJ metadata or from the setting ``data.axes``, a decoder's exception or
complaint is an error, and a file that is not complete is never read as far as it goes.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from fbunet_jax.data.findings import Fault
from fbunet_jax.errors import DataError

LABEL_SUFFIXES = (".tif", ".tiff", ".png")
IMAGE_SUFFIXES = (*LABEL_SUFFIXES, ".jpg", ".jpeg")
MAXIMUM_PIXELS = 2**31
"""Values in one file; more is taken for a damaged or malicious header and refused before memory is taken."""

PAGE_AXES = "ZTIQ"
CHANNEL_AXES = "CS"

_SIGNATURES = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
}
_SUFFIX_OF = {"TIFF": ".tif", "PNG": ".png", "JPEG": ".jpg"}
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


def intensities(path: Path, array: np.ndarray) -> np.ndarray:
    """Return decoded values as images hold them, see `read_image`; the path is for the message.

    Raises:
      DataError: the type is not supported, or values are not finite.
    """
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.dtype in (np.float16, np.float64):
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if array.dtype != np.float32 and not (array.dtype.kind in "iu" and array.dtype.itemsize <= 4):
        raise Fault(
            "image-type",
            path,
            f"holds values of type {array.dtype}; expected 8, 16 or 32-bit integers or float32.",
            "Convert it, in Fiji with Image > Type.",
        )
    if array.dtype == np.float32:
        broken = int(np.count_nonzero(~np.isfinite(array)))
        if broken:
            raise Fault(
                "not-finite",
                path,
                f"has {broken} of {array.size} values that are NaN or infinite in 32 bits.",
                "Replace them before training, for example in Fiji with Process > Math > NaN Background or Macro.",
            )
    return array


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
    array = _read(path, page_axes, LABEL_SUFFIXES, _read_png_indices, what="label")
    if array.shape[-1] != 1:
        raise Fault(
            "label-colours",
            path,
            f"has {array.shape[-1]} channels (colours?), but a label image has one: the class of each pixel.",
            "Save it as one grey channel with one value per class.",
        )
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise Fault(
            "label-type",
            path,
            f"holds values of type {array.dtype}, but a label image holds whole numbers.",
            "Save it as 8-bit or 16-bit integers.",
        )
    return array[..., 0]


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
    with _decoding(path, kind):
        if kind == "TIFF":
            return _read_tiff(path, axes, what)
        return (read_png(path) if kind == "PNG" else _read_jpeg(path))[None]


@contextlib.contextmanager
def _decoding(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a DataError."""
    try:
        yield
    except DataError:
        raise
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


def _check_size(path: Path, shape: tuple[int, ...]) -> None:
    if math.prod(shape) > MAXIMUM_PIXELS:
        raise Fault(
            "file-size",
            path,
            f"declares the size {' x '.join(map(str, shape))}, more than {MAXIMUM_PIXELS} values.",
            "Cut it into smaller files, or export it again if the size is wrong.",
        )


def _png_header(path: Path, data: bytes) -> tuple[int, int]:
    """Return the bit depth and colour type of a PNG file whose size is acceptable and whose end is there."""
    if len(data) < 33 or _PNG_END not in data:
        found = "ends too early: the PNG file is damaged or incomplete."
        raise Fault("damaged-file", path, found, "Copy or export it again.")
    _check_size(path, (int.from_bytes(data[20:24]), int.from_bytes(data[16:20])))
    return data[24], data[25]


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
    _, colour_type = _png_header(path, path.read_bytes())
    return _pillow(path)[..., None] if colour_type == 3 else _read_png(path)


def _read_jpeg(path: Path) -> np.ndarray:
    array = _pillow(path)
    return array.reshape(*array.shape[:2], -1)


def _pillow(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            _check_size(path, (image.height, image.width))
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


def drop_opaque_alpha(path: Path, array: np.ndarray) -> np.ndarray:
    """Return the channels but the last, which must be opaque everywhere: hidden pixels are not measurements."""
    opaque = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    hidden = int(np.count_nonzero(array[..., -1] != opaque))
    if hidden:
        raise Fault(
            "transparency",
            path,
            f"has an alpha channel with {hidden} pixels that are not opaque.",
            "Remove the alpha channel, or save the file without transparency.",
        )
    return array[..., :-1]


class _Complaints(logging.Handler):
    """Collects what tifffile only logs: it reads a damaged file as far as it goes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _read_tiff(path: Path, axes: str, what: str) -> np.ndarray:
    with _checked_tiff(path, axes, what) as (series, order):
        array = series.asarray()
        alpha = has_alpha(series)
    array = arrange(array, order)
    return drop_opaque_alpha(path, array) if alpha else array


@contextlib.contextmanager
def open_tiff(path: Path, axes: str = "") -> Iterator[tuple[tifffile.TiffPageSeries, str]]:
    """Open the image series of a TIFF without reading it, for files that are too large to be read at once.

    Args:
      path: of the file.
      axes: see `read_image`.

    Yields:
      The series, and one letter of YXCSZTIQ for each of its dimensions.

    Raises:
      DataError: as for `read_image`, but for what only the values tell (see `intensities`).
    """
    _kind(path, (".tif", ".tiff"), "image")
    with _decoding(path, "TIFF"), _checked_tiff(path, axes, "image") as opened:
        yield opened


@contextlib.contextmanager
def _checked_tiff(path: Path, axes: str, what: str) -> Iterator[tuple[tifffile.TiffPageSeries, str]]:
    complaints = _Complaints()
    logger = logging.getLogger("tifffile")
    logger.addHandler(complaints)
    propagate, logger.propagate = logger.propagate, False
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series
            if len(series) != 1:
                shapes = ", ".join(str(part.shape) for part in series[:4])
                raise Fault(
                    "several-series",
                    path,
                    f"holds {len(series)} image series with the shapes {shapes}; expected one.",
                    "Save each series as a file of its own.",
                )
            _check_size(path, series[0].shape)
            _check_pages(path, file, what)
            yield series[0], _axes_of(path, file, axes)
    finally:
        logger.removeHandler(complaints)
        logger.propagate = propagate
    if complaints.messages:
        found = f"is damaged or incomplete: {complaints.messages[0]}."
        raise Fault("damaged-file", path, found, "Copy or export it again.")


def has_alpha(series: tifffile.TiffPageSeries) -> bool:
    """Say whether the last channel of a TIFF is transparency."""
    return any(sample in (1, 2) for sample in series.keyframe.extrasamples)


def _check_pages(path: Path, file: tifffile.TiffFile, what: str) -> None:
    """Refuse pages whose values do not mean intensities, and pages whose data is not all there."""
    page = file.series[0].keyframe
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        raise Fault(
            "inverted",
            path,
            "stores inverted values (0 is white).",
            "Save it without inversion, in Fiji after Image > Lookup Tables > Invert LUT.",
        )
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and what == "image" and not file.is_imagej:
        # ImageJ's lookup tables only colour the display of intensities
        found = "stores palette indices."
        raise Fault("palette", path, found, "Convert it to grey or RGB, in Fiji with Image > Type.")
    if page.compression in (6, 7) and what == "label":
        found = "is JPEG-compressed, which changes the values of labels."
        raise Fault("label-jpeg", path, found, "Save it as LZW or deflate.")
    if page.tags.valueof(274, 1) != 1:
        found = "is marked to be shown turned or mirrored (orientation tag)."
        raise Fault("orientation", path, found, "Save it unturned.")
    size = file.filehandle.size
    for index, each in enumerate(file.series[0].pages):
        if each is None:
            raise Fault("damaged-file", path, f"lacks the data of page {index}.", "Export it again.")
        for offset, count in zip(each.dataoffsets, each.databytecounts, strict=True):
            if count == 0 or offset + count > size:
                raise Fault(
                    "damaged-file",
                    path,
                    f"ends before the data of page {index} is complete: the file is damaged or incomplete.",
                    "Copy or export it again.",
                )


def check_axes(axes: str) -> None:
    """Check the setting of the axes, see `read_image`.

    Raises:
      DataError: an axis is not known, there twice, or missing.
    """
    given = axes.upper()
    if given and (
        len(set(given)) != len(given) or not {"Y", "X"} <= set(given) <= set("YX" + CHANNEL_AXES + PAGE_AXES)
    ):
        raise Fault(
            "axes-setting",
            "",
            f"--axes or data.axes = {axes!r}: expected each axis once, Y and X among them, out of Y, X, C (channels), "
            "Z (sections) and T (times), such as 'YXC' or 'ZYX'.",
            "",
        )


def _axes_of(path: Path, file: tifffile.TiffFile, axes: str) -> str:
    """Return one letter of YXCSZTIQ for every dimension of the only series."""
    known, shape = file.series[0].axes, file.series[0].shape
    if len(shape) == 2:
        return "YX"
    check_axes(axes)
    given = axes.upper()
    if len(given) == len(shape):
        return given
    if {"Y", "X"} <= set(known) <= set("YXSCZT"):
        return known
    if given:
        raise Fault(
            "axes-unknown",
            path,
            f"has the shape {shape}, which --axes or data.axes = {axes!r} does not fit, and no metadata that name its "
            f"axes. It can be read as {_readings(shape)}.",
            "Set data.axes (of predict: --axes) to what it is.",
        )
    raise Fault(
        "axes-unknown",
        path,
        f"has the shape {shape} and no OME or ImageJ metadata that name its axes. It can be read as "
        f"{_readings(shape)}.",
        "Set data.axes (of predict: --axes) to what it is.",
    )


def _readings(shape: tuple[int, ...]) -> str:
    """Return the plausible readings of a shape in words, such as "ZYX (5 sections) or CYX (5 channels)"."""
    units = {"Z": "sections", "T": "times", "C": "channels"}
    last_is_least = shape[-1] < min(shape[:-1])
    if len(shape) == 3:
        orders = ["YXC", "ZYX"] if last_is_least else ["ZYX", "CYX"]
    elif len(shape) == 4:
        orders = ["ZYXC", "TZYX"] if last_is_least else ["ZCYX", "CZYX", "TZYX"]
    else:
        orders = ["TZCYX"] if len(shape) == 5 else []
    readings = []
    for order in orders:
        counts = [f"{count} {units[axis]}" for axis, count in zip(order, shape, strict=True) if axis in units]
        readings.append(f"{order} ({', '.join(counts)})")
    return " or ".join(readings) or f"{len(shape)} letters out of T, Z, C, Y and X"


def arrange(array: np.ndarray, order: str) -> np.ndarray:
    """Return ``[pages, H, W, C]`` from an array whose axes are in the given order."""
    pages = [i for i, axis in enumerate(order) if axis in PAGE_AXES]
    channels = [i for i, axis in enumerate(order) if axis in CHANNEL_AXES]
    height, width = order.index("Y"), order.index("X")
    array = np.transpose(array, (*pages, height, width, *channels))
    shape = array.shape
    first, last = math.prod(shape[: len(pages)]), math.prod(shape[len(pages) + 2 :])
    return np.ascontiguousarray(array.reshape(first, *shape[len(pages) : len(pages) + 2], last))
