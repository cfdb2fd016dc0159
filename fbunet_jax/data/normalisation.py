"""Intensity normalisation: one multiplication and one addition a channel, chosen per image, applied on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.errors import RunError
from fbunet_jax.files import read_json

_LARGEST = float(np.finfo(np.float32).max)


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


def image_percentiles(image: NDArray) -> NDArray[np.floating]:
    """Return the 1st and the 99th percentile of each channel, `[2, C]`, of an image `[H, W, C]` in its stored type."""
    return np.percentile(image.reshape(-1, image.shape[-1]), (1, 99), axis=0)


class _Normalisation(TypedDict):
    kind: Literal["standardise", "scale", "percentile"]
    mean: list[float]
    deviation: list[float]


class _Inputs(TypedDict):
    normalisation: _Normalisation


def read_normalisation(path: Path, channels: int) -> Normalisation:
    """Read what a fold's weights expect to see, from its ``inputs.json``.

    Args:
      path: of the file.
      channels: of the images.

    Raises:
      RunError: the file is missing or damaged, or does not fit the channels.
    """
    found = cast(_Inputs, read_json(path, _Inputs))["normalisation"]
    mean, deviation = found["mean"], found["deviation"]
    expected = channels if found["kind"] == "standardise" else 0
    fits = len(mean) == len(deviation) == expected and min(deviation, default=0) >= 0
    if not fits or any(isinstance(value, bool) or abs(value) > _LARGEST for value in (*mean, *deviation)):
        raise RunError(
            f"{path} is damaged: expected mean and deviation of {expected} channels for {found['kind']!r}. Copy it "
            "again if the run is a copy, or train the fold again (fresh)."
        )
    return Normalisation(found["kind"], tuple(mean), tuple(deviation))


def fit_normalisation(kind: str, images: Sequence[NDArray]) -> Normalisation:
    """Measure what the kind needs on the training images, each `[H, W, C]`."""
    if kind != "standardise":
        return Normalisation(kind)
    channels = images[0].shape[-1]
    count = sum(image.size // channels for image in images)
    mean = sum(image.sum(axis=(0, 1), dtype=np.float64) for image in images) / count
    deviation = np.sqrt(sum(np.square(image - mean).sum(axis=(0, 1)) for image in images) / count)
    return Normalisation(kind, tuple(mean.tolist()), tuple(deviation.tolist()))
