"""A fold is warned about by name where a part of it lacks a class, in training and in its rehearsal."""

import io
from dataclasses import replace

import numpy as np
import pytest

from fbunet_jax.accelerators import rehearsal
from fbunet_jax.config import load_config
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.opening import open_run, part_items
from fbunet_jax.training import loop, setup
from fbunet_jax.training.fold import train
from fbunet_jax.training.keeper import Keeper

TINY = {
    "data": {"synthetic_images": 6, "synthetic_size": 32, "crop": 32, "folds": 3},
    "model": {"widths": [2, 3]},
    "training": {"epochs": 3, "batch_size": 8},
}
# Fold 1 of 6 images in 3 folds: image 4 validates, 2 and 3 are tested.
WARNINGS = [
    "Warning: class 'mitochondria' has no pixel in the training part of fold 1: its weight is 0, and the network does "
    "not learn it.",
    "Warning: class 'synapse' has no pixel in the validation part of fold 1: its validation IoU is n/a, and the best "
    "checkpoint is chosen without it.",
    "Warning: class 'mitochondria' has no pixel in the test part of fold 1: its IoU there is n/a, and the mean of this "
    "fold leaves it out.",
    "Warning: class 'synapse' has no pixel in the test part of fold 1: its IoU there is n/a, and the mean of this fold "
    "leaves it out.",
]


class Stop(Exception):
    """Raised where the work would begin."""


def stop(*arguments, **options):
    raise Stop


@pytest.fixture
def config(monkeypatch):
    """Return settings of six images: mitochondria are in image 4 only, synapses in 0, 1 and 5."""
    config = load_config("quickstart", **TINY)
    dataset = load_dataset(config.data)
    labels = []
    for image in range(6):
        label = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32) % 4
        label[label == 2] = 2 if image == 4 else 0
        label[label == 3] = 3 if image in (0, 1, 5) else 255
        labels.append(label)
    monkeypatch.setattr(setup, "load_dataset", lambda data: replace(dataset, labels=tuple(labels)))
    return config


def test_training_warns_of_classes_that_a_part_lacks(config, monkeypatch, tmp_path):
    monkeypatch.setattr(Keeper, "restore", lambda *arguments: (None, 0, None))
    monkeypatch.setattr(loop, "train_and_record", stop)
    stream = io.StringIO()
    with pytest.raises(Stop):
        train(config, 1, out=tmp_path / "run", stream=stream)
    assert [line for line in stream.getvalue().splitlines() if line.startswith("Warning")] == WARNINGS


def test_a_dry_run_warns_of_them_too(config, monkeypatch, tmp_path):
    monkeypatch.setattr(rehearsal._Rehearsal, "measure", stop)
    lines = []
    with pytest.raises(Stop):
        rehearsal.dry_run(config, [1], out=tmp_path / "run", tell=lines.append)
    assert [line for line in lines if line.startswith("Warning")] == WARNINGS


def test_parts_with_every_class_are_not_warned_about(config, tmp_path):
    dataset = setup.load_dataset(config.data)
    labels = [np.where(np.arange(32) < 4, np.arange(32), 0).astype(np.uint8)[None].repeat(32, axis=0)] * 6
    whole = replace(dataset, labels=tuple(labels))
    for fold in range(3):
        assert setup.set_up_fold(config, whole, Run(tmp_path / "run"), fold).warnings(fold) == []


def test_an_existing_run_keeps_its_folds_whatever_the_setting(config, tmp_path):
    dataset, run = setup.load_dataset(config.data), Run(tmp_path / "run")
    after = replace(config, data=replace(config.data, validation_groups="after"))
    open_run(after, dataset, run)
    items = [part_items(each, run, dataset, 2)["validation"].tolist() for each in (config, after)]
    assert items == [[0], [0]]
    assert part_items(config, Run(tmp_path / "new"), dataset, 2)["validation"].tolist() == [3]
