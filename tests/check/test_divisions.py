"""What folds lack is found, and what is proposed in their place has it: compared with a count of every part."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fbunet_jax.check.checks import check_dataset
from fbunet_jax.check.divisions import (
    UnitRecord,
    complete_division,
    contents,
    neighbour_fact,
    propose_division,
    unplaced_classes,
)
from fbunet_jax.config import DataConfig
from fbunet_jax.data.folds import make_folds
from fbunet_jax.errors import DataError

CLASSES = {"background": 0, "cell": 1, "nucleus": 2}
STEMS = ("m1_a", "m1_b", "m2_a", "m2_b", "m3_a", "m3_b")


def write_folder(root, stems, holders=(), images=None):
    """Write a folder whose third class is in the labels of the holders, of independent images unless some are given."""
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    generator = np.random.default_rng(0)
    for number, stem in enumerate(stems):
        image = generator.integers(10, 250, (32, 32)) if images is None else images[number]
        tifffile.imwrite(root / "images" / f"{stem}.tif", image.astype(np.uint16))
        label = np.arange(32 * 32).reshape(32, 32) % 2
        label[0, 0] = 2 if stem in holders else 0
        Image.fromarray(label.astype(np.uint8)).save(root / "labels" / f"{stem}.png")
    classes = ", ".join(f"{name} = {value}" for name, value in list(CLASSES.items())[: 3 if holders else 2])
    (root / "dataset.toml").write_text(f"classes = {{{classes}}}\n")


def check(root, **changes):
    return check_dataset(DataConfig(layout="folder", root=str(root), **changes))


def stack(count, kept=0.8, seed=0):
    """Return images of which each has this correlation with the next, and far fewer with those further on."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(count, 32, 32))
    images = [noise[0]]
    for each in noise[1:]:
        images.append(kept * images[-1] + np.sqrt(1 - kept**2) * each)
    return [1000 + 100 * image for image in images]


def test_classes_that_parts_lack_are_one_warning_with_every_fold(tmp_path):
    write_folder(tmp_path, STEMS, holders=("m2_a", "m2_b"))

    (finding,) = check(tmp_path, folds=3).findings

    assert finding.kind == "part-without-class"
    # by hand: blocks of two are tested; 2, 4 and 3 validate
    assert finding.found.startswith(
        "'nucleus', which is in 2 of 6 groups, has no pixel in the training part of fold 1 and the validation part of "
        "fold 1 and the test part of folds 0, 2. "
    )
    assert "puts 'nucleus' in every part: label more images" in finding.remedy


def test_the_files_of_one_beginning_become_a_group_where_that_gives_every_part_every_class(tmp_path):
    write_folder(tmp_path, STEMS, holders=("m1_a", "m2_a", "m3_a"))

    (finding,) = check(tmp_path, folds=3).findings

    assert finding.found.startswith(
        "'nucleus', which is in 3 of 6 groups, has no pixel in the validation part of fold 2. "
    )
    assert finding.remedy == (
        'Set data.group_pattern = "^([^_-]+)[_-]": every class then occurs in every part of every fold.'
    )
    assert check(tmp_path, folds=3, group_pattern="^([^_-]+)[_-]").findings == ()


def test_fewer_folds_are_proposed_where_they_do(tmp_path):
    stems = [f"{number:02d}" for number in range(12)]
    write_folder(tmp_path, stems, holders=stems[1::2])

    (finding,) = check(tmp_path).findings

    assert "has no pixel in the validation part of fold 1. " in finding.found
    assert finding.remedy.startswith("Set data.folds = 3: ")
    assert check(tmp_path, folds=3).findings == ()


def everywhere(groups, made, held):
    """Say of each class whether it is in every part of every fold; ``held`` are the classes of each unit."""
    holders = [{group for group, classes in zip(groups, held, strict=True) if name in classes} for name in CLASSES]
    parts = [set(part) for fold in made for part in (fold.train, fold.validation, fold.test)]
    return [all(part & each for part in parts) for each in holders]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), animals=st.integers(2, 6), images=st.integers(1, 3), folds=st.integers(2, 6))
def test_what_is_proposed_has_every_class_in_every_part_and_nothing_is_only_where_nothing_has(
    data, animals, images, folds
):
    names = [f"m{animal}_{image}" for animal in range(animals) for image in range(images)]
    held = [("background", *(n for n in ("cell", "nucleus") if data.draw(st.integers(0, 3)))) for _ in names]
    units = [UnitRecord(n, n, frozenset(CLASSES[each] for each in h)) for n, h in zip(names, held, strict=True)]
    config = DataConfig(layout="folder", folds=folds)
    # all that can be tried, by another way: the animals as groups where there are several files of three or more
    groupings = {"": names}
    if images > 1 and animals >= 3:
        groupings["^([^_-]+)[_-]"] = [name.partition("_")[0] for name in names]
    found = {}
    for number, (pattern, groups) in itertools.product({folds, *range(2, 11)}, groupings.items()):
        try:
            found[number, pattern] = everywhere(groups, make_folds(groups, number, "grouped"), held)
        except DataError:
            continue
    fitting = [key for key, present in found.items() if all(present)]

    proposal = complete_division(contents(units, CLASSES), config)
    unplaced = unplaced_classes(contents(units, CLASSES), config)

    assert (proposal is None) == (not fitting)
    if proposal:
        assert (proposal.folds, proposal.group_pattern) in fitting
        fewer = [number for number, _ in fitting if number <= folds]
        assert proposal.folds == (max(fewer) if fewer else min(number for number, _ in fitting))
    assert unplaced == tuple(
        name for place, name in enumerate(CLASSES) if not any(present[place] for present in found.values())
    )


def test_groups_that_are_given_are_not_joined_further():
    # nuclei on the first day of each animal: the animals as groups would do, in 3 folds
    units = [
        UnitRecord(f"m{animal}_{day}_x", f"m{animal}_{day}", frozenset({0, 1, 2 if day == 0 else 0}))
        for animal, day in itertools.product(range(3), range(2))
    ]
    config = DataConfig(layout="folder", folds=3)
    assert complete_division(contents(units, CLASSES), config) is None
    single = [replace(unit, group=unit.name) for unit in units]
    assert complete_division(contents(single, CLASSES), config).group_pattern == "^([^_-]+)[_-]"


@pytest.mark.parametrize(("where", "folds"), [("after", "folds 1, 2, 3"), ("both-sides", "")])
def test_sections_of_a_stack_are_noticed_and_training_beside_a_test_section_is_a_warning(where, folds, tmp_path):
    write_folder(tmp_path, [f"s{number}" for number in range(1, 13)], images=stack(12))

    result = check(tmp_path, folds=4, validation_groups=where)

    near, far = result.contents.alike
    assert near == pytest.approx(0.8, abs=0.05)
    assert far < 0.4
    fact = neighbour_fact(result.contents, result.folds)
    assert fact.startswith("neighbours in name order are alike (correlation 0.")
    if not folds:
        assert result.findings == ()
        assert fact.endswith("validation groups lie between training and test groups in every fold")
        return
    assert fact.endswith(f"{folds} train on the neighbour of a test group")
    (finding,) = result.findings
    assert finding.kind == "neighbours-alike"
    assert f"is the neighbour of a test group in {folds}: " in finding.found
    assert finding.remedy == 'Set data.validation_groups = "both-sides": validation groups then lie between them.'


def test_where_one_group_validates_the_remedy_is_folds_in_which_two_do(tmp_path):
    write_folder(tmp_path, [f"s{number}" for number in range(9)], images=stack(9))

    (finding,) = check(tmp_path).findings

    assert "in folds 1, 2, 3: " in finding.found
    # 8 folds test one section each, but for the first, whose two lie at the end
    assert finding.remedy.startswith("Set data.folds = 8: ")
    assert check(tmp_path, folds=8).findings == ()


@pytest.mark.parametrize("common", [0, 3])
def test_independent_images_are_not_alike_even_where_all_have_the_same_frame(common, tmp_path):
    frame = 100 * common * np.random.default_rng(9).normal(size=(32, 32))
    write_folder(tmp_path, STEMS, images=[frame + 500 + image for image in stack(6, kept=0)])

    result = check(tmp_path, validation_groups="after")

    assert result.contents.alike is None
    assert neighbour_fact(result.contents, result.folds) == ""
    assert result.findings == ()


def test_no_division_of_a_short_stack_but_two_folds_is_apart():
    units = [UnitRecord(str(number), str(number), frozenset({0, 1})) for number in range(8)]
    found = replace(contents(units, {"a": 0, "b": 1}), alike=(0.8, 0.1))
    assert propose_division(found, DataConfig(layout="folder"), complete=True, apart=True).folds == 2
