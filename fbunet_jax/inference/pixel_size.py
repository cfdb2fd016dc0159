"""The size of a pixel: what the metadata of a TIFF say of it, and how those of a label TIFF say it again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from xml.etree import ElementTree

import tifffile

from fbunet_jax.inference.axes import Axis

DISPLAY_DPI = (72, 96, 300)
"""Pixels an inch that programs write without having measured anything."""


class _Unit(NamedTuple):
    """A unit: its symbol in OME, its name in ImageJ, and its length in micrometres."""

    ome: str
    imagej: str
    micrometres: float


_UNITS = {
    "picometer": _Unit("pm", "pm", 1e-6),
    "angstrom": _Unit("Å", "angstrom", 1e-4),
    "nanometer": _Unit("nm", "nm", 1e-3),
    "micrometer": _Unit("µm", "um", 1.0),
    "millimeter": _Unit("mm", "mm", 1e3),
    "centimeter": _Unit("cm", "cm", 1e4),
    "meter": _Unit("m", "m", 1e6),
    "kilometer": _Unit("km", "km", 1e9),
    "inch": _Unit("in", "inch", 25400.0),
}
"""By their names in OME-Zarr."""

# ImageJ escapes what is not ASCII; there are two Greek letters mu
_ALIASES = {
    "micron": "micrometer",
    "\\u00b5m": "micrometer",
    "μm": "micrometer",
    "inches": "inch",
    "\\u00c5": "angstrom",
}
_OF_TAG = {2: "inch", 3: "centimeter"}
_TAG_OF = {unit: tag for tag, unit in _OF_TAG.items()}

Size = tuple[float, str]
"""Distance of neighbours, and its unit by its name in OME-Zarr; without a unit it only compares axes."""


@dataclass(frozen=True)
class PixelSize:
    """What a TIFF says of the size of a pixel.

    Attributes:
      kind: whose metadata the file has, "imagej" or "ome"; empty for neither.
      sizes: what is known, by axis: x, y or z.
      tags: the resolution as arguments of `tifffile.imwrite`, for TIFFs without such metadata.
    """

    kind: str = ""
    sizes: Mapping[str, Size] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)

    def axis(self, name: str, count: int) -> Axis:
        """Return an axis of so many values."""
        scale, unit = self.sizes.get(name, (1.0, ""))
        return Axis(name, count, scale, unit=unit)


def read_pixel_size(series: tifffile.TiffPageSeries) -> PixelSize:
    """Return the size of a pixel if it makes sense: it is only handed on.

    Resolutions of `DISPLAY_DPI` say nothing. Inches and centimetres become micrometres.
    """
    file: Any = series.keyframe.parent
    tags = _resolution(series.keyframe)
    if series.kind == "imagej":
        sizes = _of_imagej(file.imagej_metadata or {}, tags)
    elif series.kind == "ome":
        sizes = _of_ome(file.ome_metadata) or _of_tags(tags)
    else:
        return PixelSize("", _of_tags(tags), {} if _is_display(tags) else tags)
    known = PixelSize(series.kind, sizes)
    return replace(known, tags=resolution_tags([known.axis("y", 1), known.axis("x", 1)]))


def resolution_tags(axes: Sequence[Axis]) -> dict[str, Any]:
    """Return pixels in a centimetre as arguments of `tifffile.imwrite`; empty where the last two axes have no unit."""
    if not all(axis.unit in _UNITS for axis in axes[-2:]):
        return {}
    y, x = (1e4 / _in_micrometres(axis.scale, axis.unit)[0] for axis in axes[-2:])
    return {"resolution": (x, y), "resolutionunit": "CENTIMETER"} if _are_fractions(x, y) else {}


def imagej_options(axes: Sequence[Axis]) -> dict[str, Any]:
    """Return the size of a pixel as ImageJ writes it, as arguments of `tifffile.imwrite`: unit, spacing, resolution.

    All axes have the unit of x there.
    """
    sizes = {axis.name: (axis.scale, axis.unit) for axis in axes}
    unit = sizes["x"][1]
    metadata: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if unit in _UNITS and sizes["y"][1] in _UNITS:
        lengths = {axis: _converted(size, unit) for axis, size in sizes.items() if size[1] in _UNITS}
        across, down = 1 / lengths["x"], 1 / lengths["y"]
        if _are_fractions(across, down):
            options["resolution"] = (across, down)
            metadata["unit"] = _UNITS[unit].imagej
            if "z" in lengths:
                metadata["spacing"] = lengths["z"]
    elif not unit and sizes.get("z", (1.0, ""))[0] != 1 and not sizes["z"][1]:
        metadata["spacing"] = sizes["z"][0]
    return {"metadata": metadata, **options}


def ome_metadata(axes: Sequence[Axis]) -> dict[str, Any]:
    """Return the size of a pixel as OME names it, for the ``metadata`` of `tifffile.imwrite`."""
    metadata: dict[str, Any] = {}
    for axis in axes:
        if axis.name in "xyz" and axis.unit in _UNITS:
            metadata[f"PhysicalSize{axis.name.upper()}"] = axis.scale
            metadata[f"PhysicalSize{axis.name.upper()}Unit"] = _UNITS[axis.unit].ome
    return metadata


def _resolution(page: tifffile.TiffPage) -> dict[str, Any]:
    across, down, unit = (page.tags.valueof(name) for name in ("XResolution", "YResolution", "ResolutionUnit"))
    for fraction in (across, down):
        if not isinstance(fraction, tuple) or len(fraction) != 2 or not all(0 < part < 2**32 for part in fraction):
            return {}
    unit = 2 if unit is None else unit
    return {"resolution": (across, down), "resolutionunit": int(unit)} if unit in (1, 2, 3) else {}


def _of_tags(tags: Mapping[str, Any]) -> dict[str, Size]:
    unit = _OF_TAG.get(tags.get("resolutionunit", 1))
    if unit is None or _is_display(tags):
        return {}
    parts = zip("xy", tags["resolution"], strict=True)
    return {axis: (_UNITS[unit].micrometres * part[1] / part[0], "micrometer") for axis, part in parts}


def _of_imagej(metadata: Mapping[str, Any], tags: Mapping[str, Any]) -> dict[str, Size]:
    """Return the sizes of ImageJ: the resolution is in pixels a unit, which the description names or else the tags."""
    unit = _unit(metadata.get("unit"))
    if tags and unit in _TAG_OF:
        tags = {**tags, "resolutionunit": _TAG_OF[unit]}
    # micrometres beside pixels a centimetre: ImageJ, too, believes the centimetre
    if not unit or unit in _TAG_OF or (unit, tags.get("resolutionunit")) == ("micrometer", 3):
        sizes = _of_tags(tags)
        shared = unit or (_OF_TAG[tags["resolutionunit"]] if sizes else "")
    else:
        units = unit, _unit(metadata.get("yunit")) or unit
        parts = zip("xy", tags.get("resolution", ()), units, strict=False)
        sizes, shared = {axis: (part[1] / part[0], each) for axis, part, each in parts}, unit
    spacing = _length(metadata.get("spacing"))
    if spacing is not None and not (unit in _TAG_OF and not sizes):
        depth = spacing, _unit(metadata.get("zunit")) or shared
        sizes["z"] = _in_micrometres(*depth) if depth[1] in _TAG_OF else depth
    return sizes


def _of_ome(xml: str | None) -> dict[str, Size]:
    root = ElementTree.fromstring(xml or "<OME/>")
    pixels = next((each.attrib for each in root.iter() if each.tag.endswith("Pixels")), {})
    found = {axis: _length(pixels.get(f"PhysicalSize{axis.upper()}")) for axis in "xyz"}
    units = {axis: _unit(pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm")) for axis in "xyz"}
    return {axis: (length, units[axis]) for axis, length in found.items() if length is not None and units[axis]}


def _length(value: object) -> float | None:
    """Return a number in metadata if it can be a length."""
    try:
        length = abs(float(str(value)))
    except ValueError:
        return None
    return length if math.isfinite(length) and 1e-12 < length < 1e12 else None


def _unit(text: object) -> str:
    """Return the name in OME-Zarr of a unit in metadata, or nothing for one that is no length."""
    name = str(text or "").strip()
    lower = name.lower().replace("metre", "meter")
    symbols = {symbol: unit for unit, symbols in _UNITS.items() for symbol in symbols[:2]}
    found = symbols.get(name) or _ALIASES.get(lower) or _ALIASES.get(lower.removesuffix("s"))
    return found or next((unit for unit in _UNITS if lower in (unit, f"{unit}s")), "")


def _are_fractions(*resolutions: float) -> bool:
    """Say whether resolutions can be written as fractions of 32-bit integers."""
    return all(1e-6 < each < 1e9 for each in resolutions)


def _in_micrometres(length: float, unit: str) -> Size:
    return length * _UNITS[unit].micrometres, "micrometer"


def _converted(size: Size, unit: str) -> float:
    return size[0] if size[1] == unit else _in_micrometres(*size)[0] / _UNITS[unit].micrometres


def _is_display(tags: Mapping[str, Any]) -> bool:
    """Say whether a resolution is that of a screen or a printer, which no one has measured."""
    inches = {2: 1.0, 3: 1 / 2.54}.get(tags.get("resolutionunit", 1))
    if inches is None:
        return False
    found = [part[0] / part[1] / inches for part in tags["resolution"]]
    # programs that write pixels a centimetre round them
    return all(any(math.isclose(each, dpi, rel_tol=2e-3) for dpi in DISPLAY_DPI) for each in found)
