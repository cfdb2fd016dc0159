"""The small JSON files of a checkpoint: mutated, with the seal broken by it or set anew over it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbunet_jax.runs.checkpoints import FoldCheckpoints
from fbunet_jax.runs.directory import FoldDirectory
from fbunet_jax.runs.sealed import SEAL, seal
from fbunet_jax.training.state import TrainState
from tests.fuzz import tables

STEP = 20
OPTIMIZER = optax.adam(1e-3)


def state(step):
    """Return a small training state that tells its step."""
    params = {"kernel": jnp.full((3, 3, 2, 4), step, jnp.float32), "bias": jnp.arange(4.0)}
    return TrainState(jnp.int32(step), params, {"mean": jnp.ones(4)}, OPTIMIZER.init(params))


class Checkpoint:
    """A checkpoint of which one file at a time is replaced."""

    def __init__(self):
        self.files = {}

    def prepare(self, folder):
        """Write the checkpoints, and return the file that says what becomes of them."""
        directory = FoldDirectory(folder / "fold_0")
        directory.path.mkdir()
        with FoldCheckpoints(directory) as checkpoints:
            for step in (10, STEP):
                checkpoints.save(state(step), step, step / 100)
        root = directory.checkpoints / str(STEP)
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            try:
                self.files[file.relative_to(root).as_posix()] = json.loads(file.read_bytes()), file.read_bytes()
            except ValueError:
                continue  # not JSON: weights, and signs that something was committed
        assert {SEAL, "metrics/metrics", "_CHECKPOINT_METADATA"} <= set(self.files)
        return folder / "mutation"

    def make(self, random):
        """Return the number of a file, whether it is sealed anew, and its content."""
        number, sealed = random.randrange(len(self.files)), random.randrange(2)
        table, _ = list(self.files.values())[number]
        return bytes([number, sealed]) + tables.mutated(random, table, "json")

    def judge(self, path):
        """Replace the file, restore the best checkpoint, and put the file back."""
        data = path.read_bytes()
        name = list(self.files)[data[0]]
        directory = FoldDirectory(path.parent / "fold_0")
        root = directory.checkpoints / str(STEP)
        try:
            (root / name).write_bytes(data[2:])
            if data[1] and name != SEAL:
                seal(root)
            with FoldCheckpoints(directory, read_only=True) as checkpoints:
                step = checkpoints.best_step()
                restored = checkpoints.restore(step, state(0))
        finally:
            for each, (_, content) in self.files.items():
                (root / each).write_bytes(content)
        return step, all(
            np.array_equal(found, expected)
            for found, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(state(step)), strict=True)
        )
