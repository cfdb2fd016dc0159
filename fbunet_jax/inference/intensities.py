"""Warnings where an image's intensities are so far from the training images that its segmentation means nothing."""

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import NoDataRule
from fbunet_jax.data.no_data import find_no_data
from fbunet_jax.inference.images import OpenImage
from fbunet_jax.inference.predictor import Predictor, sample_rows
from fbunet_jax.pipeline.normalisation import Normalisation

FAR_MEAN, FAR_SPREAD = 8.0, 20.0
"""Further from the training images than staining and exposure vary; another bit depth is."""
UNUSED = 100
"""With `scale`, an integer type of which less than this part is used is too large for its values."""
_SLACK = 0.5
_SAMPLE_PIXELS = 2**20


def page_warning(predictor: Predictor, image: OpenImage, page: int, no_data: NoDataRule = "refuse") -> str:
    """Return what does not fit the network in a page: its intensities, or, once for each, its type and range.

    See `intensity_warning` and `fbunet_jax.inference.image_kinds.KindWatch`.
    """
    sample = sample_rows(image.rows(page), image.height, image.width, _SAMPLE_PIXELS)
    name = f"{image.path}, page {page}" if image.pages > 1 else f"{image.path}"
    kind = predictor.kinds.word(name, sample)
    word = intensity_warning(predictor.folds[0].normalisation, name, sample, no_data)
    return " ".join(filter(None, (word, kind)))


def intensity_warning(normalisation: Normalisation, name: str, sample: NDArray, no_data: NoDataRule = "refuse") -> str:
    """Return a sentence where the intensities of an image do not fit the network, or an empty string.

    A run stores the mean and deviation of its training images with `standardise` only. With `scale` the network sees
    0 to 1, so that floats outside and integers that hardly use their type are told; with `percentile` any range is
    brought to 0 to 1, so that only an image of one value is.

    Args:
      normalisation: of the network.
      name: of the image or page, for the sentence.
      sample: `[rows, W, C]` as stored.
      no_data: "keep" where training kept a value that looks like a mark for no data.
    """
    values = sample.reshape(-1, sample.shape[-1])
    if len(values) > 1 and (values == values[0]).all() and not _constant_in_training(normalisation):
        return f"{name}: the image is constant ({_numbers(values[0])}); there is nothing to segment."
    if no_data == "refuse" and (found := find_no_data(sample)):
        return (
            f"{name}: {100 * found.share:.2g} % of the intensities are {found.value:.8g}, which looks like a mark for "
            "no data; the segmentation means nothing there, and little near it."
        )
    if normalisation.kind == "standardise":
        return _far_from_training(normalisation, name, values)
    if normalisation.kind == "scale":
        return _badly_scaled(name, values)
    low, high = np.percentile(values, (1, 99), axis=0)
    if len(values) > 1 and np.any(low == high):
        return (
            f"{name}: the 1st and the 99th percentile of the intensities are the same ({_numbers(low)}), so the image "
            "could not be normalised; the segmentation means little."
        )
    return ""


def _constant_in_training(normalisation: Normalisation) -> bool:
    return normalisation.kind == "standardise" and not any(normalisation.deviation)


def _far_from_training(normalisation: Normalisation, name: str, values: NDArray) -> str:
    mean, spread = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    expected, known = np.array(normalisation.mean), np.array(normalisation.deviation)
    deviation = np.maximum(known, 1e-12)
    far = np.any(np.abs(mean - expected) >= FAR_MEAN * deviation) or np.any(spread >= FAR_SPREAD * deviation)
    # one pixel has no spread, and a channel that was constant in training needs none
    collapsed = len(values) > 1 and bool(np.any((spread < known / FAR_SPREAD) & (known > 0)))
    if not far and not collapsed:
        return ""
    return (
        f"{name}: the mean intensity is {_numbers(mean)} with a deviation of {_numbers(spread)}, in the training "
        f"images it was {_numbers(expected)} with a deviation of {_numbers(deviation)}. If the file has another bit "
        "depth or unit, convert it; the segmentation means nothing otherwise."
    )


def _badly_scaled(name: str, values: NDArray) -> str:
    low, high = values.min(), values.max()
    if not np.issubdtype(values.dtype, np.integer):
        if low >= -_SLACK and high <= 1 + _SLACK:
            return ""
        expected = "floating-point intensities are used as they are with the normalisation scale: expected 0 to 1"
    else:
        largest = np.iinfo(values.dtype).max
        if high >= largest / UNUSED:
            return ""
        expected = f"integers are divided by the largest value of their type, {largest}, with the normalisation scale"
    return (
        f"{name}: the intensities are from {low:.4g} to {high:.4g} ({values.dtype}); {expected}. If the training "
        "images had another type, convert the file to it; the segmentation means nothing otherwise."
    )


def _numbers(values: NDArray) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
