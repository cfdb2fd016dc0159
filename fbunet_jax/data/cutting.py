"""Items are cut into tiles, and listed in their rotations and mirror images."""

import math
from collections.abc import Iterable

import numpy as np

from fbunet_jax.data.faults import Fault

Item = tuple[str, str, np.ndarray, np.ndarray]
"""Name, group, image `[H, W, C]` and label `[H, W]`."""

VIEWS = 8
"""Of each item: four rotations, and their mirror images."""


def cut_fault(name: str, height: int, width: int, side: int) -> Fault | None:
    """Return what is wrong with cutting an image of height x width pixels into tiles of this side, if anything."""
    if not side or (height % side == 0 and width % side == 0):
        return None
    return Fault(
        "cut",
        "",
        f"data.cut = {side}: image {name!r} of {height} x {width} pixels is no multiple of it.",
        f"Tiles of {fitting_sides(height, width)} pixels fit; data.cut = 0 keeps images whole.",
    )


def fitting_sides(height: int, width: int) -> str:
    """Return the largest sides of tiles that cover an image of height x width pixels, as a list in a sentence."""
    common = math.gcd(height, width)
    return ", ".join([str(side) for side in range(common, 0, -1) if common % side == 0][:8])


def cut(items: Iterable[Item], side: int) -> list[Item]:
    """Cut every item into tiles of side x side pixels, row by row."""
    tiles = []
    for name, group, image, label in items:
        height, width = label.shape
        if fault := cut_fault(name, height, width, side):
            raise fault
        for row in range(height // side):
            for column in range(width // side):
                tile = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
                tiles.append((f"{name}/r{row}c{column}", group, image[tile], label[tile]))
    return tiles


def image_percentiles(image: np.ndarray) -> np.ndarray:
    """Return the 1st and the 99th percentile of each channel, [2, C], of an image [H, W, C] in its stored type."""
    return np.percentile(image.reshape(-1, image.shape[-1]), (1, 99), axis=0)


def percentiles_of_tiles(images: Iterable[np.ndarray], side: int) -> tuple[np.ndarray, ...]:
    """Return for each tile of `cut` the percentiles of its image, which prediction uses for the whole page too."""
    found: list[np.ndarray] = []
    for image in images:
        found += [image_percentiles(image)] * ((image.shape[0] // side) * (image.shape[1] // side))
    return tuple(found)


def dihedral_views(items: Iterable[Item]) -> list[Item]:
    """List every item in its 8 rotations (counter-clockwise) and their left-right mirror images, identity first."""
    views = []
    for name, group, image, label in items:
        for flip in ("", "-flip"):
            for turns in range(4):
                view_image, view_label = np.rot90(image, turns), np.rot90(label, turns)
                if flip:
                    view_image, view_label = view_image[:, ::-1], view_label[:, ::-1]
                views.append((f"{name}/rot{90 * turns}{flip}", group, view_image, view_label))
    return views
