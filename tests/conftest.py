"""Settings of the whole test session, made before JAX starts: eight simulated devices, Keras on JAX."""

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
os.environ["KERAS_BACKEND"] = "jax"


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of the real data sets."""
    if "FBUNET_DATA" not in os.environ:
        pytest.skip("the environment variable FBUNET_DATA does not name the folder of the real data sets")
    return Path(os.environ["FBUNET_DATA"])
