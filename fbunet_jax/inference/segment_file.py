"""One image becomes its label file, maps, overlays and numbers."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import Alpha, NoDataRule
from fbunet_jax.errors import DataError
from fbunet_jax.figures import draw_overlay
from fbunet_jax.inference.channels import open_input
from fbunet_jax.inference.images import OpenImage
from fbunet_jax.inference.inputs import InputImage
from fbunet_jax.inference.intensities import page_warning
from fbunet_jax.inference.label_values import ClassValues
from fbunet_jax.inference.measurements import PageSummary, UncertaintyMap, areas, count_objects
from fbunet_jax.inference.output_folder import OutputFolder
from fbunet_jax.inference.outputs import Planes, label_pages, stored_values, write_labels
from fbunet_jax.inference.prediction import Band
from fbunet_jax.inference.predictor import Predictor, Tiles
from fbunet_jax.user_files import suffix

OVERLAY_SIDE = 1600
"""Largest side of an overlay, in pixels."""

WriteMaps = Callable[[int, Band], None]
"""Is given every page's number and band."""

Done = Callable[[int, float], None]
"""Is told how many pixels are done now, and which share of the file that is."""


@dataclass(frozen=True)
class Settings:
    """How to segment, and which files to write besides labels; see `Predictor.bands` and the command's help.

    Attributes:
      alpha: what a channel is that is tagged as transparency, as in training.
      no_data: whether a value that stands for no data was refused in training, or kept.
      labels: whether label files hold the "values" of the classes in the data set, if they are known, or "indices".
      label_values: these values in class order; empty if they are not known.
    """

    tile: int | None = None
    overlap: int | None = None
    batch: int | None = None
    tta: bool = False
    axes: str = ""
    alpha: Alpha = "refuse"
    no_data: NoDataRule = "refuse"
    probabilities: bool = False
    uncertainty: bool = False
    overlays: bool = True
    labels: Literal["values", "indices"] = "values"
    label_values: tuple[int, ...] = ()

    def classes(self, names: tuple[str, ...]) -> ClassValues:
        """Return what label files hold for classes of these names."""
        return ClassValues(names, self.label_values, self.labels == "indices")


def segment_file(
    predictor: Predictor, given: InputImage, folder: OutputFolder, settings: Settings, done: Done
) -> list[PageSummary]:
    """Segment every page of an image, and write its results.

    Args:
      predictor: the trained folds.
      given: the image.
      folder: where the results go.
      settings: how, and which files.
      done: called as pixels are done.

    Raises:
      DataError: a file cannot be read or does not fit the network.
    """
    name = given.name
    with open_input(given, settings.axes, settings.alpha) as image:
        if image.channels != predictor.channels:
            raise DataError(other_channels(given, image.channels, predictor.channels))
        folder.labels(name).parent.mkdir(parents=True, exist_ok=True)
        pages = []
        shape = (image.pages, image.height, image.width)
        with (
            label_pages(*shape, folder.scratch(name, "labels")) as labels,
            _maps(predictor, image, folder, settings) as write_maps,
        ):
            for page in range(image.pages):
                uncertainty = _segment_page(predictor, image, page, labels[page], settings, (write_maps, done))
                pages.append(_summary(predictor, image, page, labels[page], uncertainty, no_data=settings.no_data))
                if settings.overlays:
                    overlay = folder.overlay(name, page, image.pages)
                    _write_overlay(overlay, image, page, labels[page], predictor.class_names)
            for stack in image.stacks:
                pages[stack] = _in_three_dimensions(pages[stack], labels[stack], len(predictor.class_names))
            classes = settings.classes(predictor.class_names)
            with stored_values(labels, classes, folder.scratch(name, "values")) as values:
                write_labels(folder.labels(name), values, image, classes, _origin(predictor))
    return pages


def other_channels(image: InputImage, found: int, expected: int) -> str:
    """Return what to say of an image whose channels are not those of the network."""
    files = " and ".join(map(str, image.files))
    message = (
        f"{files} {'has' if len(image.files) == 1 else 'have'} {found} channel{'s' if found != 1 else ''}, but the "
        f"network was trained with {expected}. Give images of the same kind as the training images."
    )
    if suffix(image.path) in (".tif", ".tiff"):
        message += " --axes says what the axes of a TIFF are."
    return message + (image.hint if found < expected else "")


def _segment_page(
    predictor: Predictor,
    image: OpenImage,
    page: int,
    labels: NDArray[np.uint8],
    settings: Settings,
    listeners: tuple[WriteMaps, Done],
) -> UncertaintyMap:
    """Fill the labels `[H, W]` of a page, tell the listeners of every band, and return where it is uncertain."""
    write_maps, done = listeners
    uncertainty = UncertaintyMap(image.height, image.width)
    tiles = Tiles(settings.tile, settings.overlap, settings.batch, settings.tta)
    for band in predictor.bands(image.rows(page), image.height, image.width, tiles):
        labels[band.first : band.first + len(band.labels)] = band.labels
        uncertainty.add(band.first, band.entropy, band.disagreement)
        write_maps(page, band)
        done(band.labels.size, band.labels.size / (image.pages * image.height * image.width))
    return uncertainty


def _summary(
    predictor: Predictor,
    image: OpenImage,
    page: int,
    labels: NDArray[np.uint8],
    uncertainty: UncertaintyMap,
    *,
    no_data: NoDataRule,
) -> PageSummary:
    classes = len(predictor.class_names)
    profiles = count_objects(labels[None], classes)[0].tolist()
    entropy, disagreement = uncertainty.mean()
    return PageSummary(
        image.name,
        page,
        image.height,
        image.width,
        areas(labels, classes),
        profiles,
        profiles,
        2,
        entropy,
        disagreement if len(predictor.folds) > 1 else None,
        uncertainty.regions(),
        page_warning(predictor, image, page, no_data),
    )


def _in_three_dimensions(
    sections: Sequence[PageSummary], labels: NDArray[np.uint8], classes: int
) -> Sequence[PageSummary]:
    """Return the sections of a stack, labels `[Z, H, W]`, with their objects counted once through all of them."""
    if len(sections) == 1:
        return sections
    counts = count_objects(labels, classes).tolist()
    return [replace(page, objects=objects, dimensions=3) for page, objects in zip(sections, counts, strict=True)]


@contextlib.contextmanager
def _maps(predictor: Predictor, image: OpenImage, folder: OutputFolder, settings: Settings) -> Iterator[WriteMaps]:
    """Yield a function that writes a band's probabilities and uncertainty; the files are complete afterwards."""
    name = image.name
    uncertainties = ["entropy", "disagreement"] if len(predictor.folds) > 1 else ["entropy"]
    wanted: list[tuple[Path, list[str], Any]] = []
    if settings.probabilities:
        wanted.append((folder.probabilities(name), list(predictor.class_names), np.float16))
    if settings.uncertainty:
        wanted.append((folder.uncertainty(name), uncertainties, np.float32))
    files: list[Planes] = []
    try:
        for path, planes, dtype in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            shape: tuple[int, ...] = (len(planes), image.height, image.width)
            shape = (image.pages, *shape) if image.stacked else shape
            metadata = {"planes": planes, **_origin(predictor)}
            axes = "ZCYX" if image.stacked else "CYX"
            files.append(Planes(path, axes, shape, dtype, metadata=metadata, **image.resolution))

        def write(page: int, band: Band) -> None:
            arrays = [band.uncertainty[..., : len(uncertainties)]]
            if settings.probabilities:
                arrays.insert(0, band.probabilities)
            for file, values in zip(files, arrays, strict=False):
                count = values.shape[-1]
                for plane in range(count):
                    file.write(page * count + plane, band.first, values[..., plane])

        yield write
        for file in files:
            file.finish()
    finally:
        for file in files:
            file.discard()


def _write_overlay(
    path: Path, image: OpenImage, page: int, labels: NDArray[np.uint8], class_names: Sequence[str]
) -> None:
    """Draw a page under its labels; of a large page the means of n x n pixels and every n-th label."""
    rows = image.rows(page)
    step = -(-max(image.height, image.width) // OVERLAY_SIDE)
    # what is left of an image smaller than a step is drawn whole
    height, width = max(image.height // step, 1), max(image.width // step, 1)
    step_y, step_x = min(step, image.height), min(step, image.width)
    shown = [
        rows(row * step_y, (row + 1) * step_y)[:, : width * step_x]
        .reshape(step_y, width, step_x, image.channels)
        .mean(axis=(0, 2), dtype=np.float32)
        for row in range(height)
    ]
    picked = labels[step_y // 2 :: step_y, step_x // 2 :: step_x][:height, :width]
    draw_overlay(path, np.stack(shown), picked, class_names)


def _origin(predictor: Predictor) -> dict[str, Any]:
    """Return what the metadata of every file say: the step of each fold's checkpoint, and offsets if there are any."""
    steps = {str(fold.fold): fold.step for fold in predictor.folds}
    offsets = predictor.offsets
    return {"program": "fbunet_jax", "folds": steps} | ({"offsets": offsets} if offsets else {})
