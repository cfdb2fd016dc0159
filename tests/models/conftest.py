"""What the tests of the models share: a convolution written out in numpy, and the operations of a traced function."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def convolve_by_hand() -> Callable[..., NDArray[np.float64]]:
    """Return the 3x3 "same" convolution of `[N, H, W, C]` with `[3, 3, C, F]` in float64, one product a tap."""

    def convolve(inputs: NDArray, kernel: NDArray) -> NDArray[np.float64]:
        _, height, width, _ = inputs.shape
        padded = np.pad(np.asarray(inputs, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = np.asarray(kernel, np.float64)
        return sum(
            padded[:, row : row + height, column : column + width] @ taps[row, column]
            for row in range(3)
            for column in range(3)
        )

    return convolve


@pytest.fixture(scope="session")
def operations() -> Callable[..., list]:
    """Return every operation of a kind in a traced function, also inside functions with gradients of their own."""

    def found(jaxpr, name: str) -> list:
        inner = [value.jaxpr for e in jaxpr.eqns for value in e.params.values() if hasattr(value, "jaxpr")]
        here = [e for e in jaxpr.eqns if e.primitive.name == name]
        return here + [e for each in inner for e in found(each, name)]

    return found
