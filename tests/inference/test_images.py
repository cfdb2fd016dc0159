"""Large files give the same values by bands as the reader gives at once; inputs are found or named."""

import numpy as np
import pytest
import tifffile

from fbunet_jax.data.readers.image_files import read_image
from fbunet_jax.errors import DataError
from fbunet_jax.inference import images, tiff_regions
from fbunet_jax.inference.axes import Axis
from fbunet_jax.inference.images import open_image

RANDOM = np.random.default_rng(0)
KINDS = {
    "contiguous": (((70, 50), np.uint8), {}, ""),
    "big-endian": (((70, 50), np.uint16), {"byteorder": ">"}, ""),
    "deflate": (((70, 50), np.uint16), {"compression": "deflate", "predictor": True}, ""),
    "tiled": (((70, 50), np.float32), {"tile": (16, 32), "compression": "lzw"}, ""),
    "rgb": (((70, 50, 3), np.uint8), {"photometric": "rgb", "rowsperstrip": 9}, ""),
    "planar": (((3, 70, 50), np.uint8), {"photometric": "rgb", "planarconfig": "separate"}, ""),
    "stack": (((4, 70, 50), np.uint16), {"imagej": True, "metadata": {"axes": "ZYX"}}, ""),
    "channels-first": (((2, 3, 70, 50), np.uint8), {"photometric": "minisblack", "compression": "deflate"}, "ZCYX"),
    "double": (((70, 50), np.float64), {}, ""),
    "jpeg": (((70, 50), np.uint8), {"compression": "jpeg", "tile": (32, 32)}, ""),
    "planar tiles": (
        ((3, 70, 50), np.uint8),
        {"photometric": "rgb", "planarconfig": "separate", "tile": (32, 16), "compression": "zlib"},
        "",
    ),
    "tall strips": (
        ((3, 70, 50), np.uint16),
        {"compression": "zlib", "rowsperstrip": 40, "photometric": "minisblack"},
        "ZYX",
    ),
    "packed": (((70, 50), np.uint16), {"compression": "packbits", "byteorder": ">"}, ""),
    "one-bit": (((70, 50), bool), {"photometric": "minisblack"}, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_file_gives_by_bands_what_the_reader_gives_at_once(kind, tmp_path, monkeypatch):
    (shape, dtype), options, axes = KINDS[kind]
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, RANDOM.integers(0, 2 if dtype is bool else 250, shape).astype(dtype), **options)
    expected = read_image(path, axes)
    monkeypatch.setattr(images, "WHOLE_VALUES", 0)
    with open_image(path, axes) as image:
        assert (image.pages, image.height, image.width, image.channels) == expected.shape
        assert image.stacked == (kind in ("stack", "channels-first", "tall strips"))
        assert image.dtype == expected.dtype
        for page in range(image.pages):
            rows = image.rows(page)
            found = np.concatenate([rows(first, min(first + 16, 70)) for first in range(0, 70, 16)])
            np.testing.assert_array_equal(found, expected[page], strict=True)
            part = image.read(page, slice(23, 61), slice(14, 37))
            np.testing.assert_array_equal(part, expected[page, 23:61, 14:37], strict=True)
    assert [file.name for file in tmp_path.iterdir()] == ["image.tif"]


def test_a_strip_is_decoded_once_for_neighbouring_rectangles_and_not_kept_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "WHOLE_VALUES", 0)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, RANDOM.integers(0, 9, (64, 64)).astype(np.uint8), compression="zlib", rowsperstrip=8)
    decoded = []
    segment = tiff_regions._Directories._segment

    def counted(self, number, index):
        if (number, index) not in self._kept:
            decoded.append(index)
        return segment(self, number, index)

    monkeypatch.setattr(tiff_regions._Directories, "_segment", counted)
    with open_image(path, "") as image:
        for left in range(0, 64, 16):
            image.read(0, slice(4, 20), slice(left, left + 16))
        assert decoded == [0, 1, 2]
        monkeypatch.setattr(tiff_regions, "CACHED_BYTES", 2 * 8 * 64)
        image.rows(0)(0, 64)
        image.rows(0)(0, 8)
        assert decoded == [0, 1, 2, 3, 4, 5, 6, 7, 0]


def test_a_large_file_that_is_not_finite_or_cut_off_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "WHOLE_VALUES", 0)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.full((20, 20), np.nan, np.float32))
    with open_image(path, "") as image, pytest.raises(DataError, match="400 of 400 values"):
        image.rows(0)(0, 20)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"image\.tif ends before"), open_image(path, ""):
        pass


@pytest.mark.parametrize("large", [False, True])
def test_the_resolution_of_a_tiff_becomes_micrometres(large, tmp_path, monkeypatch):
    if large:
        monkeypatch.setattr(images, "WHOLE_VALUES", 0)
    for unit, micrometres in (("INCH", 25400.0), ("CENTIMETER", 10000.0)):
        # pixels a unit: across, then down
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((7, 5), np.uint8), resolution=(1000, 500), resolutionunit=unit)
        with open_image(tmp_path / "a.tif", "") as image:
            y, x = image.axes
            assert y == Axis("y", 7, micrometres / 500, unit="micrometer")
            assert x == Axis("x", 5, micrometres / 1000, unit="micrometer")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((7, 5), np.uint8), resolution=(1000, 500), resolutionunit="NONE")
    with open_image(tmp_path / "a.tif", "") as image:
        assert image.axes == (Axis("y", 7), Axis("x", 5))


@pytest.mark.parametrize("whole_values", [images.WHOLE_VALUES, 0], ids=["small", "large"])
def test_a_tiff_is_opened_once(whole_values, tmp_path, monkeypatch):
    opened, initialise = [], tifffile.TiffFile.__init__

    def counted(self, file, *arguments, **options):
        opened.append(file)
        initialise(self, file, *arguments, **options)

    tifffile.imwrite(path := tmp_path / "image.tif", np.zeros((32, 32), np.uint8))
    monkeypatch.setattr(tifffile.TiffFile, "__init__", counted)
    monkeypatch.setattr(images, "WHOLE_VALUES", whole_values)
    with open_image(path, "") as image:
        image.read(0, slice(0, 16), slice(0, 16))
    assert opened == [path]
