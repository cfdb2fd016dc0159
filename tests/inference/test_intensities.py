"""Images of another range than the training images are told, others are not."""

import re

import numpy as np
import pytest

from fbunet_jax.inference.intensities import intensity_warning
from fbunet_jax.pipeline.normalisation import Normalisation

BYTES = np.random.default_rng(0).normal(128, 46, (60, 60, 1)).clip(0, 255).astype(np.uint8)
STANDARDISE = Normalisation("standardise", (128.0,), (46.0,))
SCALE, PERCENTILE = Normalisation("scale"), Normalisation("percentile")


@pytest.mark.parametrize(
    ("normalisation", "image", "message"),
    [
        (
            STANDARDISE,
            (BYTES / 255).astype(np.float32),
            "the mean intensity is 0.4962 with a deviation of 0.1794, .* 128",
        ),
        (STANDARDISE, BYTES.astype(np.uint16) * 257, "another bit depth"),
        (STANDARDISE, np.full_like(BYTES, 128), r"a\.tif: the image is constant \(128\)"),
        (SCALE, BYTES.astype(np.float32), "expected 0 to 1"),
        (SCALE, BYTES.astype(np.uint16), "largest value of their type, 65535"),
        (SCALE, np.full_like(BYTES, 128), "constant"),
        (PERCENTILE, np.full_like(BYTES, 128), "constant"),
        (PERCENTILE, np.where(np.arange(3600).reshape(60, 60, 1) == 7, 9, 0), "1st and the 99th percentile"),
    ],
)
def test_another_range_is_told(normalisation, image, message):
    assert re.search(message, intensity_warning(normalisation, "a.tif", image))


@pytest.mark.parametrize(
    ("normalisation", "image"),
    [
        (STANDARDISE, BYTES),
        (STANDARDISE, BYTES // 4 + 100),
        (STANDARDISE, BYTES[:1, :1]),
        (Normalisation("standardise", (128.0,), (0.0,)), np.full_like(BYTES, 128)),
        (SCALE, BYTES),
        (SCALE, BYTES.astype(np.uint16) * 16),
        (SCALE, BYTES / np.float32(255)),
        (PERCENTILE, BYTES.astype(np.uint16) * 257),
    ],
)
def test_a_range_like_that_of_the_training_is_not(normalisation, image):
    assert not intensity_warning(normalisation, "a.tif", image)


def test_a_value_for_no_data_is_announced_unless_the_training_kept_it():
    image = np.random.default_rng(0).uniform(-60, 0, (40, 40, 1)).astype(np.float32)
    image[:10] = -300
    assert "25 % of the intensities are -300" in intensity_warning(PERCENTILE, "a.tif", image)
    assert intensity_warning(PERCENTILE, "a.tif", image, "keep") == ""
