"""Channels in several files are read as one image, whole and by rectangles, and files that do not fit are named."""

import numpy as np
import pytest
import tifffile

from fbunet_jax.data.faults import Fault
from fbunet_jax.inference import images
from fbunet_jax.inference.axes import Axis
from fbunet_jax.inference.channels import open_input
from fbunet_jax.inference.inputs import InputImage
from fbunet_jax.inference.zarr_output import ZarrImage

RANDOM = np.random.default_rng(0)


def write_zarr(path, pages):
    """Write `[Z, H, W]` as OME-Zarr in chunks of 32 pixels."""
    sizes = zip("zyx", pages.shape, strict=True)
    array = ZarrImage(path, [Axis(name, size, 0.5, unit="micrometer") for name, size in sizes], pages.dtype, 32)
    array.create({})
    for page, row, column in np.ndindex(len(pages), -(-pages.shape[1] // 32), -(-pages.shape[2] // 32)):
        rows = range(32 * row, min(32 * row + 32, pages.shape[1]))
        columns = range(32 * column, min(32 * column + 32, pages.shape[2]))
        array.write(page, rows, columns, pages[page, rows.start : rows.stop, columns.start : columns.stop])


def write_tiff(path, pages):
    tifffile.imwrite(path, pages, imagej=True, resolution=(2, 2), metadata={"axes": "ZYX", "unit": "um"})


@pytest.mark.parametrize(("kind", "whole_values"), [("tif", images.WHOLE_VALUES), ("tif", 0), ("ome.zarr", 0)])
def test_every_rectangle_holds_the_channels_of_all_files_in_order(kind, whole_values, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "WHOLE_VALUES", whole_values)
    pages = RANDOM.integers(0, 60000, (3, 2, 70, 50)).astype(np.uint16)
    files = tuple(tmp_path / f"a_{channel}.{kind}" for channel in range(3))
    for file, each in zip(files, pages, strict=True):
        (write_zarr if kind == "ome.zarr" else write_tiff)(file, each)
    expected = np.moveaxis(pages, 0, -1)
    with open_input(InputImage("fish/a", files), "") as image:
        assert (image.pages, image.height, image.width, image.channels) == expected.shape
        assert (image.name, image.path, image.dtype) == ("fish/a", files[0], np.uint16)
        assert [(axis.name, axis.unit) for axis in image.axes[-2:]] == [("y", "micrometer"), ("x", "micrometer")]
        for page in range(2):
            np.testing.assert_array_equal(image.rows(page)(0, 70), expected[page], strict=True)
            part = image.read(page, slice(23, 61), slice(14, 37))
            np.testing.assert_array_equal(part, expected[page, 23:61, 14:37], strict=True)


@pytest.mark.parametrize("whole_values", [images.WHOLE_VALUES, 0])
@pytest.mark.parametrize(
    "other", [np.zeros((7, 9), np.uint8), np.zeros((8, 9), np.uint16), np.zeros((2, 8, 9), np.uint8)]
)
def test_channel_files_that_differ_are_both_named(other, whole_values, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "WHOLE_VALUES", whole_values)
    files = tmp_path / "a_0.tif", tmp_path / "a_1.tif"
    tifffile.imwrite(files[0], np.zeros((8, 9), np.uint8))
    tifffile.imwrite(files[1], other, imagej=True, metadata={"axes": "ZYX" if other.ndim > 2 else "YX"})
    with pytest.raises(Fault, match=r"a_1\.tif has .*, but .*a_0\.tif has 1 x 8 x 9 of uint8") as fault:
        open_input(InputImage("a", files), "").__enter__()
    assert fault.value.kind == "channel-size"


def test_a_channel_file_of_several_channels_adds_all_of_them(tmp_path):
    colours = RANDOM.integers(0, 255, (8, 9, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a_0.tif", colours, photometric="rgb")
    tifffile.imwrite(tmp_path / "a_1.tif", colours[..., 0])
    with open_input(InputImage("a", (tmp_path / "a_0.tif", tmp_path / "a_1.tif")), "") as image:
        np.testing.assert_array_equal(image.read(0, slice(None), slice(None))[..., 3], colours[..., 0])
        assert image.channels == 4
