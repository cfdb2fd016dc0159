"""Small files that claim to be enormous are refused before memory is taken, and without following their claims."""

import json
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.fuzz.images import png

ROOT = Path(__file__).resolve().parents[2]
MEGABYTES = 100
"""The most that refusing a file may add to the resident memory: none of the files is larger than 4 MB."""


def zeros(count):
    """Return ``count`` (a multiple of 2^20) zero bytes as zlib compresses them, without ever holding them."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    checksum = ((count % 65521) << 16) | 1
    return b"\x78\xda" + block * (count // 2**20) + b"\x03\x00" + struct.pack(">I", checksum)


def tiff(entries, data=b"", following=0):
    """Return a TIFF of one directory of LONG entries (tag, value); "data" stands for the place of the data."""
    place = 8 + 2 + 12 * len(entries) + 4
    values = {tag: place if value == "data" else value for tag, value in sorted(entries.items())}
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + packed + struct.pack("<I", following) + data


def grey(width, height, **changes):
    """Return the entries of an 8-bit grey image in one strip."""
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: "data", 277: 1, 278: height, 279: width * height}
    return entries | {int(tag.removeprefix("t")): value for tag, value in changes.items()}


def described(folder, text, **options):
    """Return a TIFF of three pages with this description."""
    with tifffile.TiffWriter(folder / "described.tif") as file:
        for _ in range(3):
            file.write(np.zeros((8, 8), np.uint8), metadata=None, description=text or None, **options)
            text = ""
    return (folder / "described.tif").read_bytes()


def ome(images, data):
    """Return OME-XML."""
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" SizeC="1" SizeT="1" {images}>'
        f"{data}</Pixels></Image></OME>"
    )


def circle(pages, back_to):
    """Return a TIFF whose last page is followed by an earlier one."""
    size = 2 + 12 * 8 + 4
    entries = {tag: value for tag, value in grey(4, 4).items() if tag != 278} | {273: 8, 279: 16}
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    following = [*(8 + size * (page + 1) for page in range(pages - 1)), 8 + size * back_to]
    return (
        b"II*\0"
        + struct.pack("<I", 8)
        + b"".join(struct.pack("<H", 8) + packed + struct.pack("<I", n) for n in following)
    )


def doubling(levels):
    """Return a TIFF in which every directory has the next one twice below it, so that following them doubles."""
    text, count = b'{"shape": [8, 8]}\0', len(grey(8, 8)) + 2
    size = 2 + 12 * count + 4 + 8
    data = 8 + levels * size
    directories = []
    for level in range(levels):
        end = 8 + (level + 1) * size
        rows = {tag: (4, 1, data if value == "data" else value) for tag, value in grey(8, 8).items()}
        # the last one has nobody below it, and says so by a second tag that nobody reads
        rows |= {270: (2, len(text), data + 64), 330 if level < levels - 1 else 65_000: (4, 2, end - 8)}
        packed = b"".join(struct.pack("<HHII", tag, *row) for tag, row in sorted(rows.items()))
        directories.append(struct.pack("<H", count) + packed + struct.pack("<III", 0, end, end))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(directories) + bytes(64) + text


def crowded(pages):
    """Return a TIFF of very many directories of one entry."""
    entry = struct.pack("<HHHII", 1, 256, 4, 1, 1)
    chain = b"".join(entry + struct.pack("<I", 8 + 18 * (page + 1)) for page in range(pages))
    return b"II*\0" + struct.pack("<I", 8) + chain


BILLION_LAUGHS = '<!DOCTYPE OME [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
)


def tiff_bombs(folder):
    area = 50_000 * 50_000 // 2**20 * 2**20
    return {
        "50,000 x 50,000 zeros": (tiff(grey(50_000, 50_000, t259=8, t279=10**6), zeros(area)), "50000 x 50000"),
        "40,000 x 40,000 zeros": (
            tiff(grey(40_000, 40_000, t259=8, t279=10**6), zeros(2**20 * 1526)),
            "1,600,000,000 bytes",
        ),
        "10^6 x 10^6": (tiff(grey(10**6, 10**6, t279=100), bytes(100)), "1000000 x 1000000"),
        "10^6 x 10^6 in strips": (tiff(grey(10**6, 10**6, t278=1, t279=100), bytes(100)), "1000000 x 1000000|damaged"),
        "a tile of 2^31": (
            tiff(
                {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 2**31, 323: 2**31, 324: "data", 325: 64},
                bytes(99),
            ),
            "declares",
        ),
        "a page followed by itself": (circle(1, 0), "names a page twice"),
        "150 pages followed by the 120th": (circle(150, 120), "names a page twice"),
        "a page below itself": (tiff(grey(8, 8) | {330: 8}, bytes(64)), "names a page twice"),
        "two pages below each other": (
            tiff(grey(8, 8) | {330: 226}, bytes(92) + tiff(grey(8, 8) | {330: 8})[8:]),
            "names a page twice",
        ),
        "40 levels of two pages below each": (doubling(40), "names a page twice"),
        "very many pages": (crowded(200_000), "more than 65536 pages"),
        "OME-XML of 10^9 sections": (described(folder, ome('SizeZ="1000000000"', "<TiffData/>")), "1000000000"),
        "OME-XML of 10^9 planes": (
            described(folder, ome('SizeZ="3"', '<TiffData IFD="0" PlaneCount="1000000000"/>')),
            "OME-XML describes others",
        ),
        "OME-XML of another file": (
            described(
                folder, ome('SizeZ="3"', '<TiffData IFD="0"><UUID FileName="/dev/zero">urn:uuid:1</UUID></TiffData>')
            ),
            "one of several files.*'/dev/zero'",
        ),
        "OME-XML of a billion laughs": (
            described(folder, BILLION_LAUGHS + "]>" + ome('SizeZ="3"', "&j;").partition("?>")[2]),
            "document type",
        ),
        "ImageJ's 10^9 images": (
            described(folder, "ImageJ=1.11a\nimages=1000000000\nslices=1000000000\n"),
            "damaged|declares",
        ),
        "a description of 10^9 pages": (described(folder, '{"shape": [1000000000, 8, 8]}'), "damaged|declares|shape"),
    }


def png_bombs(folder):
    def header(width, height, depth=8, kind=0):
        return (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))

    end = (b"IEND", b"")
    return {
        "50,000 x 50,000 zeros": (
            png([header(50_000, 50_000), (b"IDAT", zeros(2**20 * 2385)), end]),
            "50000 x 50000",
        ),
        "50,000 x 50,000 bits": (png([header(50_000, 50_000, 1), (b"IDAT", zeros(2**20 * 299)), end]), "50000 x 50000"),
        "40,000 x 40,000 zeros": (png([header(40_000, 40_000), (b"IDAT", zeros(2**20 * 1526)), end]), "1,600,000,000"),
    }


def png_comments(folder):
    size, text = struct.pack(">IIBBBBB", 8, 2, 8, 3, 0, 0, 0), b"Comment\0\0" + zeros(2**30)
    palette, rows = (b"PLTE", bytes(range(6))), (b"IDAT", zlib.compress(bytes(2 * 9)))
    return {
        f"{kind.decode()} of a gigabyte": (png([(b"IHDR", size), palette, (kind, text), rows, (b"IEND", b"")]), "")
        for kind in (b"zTXt", b"iCCP")
    }


def items_bombs(folder):
    with zipfile.ZipFile(folder / "items.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("confusion.npy", bytes(1000))
    data = bytearray((folder / "items.npz").read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, 2**31 - 1)
    return {"counts of 2 GB": (bytes(data), "2,147,483,647 bytes")}


BOMBS = {"tiff": tiff_bombs, "png label": png_bombs, "items.npz": items_bombs}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_that_claims_to_be_enormous_is_refused_at_once(kind, tmp_path):
    for name, words, result in replayed(kind, BOMBS[kind](tmp_path), tmp_path):
        assert result["outcome"].startswith("documented"), (name, result)
        assert re.search(words, result["message"]), (name, result)


def test_a_gigabyte_beside_the_pixels_is_not_decompressed(tmp_path):
    for name, _, result in replayed("png label", png_comments(tmp_path), tmp_path):
        assert result["outcome"] in ("right answer", "answer without a second decoder"), (name, result)


def replayed(kind, bombs, folder):
    """Return name, expected words and result of each bomb; none may take long, or much memory."""
    files = []
    for name, (data, _) in bombs.items():
        assert len(data) < 4e6, name
        files.append(folder / f"{name}.bomb".replace("/", " "))
        files[-1].write_bytes(data)
    command = [sys.executable, "-m", "tests.fuzz.worker", kind, "--replay", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for (name, _), result in zip(bombs.items(), found, strict=True):
        assert result["megabytes"] < MEGABYTES, (name, result)
        assert result["seconds"] < 5, (name, result)
    return [(name, words, result) for (name, (_, words)), result in zip(bombs.items(), found, strict=True)]


def test_the_memory_that_reading_takes_is_seen(tmp_path):
    header = (b"IHDR", struct.pack(">IIBBBBB", 4_095, 16_384, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(png([header, (b"IDAT", zeros(2**20 * 64)), (b"IEND", b"")]))
    command = [sys.executable, "-m", "tests.fuzz.worker", "png label", "--replay", str(tmp_path / "a.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True)
    assert json.loads(done.stdout)["megabytes"] > 60


def test_a_file_of_zeros_that_is_not_enormous_is_read(tmp_path):
    """The bombs are refused for their size, not because they are written wrongly."""
    from fbunet_jax.data.readers.image_files import read_image, read_label

    rows = 1024 * 1024
    header = (b"IHDR", struct.pack(">IIBBBBB", 1023, 1024, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(png([header, (b"IDAT", zeros(rows)), (b"IEND", b"")]))
    (tmp_path / "a.tif").write_bytes(tiff(grey(1024, 1024, t259=8, t279=len(zeros(rows))), zeros(rows)))
    assert not read_label(tmp_path / "a.png").any()
    assert read_image(tmp_path / "a.tif").shape == (1, 1024, 1024, 1)
    assert not read_image(tmp_path / "a.tif").any()
