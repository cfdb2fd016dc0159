"""How the images and labels of a folder are called: what is proposed, and what is asked."""

import os
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fbunet_jax.check.filenames import list_names
from fbunet_jax.check.naming import lacks_pages, propose_naming
from fbunet_jax.check.naming_words import files_table, nothing_pairs, question, recognised
from fbunet_jax.config import FilesConfig
from fbunet_jax.data.layouts.folder import list_pairs
from fbunet_jax.data.layouts.pairing import pair
from tests.tool_sets import TOOL_SETS


def folder(root, *patterns, count=5):
    """Create empty files, of each pattern one for every number and letter."""
    for number in range(1, count + 1):
        for pattern in patterns:
            file = root / pattern.format(n=number, z=f"{number:03d}", a=string.ascii_lowercase[number])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return root


def only(root):
    """Return the only reading of a folder."""
    (reading,) = propose_naming(root).readings
    return reading


def patterns(reading):
    return [*reading.files.image_patterns, reading.files.labels]


def paired(root, files):
    """Return name, group, and the files of every pair."""
    naming, listing = list_pairs(root, files)
    found = pair(naming, listing)
    labels = [[each.path for each in files] for files in found.labels]
    return [(image.name, image.group, image.files, each) for image, each in zip(found.images, labels, strict=True)]


@pytest.mark.parametrize("name", TOOL_SETS)
def test_each_tool_is_recognised_and_its_files_pair_as_described(name, tmp_path):
    tool_set = TOOL_SETS[name]
    tool_set.write(tmp_path)

    reading = only(tmp_path)

    assert reading.left == 0
    # what the labels show is seen in their pixels, elsewhere
    names = {key: value for key, value in tool_set.files.items() if key != "objects" or value == "files"}
    names = {key: tuple(value) if isinstance(value, list) else value for key, value in names.items()}
    assert paired(tmp_path, reading.files) == paired(tmp_path, FilesConfig(**names))
    assert reading.has_parts == tool_set.split
    assert (reading.files.first_page, reading.files.objects) == (
        names.get("first_page", 0),
        names.get("objects", "none"),
    )
    assert reading.tool == tool_set.tool


@pytest.mark.parametrize(("files", "expected"), [
    (("img_{n}.png", "mask_{z}.png"), ["img_{:d}.png", "mask_{:d}.png"]),
    (("images/img_{z}.png", "labels/mask_{z}.png"), ["images/img_{}.png", "labels/mask_{}.png"]),
    (("Images/{z}.TIF", "Masks/{z}.TIF"), ["Images/{}.TIF", "Masks/{}.TIF"]),
    (("x/{z}.tif", "y/{z}.tif"), ["x/{}.tif", "y/{}.tif"]),
    (("inputs/{z}.jpg", "targets/{z}.png"), ["inputs/{}.jpg", "targets/{}.png"]),
    (("img/{z}.png", "lbl/{z}.png"), ["img/{}.png", "lbl/{}.png"]),
    (("raw/{z}.png", "gt/{z}.png"), ["raw/{}.png", "gt/{}.png"]),
    (("{a}.jpg", "{a}.png"), ["{}.jpg", "{}.png"]),
    (("{a}_raw.tif", "{a}.tif"), ["{}_raw.tif", "{}.tif"]),
    (("{a}_image_left.png", "{a}_image_right.png", "{a}_mask_left.png", "{a}_mask_right.png"),
     ["{}_image_{}.png", "{}_mask_{}.png"]),
    (("slide{n}_images/a.png", "slide{n}_images/b.png", "slide{n}_masks/a.png", "slide{n}_masks/b.png"),
     ["{group}_images/{}.png", "{group}_masks/{}.png"]),
    (("m{n}/a.png", "m{n}/b.png", "m{n}/masks/a.png", "m{n}/masks/b.png"), ["{group}/{}.png", "{group}/masks/{}.png"]),
    (("scan{n}/img.png", "scan{n}/gt.png"), ["{}/img.png", "{}/gt.png"]),
    (("in/case{z}_0000.png", "in/case{z}_0001.png", "gt/case{z}.png"), ["in/{}_{channel}.png", "gt/{}.png"]),
    (("C1-s{n}.tif", "C2-s{n}.tif", "s{n}_mask.tif"), ["C1-{}.tif", "C2-{}.tif", "{}_mask.tif"]),
    (("s{n}_405.tif", "s{n}_488.tif", "s{n}_mask.tif"), ["{}_405.tif", "{}_488.tif", "{}_mask.tif"]),
    (("{a}_w1DAPI.TIF", "{a}_w2GFP.TIF", "{a}_mask.tif"), ["{}_w1DAPI.TIF", "{}_w2GFP.TIF", "{}_mask.tif"]),
    (("{{{a}}} [1].png", "{{{a}}} [1]_mask.png"), ["{}.png", "{}_mask.png"]),
    (("t{{1}}/{a}_im.png", "t{{1}}/{a}_mask.png"), ["t{{1}}/{}_im.png", "t{{1}}/{}_mask.png"]),
    (("t{z}.tif", "man_seg{z}.tif"), ["t{}.tif", "man_seg{}.tif"]),
    (("in/r01c{z}f01-ch1sk1fk1fl1.tiff", "in/r01c{z}f01-ch2sk1fk1fl1.tiff", "Masks/r01c{z}f01.png"),
     ["in/{}-ch1sk1fk1fl1.tiff", "in/{}-ch2sk1fk1fl1.tiff", "Masks/{}.png"]),
    (("ch00/{a}_ch00.tif", "ch01/{a}_ch01.tif", "gt/{a}.tif"), ["ch00/{}_ch00.tif", "ch01/{}_ch01.tif", "gt/{}.tif"]),
    (("s{n}_w1.TIF", "s{n}_w2.TIF", "s{n}_w1_mask.tif"), ["{}_w1.TIF", "{}_w2.TIF", "{}_w1_mask.tif"]),
    (("images/s{n}_C1.tif", "images/s{n}_C2.tif", "labels/s{n}_C1.tif"),
     ["images/{}_C1.tif", "images/{}_C2.tif", "labels/{}_C1.tif"]),
    (("img/{a}.png", "ann/{a}.png"), ["img/{}.png", "ann/{}.png"]),
    (("Bilder/{a}.tif", "Masken/{a}.tif"), ["Bilder/{}.tif", "Masken/{}.tif"]),
    (("data/{a}.png", "data/{a} annotated by JD.png"), ["data/{}.png", "data/{} annotated by JD.png"]),
    (("train/images/{z}.png", "train/masks/{z}.png", "test/images/{z}.png"),
     ["train/images/{}.png", "train/masks/{}.png"]),
])  # fmt: skip
def test_a_habit_has_one_reading_in_which_all_pairs(files, expected, tmp_path):
    reading = only(folder(tmp_path, *files))

    assert patterns(reading) == expected
    assert reading.left == 0
    assert reading.pairs == len(paired(tmp_path, reading.files)) >= 5


def test_names_of_several_types_leave_the_suffix_open(tmp_path):
    folder(tmp_path, "{a}.tif", "{a}_mask.png", count=3)
    folder(tmp_path, "b{n}.png", "b{n}_mask.tif", count=3)

    assert patterns(only(tmp_path)) == ["{}", "{}_mask"]


@pytest.mark.parametrize(("files", "expected"), [
    (("{a}.tif", "{a}_seg.png", "{a}_mask.png"), {("{}.tif", "{}_seg.png"), ("{}.tif", "{}_mask.png")}),
    (("{a}_foo.tif", "{a}_bar.tif", "{a}_mask.png"),
     {("{}_foo.tif", "{}_mask.png"), ("{}_bar.tif", "{}_mask.png"), ("{}_bar.tif", "{}_foo.tif", "{}_mask.png")}),
    (("foo/{a}.tif", "bar/{a}.tif"), {("foo/{}.tif", "bar/{}.tif"), ("bar/{}.tif", "foo/{}.tif")}),
    (("{a}.tif", "{a}_foo.tif"), {("{}.tif", "{}_foo.tif"), ("{}_foo.tif", "{}.tif")}),
    (("{a}.tif", "{a}.png"), {("{}.tif", "{}.png"), ("{}.png", "{}.tif")}),
    (("Actin/{a}.tif", "Hoechst/{a}.tif", "labels/{a}.tif"),
     {("Actin/{}.tif", "labels/{}.tif"), ("Hoechst/{}.tif", "labels/{}.tif"),
      ("Actin/{}.tif", "Hoechst/{}.tif", "labels/{}.tif")}),
    (("images/{a}.png", "masks/rater1/{a}.png", "masks/rater2/{a}.png"),
     {("images/{}.png", "masks/rater1/{}.png"), ("images/{}.png", "masks/rater2/{}.png")}),
    (("JPEGImages/{a}.jpg", "SegmentationClass/{a}.png", "SegmentationObject/{a}.png"),
     {("JPEGImages/{}.jpg", "SegmentationClass/{}.png"), ("JPEGImages/{}.jpg", "SegmentationObject/{}.png")}),
    (("{a}.tif", "{a}.png", "{a}_mask.png"),
     {("{}.tif", "{}_mask.png"), ("{}.png", "{}_mask.png"), ("{}.png", "{}.tif", "{}_mask.png")}),
    (("{a}.tif", "{a}_cell_mask.tif", "{a}_nucleus_mask.tif"),
     {("{}.tif", "{}_cell_mask.tif"), ("{}.tif", "{}_nucleus_mask.tif")}),
    (("training/images/{n}_training.tif", "training/1st_manual/{n}_manual1.png", "training/mask/{n}_training_mask.png"),
     {("training/images/{}_training.tif", "training/1st_manual/{}_manual1.png"),
      ("training/images/{}.tif", "training/mask/{}_mask.png")}),
])  # fmt: skip
def test_readings_that_pair_equally_well_are_asked_about(files, expected, tmp_path):
    readings = propose_naming(folder(tmp_path, *files)).readings

    assert {tuple(patterns(reading)) for reading in readings} == expected
    assert {reading.pairs for reading in readings} == {5}
    text = str(question(tmp_path, readings, "fbunet init"))
    for reading in readings:
        assert f'labels = "{reading.files.labels}"' in text
    assert f"--labels '{readings[0].files.labels}'" in text


@pytest.mark.parametrize(("files", "expected"), [
    (("{a}_ROI.png", "{a}.ome.tif"), ["{}.tif", "{}_ROI.png"]),
    (("drawn {a}.png", "{a}.tif"), ["{}.tif", "drawn {}.png"]),
    (("trainB/{a}.png", "trainA/{a}.png"), ["trainA/{}.png", "trainB/{}.png"]),
    (("JPEGImages/{a}.jpg", "SegmentationObject/{a}.png", "SegmentationClass/{a}.png"),
     ["JPEGImages/{}.jpg", "SegmentationClass/{}.png"]),
])  # fmt: skip
def test_of_several_readings_the_likely_one_is_shown_first_and_as_the_example(files, expected, tmp_path):
    readings = propose_naming(folder(tmp_path, *files)).readings

    assert patterns(readings[0]) == expected
    assert f"--labels '{expected[1]}'" in str(question(tmp_path, readings, "fbunet init"))


def test_images_that_no_pattern_describes_are_named_in_a_note(tmp_path):
    root = folder(tmp_path, "images/{a}.tif", "labels/{a}.tif")
    (root / "images" / "a.txt").touch()
    assert only(root).notes == ()

    (note,) = only(folder(root, "scans/{a}.tif")).notes

    assert note.startswith("5 other image files are not used (scans/b.tif, scans/c.tif, scans/d.tif and 2 more).")


@pytest.mark.parametrize(("files", "words", "absent"), [
    (("images/{a}.tif", "coco.json"), "If coco.json holds the labels as outlines", "JPEG"),
    (("images/{a}.jpg", "masks/task-{n}.png"), "do not say which label belongs to which image", "JPEG"),
    (("images/{a}.png", "masks/{a}.jpg"), "5 of these files are JPEG", "outlines"),
    (("images/{a}.png", "labels/{a}.mat"), "Not read: labels/b.mat, labels/c.mat, labels/d.mat and 2 more.", "JPEG"),
])  # fmt: skip
def test_where_nothing_pairs_only_what_can_be_the_reason_is_said(files, words, absent, tmp_path):
    text = str(nothing_pairs(tmp_path, propose_naming(folder(tmp_path, *files)), "fbunet init"))

    assert words in text
    assert absent not in text


def test_whether_pages_count_from_0_or_1_is_asked_where_both_are_possible(tmp_path):
    TOOL_SETS["label pages"].write(tmp_path)
    for file in (tmp_path / "drawn").glob("*_z04.png"):
        file.rename(file.with_name(file.name.replace("04", "03")))

    readings = propose_naming(tmp_path).readings

    assert [reading.files.first_page for reading in readings] == [0, 1]
    assert "from 0 or from 1" in str(question(tmp_path, readings, "fbunet init"))
    assert lacks_pages(tmp_path, FilesConfig(*patterns(readings[1]), first_page=1))


def test_what_cellpose_derives_is_ignored_and_an_image_without_label_is_not(tmp_path):
    folder(tmp_path, "{a}.tif", "{a}_cp_masks.png", "{a}_flows.tif", "{a}_cp_output.png", "{a}_outlines.png")
    folder(tmp_path, "new{n}.tif", count=3)

    reading = only(tmp_path)

    assert reading.files.ignore == ("*_cp_output.png", "*_flows.tif", "*_outlines.png")
    assert reading.unlabelled == ("new1.tif", "new2.tif", "new3.tif")
    table = "\n".join(files_table(reading, "files"))
    assert "# PROPOSED" in table
    assert "# sparse = true" in table
    assert "3 images without a label (new1.tif, new2.tif, new3.tif)" in "\n".join(recognised(reading))


def test_earlier_predictions_are_ignored(tmp_path):
    reading = only(folder(tmp_path, "{a}.tif", "{a}_mask.tif", "{a}_pred.tif", "{a}_predicted.png"))

    assert patterns(reading) == ["{}.tif", "{}_mask.tif"]
    assert reading.files.ignore == ("*_pred.tif", "*_predicted.png")


def test_an_overlay_of_a_mask_is_not_a_label(tmp_path):
    reading = only(folder(tmp_path, "{a}.png", "{a}_mask.png", "{a}_mask_overlay.png"))

    assert patterns(reading) == ["{}.png", "{}_mask.png"]
    assert reading.files.ignore == ("*_mask_overlay.png",)


def test_numbers_in_another_order_do_not_pair(tmp_path):
    for x in range(1, 4):
        folder(tmp_path, f"img_x{x}_y{{n}}.png", f"mask_y{{n}}_x{x}.png", count=3)

    assert propose_naming(tmp_path).readings == ()


def test_images_and_labels_need_no_patterns_beside_a_third_folder(tmp_path):
    folder(tmp_path, "images/{z}.png", "labels/{z}.png", "masks/{z}.png")

    assert only(tmp_path).files == FilesConfig()


FOLDERS = [(("raw", "label"), "BiaPy"), (("x", "y"), "BiaPy"), (("Images", "masks"), "StarDist")]


@pytest.mark.parametrize(("names", "tool"), FOLDERS)
def test_the_folders_of_a_tool_are_told(names, tool, tmp_path):
    assert only(folder(tmp_path, *(f"{name}/{{a}}.tif" for name in names))).tool == tool


def test_a_test_folder_without_labels_is_named_for_predict(tmp_path):
    reading = only(folder(tmp_path, "train/images/{z}.png", "train/masks/{z}.png", "test/images/{z}.png"))

    assert reading.notes == ("test/ has no labels: train on train/, and give the images of test/ to fbunet predict.",)


def test_a_validation_folder_with_labels_of_an_unknown_name_is_not_said_to_lack_them(tmp_path):
    folder(tmp_path, "train/pics/{z}.png", "train/foo/{z}.png", "test/pics/{z}.png")
    reading = only(folder(tmp_path, "val/pics/{a}.png", "val/foo/{a}.png", count=2))

    first, second = reading.notes
    assert first.startswith("test/ has no labels")
    assert second.startswith("4 other image files are not used (val/foo/b.png, ")


def test_a_part_without_labels_beside_two_with_labels_is_left_out(tmp_path):
    folder(tmp_path, "train/images/{a}.png", "train/masks/{a}.png", "val/images/{n}.png", "val/masks/{n}.png")
    reading = only(folder(tmp_path, "test/images/{z}.png"))

    assert (reading.files.sparse, reading.left) == (True, 0)
    assert reading.notes[0].startswith("test/: no labels, so these images are left out")


@pytest.mark.parametrize(("files", "words"), [
    (("train/images/{a}.png", "train/masks/{a}.png", "val/images/{n}.png", "val/masks/{n}.png"),
     "train/, val/: not kept as parts of a fold, which needs labels for training and test."),
    (("01/t{z}.tif", "01_ST/SEG/man_seg{z}.tif", "02/t{z}.tif", "02_ST/SEG/man_seg{z}.tif"), "fewer than 3 folders"),
])  # fmt: skip
def test_folders_that_are_neither_groups_nor_parts_are_noted(files, words, tmp_path):
    (note,) = only(folder(tmp_path, *files)).notes

    assert words in note


def test_tiles_of_two_slides_are_their_own_groups_and_a_note_says_what_that_means(tmp_path):
    for slide in (1, 2):
        folder(tmp_path, f"s{slide} [x={{n}},y=0,w=8,h=8].tif", f"s{slide} [x={{n}},y=0,w=8,h=8]-labelled.tif")

    reading = only(tmp_path)

    assert patterns(reading) == ["{} [{}].tif", "{} [{}]-labelled.tif"]
    assert "fewer than 3 slides" in reading.notes[0]


@pytest.mark.parametrize("files", [
    ("{a}.png",),
    ("images/{a}.jpg", "masks/{a}.jpg"),
    ("images/{a}.png", "masks/{a}.jpg"),
    ("images/{a}.tif", "foo/{a}.jpg"),
    ("film_t{n}.png", "other.png"),
    ("train_{n}.png", "test_{n}.png"),
    ("{a}.txt",),
])  # fmt: skip
def test_what_does_not_pair_is_not_proposed(files, tmp_path):
    assert propose_naming(folder(tmp_path, *files)).readings == ()


def test_fewer_than_three_pairs_count_only_if_there_are_no_more_images(tmp_path):
    folder(tmp_path, "{a}.tif", "{a}_mask.tif", count=2)
    assert only(tmp_path).pairs == 2

    folder(tmp_path, "{a}.tif")
    assert propose_naming(tmp_path).readings == ()


def test_odd_names_and_links_are_passed_over_or_reported(tmp_path):
    folder(tmp_path, "x" * 240 + "{a}.png", "x" * 240 + "{a}_mask.png")
    (tmp_path / os.fsdecode(b"\xff.png")).touch()
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "dead").symlink_to("nowhere")
    (tmp_path / ".DS_Store").touch()

    reading = only(tmp_path)

    assert reading.pairs == 5
    assert "UTF-8" in reading.unnamed[0]
    assert all(len(line) < 400 for line in recognised(reading))
    assert [file.shown for file in list_names(tmp_path / "nowhere").files] == []


def test_a_folder_whose_name_macos_wrote_is_found(tmp_path):
    folder(tmp_path, "Scha\u0308fer/{a}.png", "Scha\u0308fer masks/{a}.png")

    assert only(tmp_path).pairs == 5


def test_a_walk_ends_in_a_deep_folder(tmp_path):
    deep = tmp_path.joinpath(*["d"] * 12)
    deep.mkdir(parents=True)
    (deep / "a.png").touch()

    assert list_names(tmp_path).files == []


words = st.text("abcdefghijk", min_size=2, max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    stems=st.lists(st.lists(words, min_size=1, max_size=3).map("_".join), min_size=3, max_size=8, unique=True),
    before=st.sampled_from(["", "img_", "raw-"]),
    after=st.sampled_from(["_mask", "_labels", ".seg", "_gt"]),
    folders=st.booleans(),
    endings=st.sampled_from([(".png", ".png"), (".tif", ".png"), (".jpg", ".tif")]),
)
def test_the_proposal_pairs_exactly_the_right_files(tmp_path_factory, stems, before, after, folders, endings):
    root = tmp_path_factory.mktemp("set")
    image_folder, label_folder = (root / "inputs", root / "targets") if folders else (root, root)
    expected = set()
    for stem in stems:
        files = image_folder / f"{before}{stem}{endings[0]}", label_folder / f"{stem}{after}{endings[1]}"
        for file in files:
            file.parent.mkdir(exist_ok=True)
            file.touch()
        expected.add(files)

    reading = only(root)

    assert {(*images, *labels) for _, _, images, labels in paired(root, reading.files)} == expected


def test_channels_are_proposed_in_the_order_of_their_numbers(tmp_path):
    folder(tmp_path, *(f"s{{n}}_c{channel}.tif" for channel in range(1, 13)), "s{n}_mask.tif")

    assert patterns(only(tmp_path))[:-1] == [f"{{}}_c{channel}.tif" for channel in range(1, 13)]
