"""Files and folders become images by the names that a run's data set has: found, joined, named, or passed over."""

import json
from pathlib import Path

import pytest
from PIL import Image

from fbunet_jax.config import Config, DataConfig, FilesConfig
from fbunet_jax.data.layouts.nnunet import NAMES
from fbunet_jax.errors import DataError, RunError
from fbunet_jax.inference.file_names import naming_of
from fbunet_jax.inference.inputs import find_images
from fbunet_jax.runs.opening import create_or_open
from fbunet_jax.toml_tables import to_table
from tests.tool_sets import TOOL_SETS, write_nnunet

NEW_NAMES = {
    "stardist": ("img_0", "img_1"),
    "biapy": ("000", "001"),
}
"""Of the images in the new folder of a set, where it is not a set of the same names."""


def found(inputs):
    """Return the files of images that are one file each."""
    images = find_images(inputs).images
    assert all(len(image.files) == 1 for image in images)
    return [image.path for image in images]


def run_of(path, channels=1, layout="folder", files=None, numbers=()):
    """Write what a run knows of its data set."""
    dataset = {"class_names": ["a", "b"], "channels": channels, "fingerprint": "0f"}
    dataset |= {} if files is None else {"files": files}
    dataset |= {"channel_numbers": list(numbers)} if numbers else {}
    config = Config(data=DataConfig(layout=layout, root="gone"))
    return create_or_open(path / "run", config, folds='{"folds": []}', dataset=dataset)


def names_of(folder, inputs, **described):
    """Return the names of images and the sentences, as a run with these files finds them."""
    inputs = find_images(inputs, naming_of(run_of(folder, **described)))
    return [image.name for image in inputs.images], [str(each) for each in inputs.faults], inputs.passed_over


def touch(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_folders_are_searched_in_natural_order_and_other_files_left_out(tmp_path):
    for name in ("10.tif", "9.png", ".hidden.tif", "notes.txt", "b.JPG"):
        (tmp_path / name).touch()
    (tmp_path / "inner").mkdir()
    assert [path.name for path in found([tmp_path])] == ["9.png", "10.tif", "b.JPG"]
    assert found([tmp_path / "10.tif", tmp_path]) == [tmp_path / name for name in ("10.tif", "9.png", "b.JPG")]


def test_inputs_that_give_nothing_are_named(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"has no image: .* It has a folder images; give .*images\."):
        find_images([tmp_path])
    with pytest.raises(DataError, match="nowhere does not exist"):
        find_images([tmp_path / "nowhere"])
    for name in ("a.tif", "images/a.png"):
        Image.new("L", (2, 2)).save(tmp_path / name)
    (tmp_path / "images/../images/b.tif").touch()
    twice = [tmp_path / "images/b.tif", tmp_path / "images/../images/b.tif"]
    assert found(twice) == twice[:1]
    with pytest.raises(DataError, match="the same name"):
        find_images([tmp_path / "a.tif", tmp_path / "images"])


def test_clutter_is_passed_over_and_files_of_one_name_are_refused(tmp_path):
    names = ("A00.OME.TIF", "a01.ome.tif", "._a00.tif", "~$a.tif", "Thumbs.db", "a.tif:Zone.Identifier")
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "@eaDir").mkdir()
    # as a folder, and as a shell's * gives it
    for inputs in ([tmp_path], sorted(tmp_path.iterdir())):
        assert [file.name for file in found(inputs)] == ["A00.OME.TIF", "a01.ome.tif"]
    assert [image.name for image in find_images([tmp_path]).images] == ["A00", "a01"]

    (tmp_path / "a00.png").touch()  # another name, on a disk that tells capital letters apart
    assert len(found([tmp_path])) == 3
    (tmp_path / "A00.png").touch()
    with pytest.raises(DataError, match=r"A00.OME.TIF and .*A00.png have the same name"):
        find_images([tmp_path])


def test_what_is_given_by_name_is_not_passed_over(tmp_path):
    (tmp_path / ".b.tif").touch()
    (tmp_path / "a.tif").touch()
    folder = tmp_path / "inner"
    folder.mkdir()
    given = found([tmp_path / ".b.tif", folder / ".."])
    assert [file.name for file in given] == [".b.tif", "a.tif"]


@pytest.mark.parametrize("name", [name for name in TOOL_SETS if "images" in TOOL_SETS[name].files])
def test_the_folder_of_a_set_gives_the_images_of_the_set_and_so_does_its_new_folder(name, tmp_path):
    tool_set, root = TOOL_SETS[name], tmp_path / "set"
    tool_set.write(root)
    described = {"channels": tool_set.channels, "files": to_table(FilesConfig(**tool_set.files))}
    expected = tuple(dict.fromkeys(each.split("/z0")[0] for each in tool_set.names))
    names, faults, _ = names_of(tmp_path, [root], **described)
    assert tuple(names) == expected
    assert faults == []
    names, faults, _ = names_of(tmp_path, [root / tool_set.new], **described)
    assert tuple(names) == NEW_NAMES.get(name, expected)
    assert faults == []


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        ("cellpose", ["passed over: 5 files named like labels ({}_masks.tif)"]),
        ("specimens", ["passed over: 8 files named like labels ({group}/label_{}.tif)"]),
        ("train folder", ["passed over: 5 files named like labels (train/masks/{}.png)"]),
    ],
)
def test_files_that_are_named_like_labels_are_counted_and_their_pattern_is_named(name, sentences, tmp_path):
    TOOL_SETS[name].write(tmp_path / "set")
    described = {"files": to_table(FilesConfig(**TOOL_SETS[name].files))}
    assert names_of(tmp_path, [tmp_path / "set"], **described)[2] == sentences


def test_files_that_training_ignored_are_passed_over_and_files_by_name_are_not(tmp_path):
    files = {"images": "{}.tif", "labels": "{}_masks.tif", "ignore": ["*_flows.tif"]}
    touch(tmp_path / "in", "a.tif", "a_masks.tif", "a_flows.tif", "b.png", "b_masks.png", "c.txt")
    names, faults, passed = names_of(tmp_path, [tmp_path / "in"], files=files)
    assert (names, faults) == (["a", "b"], [])
    assert passed == [
        "passed over: 2 files named like labels ({}_masks.tif)",
        "passed over: 1 file named like *_flows.tif, which training ignored",
    ]
    given = [tmp_path / "in" / name for name in ("a_masks.tif", "a_flows.tif")]
    assert names_of(tmp_path, given, files=files) == (["a_masks", "a_flows"], [], [])
    (tmp_path / "in/a.tif").unlink()
    (tmp_path / "in/b.png").unlink()
    with pytest.raises(DataError, match=r"in holds only files that are not images by their names \(passed over: 2"):
        names_of(tmp_path, [tmp_path / "in"], files=files)


CHANNELS = {
    "a pattern each": (["{}_DAPI.tif", "{}_GFP.tif"], "{}_labels.png", ["w1_DAPI.tif", "w1_GFP.tif"], "w1"),
    "a folder each": (["DAPI/{}.tif", "GFP/{}.tif"], "masks/{}.tif", ["DAPI/3.tif", "GFP/3.tif"], "3"),
    "numbers": ("{}_c{channel}.tif", "{}_labels.tif", ["w1_c1.tif", "w1_c2.tif"], "w1"),
    "a folder an image": ("{}/{channel}.tif", "{}/mask.tif", ["w1/0.tif", "w1/1.tif"], "w1"),
    "words in a folder": (["{}/DAPI.tif", "{}/GFP.tif"], "{}/mask.tif", ["w1/DAPI.tif", "w1/GFP.tif"], "w1"),
    "nested": ("{group}/{}_{channel}.tif", "{group}/{}.png", ["fish/a_0.tif", "fish/a_1.tif"], "fish/a"),
    "nnunet": (NAMES.images, NAMES.labels, ["imagesTr/c_0_0000.png", "imagesTr/c_0_0001.png"], "c_0"),
    "of another type": (["{}_DAPI.png", "{}_GFP.png"], "{}_labels.png", ["w1_DAPI.tif", "w1_GFP.tif"], "w1"),
}


@pytest.mark.parametrize("case", CHANNELS)
def test_channel_files_are_one_image_below_a_folder_and_one_by_one(case, tmp_path):
    images, labels, written, name = CHANNELS[case]
    run = run_of(tmp_path, 2, files={"images": images, "labels": labels})
    naming = naming_of(run)
    touch(tmp_path / "set", *written)
    expected = tuple(tmp_path / "set" / each for each in written)
    root = tmp_path / "set"
    for given in ([root], expected, expected[::-1], [expected[1], root, expected[0]], [expected[1], root]):
        inputs = find_images(given, naming)
        assert [(image.name, image.files) for image in inputs.images] == [(name, expected)]
        assert not inputs.faults
    inner = expected[0].parent
    if inner != tmp_path / "set" and case != "a folder each":
        (image,) = find_images([inner], naming).images
        assert (image.name, image.files) == (name.removeprefix("fish/"), expected)

    expected[1].unlink()
    for given in ([tmp_path / "set"], [expected[0]]):
        inputs = find_images(given, naming)
        if case in ("numbers", "a folder an image", "nested"):  # nobody else says how many there have to be
            assert inputs.images[0].files == expected[:1]
            assert f"called {images}" in inputs.images[0].hint
        elif case == "nnunet":  # one file may hold all channels
            assert "There is no c_0_0001.png. In training each channel" in inputs.images[0].hint
        else:
            assert inputs.images == []
            (fault,) = inputs.faults
            assert f"{expected[0]} is a channel of an image, and there is no" in str(fault)
            assert Path(written[1]).stem in str(fault)


def test_the_images_that_are_whole_are_kept_where_another_lacks_a_channel(tmp_path):
    files = {"images": "{}_c{channel}.tif", "labels": "{}.png"}
    touch(tmp_path / "in", "a_c1.tif", "a_c2.tif", "b_c1.tif", "merged.tif")
    names, faults, _ = names_of(tmp_path, [tmp_path / "in"], channels=2, files=files)
    assert names == ["a", "merged"]
    assert faults == [
        f"{tmp_path / 'in/b_c1.tif'} is a channel of an image, and there is no b_c2.tif. Add the missing file."
    ]


def test_channels_of_other_numbers_than_in_training_are_not_taken_for_them(tmp_path):
    described = {"channels": 2, "files": {"images": "{}_c{channel}.tif", "labels": "{}_m.tif"}, "numbers": (1, 2)}
    touch(tmp_path / "in", "a_c1.tif", "a_c02.tif", "b_c2.tif", "b_c3.tif", "c_c0.tif", "c_c1.tif", "c_c2.tif")
    touch(tmp_path / "in", "frame_c12.tif")

    names, faults, _ = names_of(tmp_path, [tmp_path / "in"], **described)

    assert names == ["a", "frame_c12"]
    assert [str(tmp_path) in each for each in faults] == [True, True]
    assert "no b_c1.tif, and the network was trained with the channels 1, 2" in faults[0]
    assert "c_c0.tif is channel 0, and the network was trained with the channels 1, 2" in faults[1]


def test_channels_in_different_folders_are_not_joined_unless_the_patterns_have_these_folders(tmp_path):
    files = {"images": ["{}_DAPI.tif", "{}_GFP.tif"], "labels": "{}_labels.png"}
    touch(tmp_path, "one/w1_DAPI.tif", "two/w1_GFP.tif")
    given = [tmp_path / "one/w1_DAPI.tif", tmp_path / "two/w1_GFP.tif"]
    names, faults, _ = names_of(tmp_path, given, channels=2, files=files)
    assert names == []
    assert len(faults) == 2


def test_channel_folders_that_the_name_of_a_file_does_not_tell_apart_are_not_guessed(tmp_path):
    files = {"images": ["DAPI/{}.tif", "GFP/{}.tif"], "labels": "masks/{}.tif"}
    touch(tmp_path / "set", "DAPI/1.tif", "GFP/1.tif")
    naming = naming_of(run_of(tmp_path, 2, files=files))
    (image,) = find_images([tmp_path / "set/DAPI"], naming).images
    assert image.files == (tmp_path / "set/DAPI/1.tif",)
    assert "called DAPI/{}.tif and GFP/{}.tif: give all of them" in image.hint


def test_files_of_other_names_are_images_of_their_own_also_in_the_folders_of_the_pattern(tmp_path):
    files = {"images": "{group}/image_{:d}.tif", "labels": "{group}/label_{:d}.tif"}
    touch(tmp_path / "in", "fish A/image_1.tif", "fish A/overview.tif", "fish A/label_1.tif", "top.png", "other/x.tif")
    names, _, passed = names_of(tmp_path, [tmp_path / "in"], files=files)
    assert names == ["fish A/image_1", "fish A/overview", "top"]
    assert len(passed) == 1
    # a folder that the pattern does not reach is read as without one
    assert names_of(tmp_path, [tmp_path / "in/other"], files=files)[0] == ["x"]
    assert names_of(tmp_path, [tmp_path / "in/fish A"], files=files)[0] == ["image_1", "overview"]
    assert names_of(tmp_path, [tmp_path / "in/fish A/image_1.tif"], files=files)[0] == ["fish A/image_1"]


def test_two_images_of_one_name_stay_refused_and_the_same_file_counts_once(tmp_path):
    files = {"images": "{group}/image_{}.tif", "labels": "{group}/label_{}.tif"}
    touch(tmp_path / "in", "A/image_1.tif", "B/image_1.tif")
    given = [tmp_path / "in/A", tmp_path / "in/B"]
    with pytest.raises(DataError, match=r"have the same name, .* Or give the folder above them"):
        names_of(tmp_path, given, files=files)
    expected = ["A/image_1", "B/image_1"]
    assert names_of(tmp_path, [tmp_path / "in"], files=files)[0] == expected
    assert names_of(tmp_path, [*(each / "image_1.tif" for each in given)], files=files)[0] == expected
    assert names_of(tmp_path, [tmp_path / "in", given[0] / "image_1.tif"], files=files)[0] == expected
    assert names_of(tmp_path, [given[0], given[0] / "image_1.tif"], files=files)[0] == ["image_1"]


def test_a_channel_file_and_a_file_of_all_channels_of_one_name_are_refused(tmp_path):
    files = {"images": ["{}_DAPI.tif", "{}_GFP.tif"], "labels": "{}_labels.png"}
    touch(tmp_path / "in", "w1_DAPI.tif", "w1_GFP.tif", "w1.tif")
    with pytest.raises(DataError, match=r"w1\.tif and .*w1_DAPI\.tif have the same name"):
        names_of(tmp_path, [tmp_path / "in"], channels=2, files=files)


def test_runs_of_nnunet_without_patterns_of_their_own_are_read_as_nnunet_names_files(tmp_path):
    write_nnunet(tmp_path / "set")
    for folder, stem in (("imagesTr", "case"), ("imagesTs", "new")):
        names, faults, _ = names_of(tmp_path, [tmp_path / "set" / folder], channels=2, layout="nnunet")
        assert (names, faults) == ([f"{stem}_{number}" for number in range(5)], [])
    names, _, passed = names_of(tmp_path, [tmp_path / "set"], channels=2, layout="nnunet")
    assert names == [f"case_{number}" for number in range(5)]
    assert passed == ["passed over: 5 files named like labels (labelsTr/{})"]
    (tmp_path / "set/imagesTs/new_3_0000.png").unlink()
    names, faults, _ = names_of(tmp_path, [tmp_path / "set/imagesTs"], channels=2, layout="nnunet")
    assert names == ["new_0", "new_1", "new_2", "new_4"]
    assert "new_3_0001.png is a channel of an image, and there is no new_3_0000.png" in faults[0]


def test_numbers_that_are_not_those_of_channels_are_a_part_of_the_name(tmp_path):
    touch(tmp_path / "in", "scan_12.png", "frame_0012.png", "case_0000.png", "case_0001.png")
    names, faults, _ = names_of(tmp_path, [tmp_path / "in"], layout="nnunet")
    assert (names, faults) == (["case", "case_0001", "frame_0012", "scan_12"], [])


def test_labels_that_are_called_like_a_channel_do_not_hide_it(tmp_path):
    files = {"images": ["raw/{}_a.tif", "raw/{}_b.tif"], "labels": "masks/{}_a.tif"}
    touch(tmp_path / "set", "raw/1_a.tif", "raw/1_b.tif", "masks/1_a.tif")
    for inner, count in ((".", 1), ("raw", 0)):
        names, faults, passed = names_of(tmp_path, [tmp_path / "set" / inner], channels=2, files=files)
        assert (names, faults, len(passed)) == (["1"], [], count)


def test_other_runs_find_what_they_found_before(tmp_path):
    touch(tmp_path / "in", "a.tif", "a_masks.tif", "b_0000.png", "inner/c.tif")
    for described in ({}, {"files": {"sparse": True}}, {"layout": "synthetic"}):
        assert names_of(tmp_path, [tmp_path / "in"], **described) == (["a", "a_masks", "b_0000"], [], [])
        (tmp_path / "run/config.toml").unlink()
        (tmp_path / "run/dataset.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        {"images": "{}.tif"},
        {"images": 3, "labels": "a"},
        {"images": "../{}.tif", "labels": "{}.png"},
        {"images": "{}.tif", "labels": "{}_{}.tif"},
        {"pictures": "{}"},
    ],
)
def test_damaged_patterns_in_a_run_get_a_sentence(damage, tmp_path):
    run = run_of(tmp_path, files={"images": "{}.tif", "labels": "{}.png"})
    table = json.loads(run.dataset.read_text())
    run.dataset.write_text(json.dumps(table | {"files": damage}))
    with pytest.raises(RunError, match=r"dataset\.json is damaged: .*files\..* Copy it again"):
        naming_of(run)


def test_folders_of_zarr_are_channel_files_too(tmp_path):
    files = {"images": ["{group}/{}_DAPI.tif", "{group}/{}_GFP.tif"], "labels": "{group}/{}_labels.png"}
    for channel in ("DAPI", "GFP"):
        (tmp_path / f"in/fish/w1_{channel}.ome.zarr").mkdir(parents=True)
    names, faults, _ = names_of(tmp_path, [tmp_path / "in"], channels=2, files=files)
    assert (names, faults) == (["fish/w1"], [])
