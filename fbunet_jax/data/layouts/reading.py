"""The files of a unit become its image, channels joined, and its labels, objects and pages joined."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import DataConfig
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.layouts.description import Description
from fbunet_jax.data.layouts.sources import Reading, Unit, check_pair
from fbunet_jax.data.readers.image_files import read_image, read_label


def read_unit(unit: Unit, description: Description, config: DataConfig) -> Reading:
    """Read the files of a unit.

    Args:
      unit: image files, one a channel, and label files.
      description: what the files mean.
      config: what becomes of alpha channels and of values for no data.

    Raises:
      DataError: a file cannot be used, or does not fit the others.
    """
    files = description.files
    axes, image_file = description.axes, unit.image_files[0]
    images = join_channels(
        [read_image(file, axes, config.alpha, config.no_data) for file in unit.image_files], unit.image_files
    )
    labelled: Sequence[int] | None = None
    if unit.label_pages:
        labels, labelled = _pages(unit, images, description)
    elif files.objects == "files":
        labels = _objects(unit, images, axes)
    else:
        labels = read_label(unit.label_files[0], axes)
        check_pair(image_file, images, unit.label_files[0], labels)
        if files.sparse and len(labels) > 1:
            labelled = [page for page, label in enumerate(labels) if label.any()]
    ignored = description.ignore_value
    if (
        files.objects == "numbered"
        and ignored is not None
        and all((labels == ignored + step).any() for step in (-1, 0, 1))
    ):
        found = f"numbers objects {ignored - 1}, {ignored} and {ignored + 1}, and ignore_value is {ignored}."
        raise Fault("classes", unit.label_files[0], found, "Remove ignore_value, or give ignored pixels another value.")
    return Reading(images, classes_of(labels, description), labelled)


def join_channels(parts: Sequence[NDArray], files: Sequence[Path]) -> NDArray:
    """Return the channels `[pages, H, W, C]` of an image that lie in several files.

    Raises:
      Fault: they differ in size or type.
    """
    check_channels(parts, files)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def check_channels(parts: Sequence[NDArray], files: Sequence[Path]) -> None:
    """Raise a Fault for channels `[pages, H, W, C]` in several files that differ in size or type."""
    for file, part in zip(files, parts, strict=True):
        if part.shape[:3] != parts[0].shape[:3] or part.dtype != parts[0].dtype:
            raise Fault(
                "channel-size",
                file,
                f"has {' x '.join(map(str, part.shape[:3]))} pixels of {part.dtype}, but {files[0]} has "
                f"{' x '.join(map(str, parts[0].shape[:3]))} of {parts[0].dtype}.",
                "Export the channels of an image from the same file.",
            )


def classes_of(labels: NDArray, description: Description) -> NDArray:
    """Return 0 and 1 for labels that number objects, the ignored value apart; other labels as they are."""
    if description.files.objects == "none":
        return labels
    marked = (labels != 0).astype(np.int64 if description.ignore_value is not None else np.uint8)
    if description.ignore_value is not None:
        marked[labels == description.ignore_value] = description.ignore_value
    return marked


def object_faults(description: Description) -> list[Fault]:
    """Return what is wrong with the classes of labels that show objects."""
    objects, classes = description.files.objects, description.classes
    if objects == "none" or not classes or list(classes.values()) == [0, 1]:
        return []
    found = f'files.objects = "{objects}" has the classes {classes}: expected two, 0 and 1.'
    remedy = 'Objects of several classes need labels with the values of the classes: files.objects = "none".'
    return [Fault("classes", "", found, remedy)]


def _objects(unit: Unit, images: NDArray, axes: str) -> NDArray:
    """Return the objects of an image, each in a file of its own, numbered from 1 in the order of the files."""
    numbers = np.zeros(images.shape[:3], np.uint16 if len(unit.label_files) < 2**16 else np.uint32)
    for number, file in enumerate(unit.label_files, start=1):
        mask = read_label(file, axes)
        check_pair(unit.image_files[0], images, file, mask)
        numbers[mask != 0] = number
    return numbers


def _pages(unit: Unit, images: NDArray, description: Description) -> tuple[NDArray, Sequence[int]]:
    """Return the labels of the pages that have a file, and which these are.

    Raises:
      Fault: a page has no label and not only some have, or a label has no page.
    """
    first, sparse = description.files.first_page, description.files.sparse
    of_page = {page - first: file for page, file in zip(unit.label_pages, unit.label_files, strict=True)}
    stray = next((page for page in sorted(of_page) if not 0 <= page < len(images)), None)
    image = unit.image_files[0]
    if stray is not None:
        found = f"is the label of page {stray + first}, but {image} has the pages {first} to {first + len(images) - 1}."
        raise Fault("missing-page", of_page[stray], found, "Set files.first_page to the number of the first page.")
    lacking = [page for page in range(len(images)) if page not in of_page]
    if lacking and not sparse:
        found = f"has {len(images)} pages, and there is no label for page {lacking[0] + first}."
        remedy = "Add it; or set files.sparse = true, if only some pages are labelled."
        raise Fault("missing-page", image, found, remedy)
    labels: NDArray | None = None
    for page, file in sorted(of_page.items()):
        label = read_label(file, description.axes)
        check_pair(image, images[page : page + 1], file, label)
        if labels is None:
            labels = np.zeros(images.shape[:3], label.dtype)
        labels = labels.astype(np.promote_types(labels.dtype, label.dtype), copy=False)
        labels[page] = label[0]
    assert labels is not None  # a unit has a label file
    return labels, sorted(of_page)
