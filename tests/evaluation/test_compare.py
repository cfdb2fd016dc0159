"""Paired differences, by hand; runs that do not belong together are refused with the reason."""

import json

import numpy as np
import pytest

from fbunet_jax.config import load_config, to_toml
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.compare import compare, comparison_table
from fbunet_jax.evaluation.scores import fold_entry

FOLDS = {"format": 1, "scheme": "grouped", "folds": [{"train": ["a"], "validation": ["b"], "test": ["c"]}] * 3}
# rows truth: x and y; the truth of a fold is that of both runs
FIRST = {0: [[50, 10], [20, 20]], 1: [[60, 0], [30, 30]], 2: [[55, 5], [10, 50]]}
SECOND = {0: [[55, 5], [10, 30]], 1: [[58, 2], [20, 40]], 2: [[60, 0], [10, 50]]}
# fold 1 without a pixel of y, which each run predicts
WITHOUT_Y = [{**FIRST, 1: [[60, 3], [0, 0]]}, {**SECOND, 1: [[62, 1], [0, 0]]}]


def scores(matrix):
    """Return the IoU of x, of y, and the mean of those in the truth, counted by hand."""
    (a, b), (c, d) = matrix
    x, y = a / (a + b + c), d / (b + c + d) if c + d else np.nan
    return np.array([x, y, x if np.isnan(y) else (x + y) / 2])


def summed(by_fold, but=None):
    return scores(sum(np.array(matrix) for fold, matrix in by_fold.items() if fold != but))


@pytest.fixture(autouse=True)
def best_checkpoints(monkeypatch):
    """Every fold's best checkpoint is that of step 1."""
    monkeypatch.setattr("fbunet_jax.evaluation.scores.best_step", lambda run, fold: 1)


def write_run(path, method, by_fold, *, split="test", fingerprint="f", classes=("x", "y"), folds=FOLDS):
    path.mkdir()
    data = {"folds": 3, "cut": 128, "crop": 128}  # one tile each, by whatever version they were evaluated
    (path / "config.toml").write_text(to_toml(load_config("quickstart", method=method, data=data)))
    (path / "folds.json").write_text(json.dumps(folds))
    table = {"format": 1, "class_names": list(classes), "channels": 1, "fingerprint": fingerprint}
    (path / "dataset.json").write_text(json.dumps(table))
    for fold, values in by_fold.items():
        entry = fold_entry(fold, 1, 1, np.array([values]))
        (path / f"fold_{fold}").mkdir()
        name = "evaluation.json" if split == "test" else f"evaluation-{split}.json"
        (path / f"fold_{fold}" / name).write_text(json.dumps(entry))
    return path


def test_differences_are_those_of_the_summed_counts_with_a_jackknife_over_folds(tmp_path):
    runs = [write_run(tmp_path / "a", "unet", FIRST), write_run(tmp_path / "b", "feedback-conv", SECOND)]
    comparison = compare(runs)
    assert comparison.names == ["unet", "feedback-conv"]
    (difference,) = comparison.differences
    np.testing.assert_allclose(difference.folds, [scores(SECOND[fold]) - scores(FIRST[fold]) for fold in range(3)])
    expected = summed(SECOND) - summed(FIRST)
    np.testing.assert_allclose(difference.summed, expected)
    without = np.array([summed(SECOND, fold) - summed(FIRST, fold) for fold in range(3)])
    error = np.sqrt(2 / 3 * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    # x has 60 pixels in every fold: two degrees of freedom
    assert difference.intervals[0] == pytest.approx(
        (expected[0] - 4.302653 * error[0], expected[0] + 4.302653 * error[0])
    )
    text = comparison_table(comparison)
    row = next(line for line in text.split("minus")[1].splitlines() if line.strip().startswith("x "))
    by_hand = [scores(SECOND[fold])[0] - scores(FIRST[fold])[0] for fold in range(3)]
    assert row.split()[:5] == ["x", *(f"{100 * value:+.1f}" for value in [*by_hand, expected[0]])]
    assert not comparison.left_out
    assert not comparison.absent


def test_a_fold_without_a_class_is_named_and_no_mean_is_over_unequal_sets_of_classes(tmp_path):
    runs = [
        write_run(tmp_path / name, name, counts) for name, counts in zip(("unet", "ru-net"), WITHOUT_Y, strict=True)
    ]
    comparison = compare(runs)
    (difference,) = comparison.differences
    np.testing.assert_allclose(difference.folds[1], [62 / 63 - 60 / 63, np.nan, 62 / 63 - 60 / 63])
    np.testing.assert_allclose(comparison.summed, [summed(counts) for counts in WITHOUT_Y])
    np.testing.assert_allclose(difference.summed, summed(WITHOUT_Y[1]) - summed(WITHOUT_Y[0]))
    assert not np.isclose(difference.summed[2], difference.folds[:, 2].mean())
    assert all(difference.intervals)
    text = comparison_table(comparison)
    assert "Fold 1 has no pixel of y (n/a): its mean is over the other classes" in text
    # with fold 2 gone too, y is in a single fold: its spread, and that of the mean, cannot be known
    for run in runs:
        (run / "fold_2/evaluation.json").unlink()
    (difference,) = compare(runs).differences
    assert difference.intervals[0]
    assert difference.intervals[1:] == [None, None]


def test_a_run_that_was_evaluated_in_format_1_is_compared_by_the_present_rule(tmp_path):
    runs = [
        write_run(tmp_path / name, name, counts) for name, counts in zip(("unet", "ru-net"), WITHOUT_Y, strict=True)
    ]
    now = comparison_table(compare(runs))
    path = runs[0] / "fold_1/evaluation.json"
    entry = json.loads(path.read_text())
    assert entry["iou"][1] is None
    old = {"mean_iou": entry["iou"][0] / 2, "iou": [entry["iou"][0], 0.0]}
    rounds = [{**old, "confusion": entry["rounds"][0]["confusion"]}]
    path.write_text(json.dumps({"fold": 1, "step": 1, "images": 1, **old, "rounds": rounds}))
    assert comparison_table(compare(runs)) == now


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


def test_evaluations_with_offsets_are_compared_with_each_other(tmp_path):
    runs = [
        write_run(tmp_path / "a", "unet", FIRST, split="test-offsets"),
        write_run(tmp_path / "b", "feedback-conv", SECOND, split="test-offsets"),
    ]
    comparison = compare(runs, offsets=True)
    np.testing.assert_allclose(comparison.differences[0].summed, summed(SECOND) - summed(FIRST))
    assert "IoU in %, test-offsets split" in comparison_table(comparison)
    with pytest.raises(RunError, match=r"has no test evaluation .* fbunet evaluate .*a --split test$"):
        compare(runs)
    runs.append(write_run(tmp_path / "c", "unet-wide", FIRST))
    with pytest.raises(RunError, match=r"has no test-offsets evaluation .* fbunet evaluate .*c --split test --offsets"):
        compare(runs, offsets=True)
