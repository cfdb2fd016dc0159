"""What the values of a TIFF's pages mean: intensities, colours of a colour space, indices, transparency, no data."""

import math
from pathlib import Path

import numpy as np
import tifffile

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.readers.tiff_directories import Directory

_GREY, _RGB, _PALETTE, _MASK, _YCBCR, _LINEAR = 1, 2, 3, 4, 6, 34892
_SPACES = {
    5: "CMYK (inks)",
    6: "YCbCr",
    8: "CIE L*a*b*",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "a colour filter array (raw data of a camera)",
    32844: "CIE Log2(L)",
    32845: "CIE Log2(L) (u',v')",
    34892: "linear raw colours of a camera",
    51177: "depths, not intensities",
    52527: "a semantic mask, not intensities",
}
_ALPHA = (1, 2)
_JPEG = (6, 7, 33007, 34892)
"""Compressions whose decoder makes RGB of YCbCr."""
_TO_RGB = "Convert it to grey or RGB, in Fiji with Image > Type."


def check_meaning(path: Path, series: tifffile.TiffPageSeries, directories: dict[int, Directory], what: str) -> None:
    """Refuse pages whose values do not mean intensities or class values; labels are the stored values.

    Raises:
      DataError: says what they mean.
    """
    page = series.keyframe
    if page.samplesperpixel < 1:
        raise Fault("damaged-file", path, "stores no value a pixel.", "Copy or export it again.")
    if page.planarconfig not in (1, 2):
        raise Fault("damaged-file", path, "does not say how its channels are stored.", "Copy or export it again.")
    if page.predictor != 1 and page.compression in (1, 32773):
        found = "names a predictor, which its compression does not have: readers would not agree on its values."
        raise Fault("damaged-file", path, found, "Save it as LZW or deflate.")
    if page.compression in (2, 3, 4):
        found = "is fax-compressed (CCITT), in which damage is passed over."
        raise Fault("fax", path, found, "Save it as LZW or deflate.")
    if page.compression in (6, 7) and what == "label":
        found = "is JPEG-compressed, which changes the values of labels."
        raise Fault("label-jpeg", path, found, "Save it as LZW or deflate.")
    if what == "image":
        _check_photometric(path, page)
        if any(each.is_mask for each in directories.values()):
            found = "has a page that says which pixels are transparent (mask)."
            raise Fault("transparency", path, found, "Save it without transparency.")
        if any(sample in _ALPHA for sample in page.extrasamples[:-1]):
            found = "has an alpha channel that is not the last of its channels."
            raise Fault("transparency", path, found, "Save it without transparency.")
    orientation = page.tags.valueof(274, 1)
    if orientation in range(2, 9):  # 0 and 9 are no orientation
        found = "is marked to be shown turned or mirrored (orientation tag)."
        raise Fault("orientation", path, found, "Save it unturned.")


def _check_photometric(path: Path, page: tifffile.TiffPage) -> None:
    """Refuse an image whose values are not grey, with 0 for black, or red, green and blue."""
    meaning = page.tags.valueof(262, _RGB if page.samplesperpixel > 2 else _GREY)
    if meaning in (_GREY, _RGB) or (meaning == _YCBCR and page.compression in _JPEG):
        return
    if meaning == _LINEAR and page.samplesperpixel == 1:
        return
    if meaning == 0:
        found = "stores inverted values (0 is white)."
        remedy = "Save it without inversion, in Fiji after Image > Lookup Tables > Invert LUT."
        raise Fault("inverted", path, found, remedy)
    if meaning == _PALETTE:
        # ImageJ's lookup tables only colour the display of intensities
        if page.is_imagej:
            return
        raise Fault("palette", path, "stores palette indices.", _TO_RGB)
    if meaning == _MASK:
        found = "is a transparency mask, and not an image."
        raise Fault("colour-mode", path, found, "Give the image that it belongs to.")
    number = int(meaning) if isinstance(meaning, int) else meaning
    space = _SPACES.get(number, f"photometric interpretation {number}") if isinstance(number, int) else "unknown"
    raise Fault("colour-mode", path, f"has the colour space {space}; expected grey or RGB.", _TO_RGB)


def has_alpha(series: tifffile.TiffPageSeries) -> bool:
    """Say whether the last channel of a TIFF is transparency."""
    return any(sample in _ALPHA for sample in series.keyframe.extrasamples[-1:])


def declared_no_data(series: tifffile.TiffPageSeries) -> float | None:
    """Return the value that GDAL has marked as no data, as the pixels would hold it, if there is one and they can."""
    page = series.keyframe
    try:
        value = float(str(page.tags.valueof(42113)).strip("\0 ").replace(",", "."))
    except ValueError:
        return None
    if page.dtype is None or not math.isfinite(value):
        return None
    if page.dtype.kind in "iu":
        limits = np.iinfo(page.dtype)
        return value if value.is_integer() and limits.min <= value <= limits.max else None
    with np.errstate(over="ignore"):
        held = float(np.asarray(value).astype(page.dtype))
    return held if math.isfinite(held) else None
