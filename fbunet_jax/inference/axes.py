"""The axes of an image as OME-Zarr names them, and where its pixels lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

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


def place_of_page(page: int, counted: Mapping[str, int]) -> dict[str, int]:
    """Return where a page lies along the axes that count pages, whose sizes are given; the last one counts fastest."""
    if not counted:
        return {}
    places = np.unravel_index(page, tuple(counted.values()))
    return {name: int(at) for name, at in zip(counted, places, strict=True)}


def transformations(axes: tuple[Axis, ...], step: int = 1) -> list[dict[str, Any]]:
    """Return OME-Zarr's coordinate transformations of an array that holds every `step`-th row and column."""
    scale = [axis.scale * (step if axis.name in "yx" else 1) for axis in axes]
    found: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(axis.translation for axis in axes):
        found.append({"type": "translation", "translation": [axis.translation for axis in axes]})
    return found
