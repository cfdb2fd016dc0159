"""N devices give the numbers of one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fbunet_jax.errors import ConfigError
from fbunet_jax.training.parallel import check_batch_size

CASES = {"float64": ("jitted", "4", "8", "loop", "unmapped-norm"), "float32": ("jitted", "4")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return results by precision and case, of one process for each precision, with 8 simulated devices."""
    folder = tmp_path_factory.mktemp("mapped")
    script = str(Path(__file__).with_name("mapped_run.py"))
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    for precision, cases in CASES.items():
        command = [sys.executable, "-W", "error", script, str(folder), precision, *cases]
        subprocess.run(command, check=True, env=environment)

    def results(precision, case):
        with np.load(folder / f"{precision}-{case}.npz") as arrays:
            return dict(arrays)

    return results


def largest_difference(a, b, part):
    assert a.keys() == b.keys()
    return max(np.abs(a[key] - b[key]).max() for key in a if part in key)


@pytest.mark.parametrize("devices", ["4", "8", "loop"])
def test_in_float64_n_devices_equal_one_jitted_step_after_five_sgd_steps(run, devices):
    truth, mapped = run("float64", "jitted"), run("float64", devices)
    kernel = ".params['unet']['output']['kernel']"
    assert np.abs(truth[f"step4[0]{kernel}"] - truth[f"step0[0]{kernel}"]).max() > 1e-3
    # sgd(1): the parameters after the first step are the initial ones minus the gradient
    assert largest_difference(truth, mapped, "step0") < 1e-8
    assert largest_difference(truth, mapped, "step4") < 1e-8


def test_in_float32_loss_and_statistics_agree_after_one_step(run):
    truth, mapped = run("float32", "jitted"), run("float32", "4")
    assert largest_difference(truth, mapped, "step0[1]['loss']") < 1e-5
    assert largest_difference(truth, mapped, "step0[0].batch_stats") < 1e-5


def test_one_batch_norm_without_axis_name_is_noticed(run):
    assert largest_difference(run("float64", "jitted"), run("float64", "unmapped-norm"), "step0") > 1e-6


def test_a_batch_that_does_not_divide_names_both_numbers_and_the_nearest_that_fit():
    with pytest.raises(ConfigError, match=r"batch_size = 10 .* 4 devices.* 8 or 12"):
        check_batch_size(10, 4)
    with pytest.raises(ConfigError, match=r"batch_size = 3 .* 8 devices.* are 8"):
        check_batch_size(3, 8)
    check_batch_size(12, 4)
