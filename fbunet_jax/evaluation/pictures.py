"""The pictures of a report: which images are shown, what the networks make of them, and the bytes of the page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fbunet_jax.data.datasets import Dataset
from fbunet_jax.evaluation.items import ItemCounts
from fbunet_jax.evaluation.segmentation import FoldSegmentation
from fbunet_jax.figures import blend_label, colour_label, colour_values, show_image
from fbunet_jax.metrics import mean_iou

SIDE = 512
"""Longest side of a picture, pixels: every second, third ... pixel of a larger image is shown."""

# what became of a pixel that moved between the rounds: nothing, right, wrong, or wrong in another way
_MOVED = np.array([(226, 228, 232), (0, 114, 178), (213, 94, 0), (110, 110, 110)], np.uint8)


class Shown(NamedTuple):
    """An image that a fold tested."""

    fold: int
    name: str
    mean_iou: float
    """Mean IoU over the classes that occur in its truth; NaN where none does."""
    moved: float
    """Share of its labelled pixels that changed class between the first round and the last."""


@dataclass(frozen=True)
class Segmented:
    """An image, its truth, and what the rounds made of it, every ``stride``-th pixel.

    Attributes:
      image: `[h, w, 3]` uint8.
      label: `[h, w]` uint8, 255 = ignore.
      rounds: `[R, h, w]` uint8.
      stride: 1 shows every pixel.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    rounds: NDArray[np.uint8]
    stride: int


def rank(folds: Sequence[ItemCounts]) -> list[Shown]:
    """Return every item once, in the first fold that has it, from the lowest mean IoU to the highest."""
    found: dict[str, Shown] = {}
    for counts in folds:
        for name, confusion, moves in zip(counts.names, counts.confusion, counts.moves, strict=True):
            if name in found or not confusion.any():
                continue
            stayed = np.einsum("tkk->", moves)
            found[name] = Shown(counts.fold, name, mean_iou(confusion[-1]), float(1 - stayed / moves.sum()))
    return sorted(found.values(), key=lambda shown: (shown.mean_iou, shown.name))


def worst_and_best(ranked: Sequence[Shown], count: int) -> tuple[list[Shown], list[Shown]]:
    """Return the ``count`` worst images from the worst on, and the best from the best on; none in both."""
    worst = list(ranked[: min(count, -(-len(ranked) // 2))])
    best = list(reversed(ranked[max(len(worst), len(ranked) - count) :]))
    return worst, best


def segment_shown(segmentation: FoldSegmentation, names: Sequence[str]) -> dict[str, Segmented]:
    """Segment the named items of the data set with one fold."""
    dataset = segmentation.dataset
    items = [dataset.names.index(name) for name in names]
    strides = [-(-max(dataset.labels[item].shape) // SIDE) for item in items]
    maps = segmentation.label_maps(items, strides)
    found = {}
    for name, item, stride, rounds in zip(names, items, strides, maps, strict=True):
        image = show_image(dataset.images[item][::stride, ::stride])
        found[name] = Segmented(image, dataset.labels[item][::stride, ::stride], rounds, stride)
    return found


def overlay(segmented: Segmented, label: NDArray[np.integer], classes: int) -> str:
    """Return the image under the colours of a label image, as a data URI."""
    return photograph(blend_label(segmented.image, label, classes))


def plain_label(label: NDArray[np.integer], classes: int) -> str:
    """Return a label image in the colours of its classes, as a data URI."""
    return drawing(colour_label(label, classes))


def moved_pixels(segmented: Segmented, classes: int) -> str:
    """Return where the first round and the last differ and what came of it, as a data URI."""
    label, first, last = segmented.label, segmented.rounds[0], segmented.rounds[-1]
    moved = (first != last) & (label < classes)
    kind = np.select([~moved, last == label, first == label], [0, 1, 2], 3)
    return drawing(_MOVED[kind])


def feature_picture(segmentation: FoldSegmentation, name: str) -> str:
    """Return the summed features of the first layer in the last round, as a data URI."""
    values = segmentation.first_block(segmentation.dataset.names.index(name))
    stride = -(-max(values.shape) // SIDE)
    return drawing(colour_values(values[::stride, ::stride]))


def first_tile(dataset: Dataset, name: str, tile: int) -> str:
    """Return what `feature_picture` is the features of."""
    image = show_image(dataset.images[dataset.names.index(name)][:tile, :tile])
    stride = -(-max(image.shape[:2]) // SIDE)
    return photograph(image[::stride, ::stride])


def photograph(picture: NDArray[np.uint8]) -> str:
    """Return a picture `[h, w, 3]` as a JPEG data URI."""
    return _data_uri(Image.fromarray(np.ascontiguousarray(picture)), "JPEG", quality=88)


def drawing(picture: NDArray[np.uint8]) -> str:
    """Return a picture `[h, w, 3]` of few colours as a PNG data URI."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    return _data_uri(image.quantize(256, dither=Image.Dither.NONE), "PNG", optimize=True)


def _data_uri(image: Image.Image, kind: str, **options: int | bool) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
