"""Values for no data are found; honest images with a background, saturation or any scale are not taken for such."""

import numpy as np
import pytest

from fbunet_jax.data.no_data import find_no_data

GENERATOR = np.random.default_rng(0)
SHAPE = (64, 64, 1)
HONEST = {
    "0 to 1": GENERATOR.random(SHAPE),
    "8 bits": GENERATOR.integers(0, 256, SHAPE),
    "dim": GENERATOR.poisson(8, SHAPE),
    "12 bits": GENERATOR.integers(0, 4096, SHAPE),
    "16 bits": GENERATOR.integers(0, 65536, SHAPE),
    "z-scored": GENERATOR.normal(size=SHAPE),
    "heights": GENERATOR.normal(800, 100, SHAPE),
    "fluorescence": GENERATOR.exponential(500, SHAPE),
    "reflectance": 0.3 * GENERATOR.random(SHAPE),
}
SHARES = (0.02, 0.3, 0.7, 0.95)


def with_value(image, value, share):
    """Return the image as float32 with a value in that share of its pixels."""
    image = image.astype(np.float32)
    image[GENERATOR.random(image.shape) < share] = value
    return image


@pytest.mark.parametrize("value", [-9999, -99999, -32768, -3.4028235e38, 3.4e38, 1e20, 9.96921e36, -1e34])
@pytest.mark.parametrize("name", HONEST)
def test_a_value_for_no_data_is_found_with_its_share(name, value):
    for share in SHARES[:3]:
        found = find_no_data(with_value(HONEST[name], value, share))
        assert found is not None
        assert found.value == np.float32(value)
        assert found.share == pytest.approx(share, rel=0.5)


@pytest.mark.parametrize("value", [-1234.0, 1e6, -500.0])
def test_any_value_far_outside_is_found(value):
    assert find_no_data(with_value(HONEST["0 to 1"], value, 0.2)) is not None


@pytest.mark.parametrize("name", HONEST)
def test_background_saturation_and_scales_are_honest(name):
    base = HONEST[name]
    for share in SHARES:
        masked = with_value(base, 0, share)
        shown = masked[masked != 0]
        for image in (
            masked,
            with_value(np.minimum(base, 65535), 65535, share),
            with_value(base, 255, share),
            with_value(base, base.max(), share),
            with_value(base, base.min(), share),
            with_value(base, -1, share),
            (masked - masked.mean()) / masked.std(),
            (masked - shown.mean()) / shown.std(),
            masked / masked.max() * 2 - 1,
            masked - 128,
            masked - 32768,
            np.log(np.abs(masked) + 1e-6),
        ):
            assert find_no_data(image.astype(np.float32)) is None


@pytest.mark.parametrize("value", [0.5, 1, 10, 255, 1000, 4095, 65535, -1000])
def test_masks_and_drawings_of_few_values_are_honest(value):
    assert find_no_data(with_value(np.zeros(SHAPE), value, 0.2)) is None
    assert find_no_data(np.full(SHAPE, value, np.float32)) is None
    assert find_no_data(with_value(GENERATOR.integers(0, 4, SHAPE), value, 0.2)) is None


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 255), ("uint16", 65535), ("int16", -32768), ("uint16", 0)])
def test_integers_are_only_searched_for_what_the_file_names(dtype, value):
    image = GENERATOR.integers(10, 120, SHAPE).astype(dtype)
    image[:20] = value
    assert find_no_data(image) is None
    assert (find_no_data(image, named=value) is None) == (value == 0)


def test_the_channel_with_no_data_counts_beside_one_of_a_large_range():
    image = np.concatenate([with_value(HONEST["0 to 1"], -999, 0.1), HONEST["16 bits"].astype(np.float32)], axis=-1)
    assert find_no_data(image).value == -999


def test_the_rim_of_an_image_may_be_empty_and_two_values_may_stand_for_no_data():
    image = GENERATOR.normal(0, 1, (1, 128, 128, 1)).astype(np.float32)
    image[:, :24] = 0
    image[:, 24:40] = -9999
    assert find_no_data(image) == (-9999, pytest.approx(16 / 128))
    image[:, :24] = -32768
    assert find_no_data(image).value == -32768
    image[:, :24], image[:, 24:40] = 3.4e38, -3.4e38
    assert abs(find_no_data(image).value) > 3e38


@pytest.mark.parametrize("value", [-9999, -999])
def test_what_programs_write_for_no_data_counts_in_small_and_plain_images_too(value):
    assert find_no_data(with_value(GENERATOR.integers(0, 4, (1, 20, 20, 1)), value, 0.2)).value == pytest.approx(value)
    assert find_no_data(with_value(np.zeros((1, 20, 20, 1)), value, 0.2)).value == pytest.approx(value)
