import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from fbunet_jax.check.resemblance import ALIKE, equal_images, fingerprint, near_duplicates, small_picture


def tissue(seed, side=200):
    """Return a smooth random image `[side, side, 1]` uint8 with detail of 5 to 20 pixels."""
    noise = np.random.default_rng(seed).normal(size=(side, side))
    smooth = ndimage.gaussian_filter(noise, 3) / 0.1 + ndimage.gaussian_filter(noise[::-1], 8) / 0.05
    return np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)[..., None]


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))[..., None]


SAME = {
    "brighter": lambda image: (image * 0.5 + 60).astype(np.uint8),
    "16-bit": lambda image: image.astype(np.uint16) * 257,
    "compressed": jpeg,
    "noisy": lambda image: np.clip(image + np.random.default_rng(9).normal(0, 10, image.shape), 0, 255).astype(
        np.uint8
    ),
    "half as large": lambda image: image[::2, ::2],
    "turned": lambda image: np.rot90(image),
    "mirrored": lambda image: image[:, ::-1],
    "unevenly lit": lambda image: (image * np.linspace(0.6, 1, 200)[:, None]).astype(np.uint8),
}


def pairs(images, groups=None):
    groups = groups or list(map(str, range(len(images))))
    prints = [fingerprint(image) for image in images]
    return [pair[:2] for pair in near_duplicates([small_picture(image) for image in images], groups, prints)]


@pytest.mark.parametrize("name", SAME)
def test_the_same_view_saved_again_is_a_near_duplicate(name):
    images = [tissue(0), tissue(1), SAME[name](tissue(0)), tissue(2)]

    assert pairs(images) == [(0, 2)]
    assert pairs(images, ["a", "b", "a", "c"]) == []


def test_other_views_are_none_even_under_the_same_uneven_light():
    light = np.linspace(0.2, 1, 200)[:, None, None]
    assert pairs([(tissue(seed) * light).astype(np.uint8) for seed in range(30)]) == []


def test_neighbouring_views_that_share_half_of_their_structure_are_none():
    first, second = tissue(0).astype(float), tissue(1).astype(float)
    assert pairs([tissue(0), (first / 2 + second / 2).astype(np.uint8)]) == []


def test_equal_images_are_listed_once_and_are_no_near_duplicates():
    images = [tissue(0), tissue(1), tissue(0), tissue(0)]

    assert equal_images([fingerprint(image) for image in images]) == [[0, 2, 3]]
    assert pairs(images) == []
    assert fingerprint(tissue(0)) != fingerprint(tissue(0).astype(np.uint16))
    assert fingerprint(np.zeros((2, 8, 1))) != fingerprint(np.zeros((8, 2, 1)))


def test_constant_images_have_no_structure_and_tiny_ones_are_compared():
    assert small_picture(np.full((50, 60, 1), 7, np.uint16)) is None
    assert small_picture(np.full((50, 60, 3), 0.1, np.float32)) is None
    assert pairs([np.zeros((5, 5, 1), np.uint8)] * 2) == []
    assert small_picture(np.arange(9, dtype=np.uint8).reshape(3, 3, 1)).shape == (32, 32)


def test_many_images_are_compared_across_blocks():
    images = [tissue(seed, 40) for seed in range(520)]
    images.append(np.rot90(images[3]))

    assert pairs(images) == [(3, 520)]
    assert ALIKE < 1
