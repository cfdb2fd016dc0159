"""Five SGD steps at full depth, mapped over some devices; run by test_parallel in a process with simulated devices.

usage: mapped_run.py FOLDER float32|float64 CASE ...   where a case is "jitted" (not mapped, the truth), the number of
devices, "loop" (4 devices, several steps a call, as on accelerators), or "unmapped-norm" (4 devices, one batch
normalisation without axis name); writes FOLDER/PRECISION-CASE.npz
"""

import contextlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from fbunet_jax import losses
from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.pipeline.augment import random_dihedral
from fbunet_jax.pipeline.sampling import make_sampler
from fbunet_jax.pipeline.store import ImageStore
from fbunet_jax.runs.processes import replicate
from fbunet_jax.training.parallel import MappedTraining
from fbunet_jax.training.state import create_state
from fbunet_jax.training.steps import make_train_step

BATCH, SIDE, STEPS = 8, 32, 5


def random_store(images=10):
    """Images whose ignored pixels are spread unevenly, so that a mean of means differs from the global mean."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (images, SIDE, SIDE)).astype(np.uint8)
    labels[random.random(labels.shape) < np.linspace(0, 0.9, images)[:, None, None]] = 255
    pixels = random.integers(0, 256, (images, SIDE, SIDE)) * np.linspace(0.2, 1, images)[:, None, None]
    return ImageStore(
        pixels=pixels.astype(np.uint8).reshape(-1, 1),
        labels=labels.reshape(-1),
        offsets=np.arange(images, dtype=np.int32) * SIDE**2,
        sizes=np.full((images, 2), SIDE, np.int32),
        scale=np.full((images, 1), 1 / 64, np.float32),
        shift=np.full((images, 1), -1, np.float32),
    )


class Focal(losses.Loss):
    """A user's loss: no pytree, its value no quotient of its sums, which is not the same over shares of a batch."""

    def __init__(self, gamma):
        self.gamma = gamma

    def statistics(self, logits, labels):
        counted, targets = losses.targets_of(labels, logits)
        log_p = (targets[None] * jax.nn.log_softmax(logits)).sum(axis=-1)
        focal = -((1 - jnp.exp(log_p)) ** self.gamma * log_p)
        return {"focal": focal.sum(axis=(1, 2, 3)), "pixels": counted.sum()}

    def value(self, sums):
        return jnp.sqrt(1 + sums["focal"]) / (7 + sums["pixels"]).astype(sums["focal"].dtype)


def without_axis_name(next_function, arguments, options, context):
    """Take the axis name from one batch normalisation."""
    if isinstance(context.module, nn.BatchNorm) and context.module.path[-2:] == ("decoder_1_first", "norm_round_1"):
        object.__setattr__(context.module, "axis_name", None)
    return next_function(*arguments, **options)


def train(model, precision, case):
    """Return the state and the metrics after each step."""
    optimizer = optax.sgd(1.0)
    state = create_state(model, optimizer, jax.random.key(0), channels=1)
    state = jax.tree.map(lambda x: x.astype(precision) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)
    loss = losses.CrossEntropy(jnp.array([0.5, 1.0, 2.0])) + 0.5 * losses.SoftDice() + 0.3 * Focal(jnp.array(2.0))

    def make_step(given):
        return make_train_step(model, optimizer, given, 0.5)

    store, key = random_store(), jax.random.key(7)
    items = np.random.default_rng(1).integers(0, 10, (STEPS, BATCH)).astype(np.int32)
    history = []
    if case == "jitted":
        train_step, sample = make_step(loss), make_sampler(SIDE, random_dihedral)
        store = jax.tree.map(jnp.asarray, store)
        step = jax.jit(lambda s, i: train_step(s, sample(store, jax.random.fold_in(key, s.step), i, jnp.arange(BATCH))))
        for row in items:
            state, metrics = step(state, row)
            history.append((state, metrics))
        return history
    used = jax.devices()[: 4 if case in ("unmapped-norm", "loop") else int(case)]
    options = {"crop": SIDE, "augment": random_dihedral, "batch_size": BATCH, "key": key, "devices": used}
    mapped = MappedTraining(make_step, loss, steps_per_call=3 if case == "loop" else None, **options)
    state, store = replicate((state, store), used)
    # the loop takes 1, 3 and 1 of at most 3 steps a call, the others 1
    for rows in np.split(items, [1, 4] if case == "loop" else range(1, STEPS)):
        with nn.intercept_methods(without_axis_name) if case == "unmapped-norm" else contextlib.nullcontext():
            before, (state, metrics) = state, mapped(state, store, rows)
        # the history keeps views of later states, which a CPU then copies
        assert history or all(leaf.is_deleted() for leaf in jax.tree.leaves(before)), "a state's buffers are donated"
        for place in range(len(rows)):
            history.append(jax.device_get((state, jax.tree.map(lambda value: value[place], metrics))))  # noqa: B023
    return history


def main(folder, precision, cases):
    """Run the cases and write every parameter, statistic and metric after the first and the last step."""
    jax.config.update("jax_enable_x64", precision == "float64")
    if precision == "float64":  # JAX's own indices then have 64 bits, and those of the package 32
        jax.config.update("jax_numpy_dtype_promotion", "standard")
    model = FeedbackUNet(classes=3, widths=(2, 3, 4, 5, 6), rounds=2, convlstm="abcde", dtype=jnp.dtype(precision))
    for case in cases:
        history = train(model, precision, case)
        arrays = {}
        for number in (0, STEPS - 1):
            for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(history[number])):
                arrays[f"step{number}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
        np.savez(Path(folder) / f"{precision}-{case}.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
