import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from fbunet_jax.check.checks import check_dataset
from fbunet_jax.config import DataConfig
from fbunet_jax.data.datasets import detect_layout, load_dataset
from fbunet_jax.errors import DataError

VERSION_2 = {
    "channel_names": {"0": "DAPI", "1": "actin"},
    "labels": {"background": 0, "cell": 1, "ignore": 2},
    "numTraining": 4,
    "file_ending": ".png",
}
VERSION_1 = {"modality": {"0": "DAPI", "1": "actin"}, "labels": {"0": "background", "1": "cell"}, "numTraining": 4}


def raw_folder(root, table, suffix=".png", channels=2, values=(0, 1), cases=4):
    """Write cases of 8 x 9 pixels and return their images [case, channel, H, W] and labels [case, H, W]."""
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (root / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    images = generator.integers(1, 200, (cases, channels, 8, 9)).astype(np.uint8)
    labels = generator.choice(np.array(values, np.uint8), (cases, 8, 9))
    for case in range(cases):
        for channel in range(channels):
            write(root / "imagesTr" / f"case_{case:03d}_{channel:04d}{suffix}", images[case, channel])
        write(root / "labelsTr" / f"case_{case:03d}{suffix}", labels[case])
    (root / "dataset.json").write_text(json.dumps(table))
    return images, labels


def write(path, array):
    if path.suffix == ".png":
        Image.fromarray(array).save(path)
    else:
        tifffile.imwrite(path, array)


def config(root, **changes):
    return DataConfig(layout="nnunet", root=str(root), folds=4, **changes)


@pytest.mark.parametrize(("table", "suffix", "values"), [
    (VERSION_2, ".png", (0, 1, 2)),
    (VERSION_2 | {"file_ending": ".tif"}, ".tif", (0, 1, 2)),
    (VERSION_1, ".png", (0, 1)),
])  # fmt: skip
def test_both_forms_of_dataset_json_are_read(table, suffix, values, tmp_path):
    images, labels = raw_folder(tmp_path, table, suffix, values=values)
    if suffix == ".tif":  # spacing files, which nnU-Net keeps beside
        (tmp_path / "labelsTr" / "case_000.json").write_text("{}")
        (tmp_path / "imagesTr" / "case_000.json").write_text("{}")

    dataset = load_dataset(config(tmp_path))

    assert detect_layout(tmp_path) == "nnunet"
    assert dataset.names == dataset.groups == ("case_000", "case_001", "case_002", "case_003")
    assert dataset.class_names == ("background", "cell")
    np.testing.assert_array_equal(np.stack(dataset.images), np.moveaxis(images, 1, -1))
    np.testing.assert_array_equal(np.stack(dataset.labels), np.where(labels == 2, 255, labels))
    assert check_dataset(config(tmp_path)).findings == ()


def test_one_rgb_file_holds_three_channels(tmp_path):
    raw_folder(tmp_path, VERSION_2 | {"channel_names": {"0": "R", "1": "G", "2": "B"}}, channels=1, values=(0, 1, 2))
    for case in range(4):
        colours = np.random.default_rng(case).integers(0, 200, (8, 9, 3)).astype(np.uint8)
        Image.fromarray(colours).save(tmp_path / "imagesTr" / f"case_{case:03d}_0000.png")

    assert load_dataset(config(tmp_path)).images[0].shape == (8, 9, 3)


def test_classes_are_ordered_by_their_value(tmp_path):
    labels = {"cell": 1, "nucleus": 2, "background": 0}
    raw_folder(tmp_path, VERSION_2 | {"labels": labels}, values=(0, 1, 2))

    assert load_dataset(config(tmp_path)).class_names == ("background", "cell", "nucleus")


BROKEN = {
    "channel": ("missing-channel", lambda root: (root / "imagesTr" / "case_001_0001.png").unlink()),
    "label": ("missing-label", lambda root: (root / "labelsTr" / "case_001.png").unlink()),
    "image": ("missing-image", lambda root: [each.unlink() for each in (root / "imagesTr").glob("case_001*")]),
    "channel size": (
        "channel-size",
        lambda root: write(root / "imagesTr" / "case_001_0001.png", np.ones((8, 8), np.uint8)),
    ),
    "label size": ("pair-size", lambda root: write(root / "labelsTr" / "case_001.png", np.ones((9, 8), np.uint8))),
    "foreign": ("foreign-file", lambda root: (root / "labelsTr" / "notes.txt").write_text("x")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_yields_its_own_fault_and_cannot_be_loaded(name, tmp_path):
    kind, spoil = BROKEN[name]
    raw_folder(tmp_path, VERSION_2, values=(0, 1, 2), cases=6)
    spoil(tmp_path)

    assert [finding.kind for finding in check_dataset(config(tmp_path)).findings] == [kind]
    with pytest.raises(DataError):
        load_dataset(config(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file_ending": ".nii.gz"}, r"'\.nii\.gz' cannot be read.* Convert volumes to TIFF"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "Regions"),
        ({"labels": [0, 1]}, "expected the tables labels and channel_names"),
        ({"channel_names": None}, "expected the tables labels and channel_names"),
        ({"file_ending": 3}, "file_ending = 3"),
    ],
)
def test_a_description_that_cannot_be_read_is_refused_with_a_sentence(change, words, tmp_path):
    raw_folder(tmp_path, VERSION_2 | change)

    with pytest.raises(DataError, match=words):
        load_dataset(config(tmp_path))


def test_nifti_of_version_1_is_refused_and_so_is_no_json(tmp_path):
    raw_folder(tmp_path, VERSION_1)
    for file in (tmp_path / "labelsTr").iterdir():
        file.rename(file.with_suffix("").with_suffix(".nii.gz"))
    with pytest.raises(DataError, match=r"\.nii\.gz"):
        load_dataset(config(tmp_path))
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        load_dataset(config(tmp_path))
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"dataset\.json does not exist"):
        load_dataset(config(tmp_path))


def test_settings_that_contradict_dataset_json_are_a_fault(tmp_path):
    raw_folder(tmp_path, VERSION_2, values=(0, 1, 2))

    (finding,) = check_dataset(config(tmp_path, classes={"background": 0, "nucleus": 1})).findings

    assert finding.kind == "description"
    assert "contradicts the settings" in finding.found
