"""TIFF files: their series, pages and axes, checked before a value is read."""

import contextlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.readers.notes import note
from fbunet_jax.data.readers.pixels import check_count
from fbunet_jax.data.readers.tiff_directories import read_directories
from fbunet_jax.data.readers.tiff_meaning import check_meaning
from fbunet_jax.data.readers.tiff_parts import check_parts, leave_out_levels
from fbunet_jax.data.readers.tiff_series import find_series, is_about_pixels

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
    with without_complaints(path) as messages, contextlib.ExitStack() as stack:
        directories = read_directories(path)

        def reopen(**options: Any) -> tifffile.TiffFile:
            # no other file is opened, whatever the metadata of this one say
            alone: dict[str, Any] = {"_multifile": False, "is_mmstack": False, "is_ndtiff": False}
            file = stack.enter_context(tifffile.TiffFile(path, **alone, **options))
            leave_out_levels(file)
            return file

        series, misfit, remark = find_series(path, reopen, directories, messages)
        check_meaning(path, series, directories, what)
        page = series.keyframe
        if page.dtype is None:
            found = f"holds values of {page.bitspersample} bits of an unknown format."
            raise Fault("image-type", path, found, "Convert it, in Fiji with Image > Type.")
        check_count(path, series.shape, f"declares the size {' x '.join(map(str, series.shape))}")
        check_parts(path, series, what)
        if remark:
            note(path, remark)
        yield series, _axes_of(path, series, axes, misfit)


@contextlib.contextmanager
def without_complaints(path: Path) -> Iterator[list[str]]:
    """Turn what tifffile only logs of the pixels while it reads a file into a DataError at the end; yield all of it."""
    complaints = _Complaints()
    logger = logging.getLogger("tifffile")
    logger.addHandler(complaints)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield complaints.messages
    finally:
        logger.removeHandler(complaints)
        logger.propagate = propagate
    if messages := list(filter(is_about_pixels, complaints.messages)):
        found = f"is damaged or incomplete: {messages[0]}."
        raise Fault("damaged-file", path, found, "Copy or export it again.")


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


def _axes_of(path: Path, series: tifffile.TiffPageSeries, axes: str, misfit: str) -> str:
    """Return one letter of YXCSZTIQ for every dimension of the only series; the misfit explains what is not known."""
    known, shape = series.axes, series.shape
    if len(shape) == 2:
        return "YX"
    check_axes(axes)
    given = axes.upper()
    if len(given) == len(shape):
        return given
    if {"Y", "X"} <= set(known) <= set("YXSCZT"):
        return known
    lacking = f"no metadata that name its axes ({misfit})" if misfit else "no OME or ImageJ metadata that name its axes"
    if given:
        lacking = f"which --axes or data.axes = {axes!r} does not fit, and {lacking.replace('OME or ImageJ ', '')}"
    raise Fault(
        "axes-unknown",
        path,
        f"has the shape {shape}{', ' if given else ' and '}{lacking}. It can be read as {_readings(shape)}.",
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
