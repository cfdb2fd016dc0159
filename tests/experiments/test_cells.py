"""Cells on disk: written, copied, damaged, mixed."""

import json
from pathlib import Path

import numpy as np
import pytest

from fbunet_jax.errors import RunError
from fbunet_jax.experiments.cells import differences, place_of, read_cell, read_cells, write_cell

COUNTS = [[[8, 2], [1, 5]], [[9, 1], [0, 6]]]
WEIGHTS = {"params/kernel": np.ones(3, np.float32)}


@pytest.fixture
def folder(tmp_path, make_cell):
    for method, fold in (("unet", 1), ("unet", 0), ("feedback-conv", 0)):
        write_cell(tmp_path, make_cell(method, fold, 0, COUNTS), WEIGHTS)
    return tmp_path


def change(path, *keys, to):
    """Change one value of a JSON file."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(content))


def test_cells_are_read_as_they_were_written_in_the_order_of_methods_and_folds(folder, make_cell):
    (folder / "._unet-fold0-seed0.json").write_bytes(b"\0")  # which macOS leaves on other disks
    cells = read_cells(folder)
    assert [str(place_of(cell)) for cell in cells] == ["unet:0:0", "unet:1:0", "feedback-conv:0:0"]
    assert cells[1] == make_cell("unet", 1, 0, COUNTS)
    with np.load(folder / "unet-fold1-seed0.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["params/kernel"], WEIGHTS["params/kernel"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"training": {"epochs": 57}},
            r"unet-fold2-seed0\.json has training\.epochs 57, and it is 1500 in unet-fold0-",
        ),
        ({"model": {"feedback": "concat"}}, r'model\.feedback "concat", and it is not set'),
        ({"data": {"classes": {"a": 0, "b": 1}}}, r"data\.classes"),
    ],
)
def test_cells_of_other_settings_are_refused_with_the_first_difference(settings, message, folder, make_cell):
    write_cell(folder, make_cell("unet", 2, 0, COUNTS, **settings), WEIGHTS)
    with pytest.raises(RunError, match=message):
        read_cells(folder)


def test_cells_of_other_images_are_refused(folder, make_cell):
    cell = make_cell("unet", 2, 0, COUNTS)
    cell["data"]["fingerprint"] = "0"
    write_cell(folder, cell, WEIGHTS)
    with pytest.raises(RunError, match=r'other data: fingerprint "0", and it is "f"'):
        read_cells(folder)


def test_where_the_data_lie_and_what_changes_no_number_may_differ(folder, make_cell):
    settings = {"data": {"root": "/elsewhere"}, "model": {"rematerialise": True}, "training": {"previews": 0}}
    cell = make_cell("unet", 2, 1, COUNTS, name="other", **settings)
    cell["data"]["name"] = "elsewhere"
    path = write_cell(folder, cell, WEIGHTS)
    assert "/elsewhere" not in path.read_text()
    assert len(read_cells(folder)) == 4


def test_a_setting_that_is_younger_than_a_cell_has_the_value_there_that_says_what_was_done(folder, make_cell):
    old = make_cell("unet", 2, 0, COUNTS)
    del old["setting"]["training"]["dice_weight"]
    write_cell(folder, old, WEIGHTS)
    assert len(read_cells(folder)) == 4
    write_cell(folder, make_cell("unet", 3, 0, COUNTS, training={"dice_weight": 0.5}), WEIGHTS)
    with pytest.raises(RunError, match=r"training\.dice_weight 0\.5, and it is 0\.0"):
        read_cells(folder)


def test_a_cell_of_format_1_of_the_settings_drew_its_crops_inside(make_cell):
    now, old = (make_cell("unet", 2, 0, COUNTS)["setting"] for _ in range(2))
    for name in ("norm_batches", "crop_border", "elastic_probability"):
        del old["training"][name]
    assert not list(differences(now, old))  # a crop is a whole item
    for setting in (now, old):
        setting["data"]["cut"] = 0
    assert list(differences(now, old)) == [("training.crop_border", True, False)]


def test_whole_images_in_separate_tiles_and_as_prediction_segments_them_are_not_mixed(folder, make_cell):
    other = make_cell("unet", 2, 0, COUNTS)
    other["evaluation"] |= {"tile": 512, "overlap": 192}
    write_cell(folder, other, WEIGHTS)
    assert len(read_cells(folder)) == 4  # cut into items of the size of a crop: both ways are the same
    for path in folder.glob("*.json"):
        change(path, "setting", "data", "cut", to=0)
    with pytest.raises(RunError, match=r"json was evaluated by an earlier version, in separate tiles, and unet-fold2"):
        read_cells(folder)


def test_a_cell_of_format_1_of_the_settings_validated_on_the_groups_after_the_tested_ones(make_cell):
    now, old = (make_cell("unet", 2, 0, COUNTS, data={"cut": 256})["setting"] for _ in range(2))
    old["data"].pop("validation_groups")
    for scheme, found in (("grouped", [("data.validation_groups", "both-sides", "after")]), ("sections", [])):
        now["data"]["fold_scheme"] = old["data"]["fold_scheme"] = scheme
        assert list(differences(now, old)) == found


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("evaluation", "mean_iou"), 0.99),
        (("evaluation", "rounds", 0, "iou", 0), 0.5),
        (("evaluation", "rounds", 0, "iou"), []),
        (("evaluation", "rounds", 1, "confusion"), [[1, 2]]),
        (("evaluation", "rounds", 1, "confusion", 0, 0), 10),
        (("evaluation", "rounds"), []),
        (("evaluation", "fold"), 3),
        (("processes",), []),
        (("processes",), [{"commit": "c"}]),
        (("seconds",), "long"),
        (("method",), "u-net"),
        (("seed",), 1),
        (("format",), 3),
        (("format",), 1),
        (("evaluation", "format"), 1),
        (("setting",), None),
    ],
)
def test_a_cell_whose_numbers_do_not_follow_from_its_counts_or_that_was_renamed_is_refused(keys, value, folder):
    path = folder / "unet-fold0-seed0.json"
    read_cell(path)
    change(path, *keys, to=value)
    with pytest.raises(RunError, match=r"unet-fold0-seed0\.json"):
        read_cells(folder)


def test_a_class_that_does_not_occur_has_no_iou_and_the_cell_is_whole(tmp_path, make_cell):
    path = write_cell(tmp_path, make_cell("unet", 0, 0, [np.diag([5, 3, 0])]), WEIGHTS)
    assert read_cell(path)["evaluation"]["iou"] == [1, 1, None]


def test_a_cell_of_format_1_is_checked_by_its_rule_and_read_as_one_of_format_2(tmp_path, make_cell):
    counts = [[[8, 1, 1], [2, 6, 0], [0, 0, 0]]]  # one pixel is taken for a class that is not there
    cell = make_cell("unet", 0, 0, counts)
    assert cell["evaluation"]["iou"] == pytest.approx([8 / 12, 6 / 9, None])
    path = write_cell(tmp_path, cell, WEIGHTS)
    old = {"mean_iou": (8 / 12 + 6 / 9 + 0) / 3, "iou": [8 / 12, 6 / 9, 0.0]}
    content = {**cell, "format": 1, "evaluation": {"fold": 0, "step": 9, "images": 2, **old}}
    content["evaluation"]["rounds"] = [{**old, "confusion": counts[0]}]
    path.write_text(json.dumps(content))
    assert read_cell(path) == cell
    change(path, "evaluation", "iou", 2, to=None)
    with pytest.raises(RunError, match="do not follow from its counts"):
        read_cell(path)


def test_the_published_cells_are_read():
    folders = sorted(Path(__file__).parents[2].glob("docs/results/*/cells"))
    assert len(folders) >= 4
    for folder in folders:
        for cell in read_cells(folder):
            scores = json.loads((folder / f"{place_of(cell).stem}.json").read_text())["evaluation"]
            assert cell["evaluation"]["iou"] == pytest.approx(scores["iou"])  # all have every class


def test_an_empty_folder_has_no_cells(tmp_path):
    assert read_cells(tmp_path / "nowhere") == []
