"""The segmentation of an image or of some of its rows: labels, probabilities, entropy, disagreement."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """The segmentation of an image; of a stack every array has the pages in front.

    Attributes:
      labels: `[H, W]` uint8, class index.
      probabilities: `[H, W, K]` float32, mean over the folds.
      entropy: `[H, W]` float32 of the mean probabilities, divided by log K: 0 is certain, 1 is all classes alike.
      disagreement: `[H, W]` float32, mutual information between class and fold, divided by log K: 0 where the folds
        agree; the part of the entropy that more labelled images would reduce. None with one fold.
      class_names: in class order.

    Example:
      >>> import numpy as np
      >>> from fbunet_jax import load
      >>> prediction = load("runs/quickstart/unet").predict(np.zeros((40, 50), np.uint8))
      >>> prediction.labels.shape, prediction.probabilities.shape, prediction.entropy.shape
      ((40, 50), (40, 50, 4), (40, 50))
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    entropy: NDArray[np.float32]
    disagreement: NDArray[np.float32] | None
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Band:
    """Some rows of a prediction, from row `first` on, each array computed when it is asked for: labels cost less alone.

    Attributes:
      first: number of the first row.
      values: `[rows, W, K + 1]` float32, blended values of `Ensemble`.
    """

    first: int
    values: NDArray[np.float32]

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """Class index, `[rows, W]`."""
        return self.probabilities.argmax(axis=-1).astype(np.uint8)

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Mean over the folds, `[rows, W, K]`."""
        return self.values[..., :-1]

    @cached_property
    def entropy(self) -> NDArray[np.float32]:
        """As in `Prediction`, `[rows, W]`."""
        positive = np.maximum(self.probabilities, np.finfo(np.float32).tiny)
        entropy = -(self.probabilities * np.log(positive)).sum(axis=-1)
        return np.clip(entropy / self._largest, 0, 1)

    @cached_property
    def disagreement(self) -> NDArray[np.float32]:
        """As in `Prediction`, `[rows, W]`; zeros with one fold."""
        return np.clip(self.values[..., -1] / self._largest, 0, 1)

    @property
    def uncertainty(self) -> NDArray[np.float32]:
        """Entropy and disagreement, `[rows, W, 2]`."""
        return np.stack([self.entropy, self.disagreement], axis=-1)

    @property
    def _largest(self) -> np.float32:
        return np.log(np.float32(self.probabilities.shape[-1]))

    def arrays(self) -> tuple[NDArray, ...]:
        """Return labels, probabilities, entropy and disagreement."""
        return self.labels, self.probabilities, self.entropy, self.disagreement
