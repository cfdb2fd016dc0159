"""What is written chunk by chunk, read back by the library zarr."""

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
