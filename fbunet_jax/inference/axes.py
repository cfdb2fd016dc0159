"""The axes of an image as OME-Zarr names them, and where its pixels lie."""

from dataclasses import dataclass
from typing import Any

KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
"""Axes and their kinds, in the order of OME-Zarr."""


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
      name: one of t, c, z, y and x.
      size: number of values.
      scale: distance of neighbours, in units.
      translation: place of the first value, likewise.
      unit: such as "micrometer"; empty if it is not known.
    """

    name: str
    size: int
    scale: float = 1.0
    translation: float = 0.0
    unit: str = ""

    def metadata(self) -> dict[str, Any]:
        """Return what OME-Zarr stores of it."""
        return {"name": self.name, "type": KINDS[self.name]} | ({"unit": self.unit} if self.unit else {})


def transformations(axes: tuple[Axis, ...], step: int = 1) -> list[dict[str, Any]]:
    """Return OME-Zarr's coordinate transformations of an array that holds every `step`-th row and column."""
    scale = [axis.scale * (step if axis.name in "yx" else 1) for axis in axes]
    found: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(axis.translation for axis in axes):
        found.append({"type": "translation", "translation": [axis.translation for axis in axes]})
    return found
