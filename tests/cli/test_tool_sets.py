"""Other people's sets from the folder to the segmentation, without a file renamed."""

import json

import pytest

from fbunet_jax.cli import main
from tests.tool_sets import TOOL_SETS, ToolSet, write_nnunet

NAMES = tuple(f"case_{number}" for number in range(5))
SETS = TOOL_SETS | {"nnunet": ToolSet(write_nnunet, "nnU-Net", {}, NAMES, channels=2, new="imagesTs")}
QUICK = ("channel files", "stardist")
"""Those that are always tried: several channels, and a given test part; the others in the long form."""

TINY = ["--method", "feedback-conv", "--model.widths", "2", "3", "--data.crop", "32"]
TINY += ["--training.epochs", "1", "--training.batch-size", "8", "--training.previews", "0"]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in SETS]
)
def test_a_set_goes_from_its_folder_to_a_segmentation_without_a_file_renamed(name, tmp_path, monkeypatch, capsys):
    tool_set = SETS[name]
    root = tmp_path / "data"
    root.mkdir()
    tool_set.write(root)
    before = sorted(path.relative_to(root) for path in root.rglob("*"))
    monkeypatch.chdir(tmp_path)

    assert main(["init", "data"]) == 0
    assert tool_set.tool in capsys.readouterr().out
    assert main(["check", "data"]) == 0, capsys.readouterr().out
    train = [
        "train",
        "--config",
        "data/fbunet.toml",
        "--method",
        "feedback-conv",
        "--data.crop",
        "32",
        "--out",
        "run",
        *TINY,
    ]
    assert main([*train, "--fold", "0"]) == 0
    assert main(["evaluate", "run"]) == 0
    assert main(["predict", "run", str(root / tool_set.new), "--out", "out", "--tile", "32"]) == 0

    kept = sorted(path.relative_to(root) for path in root.rglob("*"))
    assert {str(path) for path in kept} - {str(path) for path in before} <= {"dataset.toml", "fbunet.toml"}
    folds = json.loads((tmp_path / "run" / "folds.json").read_text())["folds"]
    if tool_set.split:
        assert [part for each in folds for part in each["test"]] == [n for n in tool_set.names if n.startswith("test")]
    labels = tmp_path / "out" / "labels"
    found = {str(path.relative_to(labels).with_suffix("")) for path in labels.rglob("*.tif")}
    assert found == predicted(name, tool_set)


def predicted(name, tool_set):
    """Return the names of the results: those of the images, for a folder within the set without the set's folders."""
    if name == "nnunet":
        return {f"new_{number}" for number in range(5)}
    stacks = {each.partition("/z")[0] for each in tool_set.names}
    if tool_set.new == ".":
        return stacks
    part = tool_set.new.partition("/")[0]
    return {each.rpartition("/")[2] for each in stacks if not tool_set.split or each.startswith(part)}
