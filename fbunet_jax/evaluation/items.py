"""Pixels counted image by image: what the report's intervals, its best and worst images and its moves come from."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.data.datasets import Dataset
from fbunet_jax.data.readers.memory import available_memory
from fbunet_jax.data.readers.pixels import DEFLATE
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.segmentation import FoldSegmentation
from fbunet_jax.runs.files import write_atomically


@dataclass(frozen=True)
class ItemCounts:
    """The counts of one fold's items.

    Attributes:
      fold: number of the fold.
      step: of the checkpoint.
      names: of the N items.
      groups: the group of each.
      confusion: `[N, R, K, K]` int64, of every round; rows truth, columns prediction.
      moves: `[N, K, K, K]` int64: true class, class in the first round, class in the last.
    """

    fold: int
    step: int
    names: tuple[str, ...]
    groups: tuple[str, ...]
    confusion: NDArray[np.int64]
    moves: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Write a compressed NumPy archive."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            fold=self.fold,
            step=self.step,
            names=np.array(self.names),
            groups=np.array(self.groups),
            confusion=self.confusion,
            moves=self.moves,
        )
        write_atomically(path, buffer.getvalue())


def read_items(path: Path) -> ItemCounts:
    """Read what `ItemCounts.save` wrote.

    Raises:
      RunError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
        most, available = DEFLATE * path.stat().st_size, available_memory()
        if size > most:
            raise ValueError(f"it says that it holds {size:,} bytes, and its own cannot be more than {most:,}")
        if available is not None and size > available:
            raise ValueError(f"it holds {size:,} bytes, and {available:,} bytes of memory are available")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            counts = ItemCounts(
                fold=int(archive["fold"]),
                step=int(archive["step"]),
                names=tuple(archive["names"].tolist()),
                groups=tuple(archive["groups"].tolist()),
                confusion=archive["confusion"],
                moves=archive["moves"],
            )
        _check(counts)
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds
        raise RunError(f"{path} cannot be read: {error}. Remove it and evaluate the run again.") from error
    return counts


def _check(counts: ItemCounts) -> None:
    """Raise a ValueError unless the parts belong together."""
    confusion, moves, items = counts.confusion, counts.moves, len(counts.names)
    rounds, classes = confusion.shape[1:3] if confusion.ndim == 4 else (0, 0)
    if confusion.shape != (items, rounds, classes, classes) or moves.shape != (items, classes, classes, classes):
        raise ValueError(f"its parts have the shapes {confusion.shape} and {moves.shape} for {items} items")
    if not items or not rounds or len(counts.groups) != items or confusion.dtype != np.int64 or moves.dtype != np.int64:
        raise ValueError("its parts do not belong together")
    if not all(isinstance(name, str) and name.isprintable() for name in counts.names + counts.groups):
        raise ValueError("a name is no text")
    if confusion.min() < 0 or moves.min() < 0:
        raise ValueError("a count is below 0")


Keep = Callable[[NDArray[np.uint8]], object]
"""Takes the classes `[H, W]` of an item in the last round."""


def count_items(
    segmentation: FoldSegmentation, dataset: Dataset, items: NDArray[np.intp], keep: Keep | None = None
) -> ItemCounts:
    """Segment items with a fold's network and count their pixels; `keep` is called with each segmentation in order."""
    classes, rounds = len(dataset.class_names), segmentation.trained.rounds
    confusion = np.zeros((len(items), rounds, classes, classes), np.int64)
    moves = np.zeros((len(items), classes, classes, classes), np.int64)
    for position, item in enumerate(items):
        bands = []
        for first, predicted in segmentation.bands(item):
            if keep:
                bands.append(predicted[-1])
            label = dataset.labels[item][first : first + predicted.shape[1]]
            counted = label < classes
            truth, chosen = label[counted], predicted[:, counted]
            for index in range(rounds):
                confusion[position, index] += _count(classes, truth, chosen[index])
            moves[position] += _count(classes, truth, chosen[0], chosen[-1])
        if keep:
            keep(np.concatenate(bands))
    return ItemCounts(
        segmentation.trained.fold,
        segmentation.trained.step,
        tuple(dataset.names[item] for item in items),
        tuple(dataset.groups[item] for item in items),
        confusion,
        moves,
    )


def _count(classes: int, *labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the combinations of classes in arrays of one length: `[K] * len(labels)` int64."""
    shape = (classes,) * len(labels)
    flat = np.ravel_multi_index([label.astype(np.intp) for label in labels], shape)
    return np.bincount(flat, minlength=classes ** len(labels)).reshape(shape).astype(np.int64)
