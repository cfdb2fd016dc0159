"""Label files hold the values of the data set: what is predicted, corrected and trained on again keeps its class."""

import json

import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from PIL import Image

from fbunet_jax.cli import main
from fbunet_jax.config import Config, DataConfig
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.data.identity import describe
from fbunet_jax.data.readers.image_files import read_label
from fbunet_jax.errors import RunError
from fbunet_jax.figures import class_colours
from fbunet_jax.inference import loading, outputs
from fbunet_jax.inference.images import open_image
from fbunet_jax.inference.label_values import ClassValues, known_label_values
from fbunet_jax.inference.outputs import stored_values, write_labels
from fbunet_jax.inference.predictor import Predictor
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.opening import create_or_open

TOML = "classes = {a = 1, b = 2, c = 3}\nignore_value = 0\n"


def write_pair(folder, name, label, image=None):
    for kind, array in (("images", np.zeros_like(label) if image is None else image), ("labels", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / kind / f"{name}.png")


def start(folder, config):
    """Begin a run as training does."""
    dataset = load_dataset(config.data)
    return create_or_open(folder / "run", config, folds="{}", dataset=describe(dataset))


@pytest.fixture
def data(tmp_path):
    """A data set whose values are not the class indices, with pixels of no class."""
    root = tmp_path / "data"
    write_pair(root, "first", np.array([[0, 1, 2, 3]] * 4, np.uint8))
    (root / "dataset.toml").write_text(TOML)
    return DataConfig(layout="folder", root=str(root))


@pytest.fixture(scope="module")
def trained(make_fold):
    """A predictor of three classes."""
    return Predictor([make_fold()], 1)


@pytest.fixture
def stored(data, tmp_path, trained, monkeypatch):
    """A run of that data set, which predict takes for a trained one."""
    monkeypatch.setattr(loading, "load", lambda *_, **__: trained)
    start(tmp_path, Config(data=data))
    return trained


def predict(folder, image, *options):
    command = [
        "predict",
        str(folder / "run"),
        str(image),
        "--out",
        str(folder / "out"),
        "--tile",
        "64",
        "--no-overlays",
    ]
    return main([*command, *options])


@pytest.mark.parametrize("kind", ["png", "imagej", "ome"])
def test_a_predicted_label_is_a_training_label_of_the_same_classes(kind, stored, data, noise, tmp_path, capsys):
    pages = np.stack([noise(50, 60, seed) for seed in range(3)])
    folder = tmp_path / "data/images"
    if kind == "png":
        pages = pages[:1]
        Image.fromarray(pages[0]).save(folder / "next.png")
    elif kind == "imagej":
        tifffile.imwrite(folder / "next.tif", pages, imagej=True, metadata={"axes": "ZYX", "unit": "um", "spacing": 2})
    else:
        tifffile.imwrite(folder / "next.ome.tif", pages, metadata={"axes": "ZYX"})
    (image,) = folder.glob("next*")
    assert predict(tmp_path, image) == 0
    assert "a = 1, b = 2, c = 3" in capsys.readouterr().out
    (tmp_path / "out/labels/next.tif").rename(tmp_path / "data/labels/next.tif")
    dataset = load_dataset(data)
    expected = stored.predict(pages, stack=True, tile=64).labels
    assert len(np.unique(expected)) > 1
    found = np.stack([label for name, label in zip(dataset.names, dataset.labels, strict=True) if name != "first"])
    np.testing.assert_array_equal(found, expected)


def test_both_values_and_indices_are_in_the_metadata_and_the_option_chooses(stored, noise, tmp_path):
    Image.fromarray(noise(50, 60)).save(tmp_path / "next.png")
    expected = stored.predict(noise(50, 60), tile=64).labels
    for labels, values in (("values", expected + 1), ("indices", expected)):
        assert predict(tmp_path, tmp_path / "next.png", "--labels", labels, "--overwrite") == 0
        with tifffile.TiffFile(tmp_path / "out/labels/next.tif") as file:
            np.testing.assert_array_equal(file.asarray(), values)
            description, palette = json.loads(file.pages[0].description), file.pages[0].colormap >> 8
        first = int(values.min() - expected.min())
        assert description["format"] == 2
        assert description["classes"] == {"a": first, "b": first + 1, "c": first + 2}
        assert description["class_indices"] == {"a": 0, "b": 1, "c": 2}
        assert description["label_values"] == {"a": 1, "b": 2, "c": 3}
        np.testing.assert_array_equal(palette[:, first : first + 3], class_colours(3).T)
        assert json.loads((tmp_path / "out/prediction.json").read_text())["classes"] == description["classes"]


def test_ome_zarr_holds_the_values_and_never_a_mixture(stored, noise, tmp_path, capsys):
    pages = np.stack([noise(80, 70, seed) for seed in range(2)])
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 2.5}
    tifffile.imwrite(tmp_path / "next.tif", pages, imagej=True, resolution=(4, 8), metadata=metadata)
    options = ["--format", "ome-zarr", "--chunk", "64"]
    assert predict(tmp_path, tmp_path / "next.tif", *options, "--shard", "1/2") == 0
    assert predict(tmp_path, tmp_path / "next.tif", *options, "--labels", "indices") == 2
    assert 'were made with classes = {"a": 1, "b": 2, "c": 3}, now it is {"a": 0, "b": 1' in capsys.readouterr().err
    record = tmp_path / "out/prediction.json"
    old = {name: value for name, value in json.loads(record.read_text()).items() if name != "classes"}
    new = record.read_text()
    record.write_text(json.dumps(old))  # as a version before 0.2 left it, with class indices
    assert predict(tmp_path, tmp_path / "next.tif", *options) == 2
    assert 'were made with classes = {"a": 0, "b": 1, "c": 2}, now it is {"a": 1' in capsys.readouterr().err
    assert predict(tmp_path, tmp_path / "next.tif", *options, "--labels", "indices", "--shard", "1/2") == 0
    record.write_text(new)
    assert predict(tmp_path, tmp_path / "next.tif", *options) == 0
    group = zarr.open_group(str(tmp_path / "out/labels/next.ome.zarr"), mode="r")
    np.testing.assert_array_equal(group["0"][:], stored.predict(pages, tile=64, stack=True).labels + 1)
    label = group.attrs["ome"]["image-label"]
    assert [tuple(each.values()) for each in label["properties"]] == [(1, "a", 0, 1), (2, "b", 1, 2), (3, "c", 2, 3)]
    assert [each["label-value"] for each in label["colors"]] == [1, 2, 3]
    assert [each["rgba"][3] for each in label["colors"]] == [0, 255, 255]
    (node,) = Reader(parse_url(str(tmp_path / "out/labels/next.ome.zarr")))()
    assert [axis["unit"] for axis in node.metadata["axes"]] == ["micrometer"] * 3
    assert node.metadata["coordinateTransformations"][0] == [{"type": "scale", "scale": [2.5, 0.125, 0.25]}]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [((0, 255), "uint8"), ((0, 256), "uint16"), ((-1, 255), "int16"), ((3, 70_000), "uint32"), ((-1, 70_000), "int32")],
)
@pytest.mark.parametrize("scratch", [False, True])
def test_the_type_of_the_file_holds_its_values(values, dtype, scratch, tmp_path, monkeypatch):
    if scratch:
        monkeypatch.setattr(outputs, "SCRATCH_PIXELS", 0)
    classes, indices = ClassValues(("a", "b"), values), np.random.default_rng(0).integers(0, 2, (2, 1500, 3), np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", indices, metadata={"axes": "ZYX"}, photometric="minisblack")
    with (
        open_image(tmp_path / "image.tif", "") as image,
        stored_values(indices, classes, tmp_path / "scratch") as stored,
    ):
        write_labels(tmp_path / "labels.tif", stored, image, classes, {})
    found = read_label(tmp_path / "labels.tif")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.where(indices == 1, values[1], values[0]))
    assert not (tmp_path / "scratch").exists()


def forget_values(run):
    """Leave a run as a version before 0.2 wrote it."""
    description = json.loads(run.dataset.read_text())
    del description["label_values"]
    run.dataset.write_text(json.dumps(description))


def test_a_run_stores_the_values(data, tmp_path):
    run = start(tmp_path, Config(data=data))
    (tmp_path / "data").rename(tmp_path / "gone")
    assert known_label_values(run) == ((1, 2, 3), "")


def test_other_values_of_the_same_classes_are_other_data_unless_the_run_is_old(data, tmp_path):
    run = start(tmp_path, Config(data=data))
    (tmp_path / "data/dataset.toml").write_text(TOML.replace("a = 1, b = 2", "a = 2, b = 1"))
    dataset = {**run.read_dataset(), "label_values": [2, 1, 3]}
    with pytest.raises(RunError, match=r"label_values of the data was \[1, 2, 3\] and is now \[2, 1, 3\]"):
        create_or_open(run.path, Config(data=data), folds="{}", dataset=dataset)
    forget_values(run)
    create_or_open(run.path, Config(data=data), folds="{}", dataset=dataset)


def test_the_values_of_an_old_run_are_those_of_its_settings_or_of_its_data_folder(data, tmp_path):
    run = start(tmp_path, Config(data=data))
    forget_values(run)
    assert known_label_values(run) == ((1, 2, 3), "")
    (tmp_path / "data/dataset.toml").write_text("classes = {c = 3, b = 2, a = 1}")
    values, reason = known_label_values(run)
    assert values == ()
    assert "describes the classes c, b, a. The label files hold class indices." in reason
    (tmp_path / "data").rename(tmp_path / "gone")
    assert "describes the classes (none)." in known_label_values(run)[1]
    run = create_or_open(
        tmp_path / "set", Config(data=DataConfig(layout="folder", classes={"a": 7, "b": 4})), folds="{}", dataset={
            "class_names": ["a", "b"], "channels": 1, "fingerprint": ""
        }
    )  # fmt: skip
    assert known_label_values(run) == ((7, 4), "")


def test_the_values_of_an_old_nnunet_run_are_those_of_dataset_json(tmp_path):
    table = {"channel_names": {"0": "x"}, "labels": {"background": 0, "nucleus": 5}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    dataset = {"class_names": ["background", "nucleus"], "channels": 1, "fingerprint": ""}
    config = Config(data=DataConfig(layout="nnunet", root=str(tmp_path)))
    run = create_or_open(tmp_path / "run", config, folds="{}", dataset=dataset)
    assert known_label_values(run) == ((0, 5), "")
    (tmp_path / "dataset.json").unlink()
    assert "dataset.json does not exist" in known_label_values(run)[1]


def test_an_old_run_whose_values_are_not_known_says_so_and_writes_indices(stored, noise, tmp_path, capsys):
    forget_values(Run(tmp_path / "run"))
    (tmp_path / "data/dataset.toml").unlink()
    Image.fromarray(noise(50, 60)).save(tmp_path / "next.png")
    assert predict(tmp_path, tmp_path / "next.png") == 0
    told = capsys.readouterr().out
    assert "Warning: " in told
    assert "which did not store the label values of the classes" in told
    found = read_label(tmp_path / "out/labels/next.tif")[0]
    np.testing.assert_array_equal(found, stored.predict(noise(50, 60), tile=64).labels)


@pytest.mark.parametrize("layout", ["synthetic", "drosophila-vnc"])
def test_layouts_without_values_of_their_own_have_class_indices(layout, tmp_path):
    names = ["cytoplasm", "membrane", "mitochondria", "synapse"]
    dataset = {"class_names": names, "channels": 1, "fingerprint": ""}
    run = create_or_open(tmp_path, Config(data=DataConfig(layout=layout)), folds="{}", dataset=dataset)
    assert known_label_values(run) == ((0, 1, 2, 3), "")


@pytest.mark.parametrize("values", [[1, 2], [1, 1, 2], [True, 0, 2], [1.5, 0, 2], 3, []])
def test_damaged_values_of_a_run_are_refused(values, data, tmp_path):
    run = start(tmp_path, Config(data=data))
    run.dataset.write_text(json.dumps({**run.read_dataset(), "label_values": values}))
    with pytest.raises(RunError, match=r"dataset\.json is damaged"):
        Run(run.path).read_dataset()
