from functools import partial

import jax
import numpy as np
import pytest

from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.pipeline.normalisation import Normalisation
from fbunet_jax.runs.trained import TrainedFold


def random_fold(seed=0, fold=0, *, widths=(2, 3, 4), classes=3, channels=1, normalisation=None):
    """Return a fold with random weights whose answer depends on the image.

    The running statistics are those of noise, as after training: with others, gates and ReLUs of a random network
    saturate, and it gives the same probabilities whatever it is shown.
    """
    model = FeedbackUNet(classes=classes, widths=widths, momentum=0.0)
    noise = jax.random.normal(jax.random.key(1), (2, 64, 64, channels))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(seed), noise)
    calibrate = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))
    _, statistics = calibrate(variables, noise)
    params = variables["params"]
    output = params["unet"]["output"]
    params = {"unet": {**params["unet"], "output": {**output, "kernel": 4 * output["kernel"]}}}
    normalisation = normalisation or Normalisation("standardise", (120.0,) * channels, (70.0,) * channels)
    names = tuple("abcdef"[:classes])
    return TrainedFold(fold, 7, model, {"params": params, **statistics}, normalisation, names, channels)


@pytest.fixture(scope="session")
def make_fold():
    return random_fold


@pytest.fixture(scope="session")
def noise():
    """Return a function that draws 8-bit noise `[H, W]`."""

    def draw(height, width, seed=0):
        return np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)

    return draw
