"""Jobs run at the same time, and what they give comes in their order."""

import threading
from functools import partial

import numpy as np
import pytest

from fbunet_jax.inference import in_order as module
from fbunet_jax.inference.in_order import in_order


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(module, "usable_cores", lambda: 2)


def test_a_later_job_runs_meanwhile_and_its_value_comes_later():
    event = threading.Event()

    def first():
        assert event.wait(60)  # only the second one sets it
        return np.zeros(1)

    def second():
        event.set()
        return np.ones(1)

    assert [(key, float(value[0])) for key, value in in_order([("a", first), ("b", second)])] == [("a", 0), ("b", 1)]


def test_order_and_number_are_those_of_the_jobs_and_few_are_taken_ahead():
    taken = []

    def jobs():
        for number in range(20):
            taken.append(number)
            yield number, partial(np.full, 3, number)

    for count, (key, value) in enumerate(in_order(jobs())):
        assert key == count
        np.testing.assert_array_equal(value, [count] * 3)
        assert len(taken) <= count + 3
    assert len(taken) == 20


def test_the_error_of_a_job_comes_in_its_place_and_the_others_are_not_begun():
    begun = []

    def job(number):
        begun.append(number)
        if number == 1:
            raise ValueError("job 1")
        return np.zeros(1)

    results = in_order((number, partial(job, number)) for number in range(20))
    assert next(results)[0] == 0
    with pytest.raises(ValueError, match="job 1"):
        next(results)
    assert max(begun) <= 3
