"""Cells that nobody has trained, with counts that a test chooses."""

import numpy as np
import pytest

from fbunet_jax.config import load_config
from fbunet_jax.evaluation.crossval import fold_entry
from fbunet_jax.reproduction.cells import setting_of


@pytest.fixture(scope="session")
def make_cell():
    """Return a function that makes a cell from its confusion matrices `[R, K, K]`."""

    def make(method, fold, seed, confusion, config="drosophila", **settings):
        loaded = load_config(config, **settings)
        names = ["cytoplasm", "membrane", "mitochondria", "synapse"][: np.shape(confusion)[-1]]
        process = {"commit": "c" * 40, "devices": ["NVIDIA H200"], "versions": {"jax": "0.10.2"}, "date": "2026-11-24"}
        return {
            "format": 2,
            "method": method,
            "fold": fold,
            "seed": seed,
            "setting": setting_of(loaded),
            "data": {"name": "vnc", "class_names": names, "channels": 1, "fingerprint": "f"},
            "evaluation": fold_entry(fold, 9, 2, np.array(confusion)),
            "validation_mean_iou": 0.5,
            "steps": 12,
            "parameters": 100,
            "seconds": 90.0,
            "processes": [process],
            "date": "2026-11-25",
        }

    return make
