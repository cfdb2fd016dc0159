"""Strips and tiles that a TIFF leaves out have its fill value; what was lost is a fault; lost levels do not matter."""

import struct

import numpy as np
import pytest
import tifffile

from fbunet_jax.data.readers.image_files import read_image, read_label
from fbunet_jax.errors import DataError
from fbunet_jax.inference import images
from fbunet_jax.inference.images import open_image
from tests.fuzz.images import noise
from tests.fuzz.test_bombs import grey, tiff

SIDE = 16


def parts(shape, absent):
    """Yield tiles of noise, and None for those that are left out, as tifffile's writer takes them."""
    tiles = noise((np.prod(shape) // SIDE**2, SIDE, SIDE), "uint8") | 1
    yield from (None if index in absent else tile for index, tile in enumerate(tiles))


def sparse(path, shape, absent, *, compression="deflate", nodata=None, **options):
    """Write a tiled TIFF without some of its tiles."""
    extra = [] if nodata is None else [(42113, 2, 0, nodata, False)]
    settings = {"tile": (SIDE, SIDE), "dtype": "uint8", "compression": compression, "extratags": extra}
    tiles = parts(shape, absent)
    tifffile.imwrite(path, tiles, shape=shape, photometric="minisblack", **settings, **options)


def by_parts(path, axes, monkeypatch):
    """Read a file in rectangles as large ones are."""
    monkeypatch.setattr(images, "WHOLE_VALUES", 0)
    with open_image(path, axes) as image:
        rows = [slice(0, 13), slice(13, image.height)]
        return np.stack(
            [np.concatenate([image.read(p, r, slice(0, image.width)) for r in rows]) for p in range(image.pages)]
        )


@pytest.mark.parametrize("nodata", [None, "7"])
@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize(("shape", "absent"), [((64, 48), (1, 2, 7)), ((3, 32, 32), (4, 5, 6, 7))])
def test_tiles_that_were_left_out_are_filled_as_by_tifffile(shape, absent, compression, nodata, tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    sparse(path, shape, absent, compression=compression, nodata=nodata, metadata=None)
    expected = tifffile.imread(path).reshape(-1, *shape[-2:])
    fill = int(nodata or 0)
    assert (expected == fill).sum() >= len(absent) * SIDE**2
    axes = "ZYX" if len(shape) > 2 else ""
    np.testing.assert_array_equal(read_image(path, axes)[..., 0], expected)
    np.testing.assert_array_equal(read_label(path, axes), expected)
    np.testing.assert_array_equal(by_parts(path, axes, monkeypatch)[..., 0], expected)


def test_a_page_whose_only_strip_was_left_out_is_empty_and_not_the_head_of_the_file(tmp_path, monkeypatch):
    values = noise((3, 20, 16), "uint8") | 1
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for page in values:
            file.write(page, photometric="minisblack", metadata=None, rowsperstrip=20)
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in (273, 279):
            file.pages[1].tags[tag].overwrite(0)
    values[1] = 0
    np.testing.assert_array_equal(read_image(path, "ZYX")[..., 0], values)
    np.testing.assert_array_equal(by_parts(path, "ZYX", monkeypatch)[..., 0], values)


@pytest.mark.parametrize("compression", [1, 8])
def test_a_label_without_any_part_is_empty_and_such_an_image_was_never_written(compression, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(grey(32, 24, t259=compression, t273=0, t279=0)))
    assert read_label(path).shape == (1, 24, 32)
    assert not read_label(path).any()
    with pytest.raises(DataError, match=r"a\.tif has places for strips .* none was ever written.* interrupted"):
        read_image(path)
    path.write_bytes(path.read_bytes() + bytes(2**18))  # data that nothing names any more
    with pytest.raises(DataError, match="none was ever written"):
        read_label(path)


@pytest.mark.parametrize(("place", "count"), [(8, 0), (0, 64), (4, 64)])
def test_a_part_with_a_place_and_no_length_or_the_reverse_is_a_fault(place, count, tmp_path):
    path = tmp_path / "a.tif"
    sparse(path, (32, 32), (2,), metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages[0]
        page.tags[324].overwrite([*page.dataoffsets[:2], place, page.dataoffsets[3]])
        page.tags[325].overwrite([*page.databytecounts[:2], count, page.databytecounts[3]])
    with pytest.raises(DataError, match=rf"tile 2 of page 0 is {count} bytes long at byte {place}: it was begun"):
        read_image(path)


def test_a_sparse_file_that_was_cut_off_is_a_fault(tmp_path):
    path = tmp_path / "a.tif"
    sparse(path, (64, 48), (1, 2, 7), metadata=None)
    whole = path.read_bytes()
    for length in range(len(whole) - 1, 600, -97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.tif ends before the data of page 0 is complete"):
            read_image(path)


@pytest.mark.parametrize("kind", ["plain", "shaped", "ome"])
@pytest.mark.parametrize("pages", [1, 3])
def test_levels_of_a_pyramid_that_were_cut_off_do_not_matter_and_level_0_does(kind, pages, tmp_path, monkeypatch):
    values = noise((pages, 64, 48), "uint8")
    path = tmp_path / "a.tif"
    options = {"photometric": "minisblack", "tile": (SIDE, SIDE), "compression": "deflate"}
    metadata = {"ome": {"axes": "ZYX"}, "shaped": {}, "plain": None}[kind]
    with tifffile.TiffWriter(path, ome=kind == "ome") as file:
        for page in [values] if kind != "plain" else values:
            file.write(page, subifds=2, metadata=metadata, **options)
            file.write(page[..., ::2, ::2], subfiletype=1, metadata=None, **options)
            file.write(page[..., ::4, ::4], subfiletype=1, metadata=None, **options)
    whole, axes = path.read_bytes(), "ZYX"
    np.testing.assert_array_equal(read_image(path, axes)[..., 0], values)
    with tifffile.TiffFile(path) as file:
        page, levels = file.pages[0], file.pages[pages - 1].subifds
        first, place = page.dataoffsets[0], page.tags[330].valueoffset
    damaged = bytearray(whole)
    struct.pack_into("<I", damaged, place, len(whole) + 1000)
    # the OME-XML stands at the end
    for content in [damaged] if kind == "ome" else [damaged, whole[: levels[-1] + 40], whole[: levels[0]]]:
        path.write_bytes(content)
        np.testing.assert_array_equal(read_image(path, axes)[..., 0], values)
        np.testing.assert_array_equal(by_parts(path, axes, monkeypatch)[..., 0], values)
    path.write_bytes(whole[: first + 10])
    with pytest.raises(DataError, match=r"a\.tif"):
        read_image(path, axes)
