"""What only accelerators do in training, on a CPU: several steps a call, in bfloat16; one program for all folds."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbunet_jax.config import load_config
from fbunet_jax.networks import build_network
from fbunet_jax.pipeline.store import ImageStore
from fbunet_jax.runs.processes import replicate
from fbunet_jax.training import parallel
from fbunet_jax.training.parallel import mapped_training
from fbunet_jax.training.setup import loss_with
from fbunet_jax.training.state import create_state, make_optimizer

SIDE, IMAGES, STEPS = 16, 6, 7
CONFIG = load_config(
    "quickstart",
    method="feedback-convlstm",
    model={"widths": [2, 4]},
    data={"crop": SIDE},
    training={"batch_size": 8, "augmentation": "dihedral", "learning_rate": 1e-2},
)
WEIGHTS = np.array([0.5, 1, 2], np.float32)


def mapped(config=CONFIG, weights=WEIGHTS, seed=0):
    model = build_network(config, classes=3, channels=1)
    optimizer = make_optimizer(config.training, STEPS)
    state = create_state(model, optimizer, jax.random.key(0), 1)
    key, devices = jax.random.key(seed), jax.local_devices()[:4]
    return state, mapped_training(config, model, optimizer, loss_with(config, weights), key, devices)


def store():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (IMAGES, SIDE, SIDE)).astype(np.uint8)
    pixels = labels * 80 + random.integers(0, 60, labels.shape).astype(np.uint8)
    return ImageStore(
        pixels.reshape(-1, 1),
        labels.reshape(-1),
        np.arange(IMAGES, dtype=np.int32) * SIDE**2,
        np.full((IMAGES, 2), SIDE, np.int32),
        np.full((IMAGES, 1), 1 / 64, np.float32),
        np.full((IMAGES, 1), -1.5, np.float32),
    )


def losses(config, a_call, monkeypatch):
    """Return the state after all steps, and their losses, with so many steps a call."""
    initial = parallel.MappedTraining.__init__
    with monkeypatch.context() as patch:
        patch.setattr(
            parallel.MappedTraining,
            "__init__",
            lambda self, *arguments, **options: initial(self, *arguments, **options, steps_per_call=a_call),
        )
        state, training = mapped(config)
    devices = jax.local_devices()[:4]
    state, images = replicate((state, store()), devices)
    items = np.random.default_rng(1).integers(0, IMAGES, (STEPS, 8)).astype(np.int32)
    found = []
    for first in range(0, STEPS, a_call):
        rows = items[first : first + a_call]
        state, metrics = training(state, images, rows)
        found += np.asarray(metrics["loss"])[: len(rows)].tolist()
    return state, np.array(found)


def test_bfloat16_in_a_loop_of_steps_follows_float32_one_by_one(monkeypatch):
    half = replace(CONFIG, model=replace(CONFIG.model, precision="bfloat16"))
    state, found = losses(half, 4, monkeypatch)
    _, expected = losses(CONFIG, 1, monkeypatch)
    assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(state)), "weights and moments stay float32"
    assert int(state.step) == STEPS
    assert len(set(expected)) == STEPS
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_one_program_serves_every_fold_and_seed():
    """Class weights and the key of the random numbers differ, and a program that is kept on disk is used again."""

    def text(**differing):
        state, training = mapped(**differing)
        return training.lower(state, store()).as_text()

    assert text() == text(weights=WEIGHTS[::-1].copy(), seed=5)
    assert text() != text(config=replace(CONFIG, training=replace(CONFIG.training, round_weight=0.25)))


def test_the_weights_and_the_key_that_are_given_are_used(monkeypatch):
    _, plain = losses(CONFIG, 1, monkeypatch)
    state, training = mapped(weights=2 * WEIGHTS)
    items = np.random.default_rng(1).integers(0, IMAGES, (1, 8)).astype(np.int32)
    state, images = replicate((state, store()), jax.local_devices()[:4])
    assert training(state, images, items)[1]["loss"][0] == pytest.approx(2 * plain[0], rel=1e-5)
    # dihedral views: another key turns the images otherwise
    state, training = mapped(seed=1)
    state, _ = replicate((state, store()), jax.local_devices()[:4])
    assert abs(float(training(state, images, items)[1]["loss"][0]) - plain[0]) > 1e-6
