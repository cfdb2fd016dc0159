"""Objects found and missed: connected components of truth and segmentation, compared one by one.

IoU counts pixels; where a class has few objects, which of them were found says more.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fbunet_jax.config import Config

MATCHED = 0.25
"""Share of an object that the other side's pixels of its class have to cover: less is a touch, and more would count
outlines, which IoU does."""

_NAME = re.compile(r"(?P<page>.*?)(/r(?P<row>[0-9]+)c(?P<column>[0-9]+))?(?P<view>/rot[0-9]+(-flip)?)?")
# as pages are numbered: of files that a user called z1 and z01, no two lie at one place
_PAGE = re.compile(r"(?P<file>.*)/z(?P<section>[0-9]{3}|[1-9][0-9]{3,})")
_TOUCHING = np.ones((3, 3, 3), bool)


class ObjectScores(TypedDict):
    """The objects of one class.

    Attributes:
      truth: how many the labels have.
      found: of these, how many the segmentation covers to a share of `MATCHED` at least.
      predicted: how many the segmentation has.
      right: of these, how many the labels cover to that share.
    """

    truth: int
    found: int
    predicted: int
    right: int


class FoldObjects(TypedDict):
    """The objects of a part of a fold, by class, and how many pixels (in a volume, voxels) make the smallest one."""

    least_pixels: int
    classes: list[ObjectScores]


class Place(NamedTuple):
    """Where an item lies: objects are joined through the consecutive sections of a volume."""

    volume: str
    section: int
    top: int = 0
    left: int = 0


def place_of(name: str, config: Config) -> Place:
    """Return where an item lies, from its name: tiles in their page, pages in their file, a view by itself.

    The sections of the published Drosophila set, a file each, are one volume.
    """
    match = _NAME.fullmatch(name)
    assert match  # it matches every text
    if match["view"] is not None:
        return Place(name, 0)
    page, side = match["page"], config.data.cut
    corner = (int(match["row"] or 0) * side, int(match["column"] or 0) * side) if side else (0, 0)
    if not side and match["row"] is not None:  # a file that is called like a tile
        page = name
    if config.data.layout == "drosophila-vnc":
        return Place("", int(page), *corner)
    if stack := _PAGE.fullmatch(page):
        return Place(stack["file"], int(stack["section"]), *corner)
    return Place(page, 0, *corner)


def count_objects(
    places: Sequence[Place],
    truth: Sequence[NDArray[np.uint8]],
    predicted: Sequence[NDArray[np.uint8]],
    classes: int,
    least_pixels: int,
) -> FoldObjects:
    """Compare the objects of items, joined to volumes.

    Pixels that touch at an edge or a corner, in a section or from one to the next, belong to one object. Pixels that
    the labels ignore belong to none on either side.

    Args:
      places: of the N items.
      truth: `[H, W]` each, class index; K and above is ignored.
      predicted: `[H, W]` each, class index.
      classes: K.
      least_pixels: components of fewer pixels, on either side, are specks and not objects.
    """
    totals = np.zeros((classes, 4), np.int64)
    for members in _volumes(places):
        here = [places[item] for item in members]
        one, other = (_joined(here, [side[item] for item in members]) for side in (truth, predicted))
        other[one >= classes] = classes
        for index in range(classes):
            totals[index, :2] += _covered(one == index, other == index, least_pixels)
            totals[index, 2:] += _covered(other == index, one == index, least_pixels)
    found = [ObjectScores(truth=t, found=f, predicted=p, right=r) for t, f, p, r in totals.tolist()]
    return {"least_pixels": least_pixels, "classes": found}


def _covered(mask: NDArray[np.bool_], other: NDArray[np.bool_], least_pixels: int) -> tuple[int, int]:
    """Return how many objects a mask has, and how many of them the other covers."""
    numbered, _ = ndimage.label(mask, structure=_TOUCHING)
    sizes = np.bincount(numbered.ravel())[1:]
    shared = np.bincount(numbered[other], minlength=len(sizes) + 1)[1:]
    is_object = sizes >= least_pixels
    return int(is_object.sum()), int((is_object & (shared >= MATCHED * sizes)).sum())


def _volumes(places: Sequence[Place]) -> Iterator[list[int]]:
    """Return the items of each volume; sections that are not consecutive are in volumes apart."""
    volumes: dict[str, dict[int, list[int]]] = {}
    for item, place in enumerate(places):
        volumes.setdefault(place.volume, {}).setdefault(place.section, []).append(item)
    for sections in volumes.values():
        members: list[int] = []
        for section in sorted(sections):
            if members and section - 1 not in sections:
                yield members
                members = []
            members = members + sections[section]
        yield members


def _joined(places: Sequence[Place], labels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the volume `[Z, H, W]` of items at their places; 255 where there is none."""
    first = min(place.section for place in places)
    shape = (
        max(place.section for place in places) - first + 1,
        max(place.top + label.shape[0] for place, label in zip(places, labels, strict=True)),
        max(place.left + label.shape[1] for place, label in zip(places, labels, strict=True)),
    )
    volume = np.full(shape, 255, np.uint8)
    for place, label in zip(places, labels, strict=True):
        height, width = label.shape
        volume[place.section - first, place.top : place.top + height, place.left : place.left + width] = label
    return volume


def are_possible(objects: FoldObjects, classes: int) -> bool:
    """Say whether counts that were read are those of so many classes, none found or right that is not there."""
    return len(objects["classes"]) == classes and all(
        0 <= each["found"] <= each["truth"] and 0 <= each["right"] <= each["predicted"] for each in objects["classes"]
    )


def object_lines(class_names: Sequence[str], folds: Sequence[tuple[int, FoldObjects]]) -> list[str]:
    """Return a line about the objects of each class in each fold: how many were found, and how many are right."""
    lines = []
    for fold, objects in folds:
        parts = [
            f"{name} {each['found']} of {each['truth']} found, {each['right']} of {each['predicted']} right"
            for name, each in zip(class_names, objects["classes"], strict=True)
        ]
        lines.append(f"Fold {fold}, objects of at least {objects['least_pixels']} pixels: {'; '.join(parts)}.")
    return lines
