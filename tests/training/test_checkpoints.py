"""The two latest checkpoints and the best are kept, restored bit for bit, and a broken one is named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fbunet_jax.errors import RunError
from fbunet_jax.training.checkpoints import FoldCheckpoints
from fbunet_jax.training.state import TrainState

OPTIMIZER = optax.adam(1e-3)


def state(step):
    params = {"kernel": jax.random.normal(jax.random.key(step), (3, 3, 2, 4)), "bias": jnp.full(4, step / 3)}
    return TrainState(jnp.int32(step), params, {"mean": jnp.full(4, -1.5 * step)}, OPTIMIZER.init(params))


@pytest.fixture
def folder(tmp_path):
    with FoldCheckpoints(tmp_path / "checkpoints") as checkpoints:
        for step, score in ((10, 0.1), (20, 0.5), (30, 0.2), (40, 0.3), (50, 0.25)):
            checkpoints.save(state(step), step, score)
    return tmp_path / "checkpoints"


def test_best_is_not_latest_and_both_survive_reopening(folder):
    with FoldCheckpoints(folder) as checkpoints:
        assert checkpoints.best_step() == 20
        assert checkpoints.latest_step() == 50
        assert checkpoints.score(20) == 0.5
    assert {path.name for path in folder.iterdir() if path.name.isdigit()} == {"20", "40", "50"}


def test_the_best_of_an_earlier_process_is_still_the_best(folder):
    with FoldCheckpoints(folder) as checkpoints:
        checkpoints.save(state(60), 60, 0.4)
        checkpoints.save(state(70), 70, 0.45)
        assert checkpoints.best_step() == 20
    assert {path.name for path in folder.iterdir() if path.name.isdigit()} == {"20", "60", "70"}


def test_a_restored_state_is_the_saved_one_bit_for_bit(folder):
    with FoldCheckpoints(folder) as checkpoints:
        restored = checkpoints.restore(40, state(0))
    assert jax.tree.structure(restored) == jax.tree.structure(state(40))
    for found, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(state(40)), strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)


def test_a_broken_checkpoint_is_named(folder):
    for file in (folder / "50" / "default").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with FoldCheckpoints(folder) as checkpoints, pytest.raises(RunError, match=r"step 50 .* cannot be restored"):
        checkpoints.restore(50, state(0))


def test_reading_only_leaves_the_folder_as_it_is_and_warns_of_nothing(folder, caplog):
    def contents():
        return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}

    before = contents()
    with FoldCheckpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.best_step() == 20
        checkpoints.restore(20, state(0))
    assert contents() == before
    assert not caplog.messages
