"""What a table says beside itself: rare classes, other evaluations, other maps; against counts by hand."""

import numpy as np
import pytest
from scipy import stats

from fbunet_jax.evaluation.scores import fold_entry
from fbunet_jax.experiments.pages import as_markdown
from fbunet_jax.experiments.paper import TABLES
from fbunet_jax.experiments.tabulate import tabulate


def counts(rare, large=8):
    """Return counts of four classes: the last holds 10 of 1210 pixels, of which `rare` are found, and 6 are wrong."""
    confusion = np.diag([400, 400, 400, rare])
    confusion[0, 1] = large
    confusion[3, 0] = 10 - rare
    confusion[1, 3] = 6
    return confusion


def objects(found, predicted):
    other = {"truth": 3, "found": 3, "predicted": 9, "right": 3}
    rare = {"truth": 5, "found": found, "predicted": predicted, "right": 2}
    return {"least_pixels": 50, "classes": [other, other, other, rare]}


@pytest.fixture(scope="module")
def cells(make_cell):
    """Return three folds of two methods, with their objects and further evaluations."""
    made = []
    for fold in range(3):
        for method, shift in (("unet", 0), ("unet-wide", 2), ("feedback-conv", 4)):
            rounds = [counts(2 + fold + shift)] * (1 + (method == "feedback-conv"))
            cell = make_cell(method, fold, 0, rounds)
            cell["evaluation"]["objects"] = objects(1 + fold, 4 + shift)
            cell["processor_seconds"] = 600.0 + 60 * fold
            cell["further"] = {"whole": further(cell, counts(4 + fold + shift, large=2 * fold))}
            if method == "feedback-conv":
                cell["further"]["maps-zeros"] = further(cell, counts(fold))
                cell["further"]["maps-other"] = further(cell, counts(fold + 1))
            made.append(cell)
    return made


def further(cell, confusion):
    rounds = len(cell["evaluation"]["rounds"])
    return fold_entry(cell["fold"], 9, 2, np.array([confusion] * rounds))


def rows_of(cells):
    return {row["method"]: row for row in tabulate(TABLES[1], cells)["rows"]}


def iou(confusion):
    confusion = np.asarray(confusion)
    right = np.diag(confusion)
    return right / (confusion.sum(axis=0) + confusion.sum(axis=1) - right)


def test_the_mean_over_large_classes_leaves_out_the_one_that_few_pixels_have(cells):
    content = tabulate(TABLES[1], cells)
    assert content["large_classes"] == ["cytoplasm", "membrane", "mitochondria"]
    rows = {row["method"]: row for row in content["rows"]}
    expected = [iou(counts(2 + fold))[:3].mean() for fold in range(3)]
    assert rows["unet"]["large_mean"] == pytest.approx(np.mean(expected))
    assert rows["unet"]["large_deviation"] == pytest.approx(np.std(expected, ddof=1))
    page = as_markdown(content)
    assert "the mean over cytoplasm, membrane, mitochondria, which hold at least 2 % of the pixels" in page
    assert "| large classes |" in page


def test_a_table_whose_classes_are_all_large_has_no_such_column(make_cell):
    page = as_markdown(tabulate(TABLES[1], [make_cell("unet", 0, 0, [np.diag([5, 5])])]))
    assert "large classes" not in page
    assert "Objects of" not in page


def test_differences_go_to_both_baselines_and_also_over_the_large_classes(cells):
    found = {each["to"]: each for each in rows_of(cells)["feedback-conv"]["differences"]}
    assert list(found) == ["unet", "unet-wide"]
    totals = {shift: np.sum([counts(2 + fold + shift) for fold in range(3)], axis=0) for shift in (0, 2, 4)}
    for name, shift in (("unet", 0), ("unet-wide", 2)):
        by_class = iou(totals[4]) - iou(totals[shift])
        assert found[name]["mean_iou"] == pytest.approx(by_class.mean())
        assert found[name]["large_mean"] == pytest.approx(by_class[:3].mean())
    # a jackknife by hand; every fold has as many pixels of each class
    left_out = []
    for fold in range(3):
        ours, theirs = (totals[s] - counts(2 + fold + s) for s in (4, 0))
        left_out.append((iou(ours) - iou(theirs))[:3].mean())
    half = stats.t.ppf(0.975, 2) * np.sqrt(2 * np.var(left_out))
    centre = found["unet"]["large_mean"]
    assert found["unet"]["large_mean_interval"] == pytest.approx((centre - half, centre + half))


def test_objects_and_areas_of_rare_classes_are_summed_over_cells(cells):
    row = rows_of(cells)["unet"]
    assert row["objects"]["classes"][3] == {"truth": 15, "found": 6, "predicted": 12, "right": 6}
    assert row["area"][3] == pytest.approx(sum(2 + fold + 6 for fold in range(3)) / 30)
    page = as_markdown(tabulate(TABLES[1], cells))
    assert "## Objects of synapse" in page
    line = next(line for line in page.split("## Objects of synapse")[1].splitlines() if "`unet`" in line)
    assert "| 0.90 | 6 of 15 (40 %) | 6 of 12 (50 %) | 3 |" in line


def test_objects_that_not_all_cells_have_counted_are_left_out(cells):
    some = [dict(cell) for cell in cells]
    some[0] = {**some[0], "evaluation": {k: v for k, v in some[0]["evaluation"].items() if k != "objects"}}
    assert rows_of(some)["unet"]["objects"] is None
    assert rows_of(some)["unet-wide"]["objects"] is not None


def test_other_evaluations_have_means_and_differences_of_their_own(cells):
    found = rows_of(cells)["feedback-conv"]["further"]["whole"]
    ours, theirs = (np.sum([counts(4 + f + s, large=2 * f) for f in range(3)], axis=0) for s in (4, 0))
    assert found["differences"][0]["mean_iou"] == pytest.approx((iou(ours) - iou(theirs)).mean())
    assert found["mean"]["mean_iou"] == pytest.approx(np.mean([iou(counts(8 + f, large=2 * f)) for f in range(3)]))
    page = as_markdown(tabulate(TABLES[1], cells)).split("evaluated in other ways")[1]
    assert "| `feedback-conv` | as in the table |" in page
    assert "| `feedback-conv` | whole |" in page


def test_other_maps_are_compared_with_the_methods_own(cells):
    row = rows_of(cells)["feedback-conv"]
    own, zeros = (np.sum([counts(f + s) for f in range(3)], axis=0) for s in (6, 0))
    assert list(row["maps"]) == ["zeros", "other"]
    assert row["maps"]["zeros"]["mean_iou"] == pytest.approx((iou(zeros) - iou(own)).mean())
    assert row["maps"]["zeros"]["mean_iou"] < 0
    assert "maps-zeros" not in row["further"]
    page = as_markdown(tabulate(TABLES[1], cells)).split("## Is the feedback used?")[1]
    assert sum("`unet`" in line for line in page.split("##")[0].splitlines()) == 0


def test_minutes_of_the_processor_are_those_of_the_cells(cells):
    assert rows_of(cells)["unet"]["processor_minutes"] == pytest.approx(11)
    line = next(
        line for line in as_markdown(tabulate(TABLES[1], cells)).splitlines() if line.startswith("| `unet` | 2 |")
    )
    assert " | 12 | " in line


def test_the_names_of_further_evaluations_are_words_and_unet_comes_first(cells):
    for name, words in (("whole-tta", "whole, views"), ("crops32-offsets", "crops32, offsets"), ("tta", "views")):
        renamed = [{**cell, "further": {name: cell["further"]["whole"]}} for cell in cells]
        page = as_markdown(tabulate(TABLES[1], renamed))
        assert f"| `unet` | {words} |" in page
    assert "| minus `unet` | minus `unet-wide` | cells |" in page
