"""A broken JAX breaks nothing but its own process."""

import pytest

from fbunet_jax.experiments import probe


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
    answer = probe.ask("devices", 2.0 if "sleep" in text else 60.0)
    assert error in answer.error


def test_what_lies_in_the_working_directory_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text("raise RuntimeError('not me')")
    monkeypatch.chdir(tmp_path)
    answer = probe.ask("devices", 120.0)
    assert not answer.error
    assert {device["platform"] for device in answer.values["devices"]} == {"cpu"}
