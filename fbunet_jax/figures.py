"""Pictures of a run: learning curves and previews. The only file that draws.

They are the same whatever the user's Matplotlib settings say, which are neither needed nor changed.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont


@contextlib.contextmanager
def _without_user_settings() -> Iterator[None]:
    """Let Matplotlib be imported without a notebook's backend, and without the user's matplotlibrc."""
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        del sys.modules[name]  # left by the import that failed: the package would not have it as an attribute
    (package,) = importlib.util.find_spec("matplotlib").submodule_search_locations  # type: ignore[union-attr,misc]
    data = str(Path(package) / "mpl-data")
    # the current folder is looked through first
    with mock.patch.dict(os.environ, {"MPLBACKEND": "agg", "MATPLOTLIBRC": data}), contextlib.chdir(data):
        yield


try:
    import matplotlib
except ImportError:
    raise
except Exception:  # it checks the user's settings when it is imported
    with _without_user_settings():
        import matplotlib

from matplotlib import colormaps  # noqa: E402 (after the settings)
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from matplotlib.ticker import LogLocator  # noqa: E402

_DEFAULTS: Any = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}


@contextlib.contextmanager
def _own_style() -> Iterator[None]:
    """Draw in Matplotlib's default style. PNGs are drawn by Agg whatever the backend of windows is."""
    with matplotlib.rc_context(_DEFAULTS):
        yield


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


@_own_style()
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


@_own_style()
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
    _add_legend(figure, class_names)
    _save(figure, path)


def show_image(image: NDArray) -> NDArray[np.uint8]:
    """Return an image `[H, W, C]` of any type as `[H, W, 3]` uint8 between its 0.5th and 99.5th percentile.

    Three channels become red, green and blue; of any other number the first is shown in grey.
    """
    shown = image.astype(np.float32) if image.shape[-1] == 3 else image[..., :1].astype(np.float32)
    low, high = np.percentile(shown, (0.5, 99.5))
    scaled = (255 * (shown - low) / max(high - low, 1e-12)).clip(0, 255).astype(np.uint8)
    return np.broadcast_to(scaled, (*scaled.shape[:2], 3))


def blend_label(
    shown: NDArray[np.uint8], label: NDArray[np.integer], classes: int, opacity: float = 0.5
) -> NDArray[np.uint8]:
    """Return a picture `[H, W, 3]` under the colours of a label image `[H, W]`."""
    mixed = (1 - opacity) * shown.astype(np.float32) + opacity * colour_label(label, classes)
    return mixed.round().astype(np.uint8)


def colour_values(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return values `[H, W]` as colours `[H, W, 3]`, dark to bright between the 0.5th and 99.5th percentile."""
    low, high = np.percentile(values, (0.5, 99.5))
    return (colormaps["viridis"]((values - low) / max(high - low, 1e-12))[..., :3] * 255).round().astype(np.uint8)


@_own_style()
def draw_differences(
    path: Path,
    class_names: Sequence[str],
    runs: Sequence[tuple[str, NDArray[np.floating], NDArray[np.floating], Sequence[tuple[float, float] | None]]],
    baseline: str,
) -> None:
    """Draw the differences in IoU of some runs to another, one row a class, one column a run.

    Args:
      path: of the PNG.
      class_names: what the rows are called, from above.
      runs: of each its name, differences in percentage points: of the folds `[folds, rows]`, of their summed counts
        `[rows]`, and an interval of these or None.
      baseline: name of the run that the others are compared with.
    """
    figure = Figure(figsize=(2.2 + 3.2 * len(runs), 1.3 + 0.42 * len(class_names)), layout="constrained")
    grid = figure.subplots(1, len(runs), squeeze=False, sharey=True, sharex=True)[0]
    rows = np.arange(len(class_names))
    for axes, (name, differences, summed, intervals) in zip(grid, runs, strict=True):
        axes.axvline(0, color="0.5", linewidth=1)
        for fold in differences:
            axes.plot(fold, rows + 0.18, "o", color="0.6", markersize=4, linestyle="none")
        for row, interval in enumerate(intervals):
            if interval:
                axes.plot(interval, (row - 0.12, row - 0.12), color="black", linewidth=2)
        axes.plot(summed, rows - 0.12, "D", color="#0072b2", markersize=6, linestyle="none")
        axes.set(title=name, xlabel="percentage points of IoU")
        axes.grid(axis="x", alpha=0.3)
    # two or three folds give intervals that would squeeze the differences into a line: they run off the frame
    spread = max((np.nanmax(np.abs(d)) for _, d, _, _ in runs if not np.isnan(d).all()), default=1.0)
    limit = max(1.0, 2 * spread)
    grid[0].set_xlim(-limit, limit)
    is_cut = any(max(-low, high) > limit for *_, intervals in runs for low, high in filter(None, intervals))
    grid[0].set_yticks(rows, class_names)
    grid[0].set_ylim(len(class_names) - 0.5, -0.5)
    cut = ", cut off at the frame" if is_cut else ""
    figure.suptitle(f"Difference to {baseline}: folds (grey), all together, 95 % interval{cut}", fontsize="medium")
    _save(figure, path)


class TableRow(NamedTuple):
    """One method of a figure of `draw_table`.

    Attributes:
      name: of the method.
      cells: IoU in % of each of its trainings `[N, columns]`; N may be 0.
      mean: of them, `[columns]`, NaN for none.
      deviation: of them, likewise.
      paper: what it is compared with, likewise.
    """

    name: str
    cells: NDArray[np.floating]
    mean: NDArray[np.floating]
    deviation: NDArray[np.floating]
    paper: NDArray[np.floating]


@_own_style()
def draw_table(path: Path, columns: Sequence[str], rows: Sequence[TableRow], title: str) -> None:
    """Draw the IoU of methods, one row a method, one panel a column: every training, mean and deviation, the paper's.

    Args:
      path: of the PNG.
      columns: what the panels are called.
      rows: the methods, from above.
      title: of the figure.
    """
    figure = Figure(figsize=(2.4 + 2.5 * len(columns), 1.9 + 0.36 * len(rows)), layout="constrained")
    grid = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    places = np.arange(len(rows))
    mean = {"fmt": "D", "color": "#0072b2", "markersize": 5, "capsize": 3}
    for column, (axes, name) in enumerate(zip(grid, columns, strict=True)):
        for place, row in zip(places, rows, strict=True):
            values = row.cells[:, column]
            axes.plot(values, np.full(len(values), place + 0.22), "o", color="0.6", markersize=3, label="each training")
        means, deviations, paper = (
            np.array([each[column] for each in part], np.float64)
            for part in ([r.mean for r in rows], [r.deviation for r in rows], [r.paper for r in rows])
        )
        axes.errorbar(means, places, xerr=np.nan_to_num(deviations), label="mean, deviation", **mean)
        axes.plot(paper, places - 0.22, "v", color="#d55e00", markersize=5, linestyle="none", label="paper")
        axes.set(title=name, xlabel="IoU in %")
        axes.grid(alpha=0.3)
    grid[0].set_yticks(places, [row.name for row in rows])
    grid[0].set_ylim(len(rows) - 0.5, -0.5)
    handles = dict(zip(*reversed(grid[0].get_legend_handles_labels()), strict=True))
    if np.isnan([row.paper for row in rows]).all():
        handles.pop("paper")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title, fontsize="medium")
    _save(figure, path)


def _add_legend(figure: Figure, class_names: Sequence[str]) -> None:
    classes = len(class_names)
    colours = class_colours(classes) / 255
    handles = [Patch(facecolor=c, edgecolor="black", label=n) for c, n in zip(colours, class_names, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(classes, 6), frameon=False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[-40:]}")  # a name that is as long as the disk takes leaves no room
    figure.savefig(temporary, dpi=110, format="png")
    temporary.replace(path)


def draw_overlay(
    path: Path, image: NDArray, label: NDArray[np.integer], class_names: Sequence[str], opacity: float = 0.35
) -> None:
    """Draw an image under the transparent colours of its segmentation, with their outlines and a legend below.

    The first class, which is the background in most data sets, is left clear, so that the image can be judged.

    Args:
      path: of the PNG, one pixel of the image each.
      image: `[H, W, C]` of any type, see `show_image`.
      label: `[H, W]`.
      class_names: in class order.
      opacity: of the colours.
    """
    classes = len(class_names)
    shown = show_image(image)
    outline = np.zeros(label.shape, bool)
    outline[:, 1:] |= label[:, 1:] != label[:, :-1]
    outline[1:] |= label[1:] != label[:-1]
    coloured = blend_label(shown, label, classes, opacity)
    picture = np.where((label > 0)[..., None], coloured, shown)
    picture = np.where((outline & (label > 0))[..., None], colour_label(label, classes), picture)
    font = ImageFont.load_default(size=14)
    entries, left, top = [], 6, 0
    for name, colour in list(zip(class_names, class_colours(classes), strict=True))[1:]:
        length = 24 + int(font.getlength(name)) + 14
        if left > 6 and left + length > max(label.shape[1], 200):
            left, top = 6, top + 22
        entries.append((left, top, name, tuple(colour.tolist())))
        left += length
    height, width = label.shape
    canvas = Image.new("RGB", (max(width, 200), height + top + 24), "white")
    canvas.paste(Image.fromarray(picture.astype(np.uint8)), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for left, top, name, colour in entries:
        draw.rectangle((left, height + top + 5, left + 16, height + top + 19), fill=colour, outline="black")
        draw.text((left + 22, height + top + 3), name, fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[-40:]}")  # a name that is as long as the disk takes leaves no room
    canvas.save(temporary, format="PNG")
    temporary.replace(path)
