"""What stays together, what is for testing, and what is labelled in part: groups, splits, pages."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from fbunet_jax.check.checks import check_dataset
from fbunet_jax.config import DataConfig
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.data.folds import make_folds
from fbunet_jax.errors import ConfigError, DataError
from tests.data.layouts.named_folders import faults, pairs, settings, stacks
from tests.tool_sets import classes, save, scene


def test_images_without_a_label_are_left_out_only_where_labels_are_said_to_be_sparse(tmp_path):
    pairs(tmp_path, ("a", "b", "c", "d"))
    (tmp_path / "d_seg.png").unlink()
    with pytest.raises(DataError, match=r"d\.tif is an image, and there is no label d_seg\.png.*files\.sparse = true"):
        load_dataset(settings(tmp_path))

    config = settings(tmp_path, sparse=True)

    assert load_dataset(config).names == ("a", "b", "c")
    assert "without a label and left out: 1 (d.tif)" in check_dataset(config).naming


@pytest.mark.parametrize("first", [0, 1, 5])
def test_label_files_of_pages_pair_by_their_number(first, tmp_path):
    stacks(tmp_path)
    for name in "abc":
        for page in range(4):
            save(tmp_path / f"{name}_z{first + page:02d}.png", classes(scene(10 * ord(name) + page)[1]))
    config = settings(tmp_path, labels="{}_z{page}.png", first_page=first)

    dataset = load_dataset(config)

    assert dataset.names == tuple(f"{name}/z{page:03d}" for name in "abc" for page in range(4))
    for place, label in enumerate(dataset.labels):
        np.testing.assert_array_equal(label, classes(scene(10 * ord("abc"[place // 4]) + place % 4)[1]))

    (tmp_path / f"b_z{first + 2:02d}.png").unlink()
    with pytest.raises(DataError, match=rf"b\.tif has 4 pages, and there is no label for page {first + 2}"):
        load_dataset(config)
    sparse = load_dataset(replace(config, files=replace(config.files, sparse=True)))
    assert set(dataset.names) - set(sparse.names) == {"b/z002"}
    with pytest.raises(DataError, match=rf"is the label of page {first}, but .* has the pages {first + 1} to"):
        load_dataset(settings(tmp_path, labels="{}_z{page}.png", first_page=first + 1, sparse=True))


def test_pages_labelled_0_throughout_are_background_unless_labels_are_sparse(tmp_path):
    stacks(tmp_path)
    for name in "abc":
        labels = np.stack([classes(scene(10 * ord(name) + page)[1]) for page in range(4)])
        labels[1] = 0
        tifffile.imwrite(tmp_path / f"{name}_seg.tif", labels, metadata={"axes": "ZYX"}, imagej=True)
    config = settings(tmp_path, labels="{}_seg.tif")

    assert len(load_dataset(config).names) == 12
    sparse = replace(config, files=replace(config.files, sparse=True))
    dataset = load_dataset(sparse)

    assert dataset.names == tuple(f"{name}/z{page:03d}" for name in "abc" for page in (0, 2, 3))
    np.testing.assert_array_equal(dataset.images[1], scene(10 * ord("a") + 2)[0][..., None])
    assert check_dataset(sparse).left_out == 3


def test_a_set_without_a_labelled_page_is_refused(tmp_path):
    stacks(tmp_path)
    for name in "abc":
        empty = np.zeros((4, 48, 48), np.uint8)
        tifffile.imwrite(tmp_path / f"{name}_seg.tif", empty, metadata={"axes": "ZYX"}, imagej=True)
    with pytest.raises(DataError, match="no labelled page"):
        load_dataset(settings(tmp_path, labels="{}_seg.tif", sparse=True))


def test_the_test_part_of_the_names_is_that_of_the_only_fold(tmp_path):
    for part, count in (("Train", 5), ("val", 2), ("test", 3)):
        pairs(tmp_path / part, tuple(map(str, range(count))), "images/{}.tif", "masks/{}.png")
    names = {"images": "{split}/images/{}.tif", "labels": "{split}/masks/{}.png"}
    config = settings(tmp_path, **names, fold_scheme="split", folds=1)

    (fold,) = check_dataset(config).folds

    assert fold.train == tuple(f"train/{n}" for n in range(5))
    assert fold.validation == ("validation/0", "validation/1")
    assert fold.test == ("test/0", "test/1", "test/2")
    with pytest.raises(DataError, match=r'\{split\}.*data\.fold_scheme = "grouped"'):
        load_dataset(settings(tmp_path, **names))
    with pytest.raises(DataError, match="the names of the files do not say what is for training"):
        load_dataset(settings(tmp_path, "{}/images/{}.tif", "{}/masks/{}.png", fold_scheme="split", folds=1))


def test_a_group_that_is_in_two_given_parts_is_a_fault(tmp_path):
    for part, names in (("train", ("m1_a", "m2_a", "m3_a")), ("test", ("m4_a", "m2_b"))):
        pairs(tmp_path / part, names, "{}.tif", "{}_seg.png")
    names = ("{split}/{group}_{}.tif", "{split}/{group}_{}_seg.png")
    config = settings(tmp_path, *names, fold_scheme="split", folds=1)
    with pytest.raises(DataError, match=r"is of the group 'm2', which is in test too"):
        load_dataset(config)

    (tmp_path / "test" / "m2_b.tif").rename(tmp_path / "test" / "m5_b.tif")
    (tmp_path / "test" / "m2_b_seg.png").rename(tmp_path / "test" / "m5_b_seg.png")
    assert load_dataset(config).groups == ("test/m4", "test/m5", "train/m1", "train/m2", "train/m3")


def test_a_group_pattern_finds_the_same_group_in_two_given_parts(tmp_path):
    for part, names in (("train", ("m1_a", "m2_a", "m3_a")), ("Test", ("m4_a", "m2_b"))):
        pairs(tmp_path / part, names)
    names = ("{split}/{}.tif", "{split}/{}_seg.png")
    config = settings(tmp_path, *names, fold_scheme="split", folds=1, group_pattern="(.+)_")
    with pytest.raises(DataError, match=r"is of the group 'm2', which is in test too.*remove group_pattern"):
        load_dataset(config)


def test_a_page_number_of_ten_digits_is_not_that_of_its_last_nine(tmp_path):
    save(tmp_path / "a.tif", scene(0)[0])
    for page in ("0", "1000000000"):
        save(tmp_path / f"a_p{page}.png", classes(scene(0)[1]))

    found = faults(settings(tmp_path, "{}.tif", "{}_p{page}.png"))

    assert [each for each in found if each[0] == "missing-page" and "is the label of page 1000000000" in each[1]]


def test_pages_in_files_of_their_own_stay_in_the_group_of_their_stack(tmp_path):
    names = tuple(f"{stack}_z{page:02d}" for stack in "abc" for page in (3, 4))
    pairs(tmp_path, names)

    dataset = load_dataset(settings(tmp_path, "{}_z{page}.tif", "{}_z{page}_seg.png"))

    assert dataset.names == names
    assert dataset.groups == ("a", "a", "b", "b", "c", "c")


def test_groups_that_are_equal_numbers_are_one_group(tmp_path):
    pairs(tmp_path, ("m01_a", "m1_b", "m2_a", "m3_a"))
    config = settings(tmp_path, "m{group:d}_{}.tif", "m{group:d}_{}_seg.png")
    assert load_dataset(config).groups == ("1", "1", "2", "3")


def test_without_a_validation_part_the_last_fifth_of_the_training_part_validates():
    groups = [f"train/{number}" for number in range(10)] + ["test/0"]
    (fold,) = make_folds(groups, 1, "split")
    assert fold.validation == ("train/8", "train/9")
    assert fold.train == tuple(f"train/{number}" for number in range(8))
    with pytest.raises(DataError, match="needs groups in every part, found 0 train, 1 validation, 1 test"):
        make_folds(["train/0", "test/0"], 1, "split")


def test_the_scheme_split_has_one_fold():
    with pytest.raises(ConfigError, match=r'data\.folds = 5: data\.fold_scheme = "split" makes one fold'):
        DataConfig(fold_scheme="split")
