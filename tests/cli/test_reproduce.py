"""``fbunet reproduce`` as a user types it: a tiny table from nothing, in two folders, and merged."""

import contextlib
import io
import json
import shutil
import statistics

import pytest

from fbunet_jax.cli import main

METHODS, FOLDS = ("unet", "feedback-conv"), (0, 1)
TINY = ["--config", "quickstart", "--data.synthetic-images", "6", "--data.synthetic-size", "32", "--data.crop", "32"]
TINY += ["--data.folds", "3", "--model.widths", "2", "3", "--training.epochs", "8", "--training.batch-size", "8"]
TINY += ["--training.validate-every", "8", "--training.previews", "0", "--folds", "0", "1"]


def reproduce(*options):
    """Run the command, and return its exit code and what it printed."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = main(["reproduce", "--table", "1", *map(str, options)])
    assert "Traceback" not in text.getvalue()
    return code, text.getvalue()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return the folder of a table of two methods on two folds, and what the command printed."""
    out = tmp_path_factory.mktemp("work") / "table"
    code, text = reproduce("--out", out, *TINY, *(word for method in METHODS for word in ("--only", method)))
    assert code == 0, text
    return out, text


def test_a_tiny_table_is_trained_evaluated_and_written_and_its_numbers_follow_from_the_cells(table):
    out, text = table
    cells = {path.stem: json.loads(path.read_text()) for path in (out / "cells").glob("*.json")}
    assert set(cells) == {f"{method}-fold{fold}-seed0" for method in METHODS for fold in FOLDS}
    assert all((out / "cells" / f"{stem}.npz").is_file() for stem in cells)
    rows = {row["method"]: row for row in json.loads((out / "table.json").read_text())["rows"]}

    def mean_iou(counts):
        """Return the mean IoU from the counts alone."""
        union = [sum(counts[k]) + sum(row[k] for row in counts) - counts[k][k] for k in range(4)]
        return statistics.mean(counts[k][k] / union[k] for k in range(4))

    scores, summed = {}, {}
    for method in METHODS:
        found = [cells[f"{method}-fold{fold}-seed0"]["evaluation"] for fold in FOLDS]
        counts = [entry["rounds"][-1]["confusion"] for entry in found]
        scores[method] = [mean_iou(each) for each in counts]
        summed[method] = mean_iou([[a + b for a, b in zip(*rows, strict=True)] for rows in zip(*counts, strict=True)])
        assert rows[method]["mean"]["mean_iou"] == pytest.approx(statistics.mean(scores[method]))
        assert rows[method]["deviation"]["mean_iou"] == pytest.approx(statistics.stdev(scores[method]))
    pairs = [one - other for one, other in zip(scores["feedback-conv"], scores["unet"], strict=True)]
    found = rows["feedback-conv"]["differences"][0]
    assert found["mean_iou"] == pytest.approx(summed["feedback-conv"] - summed["unet"])
    half = 12.7062 * statistics.stdev(pairs) / 2**0.5  # the 97.5 % quantile of t with one degree of freedom
    low, high = found["mean_iou_interval"]
    # two folds of not quite the same pixels of each class: a little less than one degree of freedom
    assert half <= high - found["mean_iou"] == pytest.approx(found["mean_iou"] - low)
    assert high - found["mean_iou"] == pytest.approx(half, rel=0.5)
    page = (out / "table.md").read_text(encoding="utf-8")
    assert f"{100 * statistics.mean(scores['unet']):.1f} ± {100 * statistics.stdev(scores['unet']):.1f}" in page
    assert "not the paper's images" in page
    for name in ("table.md", "table.json", "table.png"):
        assert f"Written: {out / name}" in text


def test_cells_from_two_machines_are_merged_and_nothing_is_trained(table, tmp_path):
    shutil.copytree(table[0] / "cells", tmp_path / "cells")
    code, text = reproduce("--out", tmp_path, *TINY, "--minutes", "0")
    assert code == 0
    assert "Missing: 12 of 16 cells: ru-net:0:0, feedback-recurrent:0:0" in text
    assert (tmp_path / "table.json").read_text() == (table[0] / "table.json").read_text()
    (tmp_path / "table.json").unlink()
    # without the settings, which are those of the cells
    assert reproduce("--out", tmp_path, "--table-only")[0] == 0
    assert (tmp_path / "table.json").read_text() == (table[0] / "table.json").read_text()


def test_finished_cells_are_refused_other_settings(table):
    code, text = reproduce("--out", table[0], *TINY, "--training.epochs", "9", "--minutes", "0")
    assert code == 2
    assert "training.epochs 9, and it is 8 in unet-fold0-seed0.json" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "3"], "--folds 3: expected all, or numbers from 0 to 2"),
        (["--folds", "all", "1"], "expected all, or numbers"),
        (["--seeds", "0"], "--seeds 0"),
        (["--minutes", "-1"], "--minutes -1.0"),
        (["--minutes", "nan"], "--minutes nan"),
        (["--method", "unet"], "Choose with --only unet:0"),
        (["--only", "unet:2"], "folds 0, 1; seeds 0"),
    ],
)
def test_a_mistake_gets_a_sentence_and_exit_code_2_and_leaves_nothing(options, message, tmp_path):
    code, text = reproduce("--out", tmp_path / "table", *TINY, *options)
    assert code == 2
    assert message in text
    assert not (tmp_path / "table").exists()


def test_a_configuration_that_does_not_exist_and_data_that_are_not_given_get_a_sentence(tmp_path):
    assert "no configuration 'nowhere'" in reproduce("--out", tmp_path, "--config", "nowhere")[1]
    code, text = reproduce("--out", tmp_path)
    assert (code, "data.root" in text, list(tmp_path.iterdir())) == (2, True, [])


@pytest.mark.parametrize(("number", "folds"), [(1, 5), (2, 8), (3, 5), (4, 8)])
def test_a_table_brings_its_own_configuration(number, folds, tmp_path):
    code, text = reproduce("--table", number, "--out", tmp_path, "--folds", folds)
    assert code == 2
    assert f"numbers from 0 to {folds - 1}" in text


def test_a_folder_without_cells_says_so(tmp_path):
    code, text = reproduce("--out", tmp_path, "--table-only")
    assert code == 0
    assert f"No cell is finished in {tmp_path / 'cells'}" in text
