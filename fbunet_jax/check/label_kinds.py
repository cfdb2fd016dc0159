"""What labels show besides classes: objects that are numbered one by one, and stacks with labels on some pages."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fbunet_jax.check.habits import OBJECT_TOOLS
from fbunet_jax.check.proposals import may_be_objects
from fbunet_jax.data.layouts.sources import Source
from fbunet_jax.data.readers.image_files import read_label
from fbunet_jax.errors import DataError
from fbunet_jax.user_files import suffix

_MOST_VALUES = 20
_FEWEST_OBJECTS = 3
_LOOKED_AT = 5
_OBJECTS_LOOKED_AT = 100
_IN_ONE_PIECE = 0.9


def number_objects(source: Source, values: Collection[int], spread: Mapping[int, float], tool: str) -> bool:
    """Say whether labels number objects, so that each value is one piece of an image, as that of a class seldom is.

    Args:
      source: the data set.
      values: in its labels.
      spread: the share of the label files in which each value occurs, 0 to 1.
      tool: that may have made them.
    """
    objects = sorted(set(values) - {0})
    if 0 not in values or len(objects) < _FEWEST_OBJECTS:
        return False
    by_tool = tool in OBJECT_TOOLS and objects == list(range(1, len(objects) + 1))
    if not (by_tool or len(values) > _MOST_VALUES or may_be_objects(values, spread)):
        return False
    pieces = [count for labels in _some_labels(source) for page in labels for count in _pieces(page)]
    return bool(pieces) and sum(count == 1 for count in pieces) >= _IN_ONE_PIECE * len(pieces)


def some_pages_are_empty(source: Source) -> bool:
    """Say whether label stacks hold pages with labels and pages that are 0 throughout."""
    for labels in _some_labels(source):
        filled = [bool(page.any()) for page in labels]
        if any(filled) and not all(filled):
            return True
    return False


def _some_labels(source: Source) -> Iterator[NDArray]:
    """Yield the labels `[pages, H, W]` of some units that can be read, evenly spread."""
    places = np.linspace(0, len(source.units) - 1, min(_LOOKED_AT, len(source.units)))
    for place in places:
        unit = source.units[int(place)]
        # of many label files each shows an object, or a page
        if len(unit.label_files) != 1 or suffix(unit.label_files[0]) not in (".tif", ".tiff", ".png"):
            continue
        try:
            yield read_label(unit.label_files[0], source.axes)
        except (DataError, OSError):
            continue


def _pieces(page: NDArray) -> Iterator[int]:
    """Yield the number of pieces of each of some values of a label `[H, W]`."""
    values, numbered = np.unique(page, return_inverse=True)
    numbered = numbered.reshape(page.shape)
    if len(values) and values[0] == 0:
        places = ndimage.find_objects(numbered)
        first = 1
    else:
        places, first = ndimage.find_objects(numbered + 1), 0
    for number, place in enumerate(places[:_OBJECTS_LOOKED_AT], start=first):
        if place is not None:
            yield int(ndimage.label(numbered[place] == number, np.ones((3, 3)))[1])
