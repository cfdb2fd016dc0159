"""What samples mean: colour spaces, alpha, inverted values, no data."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image

from fbunet_jax.check.checks import check_dataset
from fbunet_jax.config import DataConfig
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.data.readers.image_files import read_image, read_label
from fbunet_jax.errors import DataError
from fbunet_jax.inference.images import open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
RGB = np.dstack([PIXELS, 255 - PIXELS, PIXELS // 2])


@pytest.mark.parametrize(("photometric", "array", "words"), [
    ("separated", np.dstack([RGB, PIXELS]), "CMYK"), ("cielab", RGB, r"CIE L\*a\*b\*"),
    ("icclab", RGB, r"ICC L\*a\*b\*"), ("itulab", RGB, r"ITU L\*a\*b\*"),
    ("ycbcr", RGB, "YCbCr"), ("cfa", PIXELS, "colour filter array"),
    ("logl", PIXELS, r"Log2\(L\)"), ("linear_raw", RGB, "linear raw"), ("miniswhite", PIXELS, "inverted"),
])  # fmt: skip
def test_another_colour_space_than_grey_and_rgb_is_named(tmp_path, photometric, array, words):
    planes = {"planarconfig": "contig"} if array.ndim == 3 else {}
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric, metadata=None, **planes)

    with pytest.raises(DataError, match=words):
        read_image(tmp_path / "a.tif")
    with pytest.raises(DataError, match=words), open_image(tmp_path / "a.tif", ""):
        pass


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr"])
def test_the_colour_spaces_that_pillow_writes_are_named(tmp_path, mode):
    Image.fromarray(RGB).convert(mode).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=f"colour space .*{'L' if mode == 'LAB' else mode}"):
        read_image(tmp_path / "a.tif")


def test_ycbcr_that_the_jpeg_decoder_makes_rgb_is_read(tmp_path):
    stored = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="ycbcr", compression="jpeg", metadata=None)
    # R = Y + 1.402 (Cr - 128), G = Y - 0.344 (Cb - 128) - 0.714 (Cr - 128), B = Y + 1.772 (Cb - 128)
    assert np.abs(read_image(tmp_path / "a.tif")[0].astype(int) - (91, 255, 150)).max() <= 3


@pytest.mark.parametrize("photometric", ["miniswhite", "cfa", "palette"])
def test_labels_are_the_stored_values_whatever_they_are_shown_as(tmp_path, photometric):
    colours = {"colormap": np.zeros((3, 256), np.uint16)} if photometric == "palette" else {}
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric=photometric, metadata=None, **colours)
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif")[0], PIXELS)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_the_setting_says_what_an_alpha_channel_is(tmp_path, suffix):
    array, path = np.dstack([RGB, PIXELS]), tmp_path / f"a{suffix}"
    if suffix == ".png":
        Image.fromarray(array).save(path)
    else:
        tifffile.imwrite(path, array, photometric="rgb", extrasamples=["unassalpha"], metadata=None)

    with pytest.raises(DataError, match=r"data\.alpha"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, alpha="drop")[0], RGB)
    np.testing.assert_array_equal(read_image(path, alpha="channel")[0], array)
    for alpha, channels in (("drop", 3), ("channel", 4)):
        with open_image(path, "", alpha) as image:
            assert image.channels == channels
            np.testing.assert_array_equal(image.rows(0)(3, 5), array[3:5, :, :channels])


def test_an_unspecified_extra_sample_is_a_channel_and_alpha_before_it_is_refused(tmp_path):
    path, array = tmp_path / "a.tif", np.dstack([RGB, PIXELS, PIXELS])
    tifffile.imwrite(path, array, photometric="rgb", extrasamples=[0, 0], metadata=None)
    np.testing.assert_array_equal(read_image(path)[0], array)
    tifffile.imwrite(path, array, photometric="rgb", extrasamples=[2, 0], metadata=None)
    with pytest.raises(DataError, match="not the last"):
        read_image(path)


def folder(path, image):
    """Write four pairs of this image and a label."""
    for name in ("images", "labels"):
        (path / name).mkdir()
    for number in range(4):
        image(path / "images" / f"{number}.tif", number)
        Image.fromarray(PIXELS // 128).save(path / "labels" / f"{number}.png")
    return DataConfig(layout="folder", root=str(path), classes={"a": 0, "b": 1}, folds=2)


def test_the_setting_of_alpha_reaches_a_data_set(tmp_path):
    array = np.dstack([RGB, PIXELS])
    config = folder(tmp_path, lambda file, _: tifffile.imwrite(file, array, photometric="rgb", extrasamples=[2]))
    with pytest.raises(DataError, match="alpha channel"):
        load_dataset(config)
    np.testing.assert_array_equal(load_dataset(replace(config, alpha="channel")).images[0], array)
    np.testing.assert_array_equal(load_dataset(replace(config, alpha="drop")).images[0], RGB)


def test_a_value_for_no_data_in_one_image_of_a_data_set_is_a_fault_that_names_it_and_its_share(tmp_path):
    def write(file, number):
        image = PIXELS.astype(np.float32)
        image[:10] = image[:10] if number != 2 else -9999
        tifffile.imwrite(file, image)

    with pytest.raises(DataError, match=r"2\.tif has the value -9999 in 25 % of its pixels"):
        load_dataset(folder(tmp_path, write))


@pytest.mark.parametrize(("low", "high", "value"), [(-60, 0, -300), (0, 1, 500)])
def test_the_setting_keeps_a_measurement_far_outside_the_others(tmp_path, low, high, value):
    array = np.random.default_rng(1).uniform(low, high, (40, 40)).astype(np.float32)
    array[:10] = value
    config = folder(tmp_path, lambda file, _: tifffile.imwrite(file, array))
    for read in (load_dataset, lambda config: [fault.found for fault in check_dataset(config).faults]):
        try:
            found = str(read(config))
        except DataError as error:
            found = str(error)
        assert f"has the value {value} in 25 %" in found
    with pytest.raises(DataError, match=r'if it is a measurement, set data\.no_data = "keep"'):
        load_dataset(config)

    kept = replace(config, no_data="keep")
    np.testing.assert_array_equal(load_dataset(kept).images[0][..., 0], array)
    assert check_dataset(kept).faults == ()


@pytest.mark.parametrize(
    ("text", "refused"), [("-9999", True), ("0", False), ("nan", False), ("what?", False), ("77", False)]
)
def test_a_value_that_gdal_marks_as_no_data_is_a_fault_if_it_lies_outside_the_others(tmp_path, text, refused):
    array = PIXELS.astype(np.int16) + 1
    array[0, :2], array[1, :2] = -9999 if refused else 0, 77
    tag = (42113, 2, len(text) + 1, text.encode() + b"\0", True)
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, extratags=[tag])
    if refused:
        with pytest.raises(DataError, match=r"-9999 in 0\.125 % of its pixels, the value that the file itself names"):
            read_image(tmp_path / "a.tif")
    else:
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0, ..., 0], array)


def test_the_setting_keeps_what_gdal_marks_as_no_data(tmp_path):
    array = PIXELS.astype(np.int16)
    array[:10] = -9999
    tag = (42113, 2, 6, b"-9999\0", True)
    config = folder(tmp_path, lambda file, _: tifffile.imwrite(file, array, metadata=None, extratags=[tag]))
    with pytest.raises(DataError, match="the file itself names"):
        load_dataset(config)
    np.testing.assert_array_equal(load_dataset(replace(config, no_data="keep")).images[0][..., 0], array)


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [("uint8", "-9999", 241), ("uint8", "256", 0), ("uint16", "-32768", 32768), ("int16", "65535", -1),
     ("uint8", "254.7", 254), ("float32", "-1.8e308", None), ("float32", "1e300", None)],
)  # fmt: skip
def test_a_value_for_no_data_that_the_type_cannot_hold_marks_nothing(tmp_path, dtype, text, value):
    array = (PIXELS % 40 + 100).astype(dtype)
    if value is not None:
        array[:12] = value
    tag = (42113, 2, len(text) + 1, text.encode() + b"\0", True)
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, extratags=[tag])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0, ..., 0], array)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_only_what_helps_against_a_transparent_value_of_png_is_named(tmp_path, mode):
    picture = Image.fromarray(RGB).convert(mode)
    value = RGB[0, 0].tolist() if mode == "RGB" else picture.getpixel((0, 0))
    picture.save(tmp_path / "a.png", transparency=tuple(value) if mode == "RGB" else value)
    for alpha in ("refuse", "channel"):
        with pytest.raises(DataError, match=r'set data\.alpha = "drop"') as refusal:
            read_image(tmp_path / "a.png", alpha=alpha)
        assert "channel" not in str(refusal.value)
    expected = np.asarray(picture.convert("RGB") if mode == "P" else picture).reshape(40, 40, -1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", alpha="drop")[0], expected)
