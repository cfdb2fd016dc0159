"""predict with files as people have them: channels in several files, names by patterns, labels beside the images."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import tomli_w
import zarr

from fbunet_jax.cli import main
from fbunet_jax.config import load_config
from fbunet_jax.training.fold import train
from tests.tool_sets import TOOL_SETS, save, scene

TILES = ["--tile", "48", "--overlap", "16"]
NAMES = ["w1", "w2", "w3", "w4", "w5"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a set of two channels in two files each, and a run that was trained with it."""
    folder = tmp_path_factory.mktemp("work")
    tool_set = TOOL_SETS["channel files"]
    tool_set.write(folder / "set")
    described = {"classes": tool_set.classes, "files": tool_set.files}
    (folder / "set/dataset.toml").write_text(tomli_w.dumps(described))
    data = {"layout": "folder", "root": str(folder / "set"), "crop": 32, "folds": 3}
    # enough for both classes in the answer
    training = {"epochs": 12, "validate_every": 12, "batch_size": 8, "learning_rate": 0.03}
    config = load_config("quickstart", method="unet", data=data, model={"widths": [4, 8]}, training=training)
    train(config, 0, out=folder / "run")
    return folder


def renamed(work, run, images, labels, **more):
    """Return a copy of the run whose data set had other names."""
    copy = work / run
    if not copy.exists():
        shutil.copytree(work / "run", copy)
        table = json.loads((copy / "dataset.json").read_text())
        table["files"] |= {"images": images, "labels": labels, **more}
        (copy / "dataset.json").write_text(json.dumps(table))
    return copy


def predict(run, *inputs, out, options=(), check=0):
    assert main(["predict", *map(str, (run, *inputs)), "--out", str(out), *TILES, *options]) == check
    return Path(out)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def labels_of(out):
    folder = out / "labels"
    return {
        str(path.relative_to(folder).with_suffix("")): tifffile.imread(path) for path in sorted(folder.rglob("*.tif"))
    }


@pytest.fixture(scope="module")
def result(work):
    """The labels of the images of the set, whose channels were joined by hand into one file each."""
    for number, name in enumerate(NAMES):
        image = scene(number)[0]
        save(work / "joined" / f"{name}.tif", np.stack([image, 255 - image], axis=-1))
    found = labels_of(predict(work / "run", work / "joined", out=work / "by hand", options=["--axes", "YXC"]))
    assert {0, 1} == set(np.concatenate(list(found.values())).ravel().tolist())
    return found


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, label in found.items():
        np.testing.assert_array_equal(label, expected[name], strict=True)


def test_channel_files_give_the_labels_of_the_same_images_in_one_file(work, result, tmp_path, capsys):
    out = predict(work / "run", work / "set", out=tmp_path / "out")
    told = capsys.readouterr().out
    assert "Passed over: 5 files named like labels ({}_labels.png)\n5 images; fold 0" in told
    assert_same(labels_of(out), result)
    with (out / "summary.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == NAMES
    given = [work / "set" / f"w2_{channel}.tif" for channel in ("GFP", "DAPI")]
    out = predict(work / "run", *given, out=tmp_path / "one by one")
    assert_same(labels_of(out), {"w2": result["w2"]})


def test_a_folder_a_channel_and_nested_folders_give_the_same_labels_under_their_names(work, result, tmp_path):
    channels = renamed(work, "folders", ["DAPI/{}.tif", "GFP/{}.tif"], "masks/{}.tif")
    nested = renamed(work, "nested", "{group}/{}_c{channel}.tif", "{group}/{}.png")
    for number in range(2):
        image = scene(number)[0]
        for channel, (name, values) in enumerate((("DAPI", image), ("GFP", 255 - image)), start=1):
            save(tmp_path / "set" / name / f"w{number + 1}.tif", values)
            save(tmp_path / "fish" / f"fish {number}" / f"a_c{channel}.tif", values)
    out = predict(channels, tmp_path / "set", out=tmp_path / "out")
    assert_same(labels_of(out), {name: result[name] for name in ("w1", "w2")})

    options = ["--probabilities", "--uncertainty"]
    out = predict(nested, tmp_path / "fish", out=tmp_path / "deep", options=options)
    expected = {"fish 0/a": result["w1"], "fish 1/a": result["w2"]}
    assert_same(labels_of(out), expected)
    kinds = {"labels": "tif", "overlays": "png", "probabilities": "tif", "uncertainty": "tif"}
    tables = ["label_next.csv", "prediction.json", "summary.csv"]
    assert files_below(out) == sorted(
        [*tables, *(f"{kind}/{name}.{suffix}" for kind, suffix in kinds.items() for name in expected)]
    )
    for table in ("summary.csv", "label_next.csv"):
        with (out / table).open() as file:
            assert {row["image"] for row in csv.DictReader(file)} == set(expected)

    # again, without the maps
    predict(nested, tmp_path / "fish", out=out, check=2)
    predict(nested, tmp_path / "fish", out=out, options=["--overwrite", "--no-overlays"])
    assert files_below(out) == sorted([*tables, *(f"labels/{name}.tif" for name in expected)])


def test_ome_zarr_with_folders_in_its_names_resumes_and_holds_the_same_labels(work, result, tmp_path, capsys):
    nested = renamed(work, "nested", "{group}/{}_c{channel}.tif", "{group}/{}.png")
    for number in range(2):
        image = scene(number)[0]
        for channel, values in enumerate((image, 255 - image), start=1):
            save(tmp_path / "in" / f"fish {number}" / f"a_c{channel}.tif", values)
    options = ["--format", "ome-zarr", "--chunk", "32"]
    for shard in ("1/2", "2/2"):
        out = predict(nested, tmp_path / "in", out=tmp_path / "out", options=[*options, "--shard", shard])
    again = predict(nested, tmp_path / "in", out=tmp_path / "out", options=options)
    assert "8 chunks had been written before." in capsys.readouterr().out
    for number, name in enumerate(("w1", "w2")):
        level = zarr.open_array(str(out / f"labels/fish {number}/a.ome.zarr/0"))
        np.testing.assert_array_equal(level[:], result[name])
    record = json.loads((again / "prediction.json").read_text())["images"]
    first = record[str(tmp_path / "in/fish 0/a_c1.tif")]
    assert first["name"] == "fish 0/a"
    assert first["files"] == [str(tmp_path / f"in/fish 0/a_c{channel}.tif") for channel in (1, 2)]
    # volumes of one name stay what they are when a channel is missing
    (tmp_path / "in/fish 1/a_c2.tif").unlink()
    before = files_below(out)
    predict(nested, tmp_path / "in", out=tmp_path / "out", options=options, check=2)
    assert "a_c1.tif is a channel of an image, and there is no" in capsys.readouterr().err
    assert files_below(out) == before


def test_an_image_that_lacks_a_channel_does_not_stop_the_others(work, result, tmp_path, capsys):
    shutil.copytree(work / "set", tmp_path / "set")
    (tmp_path / "set/w3_GFP.tif").unlink()
    save(tmp_path / "set/w4_GFP.tif", np.zeros((47, 48), np.uint8))
    save(tmp_path / "set/other.tif", np.zeros((48, 48), np.uint8))
    out = predict(work / "run", tmp_path / "set", out=tmp_path / "out", check=2)
    told = capsys.readouterr().err
    assert "Error: 3 of 6 images could not be segmented" in told
    assert "w3_DAPI.tif is a channel of an image, and there is no w3_GFP.tif. Add the missing file." in told
    assert "w4_GFP.tif has 1 x 47 x 48 pixels of uint8, but " in told
    assert "other.tif has 1 channel, but the network was trained with 2." in told
    assert "called {}_DAPI.tif and {}_GFP.tif: give all of them under such names" in told
    assert_same(labels_of(out), {name: result[name] for name in ("w1", "w2", "w5")})
    # nothing is begun where no image is whole
    predict(work / "run", tmp_path / "set/w3_DAPI.tif", out=tmp_path / "none", check=2)
    assert "there is no w3_GFP.tif" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_labels_beside_the_images_are_passed_over(work, result, tmp_path, capsys):
    beside = renamed(work, "beside", "{}.tif", "{}_masks.tif", ignore=["*_flows.tif"])
    for name in NAMES[:2]:
        shutil.copy(work / "joined" / f"{name}.tif", tmp_path)
        for other in ("masks", "flows"):
            save(tmp_path / f"{name}_{other}.tif", np.zeros((48, 48), np.uint16))
    out = predict(beside, tmp_path, out=tmp_path / "out", options=["--axes", "YXC"])
    told = capsys.readouterr().out
    assert "Passed over: 2 files named like labels ({}_masks.tif)" in told
    assert "Passed over: 2 files named like *_flows.tif, which training ignored" in told
    assert_same(labels_of(out), {name: result[name] for name in NAMES[:2]})
