import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fbunet_jax.data.folds import (
    Fold,
    beside_test,
    check_folds,
    fold_items,
    folds_from_json,
    folds_to_json,
    make_folds,
    natural_key,
    select_fold,
)
from fbunet_jax.errors import DataError

SECTIONS = [f"{i:02d}" for i in range(20)]
MICE = [str(i) for i in range(50)]


def numbers(names):
    return {int(name) for name in names}


def test_the_drosophila_folds_are_those_of_the_design_written_out_by_hand():
    folds = make_folds(SECTIONS, 5, "sections")

    assert [numbers(fold.test) for fold in folds] == [
        {0, 1, 2, 3, 4},
        {4, 5, 6, 7, 8},
        {8, 9, 10, 11, 12},
        {12, 13, 14, 15, 16},
        {16, 17, 18, 19, 0},
    ]
    assert [numbers(fold.validation) for fold in folds] == [
        {19, 5, 6},
        {3, 9, 10},
        {7, 13, 14},
        {11, 17, 18},
        {15, 1, 2},
    ]


@pytest.mark.parametrize("fold", make_folds(SECTIONS, 5, "sections"))
def test_no_training_section_touches_a_test_section(fold):
    assert not {i + step for i in numbers(fold.test) for step in (-1, 1)} & numbers(fold.train)


@pytest.mark.parametrize(("names", "folds", "scheme", "items", "counts"), [
    (SECTIONS, 5, "sections", 16, (192, 48, 80)),
    (MICE, 8, "mouse", 8, (280, 40, 80)),
])  # fmt: skip
def test_the_paper_counts_of_items_hold_in_every_fold(names, folds, scheme, items, counts):
    groups = [name for name in names for _ in range(items)]
    for fold in make_folds(groups, folds, scheme):
        indices = fold_items(groups, fold)
        assert tuple(len(indices[part]) for part in ("train", "validation", "test")) == counts
        assert sorted(np.concatenate(list(indices.values()))) == list(range(len(groups)))


def test_mouse_fold_3_tests_the_originals_from_18_on_as_the_formula_says():
    fold = make_folds(MICE, 8, "mouse")[3]

    assert numbers(fold.test) == set(range(18, 28))
    assert numbers(fold.validation) == set(range(28, 33))


@settings(deadline=None)
@given(
    count=st.integers(3, 60),
    folds=st.integers(2, 60),
    scheme=st.sampled_from([("grouped", "both-sides"), ("grouped", "after"), ("mouse",)]),
)
def test_parts_are_disjoint_not_empty_cover_all_groups_and_every_group_is_tested(count, folds, scheme):
    names = [f"animal {i}" for i in range(count)]
    try:
        made = make_folds(names, folds, *scheme)
    except DataError:
        return
    assert len(made) == folds
    assert {name for fold in made for name in fold.test} == set(names)
    for fold in made:
        assert min(len(fold.train), len(fold.validation), len(fold.test)) >= 1
        assert sorted(fold.train + fold.validation + fold.test) == sorted(names)
    check_folds(made, names, "folds.json")


@settings(deadline=None)
@given(count=st.integers(5, 60), data=st.data())
def test_grouped_folds_test_each_group_once_in_contiguous_blocks_of_nearly_equal_size(count, data):
    folds = data.draw(st.integers(2, count))
    names = [str(i) for i in range(count)]
    made = make_folds(names[::-1], folds, "grouped")

    assert [name for fold in made for name in fold.test] == names
    sizes = [len(fold.test) for fold in made]
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None)
@given(count=st.integers(3, 60), folds=st.integers(2, 60))
def test_with_8_untested_groups_or_at_an_end_no_training_group_is_beside_a_tested_one_and_else_the_one_before(
    count, folds
):
    try:
        made = make_folds([str(i) for i in range(count)], folds, "grouped")
    except DataError:
        return
    leaks = []
    for number, fold in enumerate(made):
        tested = numbers(fold.test)
        beside = {i + step for i in tested for step in (-1, 1)} & numbers(fold.train)
        if count - len(tested) >= 8 or 0 in tested or count - 1 in tested:
            assert not beside
        else:
            assert beside == {min(tested) - 1}
            leaks.append(number)
    assert beside_test(made) == leaks


def test_grouped_folds_of_20_sections_validate_on_both_sides_of_each_block_in_a_circle():
    made = make_folds(SECTIONS, 5, "grouped")
    blocks = [set(range(4 * k, 4 * k + 4)) for k in range(5)]
    assert [numbers(fold.test) for fold in made] == blocks
    assert [numbers(fold.validation) for fold in made] == [{19, 4, 5}, {3, 8, 9}, {7, 12, 13}, {11, 16, 17}, {15, 0, 1}]


def test_a_single_validation_group_follows_the_block_and_precedes_the_last_one():
    made = make_folds([str(i) for i in range(7)], 3, "grouped")
    assert [(numbers(fold.test), numbers(fold.validation)) for fold in made] == [
        ({0, 1, 2}, {3}),
        ({3, 4}, {5}),
        ({5, 6}, {4}),
    ]
    assert beside_test(made) == [1]


def test_grouped_validation_after_the_test_block_goes_around_the_end_and_leaves_a_neighbour_before_it():
    made = make_folds([str(i) for i in range(10)], 5, "grouped", "after")

    assert (made[0].test, made[0].validation) == (("0", "1"), ("2", "3"))
    assert (made[4].test, made[4].validation) == (("8", "9"), ("0", "1"))
    assert beside_test(made) == [1, 2, 3, 4]


def test_a_fifth_of_what_is_not_tested_validates():
    for fold in make_folds([str(i) for i in range(20)], 5, "grouped"):
        assert (len(fold.train), len(fold.validation), len(fold.test)) == (13, 3, 4)


@settings(deadline=None)
@given(st.lists(st.text(max_size=6), unique=True, max_size=8))
def test_the_natural_order_of_any_names_does_not_depend_on_where_they_stood(names):
    backwards = names[::-1]
    assert sorted(backwards, key=natural_key) == sorted(names, key=natural_key)


def test_natural_order_puts_2_before_10():
    assert sorted(["s10", "s2", "s1", "a"], key=natural_key) == ["a", "s1", "s2", "s10"]


@pytest.mark.parametrize(("count", "folds", "scheme", "words"), [
    (19, 5, "sections", "found 19 groups"),
    (20, 4, "sections", "data.folds = 4"),
    (9, 8, "mouse", "at least 10; found 9"),
    (50, 4, "mouse", "5 to 50 folds"),
    (2, 2, "grouped", "has 2 groups"),
    (4, 5, "grouped", "only 4 groups"),
    (3, 2, "grouped", "without training images"),
    (9, 3, "random", "'random' is unknown"),
])  # fmt: skip
def test_an_impossible_division_says_what_was_found(count, folds, scheme, words):
    with pytest.raises(DataError, match=words):
        make_folds([str(i) for i in range(count)], folds, scheme)


def test_a_fold_outside_the_range_is_an_error_that_names_the_range():
    folds = make_folds(SECTIONS, 5, "sections")

    assert select_fold(folds, 4) == folds[4]
    for index in (-1, 5):
        with pytest.raises(DataError, match=f"no fold {index}: this run has the folds 0 to 4"):
            select_fold(folds, index)


def test_folds_are_read_back_as_they_were_written():
    folds = make_folds(["Maus ä", "b", "c", "d", "e"], 3, "grouped")

    assert folds_from_json(folds_to_json(folds, "grouped"), "folds.json") == folds


@pytest.mark.parametrize(("text", "words"), [
    ("{", "is no JSON"),
    ("[1]", "is no folds file"),
    ('{"format": 2, "folds": []}', "format 2; this version reads format 1"),
    ('{"format": 1}', "'folds' is missing"),
    ('{"format": 1, "folds": [{"train": ["a"]}]}', "fold 0: expected the keys"),
    ('{"format": 1, "folds": [{"train": ["a"], "validation": [], "test": ["c"]}]}', "validation = \\[\\]"),
    ('{"format": 1, "folds": [{"train": ["a"], "validation": ["b"], "test": [3]}]}', "test = \\[3\\]"),
    ('{"format": 1, "folds": [{"train": ["a"], "validation": ["b"], "test": ["a"]}]}', "'a' listed more than once"),
])  # fmt: skip
def test_a_broken_folds_file_is_named_with_its_fault(text, words):
    with pytest.raises(DataError, match=words) as caught:
        folds_from_json(text, "runs/x/folds.json")
    assert "runs/x/folds.json" in str(caught.value)


def test_folds_of_another_data_set_name_what_is_missing_and_what_is_unknown():
    folds = (Fold(train=("a",), validation=("b",), test=("c",)),)

    check_folds(folds, ["a", "a", "b", "c"], "folds.json")
    with pytest.raises(DataError, match=r"folds.json, fold 0: .*group 'd', which the fold .*lists group 'a'"):
        check_folds(folds, ["b", "c", "d"], "folds.json")


def test_the_folds_file_has_the_documented_shape():
    content = json.loads(folds_to_json((Fold(("a",), ("b",), ("c",)),), "grouped"))

    assert content == {
        "format": 1,
        "scheme": "grouped",
        "folds": [{"train": ["a"], "validation": ["b"], "test": ["c"]}],
    }
