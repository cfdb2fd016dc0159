"""What the tests of the commands share."""

import pytest


@pytest.fixture(autouse=True)
def memory_of_the_tests(monkeypatch):
    """Leave the memory of this process as it is when a command runs in it: that could not be taken back."""
    monkeypatch.setattr("fbunet_jax.training.memory.reuse_host_memory", lambda: None)
