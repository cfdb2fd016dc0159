"""Settings of the whole test session, made before JAX starts.

Eight simulated devices; Keras on JAX; strict types and ranks, here and in every process that a test starts, so that
nothing is promoted silently; and quick compilation: the networks are tiny, so optimising them costs more than it saves,
and what is compiled twice, here or in such a process, comes from a cache.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_CACHE = tempfile.TemporaryDirectory(prefix="fbunet-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import jax  # noqa: E402  (after its settings)

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of the real data sets."""
    if "FBUNET_DATA" not in os.environ:
        pytest.skip("the environment variable FBUNET_DATA does not name the folder of the real data sets")
    return Path(os.environ["FBUNET_DATA"])


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Leave signals as they were: a command that a test has stopped stops no training of another test."""
    from fbunet_jax.runs.interruption import forget_dropped

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    forget_dropped()
