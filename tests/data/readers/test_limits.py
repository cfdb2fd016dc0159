"""What is large, long or many is read; what does not fit into the memory, or is made to fill it, is refused."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from fbunet_jax.data.readers import memory, pixels, tiff_directories, tiff_parts
from fbunet_jax.data.readers.image_files import open_tiff, read_image, read_label
from fbunet_jax.errors import DataError
from tests.fuzz.images import png
from tests.fuzz.test_bombs import grey, tiff, zeros


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(pixels, "available_memory", lambda: 100 * 10**6)


def header(width, height, depth=8, kind=0):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)


def sparse_rows(height, width):
    """Return deflated rows of zeros with a ramp in the middle of every hundredth."""
    rows = np.zeros((height, width), np.uint8)
    rows[::100, width // 2 : width // 2 + 200] = np.arange(1, 201)
    return zlib.compress(rows, 6)


@pytest.fixture
def nothing_is_small(monkeypatch):
    """Let the rules for large files hold for those of some megabytes."""
    monkeypatch.setattr(pixels, "SMALL_BYTES", 0)
    monkeypatch.setattr(pixels, "_LARGE_BYTES", 2**20)
    monkeypatch.setattr(tiff_parts, "SMALL_BYTES", 0)


@pytest.mark.usefixtures("nothing_is_small")
def test_a_label_that_is_compressed_nine_hundred_times_is_read(tmp_path):
    height, width = 2000, 6000
    data = sparse_rows(height, 4 * width)
    (tmp_path / "a.tif").write_bytes(tiff(grey(width, height, t258=32, t259=8, t279=len(data)), data))
    assert 4 * height * width > 900 * len(data)
    label = read_label(tmp_path / "a.tif")
    assert (label.shape, label.dtype) == ((1, height, width), np.uint32)
    assert np.flatnonzero(label[0].any(axis=1)).tolist() == list(range(0, height, 100))
    assert np.count_nonzero(label) == 20 * 50


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_more_pixels_than_pillow_opens_without_a_warning_are_read(suffix, tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 2, (40, 30), np.uint8)
    image = Image.fromarray(values)
    if suffix == ".png":
        image = Image.fromarray(values, "P")
        image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / f"a{suffix}")
    expected = np.array(Image.open(tmp_path / f"a{suffix}"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    read = read_label if suffix == ".png" else read_image
    np.testing.assert_array_equal(read(tmp_path / f"a{suffix}").reshape(40, 30), expected)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.usefixtures("nothing_is_small")
def test_a_1_bit_png_of_many_pixels_a_byte_is_read(tmp_path):
    """A byte of it stands for eight values, and a byte of deflate for a thousand of those."""
    side = 4000
    rows = b"".join(b"\0" + bytes([row // 250]) * (side // 8) for row in range(side))
    data = zlib.compress(rows)
    (tmp_path / "a.png").write_bytes(png([header(side, side, 1), (b"IDAT", data), (b"IEND", b"")]))
    assert side * side > 1900 * len(data)
    label = read_label(tmp_path / "a.png")
    np.testing.assert_array_equal(label[0, ::250, :8], np.unpackbits(np.arange(16).astype(np.uint8)[:, None], axis=1))


@pytest.mark.parametrize("chunk", ["tEXt", "zTXt", "iTXt", "iCCP"])
def test_long_texts_and_profiles_beside_the_pixels_of_a_png_do_not_matter(chunk, tmp_path):
    values = np.random.default_rng(0).integers(0, 3, (9, 8), np.uint8)
    image = Image.fromarray(values, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    long, info = "0123456789" * 300_000, PngImagePlugin.PngInfo()
    if chunk == "iTXt":
        info.add_itxt("Regions", long, zip=True)
    elif chunk != "iCCP":
        info.add_text("Regions", long, zip=chunk == "zTXt")
    options = {"icc_profile": long.encode()} if chunk == "iCCP" else {"pnginfo": info}
    image.save(tmp_path / "a.png", **options)
    assert chunk.encode() in (tmp_path / "a.png").read_bytes()
    np.testing.assert_array_equal(read_label(tmp_path / "a.png")[0], values)
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], palette[values])


def test_more_pages_than_65536_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_directories, "UNASKED_PAGES", 64)
    values = np.random.default_rng(0).integers(0, 250, (300, 5, 4), np.uint8)
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        values,
        ome=True,
        photometric="minisblack",
        metadata={"axes": "TYX"},
        compression="deflate",
    )
    tifffile.imwrite(tmp_path / "b.tif", values, imagej=True, metadata={"axes": "ZYX"})
    for name in ("a.ome.tif", "b.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name)[..., 0], values)
    monkeypatch.setattr(pixels, "_UNASKED_BYTES", 0)
    monkeypatch.setattr(pixels, "available_memory", lambda: 10**5)
    with pytest.raises(DataError, match=r"more than 63 pages, and reading it takes 524,288 bytes .*; 100,000 are"):
        read_image(tmp_path / "a.ome.tif")


def test_pages_of_many_samples_are_compared_by_value(tmp_path):
    """Where the bits of each sample do not lie in the directory, every page has them at a place of its own."""
    values = np.random.default_rng(0).integers(0, 250, (2, 6, 7, 400), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in values:
            file.write(page, photometric="minisblack", planarconfig="contig", metadata=None, compression="deflate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", "ZYXC"), values)


def test_a_directory_of_more_tags_than_can_be_read_is_told_with_both_numbers(tmp_path):
    entries = grey(8, 8, t279=64) | dict.fromkeys(range(40000, 45000), 1)
    (tmp_path / "a.tif").write_bytes(tiff(entries, bytes(64)))
    with pytest.raises(
        DataError, match=r"a\.tif has 5,009 tags in page 0; tifffile, which reads it, takes 4,096\. Save"
    ):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(("suffix", "side", "library"), [(".jpg", 65_501, "libjpeg"), (".png", 1_000_001, "libpng")])
def test_sides_beyond_those_of_the_decoders_are_told_with_the_limit(suffix, side, library, tmp_path):
    if suffix == ".png":
        data = zlib.compress((b"\0" + bytes(side)) * 1)
        (tmp_path / "a.png").write_bytes(png([header(side, 1), (b"IDAT", data), (b"IEND", b"")]))
    else:
        buffer = io.BytesIO()
        Image.fromarray(np.zeros((1, 65_500), np.uint8)).save(buffer, "JPEG")
        whole = bytearray(buffer.getvalue())
        struct.pack_into(">H", whole, whole.index(b"\xff\xc0") + 7, side)
        (tmp_path / "a.jpg").write_bytes(whole)
    with pytest.raises(DataError, match=rf"is {side:,} pixels long on one side; {library}, .* Save it as TIFF"):
        read_image(tmp_path / f"a{suffix}")


@pytest.mark.usefixtures("little_memory")
def test_what_does_not_fit_into_the_memory_is_refused_with_what_it_takes_and_what_there_is(tmp_path):
    side, takes = 8000, "128,000,000 bytes of memory; 100,000,000 are available"
    (tmp_path / "a.png").write_bytes(png([header(side, side), (b"IDAT", sparse_rows(side, side + 1)), (b"IEND", b"")]))
    strips = [zlib.compress(bytes(800 * side))] * 10
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        options = {"shape": (side, side), "dtype": "uint8", "rowsperstrip": 800, "compression": "deflate"}
        file.write(iter(strips), **options)
    for name in ("a.png", "a.tif"):
        with pytest.raises(DataError, match=rf"declares the size 8000 x 8000.*{takes}.*ulimit -v.*OME-Zarr"):
            read_image(tmp_path / name)
    with open_tiff(tmp_path / "a.tif") as (series, _):  # by parts it fits
        assert series.shape == (side, side)
    Image.fromarray(np.zeros((6000, 6000), np.uint8)).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="144,000,000 bytes of memory; 100,000,000 are"):
        read_image(tmp_path / "a.jpg")


def test_a_gigabyte_of_nothing_is_refused_and_says_what_to_do_if_it_is_meant(tmp_path):
    area = 40_000 * 30_000
    data = zeros(area // 2**20 * 2**20)
    (tmp_path / "a.tif").write_bytes(tiff(grey(40_000, 30_000, t259=8, t279=len(data)), data))
    with pytest.raises(
        DataError, match=r"1,200,000,000 bytes, .*say the same over and over.*save it without compression"
    ):
        read_label(tmp_path / "a.tif")


@pytest.mark.usefixtures("nothing_is_small")
def test_what_is_nearly_empty_is_not_empty(tmp_path, monkeypatch):
    """One object in a large label, as in a rare class; a file of nothing is the limit of what deflate makes."""
    monkeypatch.setattr(pixels, "_HOLLOW", 20_000)  # of a smaller file more is left than of a large one
    rows = np.zeros((4000, 4000), np.uint8)
    empty, label = zlib.compress(rows), rows.copy()
    label[1000:1300:3, 2000:2100] = np.random.default_rng(0).integers(0, 9, (100, 100))
    for values, data in ((label, zlib.compress(label)), (None, empty)):
        (tmp_path / "a.tif").write_bytes(tiff(grey(4000, 4000, t259=8, t279=len(data)), data))
        if values is None:
            with pytest.raises(DataError, match="the same over and over"):
                read_label(tmp_path / "a.tif")
        else:
            np.testing.assert_array_equal(read_label(tmp_path / "a.tif")[0], values)


def test_a_strip_larger_than_its_bytes_can_hold_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(grey(40_000, 20_000, t259=8, t279=1000), bytes(1000)))
    with pytest.raises(DataError, match=r"800,000,000 bytes each, and the longest of them, 1,000 bytes, .* 1,032,000"):
        read_image(tmp_path / "a.tif")


def test_the_memory_available_is_that_of_the_machine_the_group_and_the_shell(tmp_path, monkeypatch):
    total, available = memory.machine_memory()
    assert 0 < available <= total
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    (tmp_path / "job" / "memory.max").write_text("800000000")
    (tmp_path / "job" / "memory.current").write_text("700000000")
    (tmp_path / "job" / "memory.stat").write_text("anon 9\nactive_file 100000000\ninactive_file 50000000\n")
    (tmp_path / "job" / "step" / "memory.max").write_text("max")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_PROCESS", tmp_path)
    assert memory.machine_memory() == (800 * 10**6, 250 * 10**6)
    assert memory.available_memory() == 250 * 10**6


def test_a_limit_of_the_shell_counts():
    """In a process of its own: a limit cannot be taken back."""
    code = (
        "import resource; from fbunet_jax.data.readers.memory import available_memory; before = available_memory(); "
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)); print(before, available_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 0 < after < 2**31
    assert after < before
