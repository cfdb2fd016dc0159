"""The two latest checkpoints and the best are kept, restored bit for bit, and a broken one is never used."""

import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fbunet_jax.errors import RunError
from fbunet_jax.runs import sealed
from fbunet_jax.runs.checkpoints import FoldCheckpoints
from fbunet_jax.runs.directory import FoldDirectory
from fbunet_jax.training.state import TrainState

OPTIMIZER = optax.adam(1e-3)
EPOCH = {"seconds": 1.5, "metrics": {"loss": [0.1, 1 / 3], "round_losses": [[1e-9, 2.0], [3.0, 4.0]]}}


def state(step):
    params = {"kernel": jax.random.normal(jax.random.key(step), (3, 3, 2, 4)), "bias": jnp.full(4, step / 3)}
    return TrainState(jnp.int32(step), params, {"mean": jnp.full(4, -1.5 * step)}, OPTIMIZER.init(params))


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a fold whose scores are 0.1, 0.5, 0.2, 0.3, 0.25, and which is in the middle of an epoch after them."""
    fold = FoldDirectory(tmp_path_factory.mktemp("fold"))
    with FoldCheckpoints(fold) as checkpoints:
        for step, score in ((10, 0.1), (20, 0.5), (30, 0.2), (40, 0.3), (50, 0.25)):
            checkpoints.save(state(step), step, score)
        for step in (51, 52, 53):
            checkpoints.save_unfinished(state(step), step, EPOCH)
    return fold


@pytest.fixture
def fold(saved, tmp_path):
    shutil.copytree(saved.path, tmp_path / "fold_0")
    return FoldDirectory(tmp_path / "fold_0")


def names(folder):
    return {path.name for path in folder.iterdir() if path.name.isdigit()}


def test_best_is_not_latest_and_both_survive_reopening(fold):
    with FoldCheckpoints(fold) as checkpoints:
        assert checkpoints.best_step() == 20
        assert checkpoints.latest_step() == 50
        assert checkpoints.score(20) == 0.5
        assert not checkpoints.warnings
    assert names(fold.checkpoints) == {"20", "40", "50"}
    assert names(fold.unfinished) == {"52", "53"}
    assert not list(fold.path.rglob("deleted"))


def test_the_best_of_an_earlier_process_is_still_the_best(fold):
    with FoldCheckpoints(fold) as checkpoints:
        checkpoints.save(state(60), 60, 0.4)
        checkpoints.save(state(70), 70, 0.45)
        assert checkpoints.best_step() == 20
    assert names(fold.checkpoints) == {"20", "60", "70"}


def test_a_restored_state_is_the_saved_one_bit_for_bit(fold):
    with FoldCheckpoints(fold) as checkpoints:
        assert_same(checkpoints.restore(40, state(0)), state(40))


def test_a_fold_goes_on_in_the_middle_of_an_epoch_bit_for_bit_or_after_a_later_validation(fold):
    with FoldCheckpoints(fold) as checkpoints:
        resumption = checkpoints.resume(state(0))
        assert (resumption.step, resumption.epoch) == (53, EPOCH)
        assert_same(resumption.state, state(53))
        checkpoints.save(state(53), 53, 0.3)
        assert (checkpoints.resume(state(0)).step, checkpoints.resume(state(0)).epoch) == (53, None)
        checkpoints.remove_unfinished()
        assert not fold.unfinished.exists()
        assert checkpoints.resume(state(0)).step == 53


def test_a_state_saved_in_the_background_is_that_of_the_save_although_training_reuses_its_memory(tmp_path):
    advance = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    kernel = {"kernel": jnp.zeros((512, 512, 16)), "bias": jnp.zeros(4)}
    with FoldCheckpoints(FoldDirectory(tmp_path)) as checkpoints:
        now = jax.tree.map(jnp.copy, TrainState(jnp.int32(0), kernel, {"mean": jnp.zeros(4)}, OPTIMIZER.init(kernel)))
        for step in range(1, 4):
            now = advance(now)
            checkpoints.save(now, step, 0.1)
            for _ in range(5):
                now = advance(now)
        assert all((leaf == 13).all() for leaf in jax.tree.leaves(checkpoints.resume(now).state))


def damages(folder):
    """Yield every file of a checkpoint with each way to damage it, but for Orbax' two notes that nothing needs."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in ("_CHECKPOINT_METADATA", "commit_success.txt"):
            content = path.read_bytes()
            yield name, "removed", None
            yield name, "emptied", b""
            yield name, "cut by half", content[: len(content) // 2]
            middle = len(content) // 2
            yield name, "one bit", content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


@pytest.mark.parametrize("kind", ["checkpoints", "unfinished"])
def test_every_damage_to_any_file_of_the_latest_is_named_and_the_one_before_it_is_used(saved, tmp_path, kind):
    """The damage of one bit in the data of a checkpoint was not noticed by Orbax itself."""
    source = getattr(saved, kind)
    latest, before = sorted(names(source), key=int, reverse=True)[:2]
    count = 0
    for name, damage, content in damages(source / latest):
        fold = FoldDirectory(tmp_path / f"fold_{count}")
        shutil.copytree(source, fold.path / kind)
        path = fold.path / kind / latest / name
        path.write_bytes(content) if content is not None else path.unlink()
        with FoldCheckpoints(fold) as checkpoints:
            [warning] = checkpoints.warnings
            assert f"{kind}/{latest} is broken: " in warning
            # a bit of the checksums changes what another file should be
            assert name in warning or (name, damage) == ("checksums.json", "one bit")
            resumption = checkpoints.resume(state(0))
        assert resumption.step == int(before)
        assert_same(resumption.state, state(int(before)))
        assert (fold.broken / f"{kind}-{latest}-1").is_dir()
        shutil.rmtree(fold.path)
        count += 1
    assert count > 40


def test_without_a_whole_checkpoint_nothing_starts_again_silently(fold):
    shutil.rmtree(fold.unfinished)
    for step in names(fold.checkpoints):
        (fold.checkpoints / step / "checksums.json").write_text("{")
    for _ in range(2):  # as often as it is tried
        with pytest.raises(RunError, match=r"No checkpoint of .* is whole.*50: checksums.json cannot.*\(fresh\)"):
            FoldCheckpoints(fold)
    assert names(fold.checkpoints) == {"20", "40", "50"}
    assert not fold.broken.exists()


def test_a_checkpoint_that_does_not_fit_is_named(fold):
    other = TrainState(jnp.int32(0), {"other": jnp.zeros(3)}, {}, OPTIMIZER.init({"other": jnp.zeros(3)}))
    with FoldCheckpoints(fold) as checkpoints, pytest.raises(RunError, match=r"unfinished/53 cannot be restored"):
        checkpoints.resume(other)


def test_reading_only_leaves_the_folder_as_it_is_and_warns_of_nothing(fold, caplog):
    def contents():
        return {path: path.stat().st_mtime_ns for path in (fold.path, *fold.path.rglob("*"))}

    before = contents()
    with FoldCheckpoints(fold, read_only=True) as checkpoints:
        assert checkpoints.best_step() == 20
        checkpoints.restore(20, state(0))
    assert contents() == before
    assert not caplog.messages


def test_reading_only_names_a_broken_checkpoint(fold):
    (fold.checkpoints / "20" / "state" / "manifest.ocdbt").write_bytes(b"")
    with FoldCheckpoints(fold, read_only=True) as checkpoints, pytest.raises(RunError, match=r"20 is broken: state"):
        checkpoints.restore(20, state(0))


def test_a_checkpoint_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(fold, monkeypatch):
    """A network disk may answer so for a moment."""
    before = sorted(fold.path.rglob("*"))

    def fail(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(sealed, "_facts", fail)
    with pytest.raises(RunError, match=r"cannot be read: Stale file handle. Nothing was changed"):
        FoldCheckpoints(fold)
    assert sorted(fold.path.rglob("*")) == before


def test_unfinished_checkpoints_that_are_half_removed_are_not_taken_for_damaged_ones(fold, monkeypatch):
    with FoldCheckpoints(fold) as checkpoints, monkeypatch.context() as killed:

        def remove_one_file(folder, **_):
            for path in list(folder.rglob("checksums.json"))[:1]:
                path.unlink()

        killed.setattr(shutil, "rmtree", remove_one_file)
        checkpoints.remove_unfinished()
    with FoldCheckpoints(fold) as checkpoints:
        assert not checkpoints.warnings
        assert checkpoints.latest_step() == 50
    assert {path.name for path in fold.path.iterdir()} == {"checkpoints"}


def test_a_disk_that_is_full_at_the_first_save_in_an_epoch_is_not_taken_for_damage(fold, monkeypatch):
    shutil.rmtree(fold.unfinished)

    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with FoldCheckpoints(fold) as checkpoints:
        monkeypatch.setattr(sealed.ocp, "CheckpointManager", fail)
        with pytest.raises(RunError, match=r"could not be written to .*fold_0: No space left on device\. .* are kept"):
            checkpoints.save_unfinished(state(51), 51, EPOCH)
