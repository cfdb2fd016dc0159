import contextlib
import itertools
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbunet_jax.data.layouts.patterns import AmbiguousNameError, Pattern
from fbunet_jax.errors import DataError

NAMES = [
    # pattern, file name, what the braces hold
    ("{}.tif", "a b.tif", ("a b",)),
    ("{}.tif", "a.TIF", ("a",)),
    ("{}.tif", "a.ome.tif", ("a",)),
    ("{}.tif", "a.tiff", None),
    ("{}", "a.v2.png", ("a.v2",)),
    ("{}.*", "a.v2.png", ("a.v2",)),
    ("img_{:d}", "img_007.tif", ("007",)),
    ("img_{:d}", "img_7b.tif", None),
    ("img_{:d}", "IMG_7.tif", None),
    ("{}{:d}.png", "cell12.png", ("cell", "12")),
    ("{}_{:d}.png", "a_1_2.png", ("a_1", "2")),
    ("scan_{}_raw_{}.png", "scan_1_raw_2.png", ("1", "2")),
    ("{a}-{a}.png", "x-x.png", ("x",)),
    ("{a}-{a}.png", "x-y.png", None),
    ("*_{:d}.png", "any_thing_3.png", ("3",)),
    ("{{{}}}.png", "{x}.png", ("x",)),
    ("x_c{channel}.tif", "x_c01.tif", ("01",)),
    ("x_c{channel}.tif", "x_cA.tif", None),
    ("a\N{COMBINING DIAERESIS}_{}", "\N{LATIN SMALL LETTER A WITH DIAERESIS}_1.tif", ("1",)),
    ("{group} [{}]", "slide 1 [x=0,y=0].tif", ("slide 1", "x=0,y=0")),
    ("({}).+^$.png", "(x).+^$.png", ("x",)),
]


@pytest.mark.parametrize(("pattern", "name", "held"), NAMES)
def test_braces_hold_what_stands_in_their_place(pattern, name, held):
    found = Pattern(pattern).match_file(name)
    assert (found if found is None else tuple(found.values())) == held


@pytest.mark.parametrize(
    ("pattern", "name"), [("{}_{}", "a_b_c.tif"), ("*_{}", "a_b_c.tif"), ("{}_{}_{}", "a_b_c_d.tif")]
)
def test_a_name_that_can_be_read_in_two_ways_is_not_read_in_either(pattern, name):
    with pytest.raises(AmbiguousNameError):
        Pattern(pattern).match_file(name)


def ways(pattern, name):
    """Return every way to lay a pattern of texts between fixed letters over a name, by trying all lengths."""
    fixed = pattern.split("{}")
    spare = len(name) - sum(map(len, fixed))
    found = set()
    for lengths in itertools.product(range(1, max(spare, 0) + 1), repeat=len(fixed) - 1):
        if sum(lengths) != spare:
            continue
        position, held = len(fixed[0]), []
        laid = name.startswith(fixed[0])
        for length, after in zip(lengths, fixed[1:], strict=True):
            held.append(name[position : position + length])
            position += length
            laid = laid and name.startswith(after, position)
            position += len(after)
        if laid:
            found.add(tuple(held))
    return found


@given(
    st.lists(st.text("ab_", min_size=1, max_size=2), min_size=1, max_size=3).map("{}".join),
    st.text("ab_", min_size=1, max_size=9),
)
def test_a_name_is_read_if_there_is_exactly_one_way(fixed, name):
    pattern = "{}" + fixed
    expected = ways(pattern, name)
    try:
        found = Pattern(pattern).match_file(name + ".png")
    except AmbiguousNameError:
        assert len(expected) > 1
    else:
        assert expected == (set() if found is None else {tuple(found.values())})


REFUSED = [
    ("", "expected a path"),
    ("/a/{}.tif", "expected a path"),
    ("../{}.tif", "expected a path"),
    ("a//{}.tif", "expected a path"),
    ("a\\{}.tif", "with / between folders"),
    ("{}.nd2", r"files of the type '\.nd2' cannot be read"),
    ("{}{}.tif", "stand side by side"),
    ("{}*.tif", "stand side by side"),
    ("*_{:d}_*.tif", r"more than one \* stands beside braces"),
    ("{.tif", "{ has no counterpart"),
    ("a}.tif", "} has no counterpart"),
    ("{a b}.tif", "is not understood"),
    ("{_1}.tif", "is not understood"),
    ("{:x}.tif", "is not understood"),
    ("{a}/{a:d}.tif", "text in one place and a number in another"),
    ("{split:d}/{}.tif", "a word, not a number"),
]


@pytest.mark.parametrize(("pattern", "words"), REFUSED)
def test_a_pattern_that_cannot_be_used_names_the_setting_and_says_why(pattern, words):
    with pytest.raises(DataError, match=rf"^files\.labels = {re.escape(repr(pattern))}: .*{words}"):
        Pattern(pattern, "files.labels")


@given(st.text(max_size=20))
def test_any_text_is_a_pattern_or_refused_with_a_sentence(text):
    with contextlib.suppress(DataError, AmbiguousNameError):
        Pattern(text).match_file("a_1.tif")


NAME = st.text(
    st.characters(exclude_characters="/\\\0{}*.", exclude_categories=["Cs"]),
    min_size=1,
)


@given(st.lists(NAME, min_size=1, max_size=3))
def test_a_pattern_filled_with_what_it_found_is_the_name(parts):
    pattern = Pattern("x/" + "_#_".join(["{}"] * len(parts)) + "_end.png")
    name = "_#_".join(parts) + "_end.png"
    try:
        found = pattern.match_file(name)
    except AmbiguousNameError:
        return
    assert found is not None
    assert pattern.fill(found) == unicodedata.normalize("NFC", f"x/{name}")


def test_a_name_with_many_places_for_many_braces_takes_no_minutes():
    name = "_" * 200
    assert Pattern("{}_" * 8 + "x.tif").match_file(f"{name}.tif") is None
    with pytest.raises(AmbiguousNameError):
        Pattern("{}_" * 8 + "x.tif").match_file(f"{name}x.tif")
    held = Pattern("{}{:d}{}{:d}{}{:d}{}{:d}{}.tif").match_file("a1b2c3d4e.tif")
    assert "".join((held or {}).values()) == "a1b2c3d4e"
    assert Pattern("x{:d}y{}_{:d}z{}_{}_{}-{:d}.tif").match_file("x1yA_2zB_C_D-3.tif")
