import math

import numpy as np
import pytest

from fbunet_jax.tables import aligned, markdown, number_or_none, percent, percentage_points


def test_columns_line_up_on_the_side_that_is_asked_for():
    rows = [("method", "fold", "mean"), ("unet", "0", "70.2"), ("feedback-convlstm", "12", "n/a")]

    assert aligned(rows).splitlines() == [
        "method             fold  mean",
        "unet               0     70.2",
        "feedback-convlstm  12    n/a",
    ]
    assert aligned(rows, ">").splitlines() == [
        "           method  fold  mean",
        "             unet     0  70.2",
        "feedback-convlstm    12   n/a",
    ]
    assert aligned(rows, "<>>").splitlines()[1] == "unet                  0  70.2"


def test_a_line_has_no_spaces_at_its_end():
    assert aligned([("state", "time"), ("not begun", "")]) == "state      time\nnot begun"


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        aligned([("a", "b"), ("c",)])


def test_markdown_keeps_a_bar_in_its_cell():
    assert markdown(["a", "b"], [["1|2", ""]]) == "| a | b |\n| --- | --- |\n| 1\\|2 |  |"


@pytest.mark.parametrize("nothing", [None, math.nan, np.float64("nan")])
def test_what_is_not_known_is_told_as_such(nothing):
    assert percent(nothing) == percent(nothing, " %") == percentage_points(nothing) == "n/a"
    assert number_or_none(nothing) is None


def test_shares_have_one_decimal_in_percent():
    assert [percent(value) for value in (0.0, 0.7124, np.float32(0.7126), 1)] == ["0.0", "71.2", "71.3", "100.0"]
    assert percent(0.7124, " %") == "71.2 %"
    assert isinstance(number_or_none(np.float64(0.5)), float)


def test_differences_have_a_sign_but_for_nothing():
    found = [percentage_points(value) for value in (0.013, -0.013, 0.0, -0.0001)]
    assert found == ["+1.3", "-1.3", "+0.0", "+0.0"]
