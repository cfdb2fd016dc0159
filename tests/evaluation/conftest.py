"""Runs with random weights: everything that an evaluation and a report read, without a training."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbunet_jax.config import load_config
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.networks import build_network
from fbunet_jax.pipeline.normalisation import fit_normalisation
from fbunet_jax.runs.checkpoints import FoldCheckpoints
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.opening import open_run
from fbunet_jax.runs.passed import passed_with, recorded
from fbunet_jax.runs.trained import save_inputs
from fbunet_jax.training.state import abstract_state


def write_fold(run, config, dataset, fold, step=1, model=None):
    """Write a fold as training leaves it, with weights that nothing has learnt."""
    directory = run.fold(fold)
    model = model or build_network(config, classes=len(dataset.class_names), channels=1)
    random = np.random.default_rng(7 * fold + len(config.method))

    def fill(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        # variances above 0; large weights, so that the classes differ from place to place and from round to round
        values = random.uniform(0.5, 1.5, leaf.shape) if "var" in str(path[-1]) else random.normal(size=leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    state = jax.tree_util.tree_map_with_path(fill, abstract_state(config, model, 1))
    with FoldCheckpoints(directory) as checkpoints:
        checkpoints.save(state, step, 0.5 + step / 100)
    save_inputs(directory, fit_normalisation(config.data.normalisation, dataset.images))
    lines = []
    for epoch in (1, 2, 3):
        lines.append({"kind": "train", "epoch": epoch, "step": epoch, "loss": 2 / epoch})
        by_class = {name: None if name == "synapse" else 0.1 * epoch for name in dataset.class_names}
        lines.append({"kind": "validation", "epoch": epoch, "step": epoch, "mean_iou": 0.1 * epoch, "iou": by_class})
    directory.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    times = [{"kind": "train", "step": 1, "seconds": 90.0, "images_per_second": 2.5, "peak_host_bytes": 2**30}]
    directory.timing.write_text("".join(json.dumps(line) + "\n" for line in times))
    environment = {"command": ["train.py", "--name", "a <b> c"], "python": "3.11.2", "versions": {"jax": None}}
    directory.environment.write_text(json.dumps(environment))


@pytest.fixture(scope="session")
def make_run():
    """Return a function that writes a run and returns its path."""

    def make(path, method="feedback-conv", folds=(0, 1), model=None, **data):
        data = {"synthetic_images": 6, "synthetic_size": 40, "crop": 32, "folds": 3} | data
        config = load_config(
            "quickstart",
            method=method,
            data=data,
            model={"widths": [3, 4]},
            training={"batch_size": 8},
        )
        dataset = load_dataset(config.data)
        run = Run(path)
        passed = passed_with("", model, None)
        open_run(recorded(config, passed), dataset, run, passed=passed)
        for fold in folds:
            write_fold(run, config, dataset, fold, model=model)
        return path

    return make
