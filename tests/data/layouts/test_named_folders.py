"""What does not pair, and what `[files]` can say besides the names."""

import re
from dataclasses import replace

import numpy as np
import pytest

from fbunet_jax.check.checks import check_dataset
from fbunet_jax.config import DataConfig, FilesConfig
from fbunet_jax.data.datasets import load_dataset, open_source
from fbunet_jax.data.identity import describe
from fbunet_jax.data.layouts.listing import NamedFile
from fbunet_jax.data.layouts.pairing import image_name
from fbunet_jax.data.layouts.patterns import Pattern
from fbunet_jax.errors import ConfigError, DataError
from tests.data.layouts.named_folders import faults, pairs, settings
from tests.tool_sets import classes, save, scene


def spoil_missing_label(root):
    (root / "b_seg.png").unlink()


def spoil_missing_image(root):
    (root / "b.tif").unlink()


def spoil_unnamed(root):
    save(root / "overview.png", np.ones((9, 9), np.uint8))


def spoil_jpeg(root):
    (root / "b_seg.png").rename(root / "b_seg.jpg")


def spoil_case(root):
    save(root / "A.tif", scene(0)[0])


BROKEN = {
    "JPEG label": (spoil_jpeg, {("label-jpeg", "b_seg.jpg", "JPEG compression")}),
    "missing label": (spoil_missing_label, {("missing-label", "b.tif", "there is no label b_seg.png")}),
    "missing image": (spoil_missing_image, {("missing-image", "b_seg.png", "there is no image b.tif")}),
    "unnamed": (spoil_unnamed, {("unnamed-file", "overview.png", "neither an image nor a label")}),
    "names in capitals": (spoil_case, {("same-name", "a.tif", "have the same name")}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_does_not_pair_is_a_fault_that_names_it_and_what_is_missing(name, tmp_path):
    spoil, expected = BROKEN[name]
    pairs(tmp_path)
    spoil(tmp_path)
    labels = "{}_seg" if name == "JPEG label" else "{}_seg.png"

    found = faults(settings(tmp_path, labels=labels))

    for kind, file, words in expected:
        assert any(kind == k and f.endswith(file) and words in text for k, text, f in found), found
    with pytest.raises(DataError):
        load_dataset(settings(tmp_path, labels=labels))


def test_files_of_other_types_and_ignored_ones_are_passed_over_and_counted(tmp_path):
    pairs(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    save(tmp_path / "a_flows.tif", np.ones((9, 9), np.uint8))

    check = check_dataset(settings(tmp_path, ignore=("*_flows.tif",)))

    assert check.faults == ()
    assert check.naming == ("3 pairs of {}.tif and {}_seg.png; other files, not read: 2 (a_flows.tif, notes.txt)")


def test_an_ignored_name_without_a_folder_is_ignored_in_every_folder(tmp_path):
    for name in "abc":
        pairs(tmp_path / name, ("x",))
        save(tmp_path / name / "x_flows.tif", np.ones((9, 9), np.uint8))
    config = settings(tmp_path, "{}/x.tif", "{}/x_seg.png", ignore=("*_flows.tif",))

    assert load_dataset(config).names == ("a/x", "b/x", "c/x")
    save(tmp_path / "a" / "y_flows.png", np.ones((9, 9), np.uint8))
    assert [kind for kind, *_ in faults(config)] == ["unnamed-file"]


def test_of_two_patterns_the_one_with_more_fixed_characters_names_a_file(tmp_path):
    pairs(tmp_path, label="{}_seg.tif")

    assert load_dataset(settings(tmp_path, labels="{}_seg.tif")).names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        ("{}_{}.tif", "{}_seg.png", "expected the same braces as in '{}_{}.tif'"),
        (("{}_a.tif", "{}_{}_b.tif"), "{}_seg.png", "expected the same braces as in '{}_a.tif'"),
        (("{}_{channel}.tif", "{}_b.tif"), "{}_seg.png", "exclude each other"),
        ("{}.tif", "{}_{channel}.png", "a label has no channels"),
        ("*.tif", "*.png", "expected at least one {}"),
        ("{:d}.tif", "{}_seg.png", "expected numbers (:d) in the same places"),
        ("{}_z{page}.tif", "{}_seg.png", "expected the same braces"),
        ("none/{}.tif", "{}_seg.png", "no file fits files.images = 'none/{}.tif'"),
        ("{}.tif", "{}_mask.png", "no file fits files.labels = '{}_mask.png'. There are a.tif, b.tif, c.tif"),
    ],
)
def test_patterns_that_cannot_pair_are_refused_before_a_file_is_read(images, labels, words, tmp_path):
    pairs(tmp_path)
    with pytest.raises(DataError, match=re.escape(words)):
        open_source(settings(tmp_path, images, labels))


def test_objects_in_files_of_their_own_are_not_of_single_pages(tmp_path):
    pairs(tmp_path)
    with pytest.raises(DataError, match=r"expected no \{page\} where every object has a file of its own"):
        open_source(settings(tmp_path, labels="{}_z{page}_*.png", objects="files"))


def test_one_pattern_without_the_other_is_refused():
    with pytest.raises(ConfigError, match=r"files\.images is set, and data\.files\.labels is not"):
        FilesConfig("{}.tif")


def test_numbers_pair_whatever_their_zeros(tmp_path):
    for number in (1, 2, 10):
        pixels, objects = scene(number)
        save(tmp_path / f"img_{number}.tif", pixels)
        save(tmp_path / f"mask_{number:03d}.png", classes(objects))

    dataset = load_dataset(settings(tmp_path, "img_{:d}.tif", "mask_{:d}.png"))

    assert dataset.names == ("img_1", "img_2", "img_10")
    for number, label in zip((1, 2, 10), dataset.labels, strict=True):
        np.testing.assert_array_equal(label, classes(scene(number)[1]))


@pytest.mark.parametrize(("images", "name"), [
    (("{}_w1.tif", "{}_w2.tif"), "A01_s1"),
    (("{}_c1_ORG.tif", "{}_c2_ORG.tif"), "A01_s1_ORG"),
    (("{}-ch1sk1fk1fl1.tif", "{}-ch2sk1fk1fl1.tif"), "A01_s1"),
    (("C1-{}.tif", "C2-{}.tif"), "A01_s1"),
    (("dapi {}.tif", "gfp {}.tif"), "A01_s1"),
])  # fmt: skip
def test_an_image_is_called_by_the_words_that_its_channel_files_share(images, name, tmp_path):
    file = NamedFile(tmp_path / images[0].format("A01_s1"), {"_1": "A01_s1"}, ())

    assert image_name([Pattern(each) for each in images], file) == name


def test_all_that_tells_images_apart_is_in_their_names(tmp_path):
    file = NamedFile(tmp_path / "3_a_7_b.tif", {"_1": "3", "_2": "7"}, ())

    assert image_name([Pattern("{}_a_{}_b.tif"), Pattern("{}_c_{}_d.tif")], file) == "3_7"


def test_numbered_channels_are_joined_and_one_that_lacks_is_named(tmp_path):
    for name in "abc":
        for channel in (0, 1, 2):
            save(tmp_path / f"{name}_c{channel}.tif", np.full((16, 16), 10 * channel + ord(name), np.uint8))
        label = np.zeros((16, 16), np.uint8)
        label[:8] = 1
        save(tmp_path / f"{name}_seg.png", label)
    config = settings(tmp_path, "{}_c{channel}.tif")
    assert load_dataset(config).names == ("a", "b", "c")
    assert [image[0, 0].tolist() for image in load_dataset(config).images] == [
        [ord(name), ord(name) + 10, ord(name) + 20] for name in "abc"
    ]

    (tmp_path / "b_c1.tif").unlink()
    with pytest.raises(DataError, match=r"b_c0\.tif is a channel of an image, and there is no b_c1\.tif"):
        load_dataset(config)


@pytest.mark.parametrize("change", [lambda a: a[:9], lambda a: a.astype(np.uint16)])
def test_channels_of_different_sizes_or_types_are_a_fault_that_names_both_files(change, tmp_path):
    pairs(tmp_path, image="{}_one.tif")
    for number, name in enumerate("abc"):
        save(tmp_path / f"{name}_two.tif", scene(number)[0])
    save(tmp_path / "b_two.tif", change(scene(1)[0]))

    with pytest.raises(DataError, match=r"b_two\.tif has .*b_one\.tif has"):
        load_dataset(settings(tmp_path, ("{}_one.tif", "{}_two.tif")))


def test_objects_in_files_of_their_own_are_joined_and_those_of_another_size_are_a_fault(tmp_path):
    for name in "abc":
        pixels, objects = scene(ord(name))
        save(tmp_path / name / "image.png", pixels)
        for each in range(1, int(objects.max()) + 1):
            save(tmp_path / name / "masks" / f"{each}.png", np.where(objects == each, 255, 0).astype(np.uint8))
    config = settings(tmp_path, "{}/image.png", "{}/masks/*.png", objects="files")

    dataset = load_dataset(config)

    assert dataset.names == ("a/image", "b/image", "c/image")
    for name, label in zip("abc", dataset.labels, strict=True):
        np.testing.assert_array_equal(label, scene(ord(name))[1] > 0)
    assert [kind for kind, *_ in faults(replace(config, files=replace(config.files, objects="none")))].count(
        "same-name"
    ) == sum(int(scene(ord(name))[1].max()) - 1 for name in "abc")
    save(tmp_path / "b" / "masks" / "1.png", np.full((5, 5), 255, np.uint8))
    with pytest.raises(DataError, match=r"image\.png has 48 x 48 pixels .*1\.png has 5 x 5"):
        load_dataset(config)


def test_numbered_objects_are_the_second_class_and_the_ignored_value_stays(tmp_path):
    pairs(tmp_path)
    objects = scene(1)[1].astype(np.uint16) * 300
    objects[:4] = 65535
    save(tmp_path / "b_seg.png", objects)
    config = replace(settings(tmp_path, objects="numbered"), ignore_value=65535)

    label = load_dataset(config).labels[1]

    np.testing.assert_array_equal(label, np.where(objects == 65535, 255, objects > 0))
    with pytest.raises(DataError, match=r'files\.objects = "numbered" has the classes .* expected two, 0 and 1'):
        load_dataset(replace(config, classes={"background": 0, "cell": 255}))


def test_an_object_of_the_ignored_number_is_a_fault(tmp_path):
    pairs(tmp_path)
    objects = np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) // 8
    save(tmp_path / "b_seg.png", objects)
    config = replace(settings(tmp_path, objects="numbered"), ignore_value=255)

    with pytest.raises(DataError, match=r"b_seg\.png numbers objects 254, 255 and 256, and ignore_value is 255"):
        load_dataset(config)
    objects[objects == 254] = 0
    save(tmp_path / "b_seg.png", objects)
    assert (load_dataset(config).labels[1] == 255).sum() == 8


def test_a_group_that_the_names_say_excludes_a_group_pattern(tmp_path):
    pairs(tmp_path, ("m1_a", "m1_b", "m2_a", "m3_a"))
    config = settings(tmp_path, "{group}_{}.tif", "{group}_{}_seg.png")
    assert load_dataset(config).groups == ("m1", "m1", "m2", "m3")
    with pytest.raises(DataError, match="the names of the files say the group too"):
        load_dataset(replace(config, group_pattern="^(m)"))


def test_images_that_would_have_one_name_are_a_fault(tmp_path):
    for number, name in enumerate(("a/a/b", "a/b/b", "c/d/e")):
        save(tmp_path / f"{name}.tif", scene(number)[0])
        save(tmp_path / f"{name}_seg.png", classes(scene(number)[1]))

    found = faults(settings(tmp_path, "{}/{}/{}.tif", "{}/{}/{}_seg.png", folds=2))

    assert [each for each in found if each[0] == "same-name" and "would both be called 'a/b'" in each[1]]


def test_the_numbers_of_channels_are_remembered(tmp_path):
    for number, name in enumerate("abc"):
        for channel in (2, 10, 11):
            save(tmp_path / f"{name}_c{channel}.tif", scene(number)[0] // channel)
        save(tmp_path / f"{name}_seg.png", classes(scene(number)[1]))

    dataset = load_dataset(settings(tmp_path, "{}_c{channel}.tif"))

    assert describe(dataset)["channel_numbers"] == [2, 10, 11]
    assert "channel_numbers" not in describe(load_dataset(DataConfig(synthetic_images=3)))


@pytest.mark.parametrize("layout", ["synthetic", "drosophila-vnc", "nnunet"])
def test_names_are_those_of_a_folder_of_ones_own_only(layout, tmp_path):
    with pytest.raises(DataError, match=r"data\.files describes the names of a folder of your own"):
        open_source(replace(settings(tmp_path), layout=layout))


def test_dataset_toml_and_settings_may_not_contradict_each_other(tmp_path):
    pairs(tmp_path)
    (tmp_path / "dataset.toml").write_text('[files]\nimages = "{}.tif"\nlabels = "{}_seg.png"\n')
    assert load_dataset(settings(tmp_path)).names == ("a", "b", "c")
    with pytest.raises(DataError, match=r'files is .*"\{\}_mask\.png".* in the settings and .* in the file'):
        load_dataset(settings(tmp_path, labels="{}_mask.png"))
    (tmp_path / "dataset.toml").write_text('[files]\nimage = "{}.tif"\n')
    with pytest.raises(DataError, match=r"unknown key 'files\.image'\. Did you mean"):
        load_dataset(settings(tmp_path))
