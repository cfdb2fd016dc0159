"""TIFF files: their series, pages and axes, checked before a value is read."""

import contextlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.readers.pixels import check_size
from fbunet_jax.data.readers.tiff_directories import check_ome, check_pages, read_directories

PAGE_AXES = "ZTIQ"
CHANNEL_AXES = "CS"


class _Complaints(logging.Handler):
    """Collects what tifffile only logs: it reads a damaged file as far as it goes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def checked_tiff(path: Path, axes: str, what: str) -> Iterator[tuple[tifffile.TiffPageSeries, str]]:
    """Open the only image series of a TIFF, not read yet, and the order of its axes.

    Args:
      path: of the file.
      axes: see `fbunet_jax.data.readers.image_files.read_image`.
      what: "image" or "label".

    Raises:
      DataError: the file holds several series, declares too many values, lacks data, stores something else than
        intensities or class values, or has axes that are not known; also at the end, for what tifffile only logs.
    """
    with without_complaints(path):
        directories = read_directories(path)
        # no other file is opened, whatever the metadata of this one say
        with tifffile.TiffFile(path, _multifile=False, is_mmstack=False, is_ndtiff=False) as file:
            check_ome(path, file, len(directories))
            series = file.series
            if len(series) != 1:
                shapes = ", ".join(str(part.shape) for part in series[:4])
                raise Fault(
                    "several-series",
                    path,
                    f"holds {len(series)} image series with the shapes {shapes}; expected one.",
                    "Save each series as a file of its own.",
                )
            _check_meaning(path, file, what)
            page = series[0].keyframe
            if page.dtype is None:
                found = f"holds values of {page.bitspersample} bits of an unknown format."
                raise Fault("image-type", path, found, "Convert it, in Fiji with Image > Type.")
            check_size(path, series[0].shape, page.dtype.itemsize)
            check_size(path, page.chunks, page.dtype.itemsize)
            check_pages(path, series[0], directories)
            _check_data(path, file)
            yield series[0], _axes_of(path, file, axes)


@contextlib.contextmanager
def without_complaints(path: Path) -> Iterator[None]:
    """Turn what tifffile only logs while it reads a file into a DataError at the end."""
    complaints = _Complaints()
    logger = logging.getLogger("tifffile")
    logger.addHandler(complaints)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(complaints)
        logger.propagate = propagate
    if complaints.messages:
        found = f"is damaged or incomplete: {complaints.messages[0]}."
        raise Fault("damaged-file", path, found, "Copy or export it again.")


def has_alpha(series: tifffile.TiffPageSeries) -> bool:
    """Say whether the last channel of a TIFF is transparency."""
    return any(sample in (1, 2) for sample in series.keyframe.extrasamples)


def _check_meaning(path: Path, file: tifffile.TiffFile, what: str) -> None:
    """Refuse pages whose values do not mean intensities or classes."""
    page = file.series[0].keyframe
    if page.samplesperpixel < 1:
        raise Fault("damaged-file", path, "stores no value a pixel.", "Copy or export it again.")
    if page.predictor != 1 and page.compression in (1, 32773):
        found = "names a predictor, which its compression does not have: readers would not agree on its values."
        raise Fault("damaged-file", path, found, "Save it as LZW or deflate.")
    if page.compression in (2, 3, 4):
        found = "is fax-compressed (CCITT), in which damage is passed over."
        raise Fault("fax", path, found, "Save it as LZW or deflate.")
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


def _check_data(path: Path, file: tifffile.TiffFile) -> None:
    """Refuse pages whose data is not all there."""
    size, page = file.filehandle.size, file.series[0].keyframe
    parts = math.prod(page.chunked)
    least = page.size * page.bitspersample // 8 if page.compression == 1 else 1
    for index, each in enumerate(file.series[0].pages):
        places, counts = (each.dataoffsets, each.databytecounts) if each else ((), ())
        end = max((place + count for place, count in zip(places, counts, strict=True)), default=0)
        lacking = len(places) < parts or sum(counts) < least or min(counts) == 0
        if lacking or min(places) < 8 or end > size:
            raise Fault(
                "damaged-file",
                path,
                f"ends before the data of page {index} is complete: the file is damaged or incomplete.",
                "Copy or export it again.",
            )


def check_axes(axes: str) -> None:
    """Check the setting of the axes, see `fbunet_jax.data.readers.image_files.read_image`.

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
