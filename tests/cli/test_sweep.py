"""``fbunet sweep`` as a user types it: real trainings, two at a time, interrupted, and the same command again."""

import json
import os
import signal
import subprocess
import sys

import pytest

from fbunet_jax.runs.directory import Run
from tests.experiments.loopback_slurm import until

TINY = ["--data.synthetic-images", "6", "--data.synthetic-size", "64", "--data.crop", "32", "--data.folds", "3"]
TINY += ["--model.widths", "2", "3", "--training.batch-size", "4", "--training.previews", "0", "--method", "unet"]
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def start(command, out, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "fbunet_jax.cli", command, *TINY, "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors
    return process.returncode, output, errors


def test_two_folds_train_at_the_same_time_each_in_the_run_directory_of_fbunet_train(tmp_path):
    code, output, errors = finish(
        start("sweep", tmp_path, "--fold", "0", "2", "--workers", "2", "--training.epochs", "2")
    )
    assert code == 0, errors
    run = Run(tmp_path / "unet")
    for fold in (0, 2):
        lines = run.fold(fold).metrics.read_text().splitlines()
        best = max(record["mean_iou"] for record in map(json.loads, lines) if record["kind"] == "validation")
        assert f"unet:{fold}:0 is finished: best validation IoU {100 * best:.1f} %" in errors
        assert not run.fold(fold).lock.exists()
    assert [line.split()[3] for line in output.splitlines()] == ["state", "finished", "finished"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep", "unet"]


@pytest.mark.long
def test_a_sweep_that_is_interrupted_and_given_again_writes_the_records_of_one_that_was_not(tmp_path):
    options = ("--training.epochs", "160", "--training.validate-every", "8", "--workers", "2")
    # not by fbunet train: on another number of cores XLA adds in another order
    assert finish(start("sweep", tmp_path / "undisturbed", *options))[0] == 0
    sweep = start("sweep", tmp_path / "swept", *options)
    run = Run(tmp_path / "swept" / "unet")
    metrics = run.fold(1).metrics
    until(lambda: metrics.exists() and '"validation"' in metrics.read_text(), 240, "a validation")
    sweep.send_signal(signal.SIGTERM)
    code, output, errors = finish(sweep)
    assert code == 130
    assert errors.splitlines()[-1].startswith("Interrupted: 2 stopped, 1 not begun. The same command resumes.")
    assert [line.split()[3] for line in output.splitlines()[1:]] == ["stopped", "stopped", "not"]
    code, _, errors = finish(start("sweep", tmp_path / "swept", *options))
    assert code == 0, errors
    logs = [(tmp_path / "swept" / "sweep" / f"unet-fold{fold}-seed0.log").read_text() for fold in range(3)]
    assert ["resumes at step" in log for log in logs] == [True, True, False]
    for fold in range(3):
        expected = Run(tmp_path / "undisturbed" / "unet").fold(fold).metrics.read_bytes()
        assert run.fold(fold).metrics.read_bytes() == expected
