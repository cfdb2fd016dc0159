"""What folds reached: means over the folds that have a class, the table, and files of every format."""

import json

import numpy as np
import pytest

from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.scores import _read_entry, fold_entry, missing_folds, pool, table


def test_a_class_absent_from_truth_and_prediction_leaves_the_mean():
    confusion = np.array([[[6, 2, 0], [1, 3, 0], [0, 0, 0]]])
    entry = fold_entry(0, 1, 5, confusion)
    assert entry["rounds"][0]["iou"] == [6 / 9, 3 / 6, None]
    assert entry["mean_iou"] == pytest.approx(np.mean([6 / 9, 3 / 6]))


# rows truth; fold 2 has no pixel of y, and one is taken for it
LACKS_Y = [[[6, 4], [0, 0]], [[9, 1], [0, 0]]]
HAS_BOTH = [[[5, 5], [2, 8]], [[8, 2], [4, 6]]]


def entries(*folds):
    return [fold_entry(fold, 1, 2, np.array(confusion)) for fold, confusion in folds]


def test_mean_and_deviation_of_a_class_are_over_the_folds_that_have_it_and_the_mean_iou_is_that_of_the_classes():
    pooled = pool(("x", "y"), "test", entries((0, HAS_BOTH), (1, HAS_BOTH), (2, LACKS_Y)))
    x, y = 8 / 14, 6 / 12
    assert pooled["folds"][2]["iou"] == [9 / 10, None]
    assert pooled["folds"][2]["mean_iou"] == 9 / 10  # over x alone
    assert pooled["mean"]["iou"] == pytest.approx([(2 * x + 0.9) / 3, y])
    assert pooled["mean"]["mean_iou"] == pytest.approx(((2 * x + 0.9) / 3 + y) / 2)
    assert pooled["std"]["iou"] == pytest.approx([np.std([x, x, 0.9], ddof=1), 0])
    assert pooled["std"]["mean_iou"] == 0  # folds 0 and 1, which have both classes
    assert missing_folds(pooled, 4) == [3]


def test_summed_numbers_are_of_every_class_of_the_data_set():
    pooled = pool(("x", "y"), "test", entries((0, HAS_BOTH), (2, LACKS_Y)))
    assert pooled["summed"]["iou"] == pytest.approx([17 / 24, 6 / 13])
    assert pooled["summed"]["mean_iou"] == pytest.approx((17 / 24 + 6 / 13) / 2)


def test_a_class_that_no_fold_has_leaves_the_mean():
    pooled = pool(("x", "y"), "test", entries((0, LACKS_Y)))
    for key in ("mean", "summed"):
        assert pooled[key] == {"mean_iou": 9 / 10, "iou": [9 / 10, None]}
    assert pooled["std"] == {"mean_iou": None, "iou": [None, None]}


def test_the_table_shows_classes_by_folds_with_both_rounds_and_names_the_classes_that_a_fold_lacks():
    lines = table(pool(("x", "long name"), "validation", entries((3, HAS_BOTH), (4, LACKS_Y)))).splitlines()
    assert lines[0].split() == ["IoU", "in", "%", "fold", "3", "fold", "4", "mean", "std", "summed"]
    assert lines[1].split()[1:] == ["57.1", "(41.7)", "90.0", "(60.0)", "73.6", "(50.8)", "23.2", "70.8"]
    assert lines[2].split()[2:] == ["50.0", "(53.3)", "n/a", "(n/a)", "50.0", "(53.3)", "n/a", "46.2"]
    assert lines[3].split()[1:] == ["53.6", "(47.5)", "90.0", "(60.0)", "61.8", "(52.1)", "n/a", "58.5"]
    assert lines[5].startswith("Fold 4 has no pixel of long name (n/a): its mean is over the other classes")
    assert len(lines) == 6


def in_format_1(fold, confusion):
    """Return an entry as format 1 had it, where a class was absent only if it was not predicted either."""
    rounds = []
    for matrix in np.array(confusion):
        union = matrix.sum(axis=0) + matrix.sum(axis=1) - matrix.diagonal()
        values = [float(right / all_) if all_ else None for right, all_ in zip(matrix.diagonal(), union, strict=True)]
        present = [value for value in values if value is not None]
        rounds.append({"mean_iou": sum(present) / len(present), "iou": values, "confusion": matrix.tolist()})
    scores = {"mean_iou": rounds[-1]["mean_iou"], "iou": rounds[-1]["iou"], "rounds": rounds}
    return {"fold": fold, "step": 1, "images": 2, **scores}


@pytest.mark.parametrize("confusion", [HAS_BOTH, LACKS_Y, [[[3, 0], [0, 0]]]])
def test_scores_of_format_1_are_checked_by_their_own_rule_and_made_anew(confusion, tmp_path):
    old = in_format_1(2, confusion)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(old))
    assert [_read_entry(path, 2, 2)] == entries((2, confusion))
    for changes in ({"format": 2} if confusion == LACKS_Y else {}, {"mean_iou": old["mean_iou"] + 0.01}, {"fold": 3}):
        if changes:
            path.write_text(json.dumps(old | changes))
            with pytest.raises(RunError, match=r"evaluation\.json is damaged: expected fold 2"):
                _read_entry(path, 2, 2)
    path.write_text(json.dumps(old | {"format": 3}))
    with pytest.raises(
        RunError, match=r"has format 3; this version reads formats 1 and 2\. Use the version that wrote"
    ):
        _read_entry(path, 2, 2)
