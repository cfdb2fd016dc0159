"""The facts are read from the system, and a broken JAX breaks nothing but its own process."""

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


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise RuntimeError('jaxlib does not fit')", "RuntimeError: jaxlib does not fit"),
        ("import os; os.abort()", "exit code -6"),
        ("import time; time.sleep(600)", "no answer within 2 seconds"),
        ("print('not what was asked'); raise SystemExit", "exit code 0"),
    ],
)
def test_whatever_jax_does_in_its_process_becomes_an_answer(text, error, tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answer = machine._ask("devices", 2.0 if "sleep" in text else 60.0)
    assert error in answer.error


def test_what_lies_in_the_working_directory_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text("raise RuntimeError('not me')")
    monkeypatch.chdir(tmp_path)
    answer = machine._ask("devices", 120.0)
    assert not answer.error
    assert {device["platform"] for device in answer.values["devices"]} == {"cpu"}
