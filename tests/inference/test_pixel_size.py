"""The size of a pixel is read from ImageJ's and OME's metadata, and written again into labels of the same kind."""

import struct
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

from fbunet_jax.data.readers.image_files import read_label
from fbunet_jax.inference import images
from fbunet_jax.inference.axes import Axis
from fbunet_jax.inference.images import OpenImage, open_image
from fbunet_jax.inference.label_values import ClassValues
from fbunet_jax.inference.outputs import write_labels

STACK = np.zeros((3, 7, 5), np.uint8)
CLASSES = ClassValues(("background", "nucleus"), (0, 255))


def axes_of(path):
    with open_image(path, "") as image:
        return {axis.name: (axis.scale, axis.unit) for axis in image.axes}


def entries_by_hand(path):
    """Return type, count and value of each entry of the first directory; ASCII and fractions as they stand there."""
    data = path.read_bytes()
    order = "<" if data[:2] == b"II" else ">"
    (place,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, place)
    found = {}
    for number in range(count):
        tag, kind, length, value = struct.unpack_from(order + "HHII", data, place + 2 + 12 * number)
        if kind == 2:
            found[tag] = data[value : value + length].split(b"\0")[0].decode("ascii")
        elif kind == 5:
            found[tag] = struct.unpack_from(order + "II", data, value)
        else:
            found[tag] = struct.unpack_from(order + "H", data, place + 2 + 12 * number + 8)[0]
    return found


def imagej(path, array=STACK, resolution=None, unit_tag=None, **metadata):
    options = {"resolution": resolution, "resolutionunit": unit_tag, "metadata": {"axes": "ZYX", **metadata}}
    tifffile.imwrite(path, array, imagej=True, **options)


@pytest.mark.parametrize("large", [False, True])
def test_unit_and_spacing_of_imagej_are_read(large, tmp_path, monkeypatch):
    if large:
        monkeypatch.setattr(images, "WHOLE_VALUES", 0)
    path = tmp_path / "a.tif"
    imagej(path, resolution=(4, 8), unit="um", spacing=2.5)
    assert axes_of(path) == {"z": (2.5, "micrometer"), "y": (0.125, "micrometer"), "x": (0.25, "micrometer")}


@pytest.mark.parametrize(
    ("resolution", "tag", "metadata", "expected"),
    [
        ((4, 8), None, {"unit": "\\u00B5m", "spacing": 2}, [(2, "micrometer"), (0.125, "micrometer")]),
        ((4, 8), None, {"unit": "micron"}, [(1, ""), (0.125, "micrometer")]),
        ((4, 8), None, {"unit": "nm", "spacing": -50}, [(50, "nanometer"), (0.125, "nanometer")]),
        ((4, 8), None, {"unit": "um", "spacing": 50, "zunit": "nm"}, [(50, "nanometer"), (0.125, "micrometer")]),
        ((1000, 2000), None, {"unit": "cm", "spacing": 0.01}, [(100, "micrometer"), (5, "micrometer")]),
        ((1000, 2000), 3, {"unit": "um", "spacing": 7}, [(7, "micrometer"), (5, "micrometer")]),
        ((1000, 2000), 3, {"spacing": 0.01}, [(100, "micrometer"), (5, "micrometer")]),
        ((72, 72), None, {"unit": "inch", "spacing": 2}, [(1, ""), (1, "")]),
        ((4, 8), None, {"unit": "pixel"}, [(1, ""), (1, "")]),
        ((4, 8), None, {"spacing": 3}, [(3, ""), (1, "")]),
        ((4, 8), None, {"unit": "um", "spacing": "nan"}, [(1, ""), (0.125, "micrometer")]),
        ((4, 8), None, {"unit": "um", "spacing": True}, [(1, ""), (0.125, "micrometer")]),
    ],
)
def test_imagej_says_it_in_several_ways(resolution, tag, metadata, expected, tmp_path):
    imagej(tmp_path / "a.tif", resolution=resolution, unit_tag=tag, **metadata)
    found = axes_of(tmp_path / "a.tif")
    assert [found["z"], found["y"]] == [(pytest.approx(scale), unit) for scale, unit in expected]


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_what_screens_and_printers_have_is_no_calibration(dpi, tmp_path):
    path = tmp_path / "a.tif"
    for unit, pixels in (("INCH", dpi), ("CENTIMETER", dpi / 2.54), ("CENTIMETER", round(dpi / 2.54, 1))):
        tifffile.imwrite(path, STACK[0], resolution=(pixels, pixels), resolutionunit=unit)
        with open_image(path, "") as image:
            assert image.axes == (Axis("y", 7), Axis("x", 5))
            assert not image.resolution
    tifffile.imwrite(path, STACK[0], resolution=(dpi, 1000), resolutionunit="INCH")
    assert axes_of(path)["y"] == (25.4, "micrometer")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2}, [(2, "micrometer"), (0.25, "micrometer")]),
        ({"PhysicalSizeY": 4, "PhysicalSizeYUnit": "nm"}, [(1, ""), (4, "nanometer")]),
        ({"PhysicalSizeY": 4, "PhysicalSizeYUnit": "pixel"}, [(1, ""), (1, "")]),
        ({"PhysicalSizeY": -0.0, "PhysicalSizeZ": "inf"}, [(1, ""), (1, "")]),
        ({}, [(1, ""), (1, "")]),
    ],
)
def test_the_physical_size_of_ome_is_read(metadata, expected, tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, metadata={"axes": "ZYX", **metadata})
    found = axes_of(tmp_path / "a.ome.tif")
    assert [found["z"], found["y"]] == expected


def written(path, image, classes=CLASSES, values=None):
    values = np.zeros((image.pages, image.height, image.width), classes.dtype) if values is None else values
    write_labels(path, values, image, classes, {"program": "fbunet_jax"})
    return path


def test_labels_of_an_imagej_stack_say_unit_spacing_and_resolution_as_imagej_does(tmp_path):
    imagej(tmp_path / "a.tif", resolution=(4, 8), unit="micron", spacing=2.5)
    with open_image(tmp_path / "a.tif", "") as image:
        values = np.random.default_rng(0).choice([0, 255], (3, 7, 5)).astype(np.uint8)
        path = written(tmp_path / "labels.tif", image, values=values)
    entries = entries_by_hand(path)
    lines = entries[270].splitlines()
    assert lines[0].startswith("ImageJ=")
    assert {"images=3", "slices=3", "unit=um", "spacing=2.5"} <= set(lines)
    across, down = (entries[tag][0] / entries[tag][1] for tag in (282, 283))
    assert (across, down) == (4, 8)
    # pixels a unit of the description; ImageJ reads the pages of its stacks as one block
    assert (entries[296], entries[259]) == (1, 1)
    with tifffile.TiffFile(path) as file:
        assert (file.series[0].kind, file.series[0].axes) == ("imagej", "ZYX")
        np.testing.assert_array_equal(file.asarray(), values)
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.PALETTE
        assert '"nucleus": 255' in file.imagej_metadata["Info"]
    assert axes_of(path) == {"z": (2.5, "micrometer"), "y": (0.125, "micrometer"), "x": (0.25, "micrometer")}


def test_units_that_differ_are_one_in_imagej(tmp_path):
    axes = (
        Axis("z", 1, 50.0, unit="nanometer"),
        Axis("y", 4, 2.0, unit="nanometer"),
        Axis("x", 3, 0.004, unit="micrometer"),
    )
    image = OpenImage(tmp_path, axes, 1, lambda *_: STACK, np.dtype(np.uint8), kind="imagej")
    entries = entries_by_hand(written(tmp_path / "labels.tif", image))
    assert "unit=um" in entries[270]
    (spacing,) = (line for line in entries[270].splitlines() if line.startswith("spacing="))
    assert float(spacing.removeprefix("spacing=")) == pytest.approx(0.05)
    assert [entries[tag][0] / entries[tag][1] for tag in (282, 283)] == pytest.approx([250, 500])


@pytest.mark.parametrize("order", ["ZYX", "TZYX"])
def test_labels_of_an_ome_tiff_say_the_physical_size_as_ome_does(order, tmp_path):
    shape = (2, 3, 7, 5)[-len(order) :]
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 40.0, "PhysicalSizeZUnit": "nm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros(shape, np.uint8), metadata={"axes": order, **sizes})
    with open_image(tmp_path / "a.ome.tif", "") as image:
        path = written(tmp_path / "labels.tif", image)
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        assert (file.series[0].axes, file.series[0].shape) == (order, shape)
        root = ElementTree.fromstring(file.ome_metadata)
        assert tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Description"].startswith('{"format": 2')
    (pixels,) = (each.attrib for each in root.iter() if each.tag.endswith("}Pixels"))
    found = {name: (float(pixels[f"PhysicalSize{name}"]), pixels[f"PhysicalSize{name}Unit"]) for name in "XYZ"}
    assert found == {"X": (0.5, "µm"), "Y": (0.25, "µm"), "Z": (40, "nm")}
    assert read_label(path).shape == (shape[0] * 3 if order[0] == "T" else 3, 7, 5)


def test_labels_of_other_images_have_pixels_a_centimetre(tmp_path):
    axes = (Axis("y", 4, 2.0, unit="nanometer"), Axis("x", 3, 0.004, unit="micrometer"))
    image = OpenImage(tmp_path, axes, 1, lambda *_: STACK, np.dtype(np.uint8), images.resolution_tags(axes))
    entries = entries_by_hand(written(tmp_path / "labels.tif", image))
    assert entries[296] == 3
    assert [entries[tag][0] / entries[tag][1] for tag in (282, 283)] == pytest.approx([2.5e6, 5e6])
    assert images.resolution_tags((axes[0], Axis("x", 3))) == {}


def test_what_imagej_does_not_have_becomes_an_ordinary_tiff(tmp_path):
    axes = (Axis("y", 4, 0.5, unit="micrometer"), Axis("x", 3, 0.5, unit="micrometer"))
    tags = images.resolution_tags(axes)
    image = OpenImage(tmp_path, axes, 1, lambda *_: STACK, np.dtype(np.uint8), tags, "imagej")
    path = written(tmp_path / "labels.tif", image, ClassValues(("a", "b"), (0, 70_000)))
    assert entries_by_hand(path)[270].startswith('{"shape": [4, 3]')
    assert axes_of(path)["x"] == (0.5, "micrometer")
