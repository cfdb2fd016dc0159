"""Cells are trained where they are missing, stopped, gone on with, and never twice."""

import io
import json
import shutil
import signal
import threading

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from fbunet_jax.config import load_config
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.experiments import reproduce as module
from fbunet_jax.experiments.cells import TableFolder, read_cell, read_cells
from fbunet_jax.experiments.grid import Grid, Place
from fbunet_jax.experiments.reproduce import reproduce
from fbunet_jax.networks import build_network
from fbunet_jax.runs.directory import FoldDirectory, Run
from fbunet_jax.runs.locks import fold_lock
from fbunet_jax.training.parallel import MappedTraining

SETTINGS = {
    "data": {"synthetic_images": 6, "synthetic_size": 32, "crop": 32, "folds": 3},
    "model": {"widths": [2, 3]},
    # 3 training images in batches of 8: 9 steps
    "training": {"epochs": 24, "batch_size": 8, "validate_every": 4, "previews": 0},
}
TINY = load_config("quickstart", **SETTINGS)
PLACE = Place("feedback-conv", 1, 2)
NAME = "feedback-conv-fold1-seed2"


def fill(out, places=(PLACE,), config=TINY, stream=None, **options):
    """Fill a folder; return what became of each place and what was told."""
    told, folder = [], TableFolder(out)
    grid = Grid(config, tuple(places), folder.run)
    outcomes = reproduce(grid, folder, tell=told.append, stream=stream or io.StringIO(), **options)
    assert [outcome.place for outcome in outcomes] == list(places)
    return [outcome.state for outcome in outcomes], "\n".join(told)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a table with one cell."""
    out = tmp_path_factory.mktemp("table")
    states, told = fill(out)
    assert states == ["finished"]
    assert f"{PLACE}: mean IoU " in told
    return out


def forbid_training(monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("a cell is trained")

    monkeypatch.setattr(module, "train", fail)


def test_a_cell_holds_the_evaluation_of_its_run_with_setting_device_and_steps(finished):
    cell = read_cell(finished / "cells" / f"{NAME}.json")
    run = Run(finished / "runs" / "feedback-conv-seed2")
    assert cell["evaluation"] == json.loads((run.fold(1).path / "evaluation.json").read_text())
    assert cell["setting"]["training"]["epochs"] == 24
    assert cell["data"]["fingerprint"] == run.read_dataset()["fingerprint"]
    assert cell["data"]["name"] == "synthetic"
    assert (cell["steps"], run.read_config().seed, cell["seconds"] > 0) == (9, 2, True)
    assert cell["processes"][0]["devices"] == [device.device_kind for device in jax.local_devices()]
    assert str(finished) not in json.dumps(cell)


def test_the_npz_alone_gives_the_cells_confusion_matrices_again(finished):
    with np.load(finished / "cells" / f"{NAME}.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    setting = json.loads(str(arrays["setting"]))
    variables = unflatten_dict({n: a for n, a in arrays.items() if n.startswith(("params/", "batch_stats/"))}, sep="/")
    config = load_config("quickstart", method=setting["method"], **{name: setting[name] for name in ("data", "model")})
    model = build_network(config, classes=len(arrays["class_names"]), channels=1)
    dataset = load_dataset(config.data)
    folds = json.loads((finished / "runs" / "feedback-conv-seed2" / "folds.json").read_text())["folds"]
    tested = [index for index, group in enumerate(dataset.groups) if group in folds[1]["test"]]
    images = np.stack([dataset.images[index] for index in tested]).astype(np.float32)
    assert str(arrays["normalisation/kind"]) == "standardise"
    inputs = (images - arrays["normalisation/mean"]) / arrays["normalisation/deviation"]
    predicted = np.argmax(model.apply(variables, inputs.astype(np.float32), train=False), axis=-1)
    labels = np.stack([dataset.labels[index] for index in tested])
    cell = read_cell(finished / "cells" / f"{NAME}.json")
    for classes, scores in zip(predicted, cell["evaluation"]["rounds"], strict=True):
        counted = np.zeros((4, 4), np.int64)
        np.add.at(counted, (labels, classes), 1)
        # a pixel may lie on the edge between two classes
        assert np.abs(counted - scores["confusion"]).sum() <= 4
    assert cell["parameters"] == sum(a.size for name, a in arrays.items() if name.startswith("params/"))


def test_a_cell_is_finished_although_crops_do_not_cover_its_images(tmp_path):
    settings = {**SETTINGS, "data": {**SETTINGS["data"], "synthetic_size": 40}}
    states, told = fill(tmp_path, config=load_config("quickstart", **settings))
    assert states == ["finished"]
    assert "is not evaluated as crops32: crops = 32: the sides of image" in told
    assert set(read_cell(tmp_path / "cells" / f"{NAME}.json")["further"]) == {"offsets", "maps-zeros", "maps-other"}


def test_a_cell_that_was_copied_here_is_not_trained_again(finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "cells", tmp_path / "cells")
    forbid_training(monkeypatch)
    assert fill(tmp_path)[0] == ["finished"]
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]


def test_other_settings_or_images_than_those_of_the_finished_cells_are_refused_at_once(finished, monkeypatch):
    forbid_training(monkeypatch)
    more = [PLACE, Place("unet", 0, 0)]
    other = load_config("quickstart", **(SETTINGS | {"training": SETTINGS["training"] | {"epochs": 25}}))
    with pytest.raises(RunError, match=rf"they have training\.epochs 25, and it is 24 in {NAME}\.json"):
        fill(finished, config=other)
    other = load_config("quickstart", **(SETTINGS | {"model": {"widths": [2, 3], "rounds": 2}}))
    with pytest.raises(ConfigError, match="'unet' has one round"):
        fill(finished, more, config=other)
    cell = read_cell(finished / "cells" / f"{NAME}.json")
    monkeypatch.setattr(module, "read_cells", lambda folder: [cell | {"data": cell["data"] | {"fingerprint": "0"}}])
    with pytest.raises(RunError, match="other data: fingerprint"):
        fill(finished, more)


class HandTimer:
    """A timer that goes off when a test says so; the last one that was started is kept."""

    last: "HandTimer"

    def __init__(self, seconds, function):
        self.seconds, self.function = seconds, function

    def start(self):
        HandTimer.last = self

    def cancel(self):
        pass


@pytest.fixture
def stop_at(monkeypatch):
    """Return a function that has the time be over, or a signal come, after some steps."""
    call = MappedTraining.__call__

    def stop(step, act=lambda: HandTimer.last.function()):
        steps = []

        def count(self, *arguments):
            steps.append(None)
            if len(steps) == step:
                act()
            return call(self, *arguments)

        monkeypatch.setattr(MappedTraining, "__call__", count)

    return stop


def test_a_cell_that_ran_out_of_time_goes_on_and_ends_bit_for_bit_like_one_that_did_not(
    finished, tmp_path, monkeypatch, stop_at
):
    monkeypatch.setattr(threading, "Timer", HandTimer)
    stop_at(5)
    states, told = fill(tmp_path, minutes=1000, commit="first")
    assert states == ["stopped"]
    assert "the time is over" in told
    assert 0 < HandTimer.last.seconds <= 60000
    assert read_cells(tmp_path / "cells") == []
    monkeypatch.undo()
    stream = io.StringIO()
    assert fill(tmp_path, commit="second", stream=stream)[0] == ["finished"]
    assert "resumes at step 5" in stream.getvalue()
    whole, resumed = (read_cell(out / "cells" / f"{NAME}.json") for out in (finished, tmp_path))
    assert resumed["evaluation"] == whole["evaluation"]
    assert [process["commit"] for process in resumed["processes"]] == ["first", "second"]
    with np.load(finished / "cells" / f"{NAME}.npz") as one, np.load(tmp_path / "cells" / f"{NAME}.npz") as other:
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_signal_is_no_time_limit_and_says_what_goes_on(tmp_path, stop_at, request):
    # the tests may run in a background job, whose shell had Ctrl-C ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    stop_at(2, act=lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match=r"feedback-conv:1:2: step 2 of 9 is saved; the same command resumes"):
        fill(tmp_path, minutes=1000)


def test_nothing_is_started_without_time_or_with_less_than_such_a_cell_took(finished, tmp_path, monkeypatch):
    forbid_training(monkeypatch)
    (tmp_path / "runs" / "feedback-conv-seed2" / "fold_1" / "unfinished" / "3").mkdir(parents=True)
    assert fill(tmp_path, minutes=0)[0] == ["not begun"]
    shutil.copytree(finished / "cells", tmp_path / "cells")
    path = tmp_path / "cells" / f"{NAME}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 7200.0}))
    other = Place("feedback-conv", 0, 0)
    states, told = fill(tmp_path, [PLACE, other], minutes=100)
    assert states == ["finished", "not begun"]
    assert "feedback-conv:0:0 is not started: it took 2.0 h before, and 1.7 h are left" in told


def test_a_cell_that_fails_does_not_keep_the_others_from_being_tried(tmp_path, monkeypatch):
    tried = []

    def fail(config, fold, **options):
        tried.append((config.method, fold, config.seed))
        raise RunError("The loss was not finite.")

    monkeypatch.setattr(module, "train", fail)
    places = [PLACE, Place("unet", 0, 0)]
    states, told = fill(tmp_path, places)
    assert tried == [tuple(place) for place in places]
    assert states == ["failed", "failed"]
    assert "unet:0:0 could not be finished: The loss was not finite." in told


def test_a_cell_that_another_process_trains_is_left_to_it_and_one_that_has_begun_comes_first(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(module, "train", lambda config, fold, **options: tried.append(fold) or stop())

    def stop():
        raise RunError("not now")

    begun = Place("unet", 2, 0)
    (tmp_path / "runs" / "unet-seed0" / "fold_2" / "unfinished" / "3").mkdir(parents=True)
    with fold_lock(FoldDirectory(tmp_path / "runs" / "unet-seed0" / "fold_1")):
        states, told = fill(tmp_path, [Place("unet", 0, 0), Place("unet", 1, 0), begun])
    assert tried == [2, 0]
    assert states == ["failed", "elsewhere", "failed"]
    assert "unet:1:0 is being trained by another process" in told
