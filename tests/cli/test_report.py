"""``fbunet evaluate``, ``report`` and ``compare`` as a user types them."""

import io
import json
import math
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from fbunet_jax.cli import main
from fbunet_jax.config import load_config
from fbunet_jax.training.fold import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a run of one trained fold of three, not evaluated yet."""
    config = load_config(
        "quickstart",
        method="unet",
        data={"synthetic_images": 6, "synthetic_size": 32, "crop": 32, "folds": 3},
        model={"widths": [2, 3]},
        training={"epochs": 1, "batch_size": 8, "previews": 0},
    )
    run = tmp_path_factory.mktemp("runs") / "run"
    train(config, 0, out=run, stream=io.StringIO())
    return run


def test_evaluate_writes_the_report_unless_told_not_to(trained, capsys):
    assert main(["evaluate", str(trained), "--no-report"]) == 0
    assert not (trained / "report.html").exists()
    capsys.readouterr()
    assert main(["evaluate", str(trained)]) == 0
    assert f"Written: {trained / 'report.html'}" in capsys.readouterr().out
    text = (trained / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")
    assert re.search(r"\d GiB", text)  # the memory of a real training


def test_report_evaluates_what_is_not_evaluated_and_says_where_the_page_is(trained, capsys, tmp_path):
    (trained / "fold_0/items-validation.npz").unlink(missing_ok=True)
    assert main(["report", str(trained), "--split", "validation", "--out", str(tmp_path / "new" / "page.html")]) == 0
    output = capsys.readouterr().out
    assert "fold 0: 1 validation images" in output
    assert re.search(r"Written: .*page\.html \(0\.\d MB\)", output)
    assert "These are the validation images" in (tmp_path / "new" / "page.html").read_text(encoding="utf-8")


def test_compare_prints_a_table_and_draws_a_picture(trained, capsys, tmp_path):
    assert main(["evaluate", str(trained), "--no-report"]) == 0
    out, other = tmp_path / "differences.png", tmp_path / "other"
    shutil.copytree(trained, other)
    assert main(["compare", str(trained), str(other), "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "percentage points of IoU" in output
    assert "No interval: one fold" in output
    assert f"Written: {out}" in output
    with Image.open(out) as picture:
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["report"], "needs a run directory"),
        (["report", "."], "is not a run directory"),
        (["compare", "."], "at least two"),
        (["compare", ".", ".."], "is not a run directory"),
        (["report", "RUN", "--data-root", "nowhere", "--out", "page.html"], ""),
    ],
)
def test_a_mistake_gets_a_sentence(command, message, trained, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = main([str(trained) if word == "RUN" else word for word in command])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert (code, message in error) == (2 if message else 0, True)


NORMALISATION = {"kind": "standardise", "mean": [100.0], "deviation": [50.0]}
DAMAGED_INPUTS = {
    "a missing key": ({"kind": "standardise", "mean": [100.0]}, "is damaged: normalisation: .*deviation"),
    "a wrong type": (NORMALISATION | {"mean": ["100"]}, r"is damaged: normalisation.mean\[0\]: expected `float`"),
    "true for a number": (NORMALISATION | {"mean": [True]}, r"is damaged: normalisation.mean\[0\]: expected `float`"),
    "an unknown kind": (NORMALISATION | {"kind": "other"}, "is damaged: normalisation.kind: unknown value 'other'"),
    "an unknown key": (NORMALISATION | {"median": [1.0]}, "is damaged: unknown key 'median'"),
    "not a number": (NORMALISATION | {"mean": [math.nan]}, "cannot be read as JSON: NaN"),
    "other channels": (NORMALISATION | {"mean": [1.0, 2.0], "deviation": [1.0, 2.0]}, "is damaged: .* of 1 channels"),
    "text": ("normal", "is damaged: normalisation: expected `object`, got `str`"),
    "not JSON": (None, "cannot be read as JSON"),
    "no file": (None, "is missing"),
}


@pytest.mark.parametrize("case", DAMAGED_INPUTS)
def test_damaged_inputs_are_a_sentence_for_the_commands_that_segment(case, trained, capsys, tmp_path):
    content, message = DAMAGED_INPUTS[case]
    run, image = tmp_path / "run", tmp_path / "image.png"
    shutil.copytree(trained, run)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(image)
    inputs = run / "fold_0" / "inputs.json"
    text = inputs.read_text(encoding="utf-8")
    inputs.write_text(text[:-9] if case == "not JSON" else json.dumps({"normalisation": content}), encoding="utf-8")
    if case == "no file":
        inputs.unlink()

    for command in (["evaluate", str(run)], ["predict", str(run), str(image), "--out", str(tmp_path / "out")]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert re.search(f"^Error: {re.escape(str(inputs))} {message}", error, re.MULTILINE)
        assert re.search(r"\. Copy it again if the run is a copy, or (start a new run|train the fold again)", error)
        assert "Internal error" not in error
        assert "Traceback" not in error
