"""What is started and stopped when, so that at most one cell is left unfinished."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quarter_hour.schedule import Running, Waiting, decide, share
from benchmarks.quarter_hour.table import places

PLACES = places()


def test_the_cells_are_those_of_table_1_with_the_papers_two_methods_first_in_every_fold():
    assert len(PLACES) == len(set(PLACES)) == 8 * 5
    assert [place.fold for place in PLACES] == [fold for fold in range(5) for _ in range(8)]
    assert [place.method for place in PLACES[8:11]] == ["unet", "feedback-convlstm", "ru-net"]
    assert {place.method for place in PLACES[5:8]} == {"unet-wide", "convlstm-one-round", "convlstm-no-feedback"}


def simulate(left, at_once, rates, seconds, errors, start=45.0, step=0.5):
    """Return the cells that are finished, and those that have begun and are not, of a GPU that `decide` keeps busy.

    Args:
      left: seconds in all.
      at_once: how many may run.
      rates: of 1, 2, … trainings at once together, relative to one.
      seconds: that each cell takes alone, but for its start and end.
      errors: by what the estimate of each is multiplied.
    """
    done, begun = dict.fromkeys(PLACES, 0.0), {}
    running, finished, time_over = {}, [], 0.0
    while time_over < left:
        number = len(running)
        estimates = []
        for place, since in running.items():
            alone = (1 - done[place]) * seconds[place]
            is_measured = since["trained"] > 5
            alone *= 1 if is_measured else errors[place]
            rest = max(0.0, start - since["elapsed"]) + alone / share(rates, number) + 20
            estimates.append(Running(place, rest, is_measured))
        waiting = [place for place in [*begun, *PLACES] if place not in running and place not in finished]
        waits = [
            Waiting(place, (1 - done[place]) * seconds[place] * errors[place], start + 20, place in begun)
            for place in dict.fromkeys(waiting)
        ]
        decision = decide(estimates, waits, left - time_over, start, at_once, rates)
        if decision and decision.starts:
            assert decision.place not in running
            running[decision.place] = {"elapsed": 0.0, "trained": 0.0}
        elif decision:
            del running[decision.place]
        if decision:
            for since in running.values():
                since["trained"] = 0.0
        for place, since in list(running.items()):
            since["elapsed"] += step
            if since["elapsed"] > start:
                begun[place] = True
                since["trained"] += step
                done[place] += step * share(rates, len(running)) / seconds[place]
            if done[place] >= 1 + 20 * share(rates, len(running)) / seconds[place]:
                finished.append(place)
                begun.pop(place)
                del running[place]
                for other in running.values():
                    other["trained"] = 0.0
        time_over += step
    return finished, list(begun)


LENGTHS = {"unet": 180, "ru-net": 250, "feedback-recurrent": 330, "feedback-conv": 230}


@pytest.mark.parametrize("error", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("at_once", [1, 2, 4])
@pytest.mark.parametrize("left", [60, 130, 260, 400, 520, 600, 800, 2000])
def test_at_most_one_cell_is_left_unfinished_and_the_device_is_used(left, at_once, error):
    rates = {1: 1.0, 2: 1.5, 4: 1.8}
    seconds = {place: LENGTHS.get(place.method, 280.0) for place in PLACES}
    finished, unfinished = simulate(left, at_once, rates, seconds, dict.fromkeys(PLACES, error))
    assert len(unfinished) <= 1
    # as much as one after the other would finish, but for one
    one_by_one, elapsed = 0, 0.0
    for place in PLACES:
        elapsed += 45 + seconds[place] + 20
        one_by_one += elapsed <= left
    assert len(finished) >= one_by_one - 1


@given(
    st.lists(st.tuples(st.floats(0, 1000) | st.just(float("inf")), st.booleans()), max_size=4),
    st.lists(st.tuples(st.floats(0, 1000) | st.just(float("inf")), st.booleans()), max_size=8),
    st.floats(1, 1000),
    st.integers(1, 4),
)
def test_a_decision_never_adds_a_second_late_cell(runs, waits, left, at_once):
    running = [Running(place, *values) for place, values in zip(PLACES, runs, strict=False)]
    waiting = [Waiting(place, alone, 20.0, begun) for place, (alone, begun) in zip(PLACES[8:], waits, strict=False)]
    waiting.sort(key=lambda each: not each.has_begun)
    late = [each for each in running if each.remaining > 1.05 * left]
    decision = decide(running, waiting, left, 10.0, at_once, {})
    if decision and decision.starts:
        assert len(running) < at_once
        (chosen,) = [each for each in waiting if each.place == decision.place]
        number = len(running) + 1
        if chosen.fixed + chosen.alone * number > left:  # without rates, n at once take n times as long
            assert not late
            assert chosen.has_begun or not any(each.has_begun for each in waiting)
        assert not any(each.remaining <= left < each.remaining * number / len(running) for each in running)
    elif decision:
        assert len(late) > 1
        (chosen,) = [each for each in running if each.place == decision.place]
        assert chosen.is_measured
        assert all(each.remaining <= chosen.remaining for each in late if each.is_measured)


def test_the_share_of_each_follows_from_what_was_measured():
    rates = {1: 1000.0, 2: 1500.0, 4: 2000.0}
    assert [share(rates, number) for number in (1, 2, 3, 4)] == pytest.approx([1, 0.75, 1.75 / 3, 0.5])
    assert share({}, 4) == 0.25
