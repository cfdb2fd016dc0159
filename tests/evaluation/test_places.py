"""Results of a run that cannot be written: elsewhere, named, and never mixed with those of another run."""

import json
import shutil

import pytest

from fbunet_jax.cli import main
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation import places
from fbunet_jax.evaluation.crossval import evaluate
from fbunet_jax.runs.directory import Run


@pytest.fixture
def read_only_run(make_run, tmp_path, monkeypatch):
    """Return a run in which nothing can be made; a folder of its own is the current one."""
    run = make_run(tmp_path / "runs" / "run", folds=(0, 1))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    writable = places.is_writable
    monkeypatch.setattr(places, "is_writable", lambda folder: run not in (folder, *folder.parents) and writable(folder))
    return run


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_evaluate_and_report_write_elsewhere_and_say_where(read_only_run, tmp_path, capsys):
    before = contents(read_only_run)
    shutil.copytree(read_only_run, tmp_path / "copy")
    assert main(["evaluate", str(read_only_run)]) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "here" / "evaluation-runs-run"
    assert f"{read_only_run} cannot be written: the results go to evaluation-runs-run." in said
    assert "Written: evaluation-runs-run/evaluation.json" in said
    assert "Written: evaluation-runs-run/report.html" in said
    found = evaluate(tmp_path / "copy")
    assert json.loads((folder / "evaluation.json").read_text()) == found
    for fold in (0, 1):
        name = f"fold_{fold}/evaluation.json"
        assert (folder / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()
    (folder / "report.html").unlink()
    assert main(["report", str(read_only_run)]) == 0
    said = capsys.readouterr().out
    assert "Written: evaluation-runs-run/report.html" in said
    assert "fold 0:" not in said  # it is evaluated already
    assert contents(read_only_run) == before


def test_results_of_two_runs_do_not_lie_in_one_folder(read_only_run, make_run, tmp_path):
    evaluate(read_only_run, [0], out=tmp_path / "results")
    other = make_run(tmp_path / "other", folds=(0,))
    with pytest.raises(RunError, match=r"results holds the results of the run .*run\. Choose another"):
        evaluate(other, [0], out=tmp_path / "results")
    assert not Run(other).evaluation("test").exists()


def test_a_folder_for_results_that_cannot_be_made_is_named(read_only_run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/results cannot be written: Not a directory"):
        evaluate(read_only_run, [0], out=tmp_path / "file" / "results")
