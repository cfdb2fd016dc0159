import itertools

import pytest

from fbunet_jax.config import load_config
from fbunet_jax.experiments.paper import TABLES
from fbunet_jax.models.methods import METHODS

ROWS = [(table, row) for table in TABLES.values() for row in table.rows]
SLIPS = {(2, "ru-net"), (3, "feedback-convlstm-abde")}


@pytest.mark.parametrize(
    ("table", "row"), ROWS, ids=lambda each: getattr(each, "method", None) or f"table {each.number}"
)
def test_the_papers_mean_is_that_of_its_classes_but_for_the_slips_that_the_notes_name(table, row):
    assert row.method in METHODS
    if row.paper is None:
        return
    *classes, mean = row.paper
    assert len(classes) == len(table.class_names)
    average = sum(classes) / len(classes)
    # both are rounded to 0.1
    is_slip = abs(average - mean) > 0.1
    assert is_slip == ((table.number, row.method) in SLIPS)
    told = [note for note in table.notes if f"prints {mean} " in note]
    assert len(told) == is_slip
    assert all(f"average {average:.1f}." in note or f"average {average:.2f}." in note for note in told)


def test_the_notes_name_the_rows_whose_classes_the_paper_prints_twice():
    twice = [
        (table, one, other)
        for table in TABLES.values()
        for one, other in itertools.combinations([row for row in table.rows if row.paper], 2)
        if one.paper[:-1] == other.paper[:-1]
    ]
    assert [(table.number, one.method, other.method) for table, one, other in twice] == [(2, "ru-net", "feedback-conv")]
    for table, one, other in twice:
        notes = " ".join(table.notes)
        assert one.title in notes
        assert f"equal those of {other.title}," in notes


def test_tables_1_and_2_have_the_five_methods_and_three_controls_and_3_and_4_the_six_ablations():
    for number in (1, 2):
        papers = [row.method for row in TABLES[number].rows if row.paper]
        assert papers == ["unet", "ru-net", "feedback-recurrent", "feedback-conv", "feedback-convlstm"]
        controls = [row.method for row in TABLES[number].rows if not row.paper]
        assert controls == ["unet-wide", "convlstm-one-round", "convlstm-no-feedback"]
    for number in (3, 4):
        places = [row.method.removeprefix("feedback-convlstm-") for row in TABLES[number].rows]
        assert places == ["a", "b", "c", "d", "e", "abde"]


def test_the_configurations_are_the_papers_protocols():
    assert [load_config(TABLES[number].config).data.folds for number in (1, 2, 3, 4)] == [5, 8, 5, 8]
    for table in TABLES.values():
        config = load_config(table.config)
        assert config.training.epochs == 1500
        assert table.layout in (None, config.data.layout)
