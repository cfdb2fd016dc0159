import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from fbunet_jax.data.readers.image_files import read_image, read_label
from fbunet_jax.errors import DataError


def noise(shape, dtype=np.uint16, seed=0):
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return generator.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def image_or_named_error(path, axes=""):
    """Return the image, or None after a DataError that names the file; any other exception fails the test."""
    try:
        return read_image(path, axes)
    except DataError as error:
        if str(path) not in str(error):
            raise
        return None


def png(path, width, height, depth, colour_type, rows, extra=b""):
    """Write a PNG by hand: rows are the raw bytes of each line without the filter byte."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b""))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float32"])
@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"compression": "deflate", "tile": (16, 32)}])
def test_tiff_values_and_type_are_kept(tmp_path, dtype, options):
    array = noise((40, 50), dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, **options)

    image = read_image(tmp_path / "a.tif")

    assert image.dtype == array.dtype
    np.testing.assert_array_equal(image, array[None, ..., None])


def test_double_precision_becomes_float32(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 4), 0.1))

    assert read_image(tmp_path / "a.tif").dtype == np.float32


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}])
@pytest.mark.parametrize(("axes", "shape", "expected"), [
    ("ZYX", (5, 20, 30), (5, 20, 30, 1)),
    ("TYX", (5, 20, 30), (5, 20, 30, 1)),
    ("CYX", (3, 20, 30), (1, 20, 30, 3)),
    ("ZCYX", (5, 2, 20, 30), (5, 20, 30, 2)),
])  # fmt: skip
def test_axes_are_taken_from_the_metadata(tmp_path, options, axes, shape, expected):
    array = noise(shape)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": axes}, **options)

    image = read_image(path)

    assert image.shape == expected
    np.testing.assert_array_equal(image[-1, ..., -1], array.reshape(-1, 20, 30)[-1])


@pytest.mark.parametrize(
    ("axes", "expected"), [("ZYX", (5, 20, 30, 1)), ("CYX", (1, 20, 30, 5)), ("cyx", (1, 20, 30, 5))]
)
def test_axes_of_a_bare_tiff_are_taken_from_the_setting(tmp_path, axes, expected):
    array = noise((5, 20, 30))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", metadata=None)

    image = read_image(tmp_path / "a.tif", axes)

    assert image.shape == expected
    last = image[4, ..., 0] if expected[0] == 5 else image[0, ..., 4]
    np.testing.assert_array_equal(last, array[4])


def test_channels_first_or_last_give_the_same_image(tmp_path):
    array = noise((20, 30, 5))
    tifffile.imwrite(tmp_path / "last.tif", array, photometric="minisblack", metadata=None)
    tifffile.imwrite(tmp_path / "first.tif", array.transpose(2, 0, 1), photometric="minisblack", metadata=None)

    last, first = read_image(tmp_path / "last.tif", "YXC"), read_image(tmp_path / "first.tif", "CYX")

    np.testing.assert_array_equal(last, first)
    np.testing.assert_array_equal(last[0], array)


@pytest.mark.parametrize(("shape", "readings"), [
    ((5, 64, 64), r"ZYX \(5 sections\) or CYX \(5 channels\)"),
    ((64, 64, 5), r"YXC \(5 channels\) or ZYX \(64 sections\)"),
    ((4, 5, 64, 64), r"ZCYX \(4 sections, 5 channels\) or CZYX \(4 channels, 5 sections\)"),
])  # fmt: skip
def test_unknown_axes_are_an_error_that_lists_the_readings(tmp_path, shape, readings):
    tifffile.imwrite(tmp_path / "a.tif", noise(shape), photometric="minisblack")

    with pytest.raises(DataError, match=f"a.tif has the shape .*{readings}.* Set data.axes"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("axes", ["ZZYX", "ZY", "QWERTY", "AYX"])
def test_axes_that_make_no_sense_are_an_error(tmp_path, axes):
    tifffile.imwrite(tmp_path / "a.tif", noise((5, 8, 8)), photometric="minisblack", metadata=None)

    with pytest.raises(DataError, match=f"data.axes = '{axes}'"):
        read_image(tmp_path / "a.tif", axes)


def test_rgb_tiff_needs_no_axes(tmp_path):
    array = noise((20, 30, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")

    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0], array)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_opaque_alpha_is_dropped_and_transparency_is_an_error(tmp_path, suffix, channels):
    array = noise((20, 30, channels), np.uint8)
    path = tmp_path / f"a{suffix}"

    def save():
        if suffix == ".png":
            Image.fromarray(array).save(path)
        else:
            photometric = "rgb" if channels == 4 else "minisblack"
            tifffile.imwrite(path, array, photometric=photometric, extrasamples=["unassalpha"], planarconfig="contig")

    array[..., -1] = 255
    save()
    np.testing.assert_array_equal(read_image(path)[0], array[..., :-1])
    array[3, 4:6, -1] = 0
    save()
    with pytest.raises(DataError, match="alpha channel with 2 pixels that are not opaque"):
        read_image(path)


def test_16_bit_colour_png_keeps_its_16_bits(tmp_path):
    array = noise((6, 7, 3))
    png(tmp_path / "a.png", 7, 6, 16, 2, [row.astype(">u2").tobytes() for row in array])

    image = read_image(tmp_path / "a.png")

    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image[0], array)


@pytest.mark.parametrize(("depth", "row", "values"), [
    (1, b"\xa0", [1, 0, 1, 0]),
    (2, b"\x1b", [0, 1, 2, 3]),
    (4, b"\x0f\x37", [0, 15, 3, 7]),
    (8, b"\x00\x01\x02\xff", [0, 1, 2, 255]),
])  # fmt: skip
def test_png_values_below_8_bits_are_read_as_stored(tmp_path, depth, row, values):
    png(tmp_path / "a.png", 4, 2, depth, 0, [row, row])

    for array in (read_image(tmp_path / "a.png")[0, ..., 0], read_label(tmp_path / "a.png")[0]):
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array, [values, values])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_1_bit_mask_becomes_0_and_1(tmp_path, suffix):
    mask = noise((9, 21), np.uint8) > 127
    Image.fromarray(mask).save(tmp_path / f"a{suffix}")

    label = read_label(tmp_path / f"a{suffix}")

    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label[0], mask)


def test_a_palette_png_is_colours_as_an_image_and_indices_as_a_label(tmp_path):
    palette = b"\x0a\x14\x1e" + b"\xff\x00\x00" + b"\x00\x00\xff"
    chunk = struct.pack(">I", 9) + b"PLTE" + palette + struct.pack(">I", zlib.crc32(b"PLTE" + palette))
    png(tmp_path / "a.png", 3, 1, 8, 3, [b"\x02\x00\x01"], extra=chunk)

    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0, 0], [[0, 0, 255], [10, 20, 30], [255, 0, 0]])
    np.testing.assert_array_equal(read_label(tmp_path / "a.png")[0, 0], [2, 0, 1])


def test_jpeg_is_read_as_an_image_and_refused_as_a_label(tmp_path):
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(tmp_path / "a.jpg")

    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), np.full((1, 8, 8, 1), 77))
    with pytest.raises(DataError, match="JPEG compression changes the values"):
        read_label(tmp_path / "a.jpg")


def test_a_jpeg_with_an_orientation_mark_is_an_error(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "a.jpg", exif=exif)

    with pytest.raises(DataError, match="EXIF orientation"):
        read_image(tmp_path / "a.jpg")


def test_label_pages_are_read_with_the_image_axes(tmp_path):
    labels = noise((5, 8, 9), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="minisblack", metadata=None)

    np.testing.assert_array_equal(read_label(tmp_path / "a.tif", "CZYX"), labels)


@pytest.mark.parametrize(("array", "options", "words"), [
    (np.zeros((8, 8, 3), np.uint8), {"photometric": "rgb"}, "has 3 channels"),
    (np.zeros((8, 8), np.float32), {}, "values of type float32.*whole numbers"),
    (np.zeros((8, 8), np.uint8), {"compression": "jpeg"}, "JPEG-compressed"),
])  # fmt: skip
def test_labels_that_are_no_class_values_are_refused(tmp_path, array, options, words):
    tifffile.imwrite(tmp_path / "a.tif", array, **options)

    with pytest.raises(DataError, match=words):
        read_label(tmp_path / "a.tif")


def test_values_that_are_not_finite_are_counted(tmp_path):
    array = noise((8, 8), np.float32)
    array[0, :2], array[3, 3] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", array)

    with pytest.raises(DataError, match="3 of 64 values that are NaN or infinite"):
        read_image(tmp_path / "a.tif")


def test_series_of_different_shapes_are_an_error(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(noise((8, 8)))
        file.write(noise((9, 8)))

    with pytest.raises(DataError, match=r"2 image series with the shapes \(8, 8\), \(9, 8\)"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_missing_empty_and_foreign_files_are_errors_that_name_the_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(DataError, match=f"a{suffix} does not exist"):
        read_image(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=f"a{suffix} is empty"):
        read_image(path)
    path.write_bytes(b"this is no image")
    with pytest.raises(DataError, match=f"a{suffix} is named .* but is no"):
        read_image(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=f"a{suffix} cannot be opened"):
        read_image(path)


def test_a_file_under_a_wrong_or_unknown_suffix_is_an_error(tmp_path):
    Image.fromarray(noise((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"named \.tif but holds a PNG file. Rename it to \.png"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.czi cannot be used as image: expected \.tif"):
        read_image(tmp_path / "a.czi")


TIFF_KINDS = {
    "plain": {},
    "lzw": {"compression": "lzw"},
    "tiled": {"compression": "deflate", "tile": (32, 32)},
    "imagej": {"imagej": True},
    "ome": {"ome": True},
    "pages": {"metadata": None, "compression": "lzw"},
}


@pytest.mark.parametrize("kind", TIFF_KINDS)
def test_a_truncated_tiff_is_an_error_and_never_a_partial_image(tmp_path, kind):
    array = noise((5, 64, 48))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric="minisblack", **TIFF_KINDS[kind])
    whole = path.read_bytes()
    refused = 0
    for length in np.linspace(10, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:length])
        image = image_or_named_error(path, "ZYX")
        if image is None:
            refused += 1
        else:
            # cutting off padding or unused metadata after the pixels can leave a complete image
            np.testing.assert_array_equal(image[..., 0], array)
    assert refused >= 38


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_png_or_jpeg_is_an_error(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise((64, 48), np.uint8)).save(path)
    whole = path.read_bytes()
    for length in np.linspace(10, len(whole) - 3, 40).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"a{suffix}"):
            read_image(path)


def test_flipped_bits_give_an_error_or_an_image_but_no_other_exception(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((3, 16, 16)), photometric="minisblack", imagej=True, metadata={"axes": "ZYX"})
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(150):
        damaged = whole.copy()
        damaged[generator.integers(0, 400, 3)] = generator.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        image = image_or_named_error(path)
        assert image is None or image.ndim == 4


def test_an_absurd_declared_size_is_refused_before_memory_is_taken(tmp_path):
    png(tmp_path / "a.png", 2**31 - 1, 2**31 - 1, 8, 0, [b"\0"])
    with pytest.raises(DataError, match="declares the size 2147483647 x 2147483647"):
        read_image(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((16, 16), np.uint8), compression="lzw")
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    for tag in (256, 257):
        entry = whole.index(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in whole else None
        entry = whole.index(struct.pack("<HH", tag, 3)) if entry is None else entry
        whole[entry : entry + 12] = struct.pack("<HHII", tag, 4, 1, 2**30)
    (tmp_path / "a.tif").write_bytes(whole)
    with pytest.raises(DataError, match=r"a.tif declares the size 1073741824 x 1073741824|damaged"):
        read_image(tmp_path / "a.tif")


def test_a_palette_label_has_no_limit_of_pixels_of_its_own(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((20, 20), np.uint8)).convert("P").save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    assert not read_label(tmp_path / "a.png").any()
