"""Image files, read as training and prediction read them and compared with a second decoder."""

import numpy as np

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.readers.image_files import read_image, read_label
from fbunet_jax.inference import images as large_images
from fbunet_jax.inference.label_values import ClassValues
from fbunet_jax.inference.outputs import write_labels
from tests.fuzz import truth
from tests.fuzz.outcomes import NotComparedError, WrongAnswerError


def judge_image(path, *, indices):
    """Read a file as an image or as a label, and compare with a second decoder."""
    read = read_label if indices else read_image
    array = read(path, _axes(path, read))
    _compare(path, array[..., None] if indices else array, indices=indices)


def _axes(path, read):
    """Return the setting of the axes that a user makes who is asked for one."""
    try:
        read(path)
    except Fault as fault:
        return "ZYX" if fault.kind == "axes-unknown" else ""
    return ""


def _compare(path, array, *, indices):
    data, tolerance = path.read_bytes(), 0
    try:
        if path.suffix == ".tif":
            expected, tolerance = truth.tiff(data)
        elif path.suffix == ".png":
            expected = truth.png(data, indices=indices)
        else:
            expected = truth.jpeg(data)
    except Exception as error:
        raise NotComparedError(f"{type(error).__name__}: {error}") from error
    found = truth.planes(array)
    if not truth.equal_planes(found, expected, tolerance):
        if tolerance:
            raise NotComparedError("damaged JPEG data, which has no checksum, is made up for in more than one way")
        sizes = [f"{len(p)} of {p[0].shape if p else ()}" for p in (found, expected)]
        raise WrongAnswerError(f"planes: {sizes[0]}, second decoder: {sizes[1]}")


def judge_large(path):
    """Read a file by bands of rows as predict does, and write the labels with its resolution."""
    large_images.WHOLE_VALUES = 64
    with large_images.open_image(path, _axes(path, read_image)) as image:
        pages = [image.rows(page)(0, image.height) for page in range(image.pages)]
        labels = np.zeros((image.pages, image.height, image.width), np.uint8)
        write_labels(path.with_name("labels.tif"), labels, image, ClassValues(("a", "b")), {})
    _compare(path, np.stack(pages), indices=False)
