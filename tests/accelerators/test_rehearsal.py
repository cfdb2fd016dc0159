"""A dry run tries everything, leaves nothing, and changes no run."""

import jax
import pytest

from fbunet_jax.accelerators import rehearsal as module
from fbunet_jax.accelerators.estimate import Work
from fbunet_jax.accelerators.rehearsal import dry_run
from fbunet_jax.config import load_config
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.errors import RunError
from fbunet_jax.runs.checkpoints import FoldCheckpoints
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.opening import open_run

TINY = {
    "data": {"synthetic_images": 6, "synthetic_size": 64, "crop": 32, "folds": 3},
    "model": {"widths": [2, 3]},
    "training": {"epochs": 2, "batch_size": 8},
}


@pytest.fixture(autouse=True)
def short_and_here(monkeypatch, tmp_path):
    """Time few steps, and put temporary folders where the test sees them."""
    monkeypatch.setattr(module, "TIMED_SECONDS", 0.0)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_every_part_is_tried_nothing_is_left_and_a_run_that_exists_is_untouched(tmp_path):
    config = load_config("quickstart", **TINY)
    run = Run(tmp_path / "run")
    open_run(config, load_dataset(config.data), run)
    run.fold(1).path.mkdir()
    before = contents(tmp_path)
    lines = []
    estimate = dry_run(config, [1, 0], out=run.path, tell=lines.append)
    assert [line.split()[0] for line in lines] == ["read", "trained", "validated", "resumed", "predicted"]
    assert contents(run.path) == {path: facts for path, facts in before.items() if run.path in path.parents}
    assert set(contents(tmp_path)) == set(before)
    # 3 training images of 4 crops, 2 epochs: 24 crops; one validation at the end, one batch of 4 tiles
    assert estimate.work == dict.fromkeys([1, 0], Work(steps=3, records=2, validations=1, batches=1, pictures=1))
    assert estimate.groups >= module.TIMED_GROUPS
    assert estimate.seconds == sum(estimate.costs.seconds(work) for work in estimate.work.values())
    # what is held at least: the arrays of this process; what is kept: parameters and two moments, three times
    assert estimate.host_bytes > sum(array.nbytes for array in jax.live_arrays())
    assert estimate.disk_bytes > 3 * 3 * 4 * 100


def test_settings_that_do_not_fit_a_run_that_exists_are_refused(tmp_path):
    config = load_config("quickstart", **TINY)
    open_run(config, load_dataset(config.data), Run(tmp_path / "run"))
    with pytest.raises(RunError, match="method was 'feedback-convlstm' and is now 'unet'"):
        dry_run(load_config("quickstart", **TINY, method="unet"), [0], out=tmp_path / "run")


def test_checkpoints_that_are_not_saved_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(FoldCheckpoints, "save", lambda *arguments: None)
    # 16 validation tiles on 8 devices, of which only those of the first batch are tried
    monkeypatch.setattr(module, "VALIDATION_BATCHES", 1)
    data, training = TINY["data"] | {"synthetic_size": 128}, TINY["training"] | {"validation_tiles": "separate"}
    lines = []
    with pytest.raises(RunError, match=r"was saved in .* but not found"):
        dry_run(load_config("quickstart", **TINY | {"data": data, "training": training}), [0], tell=lines.append)
    assert any(line.startswith("validated    8 tiles") for line in lines)
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_the_disk_that_is_tried_is_that_of_the_run(tmp_path, monkeypatch):
    config, tried = load_config("quickstart", **TINY), []

    def refuse(folder):
        tried.append(folder)
        raise RunError("no locks")

    monkeypatch.setattr(module, "try_checkpoints", refuse)
    (tmp_path / "disk").mkdir()
    with pytest.raises(RunError, match="no locks"):
        dry_run(config, [0], out=tmp_path / "disk" / "runs" / "new")
    assert [folder.is_relative_to(tmp_path / "disk") for folder in tried] == [True]
    assert list((tmp_path / "disk").iterdir()) == []
