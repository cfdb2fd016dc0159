"""Memory of a step is kept for the next one, where it is asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from fbunet_jax.training.memory import reuse_host_memory

if sys.argv[1] == "reuse":
    reuse_host_memory()
# 64 MiB that are freed after each call
step = jax.jit(lambda x: x + jnp.arange(2**24, dtype=jnp.float32))
faults = []
for _ in range(30):
    step(1.0).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[-2])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux does")
def test_a_second_step_takes_no_new_pages():
    def faults(mode):
        command = [sys.executable, "-c", PROGRAM, mode]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": ""}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout)

    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not (huge.exists() and "[always]" in huge.read_text()):
        assert faults("give back") > 2**26 // 4096 / 2  # otherwise there is nothing to gain
    assert faults("reuse") < 1000  # once a piece is free that is great enough: after 1 to 4 steps
