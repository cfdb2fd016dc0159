"""Paired differences: by hand and against SciPy; runs that do not belong together are refused with the reason."""

import json

import numpy as np
import pytest
from scipy import stats

from fbunet_jax.config import load_config, to_toml
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation import crossval
from fbunet_jax.evaluation.compare import compare, comparison_table

FOLDS = {"format": 1, "scheme": "grouped", "folds": [{"train": ["a"], "validation": ["b"], "test": ["c"]}] * 3}
FIRST = {0: [0.5, 0.2], 1: [0.6, 0.4], 2: [0.7, 0.3]}
SECOND = {0: [0.6, 0.25], 1: [0.65, 0.5], 2: [0.9, 0.35]}


@pytest.fixture(autouse=True)
def best_checkpoints(monkeypatch):
    """Every fold's best checkpoint is that of step 1."""
    monkeypatch.setattr(crossval, "best_step", lambda run, fold: 1)


def write_run(path, method, by_fold, *, split="test", fingerprint="f", classes=("x", "y"), folds=FOLDS):
    path.mkdir()
    (path / "config.toml").write_text(to_toml(load_config("quickstart", method=method, data={"folds": 3})))
    (path / "folds.json").write_text(json.dumps(folds))
    table = {"format": 1, "class_names": list(classes), "channels": 1, "fingerprint": fingerprint}
    (path / "dataset.json").write_text(json.dumps(table))
    for fold, values in by_fold.items():
        present = [value for value in values if value is not None]
        numbers = {"mean_iou": sum(present) / len(present), "iou": values}
        rounds = [{**numbers, "confusion": np.eye(len(classes), dtype=int).tolist()}]
        entry = {"fold": fold, "step": 1, "images": 1, **numbers, "rounds": rounds}
        (path / f"fold_{fold}").mkdir()
        name = "evaluation.json" if split == "test" else f"evaluation-{split}.json"
        (path / f"fold_{fold}" / name).write_text(json.dumps(entry))
    return path


def test_differences_are_paired_by_fold_with_scipys_interval(tmp_path):
    runs = [write_run(tmp_path / "a", "unet", FIRST), write_run(tmp_path / "b", "feedback-conv", SECOND)]
    comparison = compare(runs)
    assert comparison.names == ["unet", "feedback-conv"]
    (difference,) = comparison.differences
    before, after = np.array([*FIRST.values()]), np.array([*SECOND.values()])
    np.testing.assert_allclose(difference.folds[:, :2], after - before)
    np.testing.assert_allclose(difference.mean, [*(after - before).mean(axis=0), (after - before).mean()])
    expected = stats.ttest_rel(after.mean(axis=1), before.mean(axis=1)).confidence_interval(0.95)
    assert difference.intervals[2] == pytest.approx((expected.low, expected.high))
    text = comparison_table(comparison)
    row = next(line for line in text.split("minus")[1].splitlines() if line.strip().startswith("x "))
    assert row.split()[:5] == ["x", "+10.0", "+5.0", "+20.0", "+11.7"]
    assert not comparison.left_out


def test_a_fold_that_one_run_lacks_is_left_out_and_named(tmp_path):
    second = {fold: SECOND[fold] for fold in (0, 1)}
    runs = [write_run(tmp_path / "a", "unet", FIRST), write_run(tmp_path / "b", "feedback-conv", second)]
    comparison = compare(runs)
    assert comparison.folds == [0, 1]
    assert "feedback-conv has no test evaluation of fold 2" in comparison_table(comparison)


def test_one_fold_in_common_gives_differences_without_an_interval(tmp_path):
    runs = [write_run(tmp_path / "a", "unet", {1: FIRST[1]}), write_run(tmp_path / "b", "ru-net", SECOND)]
    comparison = compare(runs)
    assert comparison.differences[0].intervals == [None] * 3
    assert "No interval: one fold" in comparison_table(comparison)


def test_a_class_without_iou_in_a_fold_leaves_that_fold_out_of_its_difference(tmp_path):
    runs = [
        write_run(tmp_path / "a", "unet", {**FIRST, 2: [0.7, None]}),
        write_run(tmp_path / "b", "ru-net", SECOND),
    ]
    difference = compare(runs).differences[0]
    assert np.isnan(difference.folds[2, 1])
    assert difference.mean[1] == pytest.approx((0.05 + 0.1) / 2)


def test_runs_of_one_method_are_told_apart_by_their_folders(tmp_path):
    runs = [write_run(tmp_path / "a", "unet", FIRST), write_run(tmp_path / "b", "unet", SECOND)]
    assert compare(runs).names == ["a", "b"]


OTHER_FOLDS = {**FOLDS, "folds": [*FOLDS["folds"][:2], {"train": ["a"], "validation": ["c"], "test": ["b"]}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "g"}, r"other images or labels.* g and f\."),
        ({"classes": ("x", "z")}, "has the classes x, z, and .* has x, y"),
        ({"folds": OTHER_FOLDS}, "validation part of fold 2 is c and b"),
        ({"folds": {**FOLDS, "folds": FOLDS["folds"][:2]}}, "other folds: 2 and 3 of them"),
        ({"split": "validation"}, r"no test evaluation.* It has one of the validation split.*fbunet evaluate .*/b"),
        ({"by_fold": {}}, "no test evaluation of its best checkpoints. Make it: fbunet evaluate"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused_with_the_difference(changes, message, tmp_path):
    first = write_run(tmp_path / "a", "unet", FIRST)
    second = write_run(tmp_path / "b", **{"method": "ru-net", "by_fold": SECOND, **changes})
    with pytest.raises(RunError, match=message):
        compare([first, second])


def test_no_fold_in_common_one_run_and_a_folder_that_is_no_run_are_errors(tmp_path):
    first = write_run(tmp_path / "a", "unet", {0: FIRST[0]})
    second = write_run(tmp_path / "b", "ru-net", {1: SECOND[1]})
    with pytest.raises(RunError, match="no evaluated fold in common"):
        compare([first, second])
    with pytest.raises(RunError, match="at least two"):
        compare([first])
    with pytest.raises(RunError, match="is not a run directory"):
        compare([first, tmp_path])
