"""Evaluation: counts that do not depend on batch or devices, files as documented, what is missing is named."""

import io
import json

import numpy as np
import pytest

from fbunet_jax.config import load_config
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.evaluation.crossval import evaluate
from fbunet_jax.training.fold import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = load_config(
        "quickstart",
        method="feedback-conv",
        data={"synthetic_images": 6, "synthetic_size": 40, "crop": 32, "folds": 3},
        model={"widths": [2, 3]},
        training={"epochs": 4, "batch_size": 8, "previews": 0},
    )
    out = tmp_path_factory.mktemp("runs") / "run"
    for fold in (0, 2):
        train(config, fold, out=out, stream=io.StringIO())
    return out


def test_evaluation_files_are_as_documented(run):
    result = evaluate(run)
    assert result == json.loads((run / "evaluation.json").read_text())
    assert result["format"] == 2
    assert set(result) == {"format", "split", "class_names", "folds", "mean", "std", "summed"}
    assert [fold["fold"] for fold in result["folds"]] == [0, 2]
    for fold in result["folds"]:
        assert fold == json.loads((run / f"fold_{fold['fold']}" / "evaluation.json").read_text())
        assert set(fold) == {"format", "fold", "step", "images", "mean_iou", "iou", "rounds", "tile", "overlap"}
        assert (fold["tile"], fold["overlap"]) == (512, 192)
        assert fold["images"] == 2
        confusion = np.array(fold["rounds"][-1]["confusion"])
        assert confusion.sum() == 2 * 40 * 40
    assert evaluate(run, [2])["folds"] == result["folds"]


def test_validation_goes_to_its_own_file_and_equals_what_training_recorded(run):
    result = evaluate(run, [0], split="validation")
    assert json.loads((run / "evaluation-validation.json").read_text()) == result
    lines = (run / "fold_0" / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == "validation"]
    best = next(record for record in records if record["step"] == result["folds"][0]["step"])
    assert best["mean_iou"] == max(record["mean_iou"] for record in records)
    assert result["folds"][0]["mean_iou"] == pytest.approx(best["mean_iou"], abs=1e-6)


def test_an_evaluation_over_dihedral_views_lies_beside_the_other(run):
    plain = evaluate(run)
    averaged = evaluate(run, tta=True)
    assert json.loads((run / "evaluation.json").read_text()) == plain
    assert json.loads((run / "evaluation-test-tta.json").read_text()) == averaged
    assert averaged["split"] == "test-tta"
    assert [fold["step"] for fold in averaged["folds"]] == [fold["step"] for fold in plain["folds"]]
    assert averaged["folds"][0]["rounds"][0]["confusion"] != plain["folds"][0]["rounds"][0]["confusion"]


def test_a_fold_that_is_not_trained_is_named(run):
    with pytest.raises(RunError, match=r"Fold 1 of .* has no checkpoint"):
        evaluate(run, [1])


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match="is not a run directory"):
        evaluate(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops": 24}, r"crops = 24: the sides of image '00', 40 x 40 pixels, .* Crops of 40, 20, 10, 8, 5, 4, 2, 1"),
        ({"folds": []}, r"folds = \[\]: expected a list of their numbers"),
        ({"folds": [0.5]}, r"folds = \[0\.5\]: expected a list of their numbers"),
        ({"offsets": "folder"}, r"offsets = 'folder': expected True or False"),
    ],
)
def test_what_is_asked_for_wrongly_is_named_as_it_was_asked_for(options, message, make_run, tmp_path):
    run = make_run(tmp_path / "run", folds=(0,))
    with pytest.raises(ConfigError, match=message):
        evaluate(run, **options)
