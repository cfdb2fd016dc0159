import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from fbunet_jax.check import resemblance
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


def small_noise(count, seed=0):
    """Return smooth random pictures `[count, 32, 32]` of mean 0 and norm 1."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(count, 32, 32)), (0, 1.2, 1.2))
    noise -= noise.mean(axis=(1, 2), keepdims=True)
    return (noise / np.linalg.norm(noise, axis=(1, 2), keepdims=True)).astype(np.float32)


def searched(pictures):
    """Return the pairs that are found among many pictures, and how many were looked at."""
    looked = 0

    def apart(one, twin):
        nonlocal looked
        looked += len(one)
        return one != twin

    likely = resemblance._likely_pairs(pictures, apart, unseen)
    found = [pair for one, twin, _ in likely for pair in zip(one.tolist(), twin.tolist(), strict=True)]
    return found, looked


def unseen(steps, what):
    return steps


def test_among_many_images_the_search_finds_the_pairs_that_comparing_all_finds():
    pictures = small_noise(1200)
    for place in range(0, 400, 2):  # turned, mirrored, and 0.96 alike
        other, share = small_noise(1, seed=place + 1)[0], 0.96
        other -= (other * pictures[place]).sum() * pictures[place]
        mixed = share * pictures[place] + np.sqrt(1 - share**2) * other / np.linalg.norm(other)
        mixed = np.rot90(mixed, place // 2 % 4)
        pictures[1199 - place] = mixed[:, ::-1] if place % 3 else mixed
    every = resemblance._all_pairs(pictures, np.not_equal, unseen)
    all_of_them = [pair for one, twin, _ in every for pair in zip(one.tolist(), twin.tolist(), strict=True)]
    found, _ = searched(pictures)

    assert set(all_of_them) == {(place, 1199 - place) for place in range(0, 400, 2)}
    assert set(found) <= set(all_of_them)
    assert len(found) >= 0.97 * len(all_of_them)


def test_the_number_of_comparisons_grows_with_the_images_and_not_with_their_pairs():
    few, many = (searched(small_noise(count))[1] for count in (500, 4000))
    assert many < 1.5 * 8 * few
    assert many < 0.2 * 4000**2 / 2


def test_images_that_all_look_alike_end_the_search():
    picture = small_noise(1)[0]
    found, looked = searched(np.repeat(picture[None], 5000, axis=0))
    assert len(found) > resemblance.MOST_PAIRS
    assert looked < 64 * 5000
