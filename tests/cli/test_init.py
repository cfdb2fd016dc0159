"""``fbunet init`` on folders whose names are those of other tools, and what check makes of what it wrote."""

import shlex
import tomllib

import numpy as np
import pytest
import tifffile

from fbunet_jax.cli import main
from fbunet_jax.config import FilesConfig, load_config
from tests.tool_sets import TOOL_SETS, classes, save, scene


def run(capsys, *options, code=0):
    """Run a command in this process and return what it printed."""
    assert main([str(option) for option in options]) == code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.out + printed.err


def folder(root, *names, count=5):
    """Write images, and labels for names with "mask", "seg" or "bar"."""
    for number in range(count):
        image, objects = scene(number)
        for name in names:
            is_label = any(word in name for word in ("mask", "seg", "bar"))
            save(root / name.format("abcdefgh"[number]), classes(objects) if is_label else image)
    return root


@pytest.mark.parametrize(
    "name",
    ["raw and cp_masks", "stardist", "data science bowl", "ilastik", "channel files", "sparse stacks", "label pages"],
)
def test_init_describes_a_set_so_that_check_finds_no_fault(name, tmp_path, capsys):
    tool_set = TOOL_SETS[name]
    tool_set.write(tmp_path)

    text = run(capsys, "init", tmp_path)

    assert f"Recognised: {tool_set.tool}: " in text
    written = tomllib.loads((tmp_path / "dataset.toml").read_text())
    for key in ("objects", "sparse", "first_page"):
        assert written["files"].get(key) == tool_set.files.get(key)
    assert written.get("ignore_value") == tool_set.ignore_value
    assert list(written["classes"].values()) == list(tool_set.classes.values())
    data = load_config(tmp_path / "fbunet.toml").data
    assert (data.fold_scheme, data.folds == 1) == (("split", True) if tool_set.split else ("grouped", False))
    assert "No faults." in run(capsys, "check", tmp_path, "--out", tmp_path / "page.html")


def test_numbered_objects_are_proposed_with_what_training_makes_of_them(tmp_path, capsys):
    TOOL_SETS["cellpose"].write(tmp_path)

    text = run(capsys, "init", tmp_path)

    assert "4 (89 pixels): they number objects" in text
    description = (tmp_path / "dataset.toml").read_text()
    assert tomllib.loads(description)["classes"] == {"background": 0, "cell": 1}
    proposed = description[description.index("# PROPOSED: each value") :]
    assert "does not separate objects" in proposed.replace("\n# ", " ")


def test_classes_that_lie_in_pieces_are_not_taken_for_objects(tmp_path, capsys):
    for number in range(6):
        image, objects = scene(number)
        values = np.zeros_like(objects)
        # each class in two places, the higher ones in fewer images
        for value in (1, 2, 3)[: 3 - number // 3]:
            values[8 * value : 8 * value + 4, [4, 5, 30, 31]] = value
        save(tmp_path / "images" / f"{number}.png", image)
        save(tmp_path / "labels" / f"{number}.png", values)

    run(capsys, "init", tmp_path)

    written = tomllib.loads((tmp_path / "dataset.toml").read_text())
    assert written["classes"] == {"background": 0, "class_1": 1, "class_2": 2, "class_3": 3}
    assert "files" not in written


def test_two_readings_are_a_question_that_the_options_answer(tmp_path, capsys):
    folder(tmp_path, "{}.tif", "{}_seg.png", "{}_mask.png")

    text = run(capsys, "init", tmp_path, code=2)

    assert "can be read in 2 ways" in text
    assert not (tmp_path / "dataset.toml").exists()
    answer = ("--images", "{}.tif", "--labels", "{}_seg.png", "--ignore", "*_mask.png")
    assert "Pairs: 5 images with a label\n" in run(capsys, "init", tmp_path, *answer)
    written = tomllib.loads((tmp_path / "dataset.toml").read_text())["files"]
    assert written == {"images": "{}.tif", "labels": "{}_seg.png", "ignore": ["*_mask.png"]}
    assert "No faults." in run(capsys, "check", tmp_path, "--out", tmp_path / "page.html")


def test_files_that_the_given_patterns_do_not_describe_are_named(tmp_path, capsys):
    folder(tmp_path, "images/{}.png", "mask/{}.png", "1st_manual/{}_seg.png")

    text = run(capsys, "init", tmp_path, "--images", "images/{}.png", "--labels", "1st_manual/{}_seg.png")

    assert "Note: 5 other image files are not used (mask/a.png, mask/b.png, mask/c.png and 2 more)." in text


def test_labels_in_colour_lead_to_a_check_that_lists_them(tmp_path, capsys):
    folder(tmp_path, "{}.png")
    for number in range(5):
        label = classes(scene(number)[1])
        save(tmp_path / f"{'abcde'[number]}_mask.png", np.stack([255 * label, 0 * label, 0 * label], axis=-1))

    text = run(capsys, "init", tmp_path, code=2)

    assert "Proposed values: black (0, 0, 0) = 0, red (255, 0, 0) = 1" in text, text
    options = ("--data.files.images", "{}.png", "--data.files.labels", "{}_mask.png")
    assert f"check {shlex.join(map(str, (tmp_path, *options)))} lists all." in text
    assert "label-colours" in run(capsys, "check", tmp_path, *options, "--out", tmp_path / "page.html", code=1)


def test_beginnings_that_may_be_groups_are_printed_where_names_say_no_group(tmp_path, capsys):
    for root in (tmp_path / "flat", tmp_path / "folders"):
        for patient in ("P1", "P2", "P3"):
            for slice_ in ("a", "b"):
                image, objects = scene(ord(slice_) + int(patient[1]))
                inner = root if root.name == "flat" else root / patient
                save(inner / f"{patient}_{slice_}.png", image)
                save(inner / f"{patient}_{slice_}_mask.png", classes(objects))

    assert 'Not in force: group_pattern = "^([^_-]+)[_-]". The files have 3 beginnings.' in run(
        capsys, "init", tmp_path / "flat"
    )
    assert "group_pattern" not in run(capsys, "init", tmp_path / "folders")


def test_labels_of_one_value_are_said_to_propose_no_classes(tmp_path, capsys):
    for name in "abc":
        save(tmp_path / f"{name}.png", scene(1)[0])
        save(tmp_path / f"{name}_mask.png", np.full((48, 48), 255, np.uint8))

    assert "No classes are proposed: The labels hold one value only." in run(capsys, "init", tmp_path)
    assert "# To be set: The labels hold one value only." in (tmp_path / "dataset.toml").read_text()


def test_a_label_stack_without_metadata_has_the_axes_of_its_image(tmp_path, capsys):
    for number in range(3):
        scenes = [scene(10 * number + page) for page in range(4)]
        pages = np.stack([image for image, _ in scenes])
        tifffile.imwrite(tmp_path / f"s{number}.tif", pages, imagej=True, metadata={"axes": "ZYX"})
        labels = np.stack([classes(objects) for _, objects in scenes])
        tifffile.imwrite(tmp_path / f"s{number}_mask.tif", labels, photometric="minisblack", metadata=None)

    assert "Found: 12 of 48 x 48 pixels" in run(capsys, "init", tmp_path)

    assert tomllib.loads((tmp_path / "dataset.toml").read_text())["axes"] == "ZYX"
    assert "No faults." in run(capsys, "check", tmp_path, "--out", tmp_path / "page.html")


def test_out_puts_the_names_into_the_settings(tmp_path, capsys):
    folder(tmp_path / "set", "x/{}.png", "y/{}_seg.png")

    run(capsys, "init", tmp_path / "set", "--out", tmp_path / "settings")

    config = load_config(tmp_path / "settings" / "fbunet.toml")
    assert config.data.files == FilesConfig("x/{}.png", "y/{}_seg.png")
    assert not (tmp_path / "set" / "dataset.toml").exists()
    options = ("--config", tmp_path / "settings" / "fbunet.toml", "--out", tmp_path / "page.html")
    assert "No faults." in run(capsys, "check", *options)


@pytest.mark.parametrize(("options", "words"), [
    (("--images", "{}.tif"), "expected --images and --labels"),
    (("--images", "{}.tif", "--labels", "{}_gt.png"), "no file fits files.labels = '{}_gt.png'. There are a.tif"),
    (("--images", "{}.tif", "--labels", "*_mask.png"), "expected the same braces"),
    (("--images", "{:d}.tif", "--labels", "{:d}_mask.png"), "no file fits files.images"),
])  # fmt: skip
def test_patterns_that_do_not_fit_are_refused(options, words, tmp_path, capsys):
    folder(tmp_path, "{}.tif", "{}_mask.png")

    assert words in run(capsys, "init", tmp_path, *options, code=2)
    assert not (tmp_path / "dataset.toml").exists()


def test_labels_of_cellpose_that_are_pickled_are_refused_with_the_way_on(tmp_path, capsys):
    folder(tmp_path, "{}.tif")
    np.save(tmp_path / "a_seg.npy", {"masks": 1}, allow_pickle=True)

    for options in (
        ("init", tmp_path),
        ("check", tmp_path, "--data.files.images", "{}.tif", "--data.files.labels", "{}_m"),
    ):
        assert "Save masks as PNG/TIF" in run(capsys, *options, code=2)


def test_hdf5_of_ilastik_is_refused_with_the_way_on(tmp_path, capsys):
    folder(tmp_path, "{}.tif")
    (tmp_path / "a-data_Labels.h5").touch()

    assert "export the labels as TIFF or PNG" in run(capsys, "init", tmp_path, code=2)


def test_a_folder_without_labels_says_what_is_looked_for(tmp_path, capsys):
    folder(tmp_path, "{}.tif")

    text = run(capsys, "init", tmp_path, code=2)

    assert "5 image files (a.tif, b.tif, c.tif and 2 more)" in text
    assert "--images 'scan_{}_raw.tif' --labels 'scan_{}_drawn.tif'" in text


def test_names_with_characters_that_cannot_be_printed_are_described(tmp_path, capsys):
    folder(tmp_path, "{} \n\x7f {{}} \"'.tif", "{} \n\x7f {{}} \"'_mask.tif")
    folder(tmp_path / "\x7f", "{}.tif")

    text = run(capsys, "init", tmp_path)

    assert r"a \n\x7f {} " in text
    assert "No faults." in run(capsys, "check", tmp_path, "--out", tmp_path / "page.html")
