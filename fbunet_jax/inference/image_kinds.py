"""Images of another type, or number of bits, than the training images: said once for each."""

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fbunet_jax.pipeline.normalisation import bright
from fbunet_jax.runs.trained import TrainedFold

_BRIGHTER, _DARKER = 4.0, 0.1
"""Of integers: 12 bits in 16 use a sixteenth of the range; exposure varies less."""
_FLOAT_BRIGHTER, _FLOAT_DARKER = 10.0, 0.02


class KindWatch:
    """Compares images with the training images of a fold; runs of earlier versions do not say what these were.

    With the normalisation percentile every type and range is brought to 0 to 1, so that nothing is said. With scale,
    integers are divided by the largest value of their type: what counts is which part of it they use.
    """

    def __init__(self, fold: TrainedFold) -> None:
        self._known, self._normalisation = fold.images, fold.normalisation.kind
        self._said: set[tuple[str, str]] = set()

    def word(self, name: str, pixels: NDArray, given: DTypeLike | None = None) -> str:
        """Return a sentence for the first image of its type that differs from the training images, or an empty string.

        Args:
          name: of the image, for the sentence.
          pixels: of any shape, as stored.
          given: the type before 64 bits were made 32, which NumPy gives to lists: then only the range counts.
        """
        known = self._known
        if known is None or self._normalisation == "percentile" or not pixels.size:
            return ""
        dtype, lowest, highest = pixels.dtype.name, float(pixels.min()), bright(pixels)
        is_wide = given is not None and np.dtype(given).kind in "iu" and np.dtype(given).itemsize > 4
        same = dtype == known.dtype or is_wide
        used, expected = highest, known.highest
        if self._normalisation == "scale":
            used, expected, same = highest / _full(dtype), known.highest / _full(known.dtype), True
        difference = "type" if not same else _difference(used, expected, known.dtype) if lowest < highest else ""
        key = dtype, difference
        if not difference or key in self._said:
            return ""
        self._said.add(key)
        return (
            f"{name} holds values of type {dtype} from {lowest:.4g} to {highest:.4g} (99.9 % of them); the network was "
            f"trained on {known.dtype} from {known.lowest:.4g} to {known.highest:.4g}. If that is another type or "
            "number of bits for the same brightness, convert it; the segmentation may mean nothing otherwise. (Said "
            "once for images of this type.)"
        )


def _difference(used: float, expected: float, dtype: str) -> str:
    """Return "brighter" or "darker" where the bright values differ by more than exposure does."""
    is_float = np.dtype(dtype).kind == "f"
    brighter, darker = (_FLOAT_BRIGHTER, _FLOAT_DARKER) if is_float else (_BRIGHTER, _DARKER)
    if expected <= 0:
        return ""
    return "brighter" if used >= brighter * expected else "darker" if used <= darker * expected else ""


def _full(dtype: str) -> float:
    return float(np.iinfo(dtype).max) if np.dtype(dtype).kind in "iu" else 1.0
