"""What is written chunk by chunk, read back by the library zarr."""

import json

import numpy as np
import zarr

from fbunet_jax.inference import zarr_output
from fbunet_jax.inference.axes import Axis
from fbunet_jax.inference.zarr_output import ZarrImage


def test_chunks_of_every_level_begin_where_those_of_level_0_do(tmp_path, monkeypatch):
    monkeypatch.setattr(zarr_output, "SMALLEST_CHUNK", 4)
    monkeypatch.setattr(zarr_output, "COARSEST_PIXELS", 8)
    plane = np.random.default_rng(0).integers(0, 255, (300, 410)).astype(np.uint8)
    for chunk, levels in ((144, 5), (48, 4), (64, 5)):
        written = ZarrImage(tmp_path / str(chunk), [Axis("y", 300), Axis("x", 410)], np.uint8, chunk)
        written.create({})
        for top in range(0, 300, chunk):
            for left in range(0, 410, chunk):
                part = plane[top : top + chunk, left : left + chunk]
                rows, columns = range(top, top + part.shape[0]), range(left, left + part.shape[1])
                written.write(0, rows, columns, part)
        assert len(list((tmp_path / str(chunk)).glob("?"))) == levels
        for level in range(levels):
            array = zarr.open_array(str(tmp_path / str(chunk) / str(level)), mode="r")[:]
            np.testing.assert_array_equal(array, plane[:: 2**level, :: 2**level])


def test_pages_channels_scales_and_translations_have_the_order_of_ome_zarr(tmp_path, monkeypatch):
    monkeypatch.setattr(zarr_output, "SMALLEST_CHUNK", 8)
    monkeypatch.setattr(zarr_output, "COARSEST_PIXELS", 8)
    axes = [Axis("t", 2, 60.0, unit="second"), Axis("z", 3, 0.5, 7.0), Axis("y", 16, 0.25, 1.0), Axis("x", 12, 0.125)]
    written = ZarrImage(tmp_path / "a.ome.zarr", axes, np.float32, 16, channels=2)
    written.create({})
    values = np.random.default_rng(0).random((6, 16, 12, 2), np.float32)
    for page, plane in enumerate(values):
        assert not written.is_written(page, 0, 0)
        written.write(page, range(16), range(12), plane)
        assert written.is_written(page, 0, 0)
    for level in range(2):
        array = zarr.open_array(str(tmp_path / "a.ome.zarr" / str(level)), mode="r")
        assert array.metadata.dimension_names == ("t", "c", "z", "y", "x")
        for page, plane in enumerate(values):
            np.testing.assert_array_equal(
                array[page // 3, :, page % 3], np.moveaxis(plane[:: 2**level, :: 2**level], -1, 0)
            )
    (image,) = json.loads((tmp_path / "a.ome.zarr/zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    assert [axis["name"] for axis in image["axes"]] == ["t", "c", "z", "y", "x"]
    # every n-th pixel keeps its place, so the translation is that of level 0
    assert [level["coordinateTransformations"] for level in image["datasets"]] == [
        [
            {"type": "scale", "scale": [60.0, 1.0, 0.5, 0.25 * step, 0.125 * step]},
            {"type": "translation", "translation": [0.0, 0.0, 7.0, 1.0, 0.0]},
        ]
        for step in (1, 2)
    ]
