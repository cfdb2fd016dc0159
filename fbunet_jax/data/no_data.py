"""Values that stand for "no data" in images: one that many pixels share and that lies far outside the others."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.data.faults import Fault

LEAST_SHARE = 0.01
"""Of the pixels of a channel, unless the file itself names the value."""

_USUAL = {-999.0, -9999.0, -99999.0, -999999.0, -32767.0, -32768.0, -2147483648.0}
"""What programs write for no data; whole numbers that no measurement shares with many pixels by chance."""
_FULL = {1.0, 100.0} | {2.0**bits - 1 for bits in range(1, 33)} | {2.0**bits for bits in range(1, 33)}
"""Saturated pixels of cameras, and masks."""
_LEAST_PIXELS, _LOOKED_AT, _LEAST_VALUES = 1024, 2**14, 12
_ABSURD, _SMALL, _OWN_SIZE = 1e15, 256, 0.3
_GAPS = {"usual": 0.1, "low": 3.0, "high": 10.0, "small": 50.0, "fraction": 1000.0}
"""How many times the range of the other values the value must be away from them."""


class NoData(NamedTuple):
    """A value, and the share of a channel's pixels that have it."""

    value: float
    share: float


def find_no_data(image: NDArray, named: float | None = None) -> NoData | None:
    """Return the value of an image that stands for no data, if there is one.

    Zero never does: it is the background of fluorescence and of masked images. Integers are only searched for a value
    that the file itself names. In floating-point images it is the lowest or the highest of a channel, at least 1 % of
    the pixels have it, and it is several times further from the others than these are from each other: how many times
    depends on whether programs use such a value. Saturated values of cameras and the masks of 0 and 1 are none.

    Args:
      image: `[..., C]`.
      named: the value that the file itself marks as no data.
    """
    if image.dtype.kind != "f" and named is None:
        return None
    for channel in range(image.shape[-1]):
        values = image[..., channel]
        for value in {values.min(), values.max()}:
            if value == 0 or (image.dtype.kind != "f" and value != named):
                continue
            # the lowest and the highest number of the type, both at once, stand for no data in what GIS programs write
            is_absurd = image.dtype.kind == "f" and abs(value) >= _ABSURD
            others = np.abs(values) != abs(value) if is_absurd else values != value
            share = 1 - float(others.mean())
            is_certain = value in _USUAL or value == named
            if value != named and (share < LEAST_SHARE or not (is_certain or values.size >= _LEAST_PIXELS)):
                continue
            if share == 1:
                if value in _USUAL:
                    return NoData(float(value), share)
                continue
            rest = values[others]
            lowest, highest = float(rest.min()), float(rest.max())
            if not _is_far(float(value), lowest, highest, is_named=value == named):
                continue
            # drawings of a few values may have any
            if is_certain or _are_many(rest):
                return NoData(float(value), share)
    return None


def _are_many(values: NDArray) -> bool:
    """Say whether pixels have many different values, looked for all over the image: its rim may be empty."""
    return len(np.unique(values[:: max(1, values.size // _LOOKED_AT)])) >= _LEAST_VALUES


def _is_far(value: float, lowest: float, highest: float, *, is_named: bool) -> bool:
    """Say whether a value, the lowest or the highest, is too far from the range of the others to be one of them."""
    gap, spread = max(lowest - value, value - highest), highest - lowest
    if is_named:
        return gap > _GAPS["usual"] * spread
    if value in _USUAL:
        return gap > max(_GAPS["usual"] * spread, _OWN_SIZE * abs(value))
    if abs(value) >= _ABSURD:
        return gap > _GAPS["high"] * spread
    if spread == 0 or (value > 0 and value in _FULL) or value == -1:
        return False
    if value != np.rint(value):
        return gap > _GAPS["fraction"] * spread
    if abs(value) < _SMALL:
        return gap > _GAPS["small"] * spread
    return gap > _GAPS["low" if value < 0 else "high"] * spread


def no_data_fault(path: Path | str, image: NDArray, named: float | None = None) -> Fault | None:
    """Return the fault of an image with pixels that hold no data."""
    found = find_no_data(image, named)
    if found is None:
        return None
    said = ", the value that the file itself names as no data (GDAL_NODATA)" if named == found.value else ""
    return Fault(
        "no-data",
        path,
        f"has the value {found.value:.8g} in {100 * found.share:.3g} % of its pixels{said}, far outside the others: it "
        "stands for no data.",
        "Cut the image, or replace the value by one like its neighbours' and ignore these pixels in the label; if it "
        'is a measurement, set data.no_data = "keep".',
    )
