"""The search for the most crops that fit, with memory that is known exactly."""

import pytest

from fbunet_jax.accelerators.devices import DEVICES
from fbunet_jax.accelerators.worker import find_largest

GPU, TPU = DEVICES["h100"], DEVICES["v5e"]


class Compiler:
    """Memory along a line, and how often it was asked for."""

    def __init__(self, fixed, each, lanes=1):
        self.fixed, self.each, self.lanes, self.asked = fixed, each, lanes, []

    def __call__(self, share):
        if share not in self.asked:
            self.asked.append(share)
        return self.fixed + self.each * -(-share // self.lanes) * self.lanes


@pytest.mark.parametrize("share", [1, 4, 16])
@pytest.mark.parametrize("each", [1e8, 7.7e8, 3e9])
def test_on_a_line_the_result_is_the_largest_after_three_programs(share, each):
    compiler = Compiler(5e8, each)
    largest = find_largest(compiler, GPU, share)
    assert compiler(largest) <= GPU.memory < compiler(largest + 1)
    assert len(set(compiler.asked) - {largest + 1}) <= 3


def test_on_a_tpu_it_fills_the_lanes():
    compiler = Compiler(1e8, 2e7, lanes=128)
    largest = find_largest(compiler, TPU, 16)
    assert largest % 128 == 0
    assert compiler(largest) <= TPU.memory < compiler(largest + 1)


def test_a_configuration_that_does_not_fit_is_halved_until_it_does():
    compiler = Compiler(0, 8e9)
    assert find_largest(compiler, GPU, 32) == GPU.memory // 8e9 == 7
    assert find_largest(Compiler(1e12, 1), GPU, 4) is None


def test_a_little_more_memory_than_extrapolated_costs_a_little():
    def memory(share):
        return 3e7 + 2.2e5 * share * (1.0001 if share > 1000 else 1)

    largest = find_largest(memory, GPU, 32)
    assert memory(largest) <= GPU.memory
    assert memory(1.03 * largest) > GPU.memory


def test_what_was_extrapolated_and_does_not_fit_is_not_told():
    def memory(share):
        return 1e9 * share if share <= 8 else 1e12

    assert find_largest(memory, GPU, 4) == 8
