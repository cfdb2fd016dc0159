"""The axes of an image as OME-Zarr names them, and where its pixels lie."""

import math
from collections.abc import Mapping, Sequence
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
      stands_in: whether the name is only the nearest that OME-Zarr has: of pages that nothing says are sections.
    """

    name: str
    size: int
    scale: float = 1.0
    translation: float = 0.0
    unit: str = ""
    stands_in: bool = False

    def metadata(self) -> dict[str, Any]:
        """Return what OME-Zarr stores of it."""
        return {"name": self.name, "type": KINDS[self.name]} | ({"unit": self.unit} if self.unit else {})


def stacks(counted: Sequence[Axis]) -> list[slice]:
    """Return the pages of every stack of sections, those along z; a page that is no section is a stack by itself.

    Args:
      counted: the axes that count pages; the last one counts fastest.
    """
    sizes = [axis.size for axis in counted]
    pages = math.prod(sizes)
    along = next((at for at, axis in enumerate(counted) if axis.name == "z" and not axis.stands_in), None)
    if along is None:
        return [slice(page, page + 1) for page in range(pages)]
    step = math.prod(sizes[along + 1 :])
    span = step * sizes[along]
    return [slice(first, first + span - step + 1, step) for first in range(pages) if first % span < step]


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
