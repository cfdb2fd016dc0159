"""Pictures of a run: learning curves and previews. The only file that draws."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

# Okabe & Ito 2008: told apart by colour-blind readers too; further classes repeat it darker
_COLOURS = np.array(
    [
        (240, 228, 216),
        (0, 114, 178),
        (230, 159, 0),
        (213, 94, 0),
        (0, 158, 115),
        (204, 121, 167),
        (86, 180, 233),
        (240, 228, 66),
    ],
    np.uint8,
)
_IGNORED = np.array((128, 128, 128), np.uint8)


def class_colours(classes: int) -> NDArray[np.uint8]:
    """Return one colour a class, `[K, 3]` uint8 RGB."""
    repeats = -(-classes // len(_COLOURS))
    shades = [(_COLOURS * 0.7**shade).astype(np.uint8) for shade in range(repeats)]
    return np.concatenate(shades)[:classes]


def colour_label(label: NDArray[np.integer], classes: int) -> NDArray[np.uint8]:
    """Return a label image `[H, W]` as colours `[H, W, 3]` uint8; ignored pixels are grey."""
    palette = np.concatenate([class_colours(classes), np.tile(_IGNORED, (256 - classes, 1))])
    return palette[np.minimum(label, 255)]


def draw_curves(
    path: Path, train: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]], class_names: Sequence[str]
) -> None:
    """Draw training loss and validation IoU over epochs.

    Args:
      path: of the PNG.
      train: records with ``epoch`` and ``loss``.
      validation: records with ``epoch``, ``mean_iou`` and ``iou`` (by class, None for an absent one).
      class_names: in class order.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    loss_axes, iou_axes = figure.subplots(1, 2)
    # dots, because one epoch makes no line
    line = {"linewidth": 1.2, "marker": "." if len(train) < 60 else "", "markersize": 4}
    loss_axes.plot([r["epoch"] for r in train], [r["loss"] for r in train], color="black", **line)
    loss_axes.set(xlabel="epoch", ylabel="loss (all rounds)", title="training", yscale="log")
    epochs = [r["epoch"] for r in validation]
    for name, colour in zip(class_names, class_colours(len(class_names)) / 255 * 0.85, strict=True):
        values = [np.nan if r["iou"][name] is None else r["iou"][name] for r in validation]
        iou_axes.plot(epochs, values, color=colour, label=name, **line)
    iou_axes.plot(epochs, [r["mean_iou"] for r in validation], color="black", label="mean", **line | {"linewidth": 2})
    iou_axes.set(xlabel="epoch", ylabel="IoU", title="validation", ylim=(0, 1))
    # beside the curves: a rare class lies at the bottom, where a legend would hide it
    iou_axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize="small", frameon=False)
    loss_axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss_axes.yaxis.set_major_formatter("{x:g}")
    loss_axes.yaxis.set_minor_formatter("")
    for axes in (loss_axes, iou_axes):
        axes.grid(alpha=0.3)
    _save(figure, path)


def draw_previews(
    path: Path,
    images: NDArray[np.floating],
    labels: NDArray[np.integer],
    rounds: NDArray[np.integer],
    class_names: Sequence[str],
) -> None:
    """Draw image, truth and the segmentation of every round, one row an image.

    Args:
      path: of the PNG.
      images: `[N, H, W, C]`; the first channel is shown.
      labels: `[N, H, W]`, 255 = ignore.
      rounds: `[R, N, H, W]` predicted classes.
      class_names: in class order.
    """
    classes = len(class_names)
    titles = ["image", "truth", *(f"round {r + 1}" for r in range(len(rounds)))]
    figure = Figure(figsize=(2.6 * len(titles), 2.6 * len(images) + 0.4), layout="constrained")
    grid = figure.subplots(len(images), len(titles), squeeze=False)
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        low, high = np.percentile(image[..., 0], (0.5, 99.5))
        grid[row, 0].imshow(image[..., 0], cmap="gray", vmin=low, vmax=high)
        for column, classes_shown in enumerate([label, *rounds[:, row]], start=1):
            grid[row, column].imshow(colour_label(classes_shown, classes), interpolation="nearest")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    for axes in grid.flat:
        axes.set_axis_off()
    colours = class_colours(classes) / 255
    handles = [Patch(facecolor=c, edgecolor="black", label=n) for c, n in zip(colours, class_names, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(classes, 6), frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=110, format="png")
    temporary.replace(path)
