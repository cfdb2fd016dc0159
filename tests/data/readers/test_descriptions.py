"""Tags and descriptions may be wrong while the pixels are whole: the pixels are read."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from fbunet_jax.data.readers.image_files import read_image, read_label
from fbunet_jax.data.readers.notes import noted
from fbunet_jax.errors import DataError
from fbunet_jax.inference.images import open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 20), dtype=np.uint8)
STACK = np.stack([PIXELS, 255 - PIXELS, PIXELS // 2])


def description_of(array, **options):
    """Return the description that tifffile writes for an array."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="minisblack", **options)
    file.seek(0)
    with tifffile.TiffFile(file) as opened:
        return opened.pages.first.description.encode()


def bare(path, array, description=b"", **options):
    tifffile.imwrite(path, array, metadata=None, description=description or None, **options)
    return path


WHOLE = np.pad(STACK, ((2, 2), (9, 9), (9, 9)))
IMAGEJ = description_of(WHOLE, imagej=True, metadata={"axes": "ZYX"})
SHAPED = description_of(WHOLE, metadata={"axes": "ZYX"})
OME = description_of(WHOLE, ome=True, metadata={"axes": "ZYX"})
OF_STACKS = {"imagej": IMAGEJ, "shaped": SHAPED, "ome": OME}
ODD = {
    "shift-jis": "対物レンズ ー 40倍".encode("shift_jis"),
    "latin-1": "Größe µm".encode("latin-1"),
    "utf-16": "Größe 対物".encode("utf-16"),
    "nul": b"a\0\0b",
    "ome cut off": OME[:300] + b"</OME>",
    "ome with a document type": OME.replace(b"?>", b'?><!DOCTYPE OME SYSTEM "ome.dtd">', 1),
    "ome without an image": b"<OME></OME>",
    "ome elsewhere": b'<OME><BinaryOnly MetadataFile="a.companion.ome" UUID="urn:uuid:1"/></OME>',
    "imagej of nonsense": b"ImageJ=1.53\nimages=many\nslices=-4",
    "json cut off": b'{"shape": [24, 2',
    "json of nonsense": b'{"shape": "abc"}',
    "philips": b'<?xml version="1.0"?><DataObject ObjectType="DPUfsImport"></DataObject>',
    "svs": b"Aperio Image Library v12.0.15\n46920x33014 (240x240) JPEG/RGB Q=30|AppMag = 20",
}


@pytest.mark.parametrize("name", [*ODD, *OF_STACKS])
def test_a_page_is_read_whatever_its_description_says(tmp_path, name):
    path = bare(tmp_path / "a.tif", PIXELS, (ODD | OF_STACKS)[name])

    with noted() as notes:
        np.testing.assert_array_equal(read_image(path)[0, ..., 0], PIXELS)
        np.testing.assert_array_equal(read_label(path)[0], PIXELS)
    # only a description of more pages may mean that something is missing
    assert all("its description says" in note.found or "its OME-XML says" in note.found for note in notes)
    assert bool(notes) == (name in OF_STACKS)


@pytest.mark.parametrize("name", OF_STACKS)
def test_axes_that_only_the_description_of_another_stack_names_have_to_be_given(tmp_path, name):
    path = bare(tmp_path / "a.tif", STACK, OF_STACKS[name], photometric="minisblack")

    with pytest.raises(DataError, match=r"has the shape \(3, 24, 20\) and no metadata .* says .*, and it has 3"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, "ZYX")[..., 0], STACK)


def test_entities_in_a_description_are_never_expanded(tmp_path):
    xml = b'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a SYSTEM "file:///etc/passwd">]><OME>&a;</OME>'
    with pytest.raises(DataError, match="defines entities"):
        read_image(bare(tmp_path / "a.tif", PIXELS, xml))


def test_an_ome_file_that_was_renamed_keeps_its_axes(tmp_path):
    text = description_of(STACK, ome=True, metadata={"axes": "ZYX"}).decode()
    uuid = '<TiffData IFD="0" PlaneCount="3"><UUID FileName="old.ome.tif">urn:uuid:1</UUID></TiffData>'
    text = re.sub(r"<TiffData[^>]*?(/>|>.*?</TiffData>)", uuid, text, count=1, flags=re.S)
    path = bare(tmp_path / "new.ome.tif", STACK, text.encode(), photometric="minisblack")

    np.testing.assert_array_equal(read_image(path)[..., 0], STACK)


def test_a_stack_that_was_cut_off_after_its_first_page_is_not_one_image(tmp_path):
    path = bare(tmp_path / "a.tif", PIXELS, IMAGEJ)
    path.write_bytes(path.read_bytes() + PIXELS.tobytes()[:200])
    with pytest.raises(DataError, match="ends before its data is complete"):
        read_image(path)


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("pages", [1, 3])
def test_pages_that_only_show_others_smaller_are_no_pages(tmp_path, pages, colours):
    path = tmp_path / "a.tif"
    small = np.dstack([PIXELS[::4, ::4]] * 3) if colours else PIXELS[::4, ::4]
    with tifffile.TiffWriter(path) as file:
        for page in STACK[:pages]:
            file.write(page, metadata=None)
        file.write(small, metadata=None, subfiletype=1, photometric="rgb" if colours else "minisblack")

    np.testing.assert_array_equal(read_image(path, "ZYX")[..., 0], STACK[:pages])


def test_a_thumbnail_before_the_image_of_a_raw_file_is_not_the_image(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(PIXELS[::4, ::4], metadata=None, subfiletype=1, subifds=1)
        file.write(PIXELS, metadata=None)
    with pytest.raises(DataError, match="a thumbnail in front"):
        read_image(tmp_path / "a.tif")


def changed(path, tag, place, value):
    """Change type (2), count (4) or value (8) of an entry of the first directory."""
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = (start + 2 + 12 * i for i in range(count))
    entry = next(each for each in entries if struct.unpack_from("<H", data, each)[0] == tag)
    struct.pack_into("<H" if place == 2 else "<I", data, entry + place, value)
    path.write_bytes(data)


@pytest.mark.parametrize(("tag", "place", "value"), [
    (282, 8, 2**31), (282, 4, 0), (296, 8, 77), (305, 4, 10**9), (65001, 4, 2**31), (65001, 2, 99), (274, 8, 0),
    (274, 8, 9), (34675, 4, 10**8), (34735, 4, 3),
])  # fmt: skip
def test_a_damaged_tag_that_does_not_decide_the_pixels_is_passed_over(tmp_path, tag, place, value):
    tags = [(65001, 4, 1, 5, True), (274, 3, 1, 1, True), (34675, 7, 30, b"profile" * 4 + b"..", True)]
    tags += [(34735, 3, 4, (1, 1, 0, 9), True)]
    path = bare(tmp_path / "a.tif", PIXELS, extratags=tags, resolution=(3.0, 3.0))
    changed(path, tag, place, value)

    with open_image(path, "") as image:
        np.testing.assert_array_equal(image.rows(0)(0, 24)[..., 0], PIXELS)
        assert image.axes[0].unit == ("" if tag in (282, 296) else "micrometer")


def test_a_thumbnail_below_a_page_may_be_cut_off(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(PIXELS, metadata=None, subifds=1)
        file.write(PIXELS[::4, ::4], metadata=None, subfiletype=1)
    changed(tmp_path / "a.tif", 330, 8, (tmp_path / "a.tif").stat().st_size - 3)

    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0, ..., 0], PIXELS)


@pytest.mark.parametrize(("tag", "place", "value"), [(273, 8, 2**31), (258, 8, 99), (279, 2, 99), (256, 2, 99)])
def test_a_damaged_tag_that_decides_the_pixels_is_damage(tmp_path, tag, place, value):
    path = bare(tmp_path / "a.tif", PIXELS)
    changed(path, tag, place, value)
    with pytest.raises(DataError, match=r"a\.tif"):
        read_image(path)


def chunk(kind, content, *, damaged=False):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ damaged)


def png(path, rows, depth=8, colour_type=0, extra=b"", width=None):
    """Write a PNG by hand: rows are bytes without the filter byte."""
    header = struct.pack(">IIBBBBB", width or len(rows[0]), len(rows), depth, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b""))
    return path


ANCILLARY = {
    "profile": chunk(b"iCCP", b"x\0\0damaged"),
    "gamma": chunk(b"gAMA", struct.pack(">I", 45455)),
    "bits": chunk(b"sBIT", b"\3"),
    "text": chunk(b"tEXt", b"a\0b", damaged=True),
    "bomb": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7))),
    "time": chunk(b"tIME", b"1234567", damaged=True),
    "resolution": chunk(b"pHYs", b"1"),
    "exif": chunk(b"eXIf", b"II*\0\xff\xff"),
    "transparency": chunk(b"tRNS", b"\0", damaged=True),
}


@pytest.mark.parametrize("name", ANCILLARY)
def test_chunks_that_do_not_decide_the_pixels_of_a_png_are_passed_over(tmp_path, name):
    path = png(tmp_path / "a.png", [row.tobytes() for row in PIXELS], extra=ANCILLARY[name])
    np.testing.assert_array_equal(read_image(path)[0, ..., 0], PIXELS)
    np.testing.assert_array_equal(read_label(path)[0], PIXELS)

    palette = chunk(b"PLTE", bytes(range(21))) + ANCILLARY[name]
    path = png(tmp_path / "b.png", [row.tobytes() for row in PIXELS % 7], colour_type=3, extra=palette)
    np.testing.assert_array_equal(read_label(path)[0], PIXELS % 7)


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"PLTE"])
def test_chunks_that_decide_the_pixels_of_a_png_must_be_whole(tmp_path, kind):
    palette = chunk(b"PLTE", bytes(range(21)))
    path = png(tmp_path / "a.png", [row.tobytes() for row in PIXELS % 7], colour_type=3, extra=palette)
    data = bytearray(path.read_bytes())
    data[data.index(kind) + 4] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        read_label(path)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparency_never_changes_a_label(tmp_path, depth):
    values = np.random.default_rng(1).integers(0, 2**depth, (9, 16), dtype=np.uint16)
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        rows = [np.packbits(row.ravel()).tobytes() for row in bits]
    path = png(tmp_path / "a.png", rows, depth, extra=chunk(b"tRNS", struct.pack(">H", values[0, 0])), width=16)

    np.testing.assert_array_equal(read_label(path)[0], values)
    hidden = np.count_nonzero(values == values[0, 0])
    with pytest.raises(DataError, match=f"has {hidden} pixels of the value that is marked as transparent"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, alpha="drop")[0, ..., 0], values)


def test_a_transparent_value_that_no_pixel_has_hides_nothing(tmp_path):
    path = png(tmp_path / "a.png", [b"\1\2\3"], extra=chunk(b"tRNS", b"\0\7"))
    np.testing.assert_array_equal(read_image(path)[0, ..., 0], [[1, 2, 3]])


def test_the_alpha_of_a_palette_and_of_grey_never_changes_a_label(tmp_path):
    extra = chunk(b"PLTE", bytes(range(21))) + chunk(b"tRNS", b"\0\x80\xff\0")
    path = png(tmp_path / "a.png", [row.tobytes() for row in PIXELS % 7], colour_type=3, extra=extra)
    np.testing.assert_array_equal(read_label(path)[0], PIXELS % 7)
    Image.fromarray(np.dstack([PIXELS, PIXELS])).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_label(tmp_path / "b.png")[0], PIXELS)


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize("extra", [
    segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"), segment(0xE1, b"Exif\0\0nonsense"),
    segment(0xE2, b"MPF\0nonsense"), segment(0xE2, b"ICC_PROFILE\0\1\2nonsense"),
    segment(0xED, b"Photoshop 3.0\0008BIM\4\4"),
    segment(0xFE, b"\xff\xd9 a comment \xff\xd8"), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<broken"),
])  # fmt: skip
def test_segments_that_only_describe_a_jpeg_are_passed_over(tmp_path, extra):
    file = io.BytesIO()
    Image.fromarray(np.dstack([PIXELS, PIXELS.T[:1].repeat(24, 0)[:, :20], PIXELS])).save(file, "JPEG")
    (tmp_path / "a.jpg").write_bytes(file.getvalue()[:2] + extra + file.getvalue()[2:] + b"garbage after the end")

    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg")[0], np.array(Image.open(file)))


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.full((8, 9), 7, np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert (read_image(tmp_path / "a.jpg") == 7).all()
