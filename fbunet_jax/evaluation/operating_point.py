"""The operating point: offsets for the logits of the classes, fitted on the validation part of a fold."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from flax import linen as nn
from numpy.typing import NDArray
from scipy import special

from fbunet_jax.data.datasets import Dataset
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.segmentation import FoldSegmentation, load_run_data
from fbunet_jax.evaluation.statistics import class_iou
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.offsets import FORMAT, LIMIT, Offsets, Reached, find_offsets, write_offsets
from fbunet_jax.runs.opening import part_items
from fbunet_jax.runs.trained import load_trained_fold
from fbunet_jax.tables import number_or_none, percent

VALUES = 2**26
"""How many probabilities are kept: of 4 classes those of 2^24 pixels, in 256 MB."""

STEP = 0.05
"""Between the offsets that are tried, from -LIMIT to LIMIT."""

_GRID = np.round(np.arange(-LIMIT, LIMIT + STEP / 2, STEP), 2) + 0.0  # not -0.0
_SWEEPS = 50
_ALIKE = 1e-12
_BLOCK = 2**17
_SAMPLE = 2**16
_ITERATIONS = 200
_SOFTNESS = 0.25


def provide_offsets(
    run: Run,
    fold: int,
    *,
    root: str = "",
    dataset: Dataset | None = None,
    model: nn.Module | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Fit the offsets of a fold on its validation part, unless it has those of its best checkpoint.

    Args:
      run: the run; the file is written where its results go.
      fold: its number.
      root: folder of the data set, where it is no longer where the run found it.
      dataset: the data set, if one was passed to `train`.
      model: the network, likewise.
      tell: called with a line about the offsets.

    Raises:
      RunError: the validation part has no labelled pixel, or the data or the network are not those of the run.
    """
    found = find_offsets(run.fold(fold), load_trained_fold(run, fold, model))
    if found is None:
        config, dataset = load_run_data(run, root, dataset=dataset)
        segmentation = FoldSegmentation(run, config, dataset, fold, model=model)
        content = _fit(segmentation, part_items(config, run, dataset, fold)["validation"].tolist(), run)
        write_offsets(run.fold(fold).offsets, content)
        how = "fitted"
    else:
        content, how = found[1], f"{found[0]}, fitted"
    tell(_line(content, how))


def _fit(segmentation: FoldSegmentation, items: Sequence[int], run: Run) -> Offsets:
    trained, classes = segmentation.trained, len(segmentation.trained.class_names)
    truth, scores = collect(segmentation, items)
    if not truth.size:
        raise RunError(
            f"The validation part of fold {trained.fold} of {run.path} has no labelled pixel, so no offsets can be "
            "fitted. Leave offsets out."
        )
    offsets = fit_offsets(truth, scores)
    before, after = (class_iou(count(truth, scores, each)) for each in (np.zeros(classes), offsets))
    return {
        "format": FORMAT,
        "fold": trained.fold,
        "step": trained.step,
        "weights": trained.fingerprint(),
        "class_names": list(trained.class_names),
        "offsets": offsets.tolist(),
        "images": len(items),
        "pixels": truth.size,
        "before": _reached(before),
        "after": _reached(after),
    }


def _reached(values: NDArray[np.float64]) -> Reached:
    return {"mean_iou": float(values[-1]), "iou": [number_or_none(value) for value in values[:-1]]}


def _line(content: Offsets, how: str) -> str:
    named = zip(content["class_names"], content["offsets"], strict=True)
    moved = ", ".join(f"{name} {offset:+g}" for name, offset in named if offset) or "0 for every class"
    images = f"{content['images']} validation image" + "s" * (content["images"] != 1)
    before, after = percent(content["before"]["mean_iou"]), percent(content["after"]["mean_iou"])
    return f"fold {content['fold']}: offsets {moved} ({how} on {images}: mean IoU {before} % before, {after} % after)"


def collect(
    segmentation: FoldSegmentation, items: Sequence[int], values: int = VALUES
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return what the last round says of the labelled pixels of items.

    Args:
      segmentation: the fold's network, without offsets.
      items: of the data set.
      values: how many to keep about; of more every n-th row, counted through all items.

    Returns:
      The true class `[N]` uint8, and the logarithm of the probabilities `[K, N]` float32.
    """
    dataset, classes = segmentation.dataset, len(segmentation.trained.class_names)
    shapes = [dataset.labels[item].shape for item in items]
    step = max(1, -(-classes * sum(height * width for height, width in shapes) // values))
    starts = np.cumsum([0, *(height for height, _ in shapes)])
    pixels = sum(len(range(-start % step, h, step)) * w for start, (h, w) in zip(starts.tolist(), shapes, strict=False))
    truth, scores = np.empty(pixels, np.uint8), np.empty((classes, pixels), np.float32)
    size = 0
    for item, start in zip(items, starts.tolist(), strict=False):
        for first, probabilities in segmentation.probabilities(item):
            kept = slice(-(start + first) % step, None, step)
            label = dataset.labels[item][first : first + len(probabilities)][kept]
            counted = label < classes
            end = size + int(counted.sum())
            truth[size:end] = label[counted]
            positive = np.maximum(probabilities[kept][counted], np.finfo(np.float32).tiny)
            scores[:, size:end] = np.log(positive).T
            size = end
    return truth[:size], scores[:, :size]


def fit_offsets(truth: NDArray[np.uint8], scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the offsets with the largest mean IoU that a search along one class after the other finds.

    The class with the most true pixels keeps 0, since only differences count, and so does a class without any. Each
    of the others in turn takes the best of all offsets in steps of `STEP`, the smaller where several are as good, until
    none changes. The search begins twice: at 0, and where each class is given about as many pixels as it has.

    Args:
      truth: true class `[N]`.
      scores: logits, or logarithms of probabilities, `[K, N]`.

    Returns:
      `[K]`; zeros unless the mean IoU of argmax(scores + offsets) is higher with something else.
    """
    nothing = np.zeros(len(scores))
    every = max(1, truth.size // _SAMPLE)
    starts = nothing, _with_true_areas(truth[::every], scores[:, ::every])
    found = [nothing, *(_search(truth, scores, start) for start in starts)]
    return max(found, key=lambda offsets: float(class_iou(count(truth, scores, offsets))[-1]))


def _with_true_areas(truth: NDArray[np.uint8], scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return offsets with which each class gets about as many pixels as the truth has (Sinkhorn's iteration)."""
    pixels = np.bincount(truth, minlength=len(scores))
    present = np.flatnonzero(pixels)
    shares, found = pixels[present] / truth.size, np.zeros(len(present))
    for _ in range(_ITERATIONS):
        soft = special.softmax((scores[present] + found[:, None]) / _SOFTNESS, axis=0)
        found += _SOFTNESS * np.log(shares / soft.mean(axis=1))
    found -= found[shares.argmax()]
    offsets = np.zeros(len(scores))
    offsets[present] = _GRID[np.abs(_GRID - found[:, None]).argmin(axis=1)]
    return offsets


def _search(truth: NDArray[np.uint8], scores: NDArray[np.float32], start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return offsets of which no single one could be better, beginning at some."""
    pixels, offsets = np.bincount(truth, minlength=len(scores)), start.copy()
    movable = [index for index in np.flatnonzero(pixels).tolist() if index != pixels.argmax()]
    for _ in range(_SWEEPS):
        before = offsets.copy()
        for index in movable:
            values = class_iou(_along(truth, scores, offsets, index))[:, -1]
            best = _GRID[values >= values.max() - _ALIKE]
            offsets[index] = best[np.abs(best).argmin()]
        if np.array_equal(offsets, before):
            break
    return offsets


def count(truth: NDArray[np.uint8], scores: NDArray[np.float32], offsets: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the confusion matrix of argmax(scores + offsets), `[K, K]`, rows truth."""
    classes = len(scores)
    total = np.zeros(classes**2, np.int64)
    for label, block in _blocks(truth, scores):
        chosen = (block + offsets.astype(np.float32)[:, None]).argmax(axis=0)
        total += np.bincount(label * classes + chosen, minlength=classes**2)
    return total.reshape(classes, classes)


def _along(
    truth: NDArray[np.uint8], scores: NDArray[np.float32], offsets: NDArray[np.float64], index: int
) -> NDArray[np.int64]:
    """Return the confusion matrices for every offset of one class, `[G, K, K]`, the others left as they are."""
    classes, grid = len(scores), _GRID.astype(np.float32)
    bins = len(grid) + 1
    total = np.zeros(classes**2 * bins, np.int64)
    for label, block in _blocks(truth, scores):
        others = block + offsets.astype(np.float32)[:, None]
        others[index] = -np.inf
        other = others.argmax(axis=0)
        lead = np.take_along_axis(others, other[None], axis=0)[0] - block[index]
        # a pixel belongs to the class from the first offset on that is larger than the lead of the best other one
        needed = np.searchsorted(grid, lead, side="right")
        total += np.bincount((label * classes + other) * bins + needed, minlength=total.size)
    counts = total.reshape(classes, classes, bins)
    won = counts.cumsum(axis=-1)[..., :-1]
    left = counts.sum(axis=-1, keepdims=True) - won
    left[:, index] += won.sum(axis=1)
    return np.moveaxis(left, -1, 0)


def _blocks(
    truth: NDArray[np.uint8], scores: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Yield true class and scores of so many pixels that what is made of them stays in the cache."""
    for first in range(0, truth.size, _BLOCK):
        yield truth[first : first + _BLOCK].astype(np.intp), scores[:, first : first + _BLOCK]
