"""Chunks of a Zarr that were never written have the fill value; what was lost or is named otherwise is a fault."""

import json

import numpy as np
import pytest
import zarr

from fbunet_jax.errors import DataError
from fbunet_jax.inference.images import open_image

SIDE, SIZE, PAGES = 8, 20, 2
KEYS = {"v2 .": (2, "."), "v2 /": (2, "/"), "v3 c/": (3, "/"), "v3 c.": (3, "."), "v3 as v2": (3, "v2")}
WHOLE = np.arange(1, PAGES * SIZE * SIZE + 1, dtype=np.uint16).reshape(PAGES, SIZE, SIZE)


def write(path, key="v3 c/", *, fill=0, dtype="uint16", empty=False, shards=None):
    """Write an image of two pages with zarr-python, and return the folder of its array."""
    version, separator = KEYS[key]
    names = {"name": "default" if version == 3 and separator != "v2" else "v2"}
    names["separator"] = "." if separator == "v2" else separator
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    array = group.create_array(
        "0",
        shape=WHOLE.shape,
        chunks=(1, SIDE, SIDE),
        shards=shards,
        dtype=dtype,
        fill_value=fill,
        chunk_key_encoding=names,
        compressors=None,
    )
    if not empty:
        array[:] = WHOLE
    axes = [{"name": name, "type": "space"} for name in "zyx"]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}
    image = {"axes": axes, "datasets": [level], "version": "0.4"}
    metadata = {"multiscales": [image]}
    group.attrs.update(metadata if version == 2 else {"ome": metadata | {"version": "0.5"}})
    return path / "0"


def name(key, page, row, column):
    """Return the file of a chunk, below the folder of the array."""
    version, separator = KEYS[key]
    joint = separator if separator != "v2" else "."
    return joint.join(["c"] * (version == 3 and separator != "v2") + [str(page), str(row), str(column)])


def read(path):
    with open_image(path, "") as image:
        return np.stack([image.read(p, slice(0, SIZE), slice(0, SIZE))[..., 0] for p in range(image.pages)])


@pytest.mark.parametrize("key", KEYS)
def test_chunks_that_were_never_written_have_the_fill_value(key, tmp_path):
    folder = write(tmp_path / "a.zarr", key, fill=9)
    expected = WHOLE.copy()
    for page, row, column in ((0, 1, 0), (1, 2, 2)):
        (folder / name(key, page, row, column)).unlink()
        rows, columns = (slice(at * SIDE, (at + 1) * SIDE) for at in (row, column))
        expected[page, rows, columns] = 9
    np.testing.assert_array_equal(zarr.open_array(str(folder))[:], expected)
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), expected)


@pytest.mark.parametrize(("key", "other"), [
    ("v2 .", "v2 /"), ("v2 /", "v2 ."), ("v3 c/", "v3 c."), ("v3 c.", "v3 c/"), ("v3 as v2", "v3 c/"),
    ("v3 c/", "v3 as v2"), ("v2 .", "v3 c/"), ("v3 c/", "v2 /"),
])  # fmt: skip
@pytest.mark.parametrize("mixed", [False, True])
def test_chunks_under_another_kind_of_name_are_a_fault_and_not_an_empty_image(key, other, mixed, tmp_path):
    folder = write(tmp_path / "a.zarr", key)
    chunks = [(page, row, column) for page in range(PAGES) for row in range(3) for column in range(3)]
    for chunk in chunks[9 if mixed else 0 :]:
        new = folder / name(other, *chunk)
        content = (folder / name(key, *chunk)).read_bytes()
        (folder / name(key, *chunk)).unlink()
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)
    for empty in sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True):
        if not any(empty.iterdir()):
            empty.rmdir()
    with pytest.raises(DataError, match=r"0 holds .*, so its chunks have names such as .*its metadata say names"):
        read(tmp_path / "a.zarr")


@pytest.mark.parametrize("key", KEYS)
def test_an_array_without_any_chunk_is_a_fault(key, tmp_path):
    write(tmp_path / "a.zarr", key, empty=True)
    with pytest.raises(DataError, match="0 has no chunk at all: the array was created and never written"):
        read(tmp_path / "a.zarr")


@pytest.mark.parametrize("key", ["v2 .", "v2 /", "v3 c/"])
@pytest.mark.parametrize("form", [".{}.Xy12Ab", "{}.3f9c0d.partial", "{}.__lock", "{} (copy)"])
def test_a_chunk_in_whose_place_there_is_a_part_of_it_was_lost(key, form, tmp_path):
    folder = write(tmp_path / "a.zarr", key)
    chunk = folder / name(key, 1, 0, 2)
    chunk.rename(chunk.with_name(form.format(chunk.name)))
    with pytest.raises(DataError, match=r"0 lacks the chunk .*1.0.2, and has .* in its place: copying or writing"):
        read(tmp_path / "a.zarr")


def test_a_chunk_in_a_folder_too_few_was_not_left_out(tmp_path):
    folder = write(tmp_path / "a.zarr", "v2 /")
    (folder / "1/0/2").rename(folder / "1/0.2")
    for chunk in (folder / "1/0").iterdir():
        chunk.unlink()
    (folder / "1/0").rmdir()
    with pytest.raises(DataError, match=r"0 lacks the chunk 1/0/0, and has 0\.2 in its place"):
        read(tmp_path / "a.zarr")


def test_what_lies_beside_chunks_that_are_there_does_not_matter(tmp_path):
    folder = write(tmp_path / "a.zarr", "v2 .")
    for each in ("._0.0.0", ".0.0.0.Xy12Ab", ".DS_Store", "0.0.0.__lock", "Thumbs.db"):
        (folder / each).write_bytes(b"x")
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), WHOLE)


def test_pixels_without_a_defined_value_are_a_fault(tmp_path):
    folder = write(tmp_path / "a.zarr", "v2 .")
    metadata = json.loads((folder / ".zarray").read_text())
    (folder / ".zarray").write_text(json.dumps(metadata | {"fill_value": None}))
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), WHOLE)
    (folder / "1.0.2").unlink()
    with pytest.raises(DataError, match=r"lacks the chunk 1\.0\.2, .* no fill value \(null\): the pixels"):
        read(tmp_path / "a.zarr")
    folder = write(tmp_path / "b.zarr", fill=np.nan, dtype="float32")
    np.testing.assert_array_equal(read(tmp_path / "b.zarr"), WHOLE)
    (folder / "c/1/0/2").unlink()
    with pytest.raises(DataError, match="lacks the chunk c/1/0/2, whose fill value is NaN"):
        read(tmp_path / "b.zarr")


def test_a_missing_shard_has_the_fill_value_and_a_shortened_one_is_a_fault(tmp_path):
    folder = write(tmp_path / "a.zarr", shards=(1, 2 * SIDE, 2 * SIDE), fill=5)
    (folder / "c/0/1/1").unlink()
    expected = WHOLE.copy()
    expected[0, 2 * SIDE :, 2 * SIDE :] = 5
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), expected)
    shard = folder / "c/1/0/0"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.zarr cannot be read: .*c/1/0/0"):
        read(tmp_path / "a.zarr")


@pytest.mark.parametrize("left", [0, 50])
def test_an_empty_or_shortened_chunk_is_a_fault(left, tmp_path):
    folder = write(tmp_path / "a.zarr", "v2 .")
    (folder / "1.0.2").write_bytes(bytes(left))
    with pytest.raises(DataError, match=r"a\.zarr cannot be read: .*1\.0\.2"):
        read(tmp_path / "a.zarr")


def test_the_metadata_of_the_array_itself_count_where_consolidated_ones_disagree(tmp_path):
    write(tmp_path / "a.zarr", "v2 .")
    zarr.consolidate_metadata(str(tmp_path / "a.zarr"))
    file = tmp_path / "a.zarr" / ".zmetadata"
    file.write_text(file.read_text().replace('"fill_value": 0', '"fill_value": 3').replace("20", "16"))
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), WHOLE)
