"""Training a fold: what lies in the run directory, resuming, finishing, starting over, every method."""

import io
import json
import shutil
import threading
from dataclasses import replace

import jax
import numpy as np
import pytest

from fbunet_jax import figures
from fbunet_jax.config import load_config
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.errors import ConfigError, DataError, RunError, UserError
from fbunet_jax.inference import tiling
from fbunet_jax.models.methods import METHODS
from fbunet_jax.pipeline.normalisation import Normalisation
from fbunet_jax.runs import sealed
from fbunet_jax.runs.checkpoints import FoldCheckpoints
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.records import ValidationRecord, read_records
from fbunet_jax.runs.trained import load_trained_fold
from fbunet_jax.training import notes
from fbunet_jax.training.fold import train
from fbunet_jax.training.parallel import MappedTraining

TINY = {
    "data": {"synthetic_images": 6, "synthetic_size": 32, "crop": 32, "folds": 3},
    "model": {"widths": [2, 3]},
    # 3 training images in batches of 8: every step draws on several epochs, which end with steps 1 to 9
    "training": {"epochs": 24, "batch_size": 8, "validate_every": 4, "preview_every": 2},
}


def tiny(**changes):
    config = load_config("quickstart", **TINY)
    return load_config("quickstart", **(TINY | {"method": config.method} | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    stream = io.StringIO()
    result = train(tiny(), 1, out=tmp_path_factory.mktemp("runs") / "run", stream=stream)
    return result, stream.getvalue()


def checkpoint(fold, step):
    """Return every array of a checkpoint by name."""
    with FoldCheckpoints(fold) as checkpoints:
        assert checkpoints.latest_step() >= step
    trained = load_trained_fold(Run(fold.path.parent), int(fold.path.name.removeprefix("fold_")))
    return {jax.tree_util.keystr(p): np.asarray(a) for p, a in jax.tree_util.tree_leaves_with_path(trained.variables)}


def test_a_run_directory_holds_everything(finished):
    result, text = finished
    names = {path.name for path in result.directory.path.iterdir()}
    assert names == {
        *("checkpoints", "curves.png", "environment.json", "inputs.json", "metrics.jsonl", "previews"),
        *("tensorboard", "timing.jsonl"),
    }
    assert {path.name for path in result.run.iterdir()} == {"config.toml", "dataset.json", "folds.json", "fold_1"}
    assert len(list(result.directory.tensorboard.iterdir())) == 1
    # of the validations below, every second and the last
    previews = {"epoch_00009.png", "epoch_00017.png", "epoch_00022.png"}
    assert {path.name for path in result.directory.previews.iterdir()} == previews
    environment = json.loads(result.directory.environment.read_text())
    assert environment["versions"]["jax"] == jax.__version__
    assert len(environment["devices"]) == jax.local_device_count()
    assert text.count("  validation IoU ") == 5
    assert "resumes" not in text


def test_records_are_complete_and_the_best_is_the_largest_validation_iou(finished):
    result, _ = finished
    records = [json.loads(line) for line in result.directory.metrics.read_text().splitlines()]
    train = [record for record in records if record["kind"] == "train"]
    validation = [record for record in records if record["kind"] == "validation"]
    assert [record["epoch"] for record in train] == [1, 3, 6, 9, 11, 14, 17, 19, 22]
    assert [record["step"] for record in train] == list(range(1, 10))
    assert [record["epoch"] for record in validation] == [6, 9, 14, 17, 22]
    assert train[-1]["step"] == validation[-1]["step"] == result.steps == 24 * 3 // 8
    assert all(np.isfinite(record["loss"]) and len(record["round_losses"]) == 2 for record in train)
    best = max(validation, key=lambda record: record["mean_iou"])
    assert result.best_mean_iou == best["mean_iou"]
    assert result.iou == best["iou"]


def test_a_finished_fold_says_so_and_is_left_as_it_is(finished):
    result, _ = finished
    before = {path: path.stat().st_mtime_ns for path in result.run.rglob("*") if path.is_file()}
    stream = io.StringIO()
    again = train(tiny(), 1, out=result.run, stream=stream)
    assert again.was_finished
    assert not result.was_finished
    assert (again.best_step, again.best_mean_iou, again.iou) == (result.best_step, result.best_mean_iou, result.iou)
    assert {path: path.stat().st_mtime_ns for path in result.run.rglob("*") if path.is_file()} == before


def test_a_run_that_was_interrupted_ends_bit_for_bit_like_one_that_was_not(finished, tmp_path, monkeypatch):
    result, _ = finished
    drawn = []

    def interrupt(*arguments):
        drawn.append(arguments)
        if len(drawn) == 2:  # after the record of epoch 17, before its checkpoint
            raise KeyboardInterrupt

    monkeypatch.setattr(figures, "draw_curves", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), 1, out=tmp_path / "run", stream=io.StringIO())
    monkeypatch.undo()
    stream = io.StringIO()
    resumed = train(tiny(), 1, out=tmp_path / "run", stream=stream)
    assert "resumes at step 6" in stream.getvalue()
    assert resumed.directory.metrics.read_bytes() == result.directory.metrics.read_bytes()
    assert (resumed.best_step, resumed.best_mean_iou) == (result.best_step, result.best_mean_iou)
    expected, found = (checkpoint(r.directory, r.steps) for r in (result, resumed))
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_fresh_starts_over_and_deletes_nothing(finished, tmp_path):
    shutil.copytree(finished[0].run, tmp_path / "run")
    short = tiny(training=TINY["training"] | {"epochs": 24})
    stream = io.StringIO()
    result = train(short, 1, out=tmp_path / "run", fresh=True, stream=stream)
    assert not result.was_finished
    assert "starts" in stream.getvalue()
    old = tmp_path / "run" / "fold_1.old-1"
    assert (old / "metrics.jsonl").read_bytes() == result.directory.metrics.read_bytes()


def test_a_fold_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(DataError, match="0"):
        train(tiny(), 3, out=tmp_path / "run")


def test_another_method_in_the_same_run_is_refused(finished):
    with pytest.raises(RunError, match="method was 'feedback-convlstm' and is now 'unet'"):
        train(tiny(method="unet"), 1, out=finished[0].run)


def test_other_images_in_the_same_run_are_refused(finished, tmp_path):
    shutil.copytree(finished[0].run, tmp_path / "run")
    description = tmp_path / "run" / "dataset.json"
    description.write_text(description.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    with pytest.raises(RunError, match="fingerprint of the data"):
        train(tiny(), 1, out=tmp_path / "run")


def test_a_crop_that_the_levels_cannot_halve_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.crop = 31.* 30 or 32"):
        train(tiny(data=TINY["data"] | {"crop": 31}), 0, out=tmp_path / "run")


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_initial_weights_come_from_the_best_checkpoint_and_their_shapes_are_checked(average, finished, tmp_path):
    result, _ = finished
    settings = {"initial_weights": str(result.run), "learning_rate": 1e-12, "weight_average": average}
    config = tiny(training=TINY["training"] | settings)
    continued = train(config, 1, out=tmp_path / "run", stream=io.StringIO())
    old, new = (load_trained_fold(Run(r.run), 1).variables["params"] for r in (result, continued))
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    with pytest.raises(RunError, match=r"initial_weights.* absent"):
        train(tiny(**{"method": "unet", "training": config_table(result.run)}), 1, out=tmp_path / "unet")


def config_table(run):
    return TINY["training"] | {"initial_weights": str(run)}


def test_with_everything_on_a_stopped_run_ends_like_one_that_was_not(tmp_path, monkeypatch, stopped_at_once):
    settings = {"weight_average": 0.9, "norm_batches": 2, "dice_weight": 0.5}
    settings |= {"elastic_augmentation": 2.0, "intensity_augmentation": 0.2}
    # images larger than a tile and than a crop
    monkeypatch.setattr(tiling, "DEFAULT_TILE", 32)
    data = TINY["data"] | {"synthetic_size": 48}
    config = tiny(data=data, training=TINY["training"] | settings | {"save_minutes": 0})
    whole = train(config, 1, out=tmp_path / "whole", stream=io.StringIO())
    with stopped_at_once() as interruption:
        train(config, 1, out=tmp_path / "stopped", stream=io.StringIO(), interruption=interruption)
    stopped = train(config, 1, out=tmp_path / "stopped", stream=io.StringIO())
    assert stopped.directory.metrics.read_bytes() == whole.directory.metrics.read_bytes()
    last = whole.steps
    ends = [checkpoint(result.directory, last) for result in (whole, stopped)]
    for name, values in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], values)


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_trains(method, tmp_path):
    config = tiny(method=method, training=TINY["training"] | {"epochs": 8, "validate_every": 8, "previews": 0})
    result = train(config, 0, out=tmp_path / "run", stream=io.StringIO())
    assert result.steps == 3  # 3 training images, 8 epochs, batches of 8
    assert np.isfinite(result.best_mean_iou)


def test_a_class_that_stays_at_0_and_one_that_is_missing_are_warned_about_by_name():
    records = [{"iou": {"a": 0.5, "rare": 0.0, "absent": None}}] * notes.COLLAPSED_AFTER
    well = [{"iou": {"a": 0.5, "rare": 0.1, "absent": None}}]
    assert notes.collapsed(records, is_last=False) == {"rare": notes.COLLAPSED_AFTER}
    assert notes.collapsed(well + records, is_last=False) == {"rare": notes.COLLAPSED_AFTER}
    assert notes.collapsed(records[:-1], is_last=False) == notes.collapsed(records + well, is_last=True) == {}
    assert notes.collapsed(records * 2, is_last=False) == {}
    assert notes.collapsed(well + records[:2], is_last=True) == {"rare": 2}


def test_a_stray_pixel_of_a_class_that_validation_lacks_does_not_choose_the_worse_network():
    poor, good = np.diag([68, 68, 68, 0]), np.diag([883, 883, 883, 0])
    for confusion, wrong in ((poor, 16), (good, 62)):
        confusion[[0, 1, 2], [1, 2, 0]] = wrong
    good[0, 0] -= 1
    good[0, 3] += 1
    first, second = (
        notes.validation_record("abcd", epoch, epoch, confusion[None]) for epoch, confusion in ((1, poor), (2, good))
    )
    assert first["mean_iou"] == pytest.approx(0.68)
    # class a: 882 right, 63 missed, 62 too many
    assert second["mean_iou"] == second["round_mean_iou"][0] == pytest.approx((882 / 1007 + 2 * 883 / 1007) / 3)
    assert second["mean_iou"] > first["mean_iou"]
    assert first["iou"]["d"] is second["iou"]["d"] is None
    assert notes.collapsed([second], is_last=True) == {}


def test_a_class_that_the_validation_part_lacks_is_named_and_does_not_count(tmp_path):
    stream = io.StringIO()
    data = TINY["data"] | {"synthetic_size": 24}  # mitochondria are in no validation image of fold 0
    training = TINY["training"] | {"epochs": 8, "previews": 0}
    result = train(tiny(method="unet", data=data, training=training), 0, out=tmp_path / "run", stream=stream)
    warning = "Warning: class 'mitochondria' has no pixel in the validation part of fold 0: its validation IoU is n/a"
    assert stream.getvalue().count(warning) == 1
    assert "mitochondria n/a" in stream.getvalue()
    assert result.iou["mitochondria"] is None
    present = [value for value in result.iou.values() if value is not None]
    assert len(present) == 3
    assert result.best_mean_iou == pytest.approx(np.mean(present))


def test_checkpoints_that_are_gone_are_no_reason_to_start_again(finished, tmp_path):
    shutil.copytree(finished[0].run, tmp_path / "run")
    fold = Run(tmp_path / "run").fold(1)
    shutil.rmtree(fold.checkpoints)
    for _ in range(2):
        with pytest.raises(RunError, match=r"checkpoints are gone from .*\(fresh\)"):
            train(tiny(), 1, out=tmp_path / "run", stream=io.StringIO())
    assert fold.metrics.read_bytes() == finished[0].directory.metrics.read_bytes()
    # also when one validation is recorded, which happens without a checkpoint, but never without its folder
    lines = fold.metrics.read_text().splitlines(keepends=True)
    until = next(number for number, line in enumerate(lines) if '"validation"' in line)
    fold.metrics.write_text("".join(lines[: until + 1]))
    with pytest.raises(RunError, match=r"checkpoints are gone from .*\(fresh\)"):
        train(tiny(), 1, out=tmp_path / "run", stream=io.StringIO())
    fold.checkpoints.write_text("")
    with pytest.raises(RunError, match="is a file: expected the folder"):
        train(tiny(), 1, out=tmp_path / "run", stream=io.StringIO())


def test_a_second_validation_waits_for_the_checkpoint_of_the_first(tmp_path, monkeypatch):
    """Killed between the two, two records and no checkpoint would look like a run whose checkpoints are gone."""
    fold, later, recorded = Run(tmp_path / "run").fold(1), threading.Event(), []
    seal, wait, save = sealed.seal, FoldCheckpoints.wait, FoldCheckpoints.save

    def noting(method, records):
        def call(*arguments):
            if len(read_records(fold.metrics, ValidationRecord)) >= records:
                later.set()
            return method(*arguments)

        return call

    def slow_seal(*arguments, **options):
        assert later.wait(60)
        recorded.append(len(read_records(fold.metrics, ValidationRecord)))
        seal(*arguments, **options)

    monkeypatch.setattr(sealed, "seal", slow_seal)
    monkeypatch.setattr(FoldCheckpoints, "wait", noting(wait, 1))
    monkeypatch.setattr(FoldCheckpoints, "save", noting(save, 2))
    train(tiny(), 1, out=tmp_path / "run", stream=io.StringIO())
    assert len(recorded) > 1
    assert recorded[0] == 1


@pytest.mark.parametrize("line", [b"no record\n", b"\x00\x00\n", b"{}\n", b"[1]\n"])
def test_a_foreign_line_among_the_records_is_named(finished, tmp_path, line):
    shutil.copytree(finished[0].run, tmp_path / "run")
    fold = Run(tmp_path / "run").fold(1)
    fold.metrics.write_bytes(fold.metrics.read_bytes() + line)
    lines = fold.metrics.read_bytes().count(b"\n")
    with pytest.raises(RunError, match=rf"metrics.jsonl, line {lines} is no record"):
        train(tiny(), 1, out=tmp_path / "run", stream=io.StringIO())


def test_records_that_are_missing_are_told(finished, tmp_path):
    shutil.copytree(finished[0].run, tmp_path / "run")
    fold = Run(tmp_path / "run").fold(1)
    shutil.rmtree(fold.checkpoints / "9")
    fold.metrics.write_bytes(b"".join(fold.metrics.read_bytes().splitlines(keepends=True)[:3]))
    stream = io.StringIO()
    train(tiny(), 1, out=tmp_path / "run", stream=stream)
    assert "lacks records before step" in stream.getvalue()


def test_a_loss_that_is_not_finite_names_step_and_images_and_nothing_of_it_is_saved(tmp_path, monkeypatch):
    steps = []
    call = MappedTraining.__call__

    def poison(self, state, store, items):
        steps.append(items[0])
        if len(steps) == 5:
            state = state._replace(params=jax.tree.map(lambda leaf: leaf * np.nan, state.params))
        return call(self, state, store, items)

    monkeypatch.setattr(MappedTraining, "__call__", poison)
    config = tiny(training=TINY["training"] | {"batch_size": 8, "save_minutes": 0.0})
    with pytest.raises(RunError, match=r"not finite at step 4 of fold 0, with learning rate .*gradient_clip") as raised:
        train(config, 0, out=tmp_path / "run", stream=io.StringIO())
    dataset = load_dataset(config.data)
    told = str(raised.value).split("The images of this batch: ")[1].split(". The checkpoints")[0].split(", ")
    assert set(told) <= set(dataset.names)
    assert len(told) == len(set(steps[-1].tolist()))
    assert len(steps) == 5
    fold = Run(tmp_path / "run").fold(0)
    assert "NaN" not in fold.metrics.read_text()
    monkeypatch.undo()
    stream = io.StringIO()
    result = train(config, 0, out=tmp_path / "run", stream=stream)
    assert "resumes at step 4:" in stream.getvalue()
    assert np.isfinite(result.best_mean_iou)


def test_initial_weights_are_not_needed_any_more_when_a_fold_goes_on(finished, tmp_path):
    shutil.copytree(finished[0].run, tmp_path / "old")
    config = tiny(training=TINY["training"] | {"initial_weights": str(tmp_path / "old")})
    first = train(config, 1, out=tmp_path / "run", stream=io.StringIO())
    shutil.rmtree(tmp_path / "old")
    assert train(config, 1, out=tmp_path / "run", stream=io.StringIO()).best_step == first.best_step
    with pytest.raises(RunError, match="old"):
        train(config, 1, out=tmp_path / "run", fresh=True, stream=io.StringIO())


def test_a_setting_that_is_refused_leaves_no_run_directory(tmp_path):
    for change in (
        {"data": TINY["data"] | {"crop": 31}},
        {"model": TINY["model"] | {"feedback": "concat"}, "method": "unet"},
        {"training": TINY["training"] | {"class_weights": [1.0]}},
        {"training": TINY["training"] | {"warmup_steps": 3}},
        {"training": TINY["training"] | {"initial_weights": str(tmp_path / "nowhere")}},
    ):
        with pytest.raises(UserError):
            train(tiny(**change), 0, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_weights_saved_on_eight_devices_are_read_on_one(finished):
    result, _ = finished
    trained = load_trained_fold(Run(result.run), 1)
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(trained.variables)} == {1}


def test_the_fingerprint_of_a_fold_is_that_of_its_weights_and_its_normalisation(finished):
    trained = load_trained_fold(Run(finished[0].run), 1)
    assert trained.fingerprint() == load_trained_fold(Run(finished[0].run), 1).fingerprint()
    shifted = jax.tree.map(lambda leaf: leaf, trained.variables)
    shifted["batch_stats"] = jax.tree.map(lambda leaf: leaf + 1e-6, trained.variables["batch_stats"])
    others = [replace(trained, variables=shifted), replace(trained, normalisation=Normalisation("scale"))]
    assert len({trained.fingerprint(), *(other.fingerprint() for other in others)}) == 3
