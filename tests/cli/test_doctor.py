"""fbunet doctor: a line about each thing, exit code 1 with a problem, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def doctor(cwd, **environment):
    command = [sys.executable, "-W", "error", "-c", "import sys; from fbunet_jax.cli import main; sys.exit(main())"]
    paths = [str(ROOT), environment.pop("PYTHONPATH", "")]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths), **environment}
    environment = {name: value for name, value in environment.items() if value is not None}
    done = subprocess.run(
        [*command, "doctor"], cwd=cwd, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert "Internal error" not in done.stderr
    return done


def lines(done):
    return {
        line.split()[1]: line for line in done.stdout.splitlines() if line.split()[0] in ("ok", "warning", "problem")
    }


def test_this_machine_is_well(tmp_path):
    done = doctor(tmp_path, XLA_FLAGS=None)
    found = lines(done)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["training"].startswith("ok")
    assert found["devices"].startswith("ok")
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] in found["cache"]
    assert "pip install" in found["install"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["raise ImportError('no such library')", "import os; os.abort()"])
def test_a_broken_jax_is_a_problem_with_exit_code_1(text, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "jax.py").write_text(text)
    done = doctor(tmp_path, PYTHONPATH=str(tmp_path / "broken"))
    assert done.returncode == 1
    assert lines(done)["jax"].startswith("problem")
    assert lines(done)["training"].startswith("problem")
    assert "2 problems." in done.stdout


def test_a_gpu_that_jax_was_not_installed_for_is_a_problem(tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!{sys.executable}\nprint('580.65.06, 9.0, NVIDIA H200')\n")
    smi.chmod(0o755)
    (tmp_path / "jax.py").write_text(
        "class Device:\n    platform = device_kind = 'cpu'\n    memory_stats = lambda self: None\n"
        "local_device_count = lambda: 1\nlocal_devices = lambda: [Device()]\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = doctor(tmp_path, PATH=path, JAX_PLATFORMS="", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "JAX is installed for the CPU only" in lines(done)["gpu"]
    assert "[cuda13]" in done.stdout
