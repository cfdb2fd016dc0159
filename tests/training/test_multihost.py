"""N processes, joined by JAX's distributed runtime, give the numbers of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def arrays(folder, name):
    with np.load(folder / name) as found:
        return dict(found)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Return what one process without any mapping gives, by precision."""
    folder = tmp_path_factory.mktemp("truth")

    def run(precision):
        if not (folder / f"{precision}-jitted.npz").exists():
            command = [sys.executable, str(HERE / "mapped_run.py"), str(folder), precision, "jitted"]
            subprocess.run(command, check=True, env=ENVIRONMENT)
        return arrays(folder, f"{precision}-jitted.npz")

    return run


def joined(folder, precision, processes, devices):
    """Return what each of several processes gives."""
    port = str(free_port())
    running = [
        subprocess.Popen(
            [
                *(sys.executable, str(HERE / "joined_run.py"), port, str(processes), str(process), str(devices)),
                *(str(folder), precision),
            ],
            env=ENVIRONMENT,
        )
        for process in range(processes)
    ]
    assert [process.wait(timeout=600) for process in running] == [0] * processes
    return [arrays(folder / str(process), f"{precision}-{processes * devices}.npz") for process in range(processes)]


def largest_difference(a, b, part):
    assert a.keys() == b.keys()
    return max(np.abs(a[key] - b[key]).max() for key in a if part in key)


@pytest.mark.parametrize(
    ("precision", "processes", "devices"),
    [
        ("float64", 2, 2),
        ("float32", 2, 1),
        pytest.param("float64", 4, 2, marks=pytest.mark.long),
        pytest.param("float32", 4, 2, marks=pytest.mark.long),
    ],
)
def test_every_process_has_the_numbers_of_a_single_one(truth, tmp_path, precision, processes, devices):
    one = truth(precision)
    for each in joined(tmp_path, precision, processes, devices):
        if precision == "float64":
            kernel = ".params['unet']['output']['kernel']"
            assert np.abs(one[f"step4[0]{kernel}"] - one[f"step0[0]{kernel}"]).max() > 1e-3
            assert largest_difference(one, each, "step0") < 1e-8
            assert largest_difference(one, each, "step4") < 1e-8
        else:
            assert largest_difference(one, each, "step0[1]['loss']") < 1e-5
            assert largest_difference(one, each, "step0[0].batch_stats") < 1e-5
