"""The examples run as they are, in an empty folder, without a warning; the loop of one's own fits a page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PRINTED = {
    "plain_loop": r"step 60: loss 0\.\d{3}\nIoU of two other images: \[0\.[6-9]",
    "custom_feedback": r"(runs/custom-feedback/FeedbackUNet-\w+: mean IoU 0\.\d+ in round 1, 0\.\d+ in round 2\n){3}",
    "custom_loss": r"IoU by class: \[0\.[6-9]",
    "custom_network": r"Mean IoU over 3 folds: 0\.[89]\d+; runs/discs/Dilated/report.html\nPixels of each class: \[",
}


def test_there_is_one_for_each_part_that_can_be_passed_and_the_loop_is_under_40_lines():
    assert {path.stem for path in EXAMPLES} == set(PRINTED)
    assert len((ROOT / "examples/plain_loop.py").read_text(encoding="utf-8").splitlines()) < 40


def run_example(path, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    if path.stem in ("plain_loop", "custom_feedback"):  # Optax and Flax's pooling mix floats and whole numbers
        environment.pop("JAX_NUMPY_DTYPE_PROMOTION", None)
    command = [sys.executable, "-W", "error", str(path)]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return run


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_prints_what_it_is_about(path, tmp_path):
    run = run_example(path, tmp_path)
    assert re.search(PRINTED[path.stem], run.stdout), run.stdout
    assert "Error" not in run.stderr
    if path.stem == "custom_network":
        assert (tmp_path / "runs/discs/Dilated/report.html").stat().st_size > 10_000
    if path.stem == "custom_loss":  # the description of what it passes is the same in another process
        again = run_example(path, tmp_path)
        assert again.stdout == run.stdout
        assert "starts" in run.stderr
        assert "starts" not in again.stderr
