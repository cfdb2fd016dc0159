"""Runs that earlier versions wrote are read, evaluated, and gone on with; those of newer versions are refused.

Each zip file in the folder ``old_runs`` is a run as its version left it, stopped by a signal at step 103 of 120, in the
middle of epoch 69, and evaluated. A new format adds a file there; none is ever removed or written anew.
"""

import io
import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.data.folds import configured_folds, read_folds
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.crossval import evaluate
from fbunet_jax.evaluation.scores import present_entries
from fbunet_jax.evaluation.segmentation import load_run_data
from fbunet_jax.inference.loading import load
from fbunet_jax.inference.validation import MappedValidation, plan_separate_tiles
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.opening import part_items
from fbunet_jax.runs.processes import replicate
from fbunet_jax.runs.trained import load_trained_fold
from fbunet_jax.training.fold import train
from fbunet_jax.training.setup import make_part

RUNS = sorted(Path(__file__).with_name("old_runs").glob("*.zip"))


@pytest.fixture(params=RUNS, ids=[path.stem for path in RUNS])
def run(request, tmp_path):
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path)
    return Run(tmp_path / "run")


def test_it_segments_as_it_did(run):
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 1), np.uint8)
    prediction = load(run.path).predict(image)
    assert prediction.probabilities.shape == (32, 48, 4)
    config, dataset = load_run_data(run)
    trained = load_trained_fold(run, 0)
    items = part_items(config, run, dataset, 0)["test"]
    part = make_part(dataset, items, trained.normalisation, config.data.crop)
    plan = plan_separate_tiles(part.sizes, config.data.crop, devices=1, pixels=1)
    devices = jax.devices()[:1]
    counts = MappedValidation(trained.model, len(trained.class_names), plan, devices=devices)(
        *replicate((trained.variables, part.store), devices)
    )
    (before,) = json.loads(run.evaluation("test").read_text())["folds"]
    # other versions of JAX round otherwise; 8192 pixels in all
    np.testing.assert_allclose([each["confusion"] for each in before["rounds"]], counts, atol=5)


def test_its_evaluation_in_separate_tiles_is_not_taken_for_one_of_today(run):
    assert not present_entries(run, "test")
    (entry,) = evaluate(run.path, folds=[0])["folds"]
    assert entry["tile"] == 512
    assert entry["mean_iou"] > 0.5
    assert [each["step"] for each in present_entries(run, "test")] == [entry["step"]]


def test_its_settings_say_how_its_folds_were_made(run):
    config = run.read_config().data
    assert config.fold_scheme == "grouped"
    assert read_folds(run.folds) == configured_folds(load_dataset(config).groups, config)


def test_it_goes_on_in_the_middle_of_an_epoch(run):
    before = run.fold(0).metrics.read_text()
    stream = io.StringIO()
    result = train(run.read_config(), 0, out=run.path, stream=stream)
    assert "resumes at step 103:" in stream.getvalue()
    assert not result.was_finished
    assert result.steps == 120
    records = [json.loads(line) for line in run.fold(0).metrics.read_text().splitlines()]
    assert run.fold(0).metrics.read_text().startswith(before)
    assert [record["step"] for record in records if record["kind"] == "train"] == [
        -(-epoch * 12 // 8) for epoch in range(1, 81)
    ]
    assert records[-1]["mean_iou"] > 0.5


@pytest.mark.parametrize("version", [3, 99, "two", True, None])
def test_a_newer_format_is_refused_with_a_sentence(run, version):
    text = run.config.read_text()
    line = "" if version is None else f"format = {json.dumps(version)}\n"
    run.config.write_text(text.replace("format = 1\n", line))
    with pytest.raises(RunError, match=rf"config.toml has format {version!r}; this version reads formats 1 and 2"):
        load(run.path)
