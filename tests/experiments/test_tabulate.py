"""The numbers of a table, against a count by hand, and the page that shows them."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from fbunet_jax.experiments.cells import TableFolder, write_cell
from fbunet_jax.experiments.pages import as_markdown, write_table
from fbunet_jax.experiments.paper import TABLES
from fbunet_jax.experiments.tabulate import tabulate


def matrix(right, wrong):
    """Return counts of two classes with IoU right / (right + wrong) each, if nothing else is wrong."""
    return [[right, wrong], [0, right]]


@pytest.fixture(scope="module")
def cells(make_cell):
    """Return two methods on two folds with two seeds; one cell of the second is not finished."""
    made = []
    for index, (fold, seed) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        made.append(make_cell("unet", fold, seed, [matrix(6 + index, 4)]))
        if (fold, seed) != (1, 1):
            rounds = [matrix(5, 5 + index), matrix(8 - index, 1 + 3 * index)]
            made.append(make_cell("feedback-conv", fold, seed, rounds))
    return made


def iou(right, wrong):
    return right / (right + wrong)


def test_means_deviations_and_rounds_are_those_of_a_count_by_hand(cells):
    rows = {row["method"]: row for row in tabulate(TABLES[1], cells)["rows"]}
    unet = [iou(6 + index, 4) for index in range(4)]
    assert rows["unet"]["mean"]["iou"] == pytest.approx([np.mean(unet)] * 2)
    assert rows["unet"]["mean"]["mean_iou"] == pytest.approx(np.mean(unet))
    assert rows["unet"]["deviation"]["mean_iou"] == pytest.approx(np.std(unet, ddof=1))
    assert rows["unet"]["first_round_mean_iou"] is None
    feedback = [iou(8 - index, 1 + 3 * index) for index in range(3)]
    assert rows["feedback-conv"]["mean"]["mean_iou"] == pytest.approx(np.mean(feedback))
    first = np.mean([iou(5, 5 + index) for index in range(3)])
    assert rows["feedback-conv"]["first_round_mean_iou"] == pytest.approx(first)
    assert rows["feedback-conv"]["folds"] == rows["feedback-conv"]["seeds"] == [0, 1]


def test_differences_are_paired_by_fold_and_seed_and_the_interval_is_over_folds(cells):
    rows = {row["method"]: row for row in tabulate(TABLES[1], cells)["rows"]}
    # of fold 0 the mean of both seeds, of fold 1 the seed that both have
    ours, baseline = np.array([[7.5, 2.5], [6, 7]]), np.array([[6.5, 4], [8, 4]])
    both = iou(*ours.sum(axis=0)) - iou(*baseline.sum(axis=0))
    found = rows["feedback-conv"]["differences"][0]
    assert (found["to"], found["folds"], found["pairs"]) == ("unet", [0, 1], 3)
    assert found["iou"] == pytest.approx([both] * 2)
    assert found["mean_iou"] == pytest.approx(both)
    # two folds, of which the one has +13 and the other -21 points: anything is possible
    assert found["mean_iou_interval"] == (-1, 1)
    assert rows["unet"]["differences"] == []


def test_a_fold_without_a_class_is_named_and_no_number_is_over_unequal_sets_of_classes(make_cell):
    counts = [("unet", 0, [[8, 2], [3, 7]]), ("unet", 1, [[9, 1], [0, 0]])]
    counts += [("feedback-conv", 0, [[9, 1], [2, 8]]), ("feedback-conv", 1, [[10, 0], [0, 0]])]
    content = tabulate(TABLES[1], [make_cell(method, fold, 0, [matrix]) for method, fold, matrix in counts])
    rows = {row["method"]: row for row in content["rows"]}
    x = [8 / 13, 9 / 10]
    assert rows["unet"]["mean"]["iou"] == pytest.approx([np.mean(x), 7 / 12])
    assert rows["unet"]["mean"]["mean_iou"] == pytest.approx((np.mean(x) + 7 / 12) / 2)
    assert rows["unet"]["deviation"]["iou"] == [pytest.approx(np.std(x, ddof=1)), None]
    assert rows["unet"]["deviation"]["mean_iou"] is None  # one fold has both classes
    found = rows["feedback-conv"]["differences"][0]
    assert found["iou"] == pytest.approx([19 / 22 - 17 / 23, 8 / 11 - 7 / 13])
    assert found["mean_iou"] == pytest.approx(np.mean(found["iou"]))
    assert found["iou_intervals"][1] is found["mean_iou_interval"] is None
    page = as_markdown(content)
    assert page.count("Fold 1 has no pixel of membrane (n/a): its mean is over the other classes") == 1
    assert "The mean column is the mean of the classes' means" in page


def test_the_mean_over_large_classes_is_made_as_the_mean_over_all_where_a_fold_lacks_one(make_cell):
    cells = [make_cell("unet", 0, 0, [matrix(6, 4)]), make_cell("unet", 1, 0, [[[8, 2], [0, 0]]])]
    row = tabulate(TABLES[1], cells)["rows"][0]
    # both classes are large
    assert row["large_mean"] == row["mean"]["mean_iou"] == pytest.approx(((0.6 + 0.8) / 2 + 0.6) / 2)
    assert row["large_deviation"] is None


def test_one_fold_has_a_difference_without_an_interval_and_one_cell_a_mean_without_a_deviation(cells):
    rows = {row["method"]: row for row in tabulate(TABLES[1], cells[:2])["rows"]}
    found = rows["feedback-conv"]["differences"][0]
    assert found["mean_iou"] == pytest.approx(iou(8, 1) - iou(6, 4))
    assert found["mean_iou_interval"] is None
    assert rows["unet"]["deviation"]["mean_iou"] is None
    line = line_of(as_markdown(tabulate(TABLES[1], cells[:2])), "`feedback-conv`")
    assert line[-3:-1] == ["50.0", "+28.9"]
    assert "±" not in " ".join(line)


def test_a_method_that_was_not_run_stays_empty_and_is_compared_with_nothing(cells):
    content = tabulate(TABLES[1], cells)
    rows = {row["method"]: row for row in content["rows"]}
    assert [row["method"] for row in content["rows"]] == [row.method for row in TABLES[1].rows]
    for name in ("mean", "deviation", "first_round_mean_iou", "parameters", "large_mean", "area", "objects"):
        assert rows["ru-net"][name] is None
    assert rows["ru-net"]["differences"] == []
    assert rows["ru-net"]["further"] == rows["ru-net"]["maps"] == {}
    assert rows["ru-net"]["paper"]["iou"] == [0.922, 0.758, 0.743, 0.432]
    assert set(line_of(as_markdown(content), "`ru-net`")[2:]) == {""}


def test_another_table_takes_the_baseline_from_the_same_folder(cells, make_cell):
    ablation = make_cell("feedback-convlstm-a", 0, 0, [matrix(1, 1), matrix(9, 1)])
    content = tabulate(TABLES[3], [*cells, ablation])
    assert "unet" not in {row["method"] for row in content["rows"]}
    assert content["rows"][0]["differences"][0]["mean_iou"] == pytest.approx(iou(9, 1) - iou(6, 4))
    assert tabulate(TABLES[3], [ablation])["rows"][0]["differences"] == []


def line_of(page, text):
    """Return the cells of the first line of a table that has a text in it."""
    line = next(line for line in page.splitlines() if text in line and line.startswith("|"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def four_classes(share):
    """Return counts in which every one of four classes has an IoU of 70 / (70 + share)."""
    confusion = np.diag([70] * 4)
    confusion[np.arange(4), (np.arange(4) + 1) % 4] = share
    return confusion


def test_on_the_papers_images_its_numbers_stand_below_ours_and_the_setting_says_what_differs(make_cell):
    settings = {"training": {"epochs": 57, "schedule": "one-cycle"}}
    one, other = (make_cell("unet", fold, 0, [four_classes(15)], **settings) for fold in (0, 1))
    other["processes"] = [*other["processes"], {**other["processes"][0], "devices": ["cpu"] * 2, "commit": "d" * 40}]
    content = tabulate(TABLES[1], [one, other])
    assert content["is_papers_data"]
    page = as_markdown(content)
    assert line_of(page, "(`unet`)")[2:7] == ["70.0 ± 0.0"] * 5
    assert line_of(page, "| paper |")[2:7] == ["92.0", "74.9", "73.1", "40.9", "70.2"]
    assert "`training.epochs` 57 (there 1500); `training.schedule` one-cycle (there constant)." in page
    assert "not the paper's images" not in page
    assert "different folds or seeds" not in page
    assert "1 x NVIDIA H200 (1 cell); 1 x NVIDIA H200, then 2 x cpu (1 cell)" in page
    assert "cccccccccc, then dddddddddd" in page
    assert "epochs = 57" in page


def test_the_papers_protocol_is_named_as_such(make_cell):
    page = as_markdown(tabulate(TABLES[1], [make_cell("unet", 0, 0, [four_classes(15)])]))
    assert "No setting differs from the paper's protocol, as the configuration `drosophila` states it." in page


def test_other_images_stand_apart_from_the_papers_numbers(make_cell):
    nuclei = make_cell("unet", 0, 0, [np.diag([5, 3, 2])], config="mouse")
    nuclei["data"] |= {"name": "nuclei|256", "class_names": ["background", "boundary", "interior"]}
    content = tabulate(TABLES[2], [nuclei])
    assert not content["is_papers_data"]
    page = as_markdown(content)
    ours, papers = page.split("## The paper's numbers, of its own images")
    assert "**These are not the paper's images** but nuclei|256" in ours
    assert not re.search(r"\b77\.\d\b|nucleus", ours)
    assert line_of(papers, "RU-Net")[1:] == ["77.0", "33.8", "63.7", "57.7"]
    assert "average 58.2" in papers


def test_rows_over_different_cells_are_told(cells):
    assert "different folds or seeds" in as_markdown(tabulate(TABLES[1], cells))


def test_the_three_files_are_written_from_the_cells_of_a_folder(tmp_path, cells, make_cell):
    assert write_table(TABLES[1], TableFolder(tmp_path)) == []
    paper = [make_cell("unet", fold, 0, [four_classes(10 + fold)]) for fold in range(3)]
    for cell in paper:
        write_cell(tmp_path / "cells", cell, {})
    written = write_table(TABLES[1], TableFolder(tmp_path))
    assert [path.name for path in written] == ["table.md", "table.json", "table.png"]
    assert json.loads(written[1].read_text()) == json.loads(json.dumps(tabulate(TABLES[1], paper)))
    assert written[0].read_text(encoding="utf-8") == as_markdown(tabulate(TABLES[1], paper))
    with Image.open(written[2]) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(maxcolors=2**24)}
    assert {(0, 114, 178), (213, 94, 0)} <= colours  # our means, the paper's
