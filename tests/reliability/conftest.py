"""Runs of the training command in processes of their own, with faults planted in them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from fbunet_jax.networks import build_network
from fbunet_jax.runs.checkpoints import FoldCheckpoints
from fbunet_jax.runs.directory import Run
from fbunet_jax.training.state import abstract_state

PROGRAM = Path(__file__).with_name("faulty_train.py")
TINY = [
    *("--data.synthetic-images", "6", "--data.synthetic-size", "64", "--data.crop", "32", "--data.folds", "3"),
    *("--model.widths", "2", "3", "--training.batch-size", "4", "--training.augmentation", "dihedral"),
    # 3 training images of 4 crops: 3 steps an epoch, and 2 epochs between validations
    *("--training.validate-every", "2", "--training.preview-every", "4", "--training.previews", "1"),
    *("--training.schedule", "cosine", "--training.learning-rate", "0.01"),
]


class TrainingCommand:
    """The command that trains one small run, given again and again."""

    def __init__(self, out, *options, environment=None):
        self.out, self.options = out, [*TINY, *options]
        self.log = out.with_name(f"{out.name}.faults")
        self.environment = environment or {}

    def start(self, phase="none", count=1, signals=(), wrapper=(), **environment):
        """Start the command with a fault in it, by another command if need be."""
        numbers = ",".join(str(int(number)) for number in signals) or "0"
        command = [sys.executable, str(PROGRAM), phase, str(count), numbers, str(self.log), "--out", str(self.out)]
        return subprocess.Popen(
            [*wrapper, *command, *self.options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | self.environment | environment,
        )

    def run(self, phase="none", count=1, signals=(), **options):
        """Run the command to its end; return exit code, standard output and standard error."""
        process = self.start(phase, count, signals, **options)
        output, errors = process.communicate(timeout=300)
        return process.returncode, output, errors

    @property
    def faults(self):
        """Where and when the faults struck, a record each."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    @property
    def fold(self):
        return Run(self.out).fold(0)

    def contents(self):
        """Return everything that must be the same after an interruption, as bytes by name."""
        run = Run(self.out)
        config, dataset = run.read_config(), run.read_dataset()
        model = build_network(config, classes=len(dataset["class_names"]), channels=dataset["channels"])
        found = {"metrics.jsonl": self.fold.metrics.read_bytes()}
        with FoldCheckpoints(self.fold, read_only=True) as checkpoints:
            best, latest = checkpoints.best_step(), checkpoints.latest_step()
            found["best"] = repr((best, checkpoints.score(best))).encode()
            for step in {best, latest}:
                state = checkpoints.restore(step, abstract_state(config, model, dataset["channels"]).stored())
                for path, leaf in jax.tree_util.tree_leaves_with_path(state):
                    array = np.asarray(leaf)
                    found[f"{step}{jax.tree_util.keystr(path)} {array.dtype}{array.shape}"] = array.tobytes()
        for folder in (self.fold.path, self.fold.checkpoints, self.fold.previews):
            found[f"{folder.name}/"] = " ".join(sorted(p.name for p in folder.iterdir())).encode()
        return found


@pytest.fixture(scope="session", autouse=True)
def quick_compilation():
    """Compile in the processes as in the tests: quickly, and from the same cache."""
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    yield
    del os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
