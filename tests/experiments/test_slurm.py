"""Jobs in a real Slurm of one node: requeued, warned, cancelled, and submitted again; several tasks of one job."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from fbunet_jax.cli import main
from fbunet_jax.runs.directory import Run
from tests.experiments.loopback_slurm import PROGRAMS, find, loopback_slurm, until

ROOT = Path(__file__).parents[2]
EPOCHS = 120
SMALL = [
    *("--data.synthetic-images", "6", "--data.synthetic-size", "64", "--data.crop", "32", "--data.folds", "3"),
    *("--model.widths", "2", "3", "--training.batch-size", "4", "--training.previews", "0", "--method", "unet"),
    *("--training.epochs", str(EPOCHS), "--training.validate-every", "4"),
]
OPTIONS = [
    *SMALL,
    *("--slurm.gpus", "0", "--slurm.cpus", "1", "--slurm.memory", "600M", "--slurm.time", "10"),
]


@pytest.fixture(scope="module")
def slurm():
    """Return a function that gives a command to Slurm and returns what it says."""
    if missing := [name for name in PROGRAMS if not find(name)]:
        pytest.skip(f"Slurm is not installed: there is no {', '.join(missing)}")
    with loopback_slurm() as folder:
        environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }

        def call(name, *options):
            command = [find(name), *map(str, options)]
            return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

        yield call


class Array:
    """A submitted job file."""

    def __init__(self, slurm, file, folder):
        self.slurm, self.folder = slurm, folder
        self.job = slurm("sbatch", "--parsable", file).strip()

    def state(self, fold):
        return re.search(r"JobState=(\w+)", self.slurm("scontrol", "show", "job", f"{self.job}_{fold}"))[1]

    def log(self, fold):
        return (self.folder / f"fbunet-quickstart-{self.job}_{fold}.log").read_text()

    def wait_for(self, fold, state):
        until(lambda: self.state(fold) == state, 240, f"{state} of fold {fold}")


@pytest.mark.long
def test_jobs_that_are_requeued_warned_cancelled_and_submitted_again_all_finish(slurm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["jobs", "slurm", *OPTIONS]) == 0
    file, run = tmp_path / "fbunet-quickstart.sbatch", Run(tmp_path / "runs" / "quickstart" / "unet")
    array = Array(slurm, file, tmp_path)
    disturbances = {
        0: lambda job: slurm("scontrol", "requeue", job),  # as a preemption with PreemptMode=REQUEUE
        1: lambda job: slurm("scancel", "--batch", "--signal=TERM", job),  # as --signal=B:TERM before the time limit
        2: lambda job: slurm("scancel", job),
    }
    for fold, disturb in disturbances.items():
        metrics = run.fold(fold).metrics
        until(lambda metrics=metrics: metrics.exists() and '"validation"' in metrics.read_text(), 240, "a validation")
        disturb(f"{array.job}_{fold}")
    saved = {}
    array.wait_for(2, "CANCELLED")
    for fold in (0, 1):
        array.wait_for(fold, "COMPLETED")
        log = array.log(fold)
        saved[fold] = int(re.search(r"Interrupted: step (\d+) of \d+ is saved", log)[1])
        assert f"resumes at step {saved[fold]}:" in log
        assert f"Fold {fold} is finished" in log
        assert ("The job is queued again" in log) == (fold == 1)
        assert "Restarts=1" in slurm("scontrol", "show", "job", f"{array.job}_{fold}")
        records = [json.loads(line) for line in run.fold(fold).metrics.read_text().splitlines()]
        assert [record["epoch"] for record in records if record["kind"] == "train"] == list(range(1, EPOCHS + 1))
    # who cancels a job does not want it back
    assert array.state(2) == "CANCELLED"
    saved[2] = int(re.search(r"Interrupted: step (\d+) of \d+ is saved", array.log(2))[1])
    again = Array(slurm, file, tmp_path)
    for fold in range(3):
        again.wait_for(fold, "COMPLETED")
    assert all("was finished already" in again.log(fold) for fold in (0, 1))
    assert f"resumes at step {saved[2]}:" in again.log(2)


@pytest.mark.long
def test_the_tasks_of_one_job_train_together_as_documented_are_warned_go_on_and_share_a_prediction(
    slurm, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^```bash\n(#SBATCH .*?)^```$", page, re.MULTILINE | re.DOTALL)
    python = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT))}"
    train = f"srun {python}/train.py --fold 0 --out run {shlex.join(SMALL)}"
    script, changed = re.subn(r"^srun .*$", train, script, flags=re.MULTILINE)
    assert changed == 1
    script = script.replace("--nodes=2 --ntasks-per-node=4 --gpus-per-node=4", "--nodes=1 --ntasks-per-node=2")
    Path("train.sbatch").write_text(f"#!/bin/bash\n#SBATCH --mem=1800M --open-mode=append --output=log\n{script}")
    job = slurm("sbatch", "--parsable", "train.sbatch").strip()

    def state():
        return re.search(r"JobState=(\w+)", slurm("scontrol", "show", "job", job))[1]

    metrics = Run(tmp_path / "run").fold(0).metrics
    until(lambda: metrics.exists() and '"validation"' in metrics.read_text(), 240, "a validation")
    slurm("scancel", "--signal=TERM", job)  # to the tasks, as --signal=TERM does before the time limit
    until(lambda: state() == "COMPLETED", 240, "the end of the training")
    assert "Restarts=1" in slurm("scontrol", "show", "job", job)
    log = Path("log").read_text()
    assert "in 2 processes" in log
    saved = int(re.search(r"Interrupted: step (\d+) of \d+ is saved", log)[1])
    assert f"resumes at step {saved}:" in log
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [record["epoch"] for record in records if record["kind"] == "train"] == list(range(1, EPOCHS + 1))

    tifffile.imwrite("image.tif", np.random.default_rng(0).integers(0, 255, (96, 128)).astype(np.uint8))
    predict = f"{python}/predict.py run image.tif --format ome-zarr --chunk 32 --tile 32 --overlap 16 --out"
    options = ("--ntasks=2", "--mem=1800M", "--wait", "--output=predict")
    slurm("sbatch", *options, f"--wrap=srun {predict} out && {predict} alone")
    log = Path("predict").read_text()
    for part in ("6 chunks of 12, shard 1/2", "6 chunks of 12, shard 2/2", "Written: 12 of 12 chunks"):
        assert part in log
    found, expected = (zarr.open_array(f"{out}/labels/image.ome.zarr/0", mode="r")[:] for out in ("out", "alone"))
    np.testing.assert_array_equal(found, expected)
