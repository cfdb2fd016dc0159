"""Objects found and right: by hand on small volumes, by a search from pixel to pixel, and through `evaluate`."""

import json

import numpy as np
import pytest

from fbunet_jax.config import load_config
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.evaluation.crossval import evaluate
from fbunet_jax.evaluation.objects import MATCHED, Place, count_objects, place_of
from fbunet_jax.evaluation.scores import present_entries
from fbunet_jax.runs.directory import Run


def draw(shape, *boxes):
    """Return labels in which each box (section, top, left, bottom, right) is of class 1."""
    labels = np.zeros(shape, np.uint8)
    for section, top, left, bottom, right in boxes:
        labels[section, top:bottom, left:right] = 1
    return labels


def compare(truth, predicted, least=1, classes=2):
    places = [Place("stack", section) for section in range(len(truth))]
    return count_objects(places, list(truth), list(predicted), classes, least)["classes"][-1]


def test_an_object_is_found_from_a_quarter_of_its_pixels_on():
    truth = draw((1, 20, 20), (0, 0, 0, 4, 5), (0, 10, 0, 14, 5))
    predicted = draw((1, 20, 20), (0, 0, 0, 1, 5), (0, 10, 0, 11, 4))  # 5 and 4 of 20 pixels
    assert MATCHED == 0.25
    assert compare(truth, predicted) == {"truth": 2, "found": 1, "predicted": 2, "right": 2}


def test_a_prediction_is_right_from_a_quarter_of_its_own_pixels_on():
    truth = draw((1, 20, 20), (0, 0, 0, 1, 5))
    predicted = draw((1, 20, 20), (0, 0, 0, 4, 5), (0, 10, 10, 12, 12))
    assert compare(truth, predicted) == {"truth": 1, "found": 1, "predicted": 2, "right": 1}
    assert compare(truth, draw((1, 20, 20), (0, 0, 0, 5, 5)))["right"] == 0  # 5 of 25


def test_specks_are_no_objects_on_either_side():
    truth = draw((1, 20, 20), (0, 0, 0, 2, 2), (0, 10, 10, 13, 13))
    predicted = draw((1, 20, 20), (0, 0, 0, 2, 2), (0, 10, 10, 13, 13), (0, 5, 5, 6, 6))
    assert compare(truth, predicted, least=5) == {"truth": 1, "found": 1, "predicted": 1, "right": 1}


def test_an_object_through_sections_counts_once_and_a_missing_section_divides_it():
    truth = draw((3, 9, 9), (0, 0, 0, 3, 3), (1, 3, 3, 6, 6), (2, 6, 6, 9, 9))  # they touch at corners
    places = [Place("stack", section) for section in (4, 5, 6)]
    assert count_objects(places, list(truth), list(truth), 2, 1)["classes"][1]["truth"] == 1
    apart = [Place("stack", section) for section in (4, 6, 7)]
    assert count_objects(apart, list(truth), list(truth), 2, 1)["classes"][1]["truth"] == 2
    alone = [Place(name, 0) for name in "abc"]
    assert count_objects(alone, list(truth), list(truth), 2, 1)["classes"][1]["truth"] == 3


def test_tiles_of_a_page_are_joined():
    page = draw((1, 8, 8), (0, 3, 3, 5, 5))[0]
    config = load_config("quickstart", data={"cut": 4})
    tiles, names = zip(
        *((page[r * 4 : r * 4 + 4, c * 4 : c * 4 + 4], f"07/r{r}c{c}") for r in (0, 1) for c in (0, 1)), strict=True
    )
    places = [place_of(name, config) for name in names]
    assert places[3] == ("07", 0, 4, 4)
    assert count_objects(places, tiles, tiles, 2, 1)["classes"][1] == {
        "truth": 1,
        "found": 1,
        "predicted": 1,
        "right": 1,
    }


def test_ignored_pixels_belong_to_no_object():
    truth = draw((1, 9, 9), (0, 0, 0, 3, 3))
    truth[0, 5:] = 255
    predicted = draw((1, 9, 9), (0, 0, 0, 3, 3), (0, 6, 6, 9, 9))
    assert compare(truth, predicted) == {"truth": 1, "found": 1, "predicted": 1, "right": 1}


@pytest.mark.parametrize(
    ("name", "settings", "place"),
    [
        ("12/r1c3", {"layout": "drosophila-vnc", "cut": 256}, ("", 12, 256, 768)),
        ("12", {"layout": "drosophila-vnc"}, ("", 12, 0, 0)),
        ("brain/z014", {"layout": "folder"}, ("brain", 14, 0, 0)),
        ("brain/z014/r0c1", {"layout": "folder", "cut": 64}, ("brain", 14, 0, 64)),
        ("brain/z14", {"layout": "folder"}, ("brain/z14", 0, 0, 0)),  # no page: those have three digits
        ("brain/z0014", {"layout": "folder"}, ("brain/z0014", 0, 0, 0)),
        ("brain/z1014", {"layout": "folder"}, ("brain", 1014, 0, 0)),
        ("scan/r0c1", {"layout": "folder"}, ("scan/r0c1", 0, 0, 0)),
        ("07/rot90-flip", {"layout": "folder"}, ("07/rot90-flip", 0, 0, 0)),
        ("07/r0c1/rot90", {"layout": "folder", "cut": 64}, ("07/r0c1/rot90", 0, 0, 0)),
    ],
)
def test_the_place_of_an_item_follows_from_its_name(name, settings, place):
    assert place_of(name, load_config("quickstart", data=settings)) == place


def components(mask):
    """Return the objects of a mask as sets of pixels, by a search from pixel to pixel."""
    left, found = set(map(tuple, np.argwhere(mask))), []
    while left:
        edge = [left.pop()]
        found.append(set(edge))
        while edge:
            z, y, x = edge.pop()
            for step in np.ndindex(3, 3, 3):
                other = (z + step[0] - 1, y + step[1] - 1, x + step[2] - 1)
                if other in left:
                    left.remove(other)
                    found[-1].add(other)
                    edge.append(other)
    return found


def test_counts_are_those_of_a_search_from_pixel_to_pixel():
    random = np.random.default_rng(3)
    truth, noise = (random.choice(3, (4, 14, 15), p=(0.86, 0.08, 0.06)).astype(np.uint8) for _ in range(2))
    predicted = np.where(random.random(truth.shape) < 0.7, noise, truth)
    truth[1, 4:7, 4:9] = 255
    places = [Place("stack", section) for section in range(4)]
    found = count_objects(places, list(truth), list(predicted), 3, 2)["classes"]
    for index in (1, 2):
        one, other = (components(mask & (truth != 255)) for mask in (truth == index, predicted == index))
        here, there = set().union(*one), set().union(*other)
        one, other = ([each for each in objects if len(each) >= 2] for objects in (one, other))
        assert found[index] == {
            "truth": len(one),
            "found": sum(4 * len(each & there) >= len(each) for each in one),
            "predicted": len(other),
            "right": sum(4 * len(each & here) >= len(each) for each in other),
        }
        assert 0 < found[index]["found"] < len(one)


def test_evaluate_counts_objects_where_it_is_asked_to(make_run, tmp_path):
    run = make_run(tmp_path / "run", folds=(0,))
    before = evaluate(run)["folds"][0]
    assert "objects" not in before
    entry = evaluate(run, objects=1)["folds"][0]
    assert {**entry, "objects": None} == {**before, "objects": None}
    counted = entry["objects"]["classes"]
    assert [each["found"] <= each["truth"] for each in counted] == [True] * 4
    assert sum(each["truth"] for each in counted) > 4
    assert evaluate(run)["folds"][0] == before
    with pytest.raises(ConfigError, match="objects = -1"):
        evaluate(run, objects=-1)


def test_counts_that_cannot_be_are_named_as_damage(make_run, tmp_path):
    run = make_run(tmp_path / "run", folds=(0,))
    evaluate(run, objects=1)
    file = run / "fold_0" / "evaluation.json"
    entry = json.loads(file.read_text())
    counts = entry["objects"]["classes"]
    for wrong in (counts[:3], [counts[0] | {"found": counts[0]["truth"] + 1}, *counts[1:]]):
        file.write_text(json.dumps(entry | {"objects": {"least_pixels": 1, "classes": wrong}}))
        with pytest.raises(RunError, match=r"evaluation\.json is damaged: .* Remove it and evaluate the run again"):
            present_entries(Run(run), "test")
