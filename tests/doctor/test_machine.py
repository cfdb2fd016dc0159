"""The facts are read from the system."""

import sys

import pytest

from fbunet_jax.doctor import machine


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)


def test_driver_and_gpus_are_those_that_nvidia_smi_lists(tmp_path, monkeypatch):
    program(tmp_path, "nvidia-smi", "print('580.65.06, 9.0, NVIDIA H200\\n580.65.06, 7.5, Tesla T4')")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._nvidia() == ("580.65.06", (("NVIDIA H200", 9.0), ("Tesla T4", 7.5)))


@pytest.mark.parametrize("text", ["raise SystemExit(9)", "print('No devices were found')", "print('1, N/A, old')"])
def test_an_nvidia_smi_that_fails_lists_nothing(text, tmp_path, monkeypatch):
    program(tmp_path, "nvidia-smi", text)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._nvidia()[1] == ()
