"""OME-Zarr as the reference library writes it is read back rectangle by rectangle; what is no image is explained."""

import json
import warnings

import numpy as np
import pytest
import zarr
from ome_zarr.format import FormatV04, FormatV05

from fbunet_jax.errors import DataError
from fbunet_jax.inference.axes import Axis
from fbunet_jax.inference.images import open_image
from fbunet_jax.inference.inputs import find_images

with warnings.catch_warnings():  # of a default value that the library itself deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from ome_zarr.writer import write_image

SIZES = {"t": 2, "c": 3, "z": 4, "y": 50, "x": 40}


def write(path, axes, dtype, version=FormatV05, **options):
    values = np.random.default_rng(0).integers(0, 250, [SIZES[axis] for axis in axes]).astype(dtype)
    group = zarr.open_group(str(path), mode="w", zarr_format=version().zarr_format)
    chunks = tuple({"y": 16, "x": 16}.get(axis, 1) for axis in axes)
    storage = {"storage_options": {"chunks": chunks}}
    write_image(values, group, axes=axes, fmt=version(), scale_factors=[], **storage, **options)
    return values


def as_pages(values, axes):
    """Return `[pages, H, W, C]` in the order in which the axes of the file count pages."""
    pages = [axes.index(name) for name in axes if name not in "cyx"]
    channels = [axes.index("c")] if "c" in axes else []
    moved = values.transpose([*pages, axes.index("y"), axes.index("x"), *channels])
    return moved.reshape(-1, 50, 40, 3 if channels else 1)


@pytest.mark.parametrize("version", [FormatV04, FormatV05])
@pytest.mark.parametrize(
    ("axes", "dtype", "read"),
    [
        ("yx", "uint8", "uint8"),
        ("zyx", "uint16", "uint16"),
        ("cyx", "float32", "float32"),
        ("tczyx", "float64", "float32"),
        ("tyx", ">u2", "uint16"),
    ],
)
def test_rectangles_are_those_of_the_array(version, axes, dtype, read, tmp_path):
    values = as_pages(write(tmp_path / "a.ome.zarr", axes, dtype, version), axes)
    with open_image(tmp_path / "a.ome.zarr", "") as image:
        assert (image.pages, image.height, image.width, image.channels) == values.shape
        assert image.dtype == read
        for page in range(image.pages):
            np.testing.assert_array_equal(
                image.read(page, slice(7, 41), slice(15, 40)), values[page, 7:41, 15:40].astype(read), strict=True
            )


def test_scales_translations_and_units_of_both_levels_of_metadata_are_put_together(tmp_path):
    path = tmp_path / "a.ome.zarr"
    write(path, "czyx", "uint8")
    content = json.loads((path / "zarr.json").read_text())
    multiscale = content["attributes"]["ome"]["multiscales"][0]
    multiscale["axes"][2]["unit"] = "micrometer"
    multiscale["axes"][3]["unit"] = None
    multiscale["datasets"][0]["coordinateTransformations"] = [
        {"type": "scale", "scale": [1, 4, 0.5, 0.25]},
        {"type": "translation", "translation": [0, 1, 2, 3]},
    ]
    multiscale["coordinateTransformations"] = [{"type": "scale", "scale": [1, 1, 2, 2]}]
    (path / "zarr.json").write_text(json.dumps(content))
    with open_image(path, "") as image:
        assert image.axes == (Axis("z", 4, 4, 1), Axis("y", 50, 1, 4, "micrometer"), Axis("x", 40, 0.5, 6))


def changed(path, change):
    """Write an image of zyx and change its metadata."""
    write(path, "zyx", "uint8")
    content = json.loads((path / "zarr.json").read_text())
    ome = content["attributes"]["ome"]
    change(ome, ome.get("multiscales", [{}])[0])
    (path / "zarr.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ome, image: ome.pop("multiscales"), "has no multiscales metadata: expected a group"),
        (lambda ome, image: ome.update(multiscales=[]), "cannot be used"),
        (lambda ome, image: image.pop("axes"), "metadata that cannot be used"),
        (lambda ome, image: image["axes"].pop(), "2 axes for level 0|cannot be used"),
        (lambda ome, image: image["axes"][0].update(name="q"), "has the axes q, y, x"),
        (lambda ome, image: image["axes"][0].update(name="y"), "has the axes y, y, x"),
        (lambda ome, image: image["datasets"][0].update(path="../b"), r"names '\.\./b' as the place"),
        (lambda ome, image: image["datasets"][0].update(path="7"), "cannot be opened: .*does not exist"),
        (
            lambda ome, image: image["datasets"][0].update(coordinateTransformations=[{"type": "affine"}]),
            "the coordinate transformation",
        ),
        (
            lambda ome, image: image["datasets"][0].update(coordinateTransformations=[{"type": "scale", "path": "s"}]),
            "the coordinate transformation .*'path': 's'",
        ),
    ],
)
def test_metadata_that_do_not_fit_are_explained(change, message, tmp_path):
    changed(tmp_path / "a.zarr", change)
    with pytest.raises(DataError, match=message), open_image(tmp_path / "a.zarr", ""):
        pass


def test_what_is_no_image_is_explained(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(DataError, match=r"has no zarr\.json and no \.zattrs"), open_image(tmp_path / "empty.zarr", ""):
        pass
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr/zarr.json").write_text("{")
    with pytest.raises(DataError, match=r"zarr\.json cannot be used"), open_image(tmp_path / "broken.zarr", ""):
        pass
    series = zarr.open_group(str(tmp_path / "series.zarr"), mode="w", zarr_format=3)
    series.attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    write(tmp_path / "series.zarr/0", "yx", "uint8")
    with (
        pytest.raises(DataError, match=r"give one, such as .*series\.zarr/0"),
        open_image(tmp_path / "series.zarr", ""),
    ):
        pass
    write(tmp_path / "complex.zarr", "yx", "complex64")
    with pytest.raises(DataError, match="complex64"), open_image(tmp_path / "complex.zarr", ""):
        pass


def test_a_damaged_chunk_and_values_that_are_not_finite_are_named_when_they_are_read(tmp_path):
    path = tmp_path / "a.zarr"
    write(path, "yx", "float32")
    level = (
        path
        / json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"]
    )
    zarr.open_array(str(level))[0, 0] = np.nan
    (level / "c/1/0").write_bytes(b"damaged")
    with open_image(path, "") as image:
        image.read(0, slice(32, 50), slice(0, 40))
        with pytest.raises(DataError, match=r"a\.zarr has 1 of 256 values that are NaN"):
            image.read(0, slice(0, 16), slice(0, 16))
        with pytest.raises(DataError, match=r"a\.zarr cannot be read: .*c/1/0"):
            image.read(0, slice(16, 17), slice(0, 1))


def test_folders_of_zarr_are_images_and_have_names(tmp_path):
    for name in ("10.ome.zarr", "9.zarr"):
        (tmp_path / name).mkdir()
    (tmp_path / "8.tif").touch()
    found = find_images([tmp_path]).images
    assert [image.path.name for image in found] == ["8.tif", "9.zarr", "10.ome.zarr"]
    assert [image.name for image in found] == ["8", "9", "10"]
