"""``fbunet evaluate``, ``report`` and ``compare`` as a user types them."""

import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from fbunet_jax.cli import main
from fbunet_jax.config import load_config
from fbunet_jax.training.loop import train


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
