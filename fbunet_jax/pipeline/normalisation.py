"""Intensity normalisation: one multiplication and one addition a channel, chosen per image, applied on the device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.data.cutting import image_percentiles
from fbunet_jax.data.datasets import Dataset


@dataclass(frozen=True)
class Normalisation:
    """How stored intensities become model inputs; travels with the run.

    Attributes:
      kind: ``"standardise"`` (mean 0, deviation 1 over the training part), ``"scale"`` (0 to 1 over the range of the
        integer type; floats as they are) or ``"percentile"`` (1st to 0, 99th to 1, per image).
      mean: of each channel over the training part, in stored intensity.
      deviation: standard deviation of each channel, likewise.
    """

    kind: str
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def affine(
        self, image: NDArray, percentiles: NDArray | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return scale and shift `[C]` float32, so that ``image * scale + shift`` is the model's input.

        Args:
          image: `[H, W, C]` in its stored type.
          percentiles: `[2, C]`, see `image_percentiles`, of the image that this one is a part of; by default its own.
        """
        channels = image.shape[-1]
        if self.kind == "standardise":
            low = np.asarray(self.mean)
            span = np.asarray(self.deviation)
        elif self.kind == "scale":
            low = np.zeros(channels)
            integer = np.issubdtype(image.dtype, np.integer)
            span = np.full(channels, float(np.iinfo(image.dtype).max) if integer else 1.0)
        else:
            low, high = image_percentiles(image) if percentiles is None else percentiles
            span = high - low
        span = np.where(span > 0, span, 1.0)  # a constant channel carries nothing: it becomes 0
        return (1 / span).astype(np.float32), (-low / span).astype(np.float32)

    def affine_of(self, dataset: Dataset, item: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return scale and shift `[C]` float32 of an item of a data set, see `affine`."""
        percentiles = dataset.percentiles
        return self.affine(dataset.images[item], None if percentiles is None else percentiles[item])


@dataclass(frozen=True)
class ImageKind:
    """What the training images are; travels with the run, so that others can be compared.

    Attributes:
      dtype: name of their type, as stored.
      lowest: of all their values.
      highest: of what is `bright` in each of them.
    """

    dtype: str
    lowest: float
    highest: float


def bright(image: NDArray) -> float:
    """Return the value that 99.9 % of the values of an image do not exceed: a hot pixel says nothing of its range."""
    return float(np.percentile(image, 99.9, method="higher"))


def measure_kind(images: Sequence[NDArray]) -> ImageKind:
    """Return what images `[H, W, C]` of one type are."""
    lowest, highest = min(image.min() for image in images), max(map(bright, images))
    return ImageKind(str(images[0].dtype), float(lowest), float(highest))


def fit_normalisation(kind: str, images: Sequence[NDArray]) -> Normalisation:
    """Measure what the kind needs on the training images, each `[H, W, C]`."""
    if kind != "standardise":
        return Normalisation(kind)
    channels = images[0].shape[-1]
    count = sum(image.size // channels for image in images)
    mean = sum(image.sum(axis=(0, 1), dtype=np.float64) for image in images) / count
    deviation = np.sqrt(sum(np.square(image - mean).sum(axis=(0, 1)) for image in images) / count)
    return Normalisation(kind, tuple(mean.tolist()), tuple(deviation.tolist()))
