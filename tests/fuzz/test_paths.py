"""Nothing in a file decides where something is written, and nothing in a file is executed."""

import ast
import io
import os
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fbunet_jax.check.checks import check_dataset
from fbunet_jax.cli import main
from fbunet_jax.config import Config, DataConfig, load_config
from fbunet_jax.data.download import PUBLISHED, registry
from fbunet_jax.errors import ConfigError, DataError
from fbunet_jax.inference.inputs import find_images
from fbunet_jax.runs.directory import default_path
from fbunet_jax.training.fold import train

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fbunet_jax"
ESCAPES = ("../../etc/x", "/etc/x", "..", ".", "a/b", "a\\b", "C:x", "a\0b", "a\nb", "")


def files_below(folder):
    """Return every file below a folder."""
    return {Path(path, name) for path, _, names in os.walk(folder) for name in names}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_configuration_cannot_place_its_runs_elsewhere(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = tmp_path / "here/mine.toml"
    file.write_text('name = "' + "".join(f"\\u{ord(each):04x}" for each in name) + '"\n')

    with pytest.raises(ConfigError, match=r"name = .*: expected a plain word"):
        load_config(file)
    assert main(["train", "--config", str(file)]) == 2
    if "\0" not in name:
        assert main(["train", f"--name={name}"]) == 2
    assert "name = " in capsys.readouterr().err
    assert files_below(tmp_path) == {file}


@given(name=st.text() | st.sampled_from(ESCAPES), seed=st.integers(0, 9))
def test_every_name_that_is_accepted_is_one_folder_below_runs(name, seed):
    try:
        path = default_path(Config(name=name, seed=seed))
    except ConfigError:
        return
    assert path.parts[:2] == ("runs", name)
    assert len(path.parts) == 3
    assert Path("/a", path).resolve().is_relative_to("/a/runs")


def data_set(root):
    """Write a data set in which every name that a user can choose tries to lead elsewhere."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for index, stem in enumerate(("x..y", "a..", "~", "%2e%2e%2fx", "-rf", "$(touch x)")):
        values = np.random.default_rng(index).integers(0, 200, (32, 32)).astype(np.uint8)
        tifffile.imwrite(root / "images" / f"{stem}.tif", values)
        Image.fromarray((values > 99).astype(np.uint8)).save(root / "labels" / f"{stem}.png")
    (root / "dataset.toml").write_text('classes = {"../../outside" = 0, "/etc/outside" = 1}\n')
    return root


def test_training_evaluation_and_prediction_write_into_their_folders_only(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    root = data_set(tmp_path / "data")
    before = files_below(tmp_path)
    config = load_config(
        "quickstart",
        method="unet",
        data={"layout": "folder", "root": str(root), "folds": 3, "crop": 32},
        model={"widths": [2, 3]},
        training={"epochs": 1, "batch_size": 8, "previews": 2},
    )
    run = tmp_path / "run"
    train(config, 0, out=run, stream=io.StringIO())
    assert main(["evaluate", str(run)]) == 0
    assert main(["predict", str(run), str(root / "images"), "--out", str(tmp_path / "out")]) == 0

    new = files_below(tmp_path) - before
    assert new
    assert [path for path in new if path.relative_to(tmp_path).parts[0] not in ("run", "out")] == []
    names = {path.name for path in new if "labels" in path.parts}
    assert names == {f"{path.stem}.tif" for path in (root / "images").iterdir()}


@pytest.mark.parametrize("name", ["...tif", "..ome.tif", "...ome.tif"])
def test_an_image_whose_results_would_have_no_name_is_refused(name, tmp_path):
    tifffile.imwrite(tmp_path / name, np.zeros((2, 8, 8), np.uint8), metadata={"axes": "ZYX"}, imagej=True)
    with pytest.raises(DataError, match=r"has no name that its results could have"):
        find_images([tmp_path / name])


@pytest.mark.parametrize("ending", ["/../../x.png", "/etc/passwd", "../labelsTr/a.png", "\0"])
def test_the_file_ending_of_nnunet_leads_nowhere(ending, tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    text = '{"channel_names": {"0": "a"}, "labels": {"a": 0, "b": 1}, "file_ending": %s}'
    (tmp_path / "dataset.json").write_text(text % ('"' + "".join(f"\\u{ord(each):04x}" for each in ending) + '"'))
    with pytest.raises(DataError, match=r"cannot be read, only \.tif"):
        check_dataset(DataConfig(layout="nnunet", root=str(tmp_path)))


@pytest.mark.skipif(os.name != "posix", reason="names of other bytes exist on POSIX systems only")
def test_a_file_name_that_is_no_text_is_a_finding_and_not_a_crash_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = data_set(tmp_path / "data")
    (root / "images/a...tif").rename(root / "images" / os.fsdecode(b"\xe4.tif"))
    assert main(["check", str(root)]) == 1
    assert r"\udce4.tif" in capsys.readouterr().out
    assert "file-name" in (tmp_path / "check-data.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_download_writes_into_its_folder_only(name):
    paths = [PurePosixPath(path) for path in registry(name)]
    assert paths
    assert not [path for path in paths if path.is_absolute() or ".." in path.parts or "\\" in str(path)]


def calls(tree):
    """Yield the dotted name of every call, and its keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {each.arg: ast.unparse(each.value) for each in node.keywords}


def test_nothing_is_unpickled_or_executed():
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imported = {
            alias.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names
        }
        imported |= {n.module.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        assert not imported & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml", "runpy"}, file
        for name, keywords in calls(tree):
            assert name not in ("eval", "exec", "compile", "os.system", "os.popen", "__import__"), (file, name)
            assert keywords.get("shell", "False") == "False", (file, name)
            if name in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle") == "False", (file, name)


def test_a_pickle_in_the_place_of_counts_is_not_loaded(tmp_path):
    from fbunet_jax.errors import RunError
    from fbunet_jax.evaluation.items import read_items

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    counts = np.ones((1, 1, 2, 2), np.int64)
    parts = {"fold": 0, "step": 1, "groups": ["x"], "confusion": counts, "moves": counts}
    np.savez(tmp_path / "items.npz", names=np.array([Trap()], object), **parts)
    with pytest.raises(RunError, match=r"items.npz cannot be read"):
        read_items(tmp_path / "items.npz")
    assert not (tmp_path / "executed").exists()
