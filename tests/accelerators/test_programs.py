"""The compiled programs against the shapes of what they take; compiled for simulated CPU devices."""

import math

import jax
import numpy as np
import pytest

from fbunet_jax.accelerators.hlo import Program
from fbunet_jax.accelerators.programs import (
    StoredImages,
    bytes_that_do_not_fit,
    compile_prediction,
    compile_training,
)
from fbunet_jax.config import load_config
from fbunet_jax.losses import CrossEntropy
from fbunet_jax.models.contract import abstract_variables
from fbunet_jax.networks import build_network
from fbunet_jax.training.parallel import mapped_training
from fbunet_jax.training.state import create_state, make_optimizer

DATA = StoredImages(classes=3, channels=1, image_type="uint16", images=7, pixels=7 * 40 * 40)
CONFIG = load_config(
    "quickstart",
    method="feedback-conv",
    model={"widths": [2, 4], "feedback": "concat"},
    data={"crop": 16},
    training={"augmentation": "none"},
)


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def programs():
    devices = jax.local_devices()[:4]
    return {share: compile_training(CONFIG, DATA, devices, share) for share in (2, 4)}


def test_arguments_take_the_memory_of_state_images_and_indices(programs):
    variables = abstract_variables(build_network(CONFIG, classes=3, channels=1), 1)
    state = 4 * (3 * size(variables["params"]) + size(variables["batch_stats"]))  # Adam has two moments
    counters = 4 * 3  # of the state, of Adam, of its schedule
    images = 7 * 40 * 40 * (2 + 1) + 7 * (4 + 8 + 4 + 4)
    for share, program in programs.items():
        call = 4 * share + 4 + 8 + 4 * 3  # indices of the crops, number of steps, key, weights of the classes
        assert program.memory.arguments == pytest.approx(state + counters + images + call, abs=8)


def test_what_is_all_reduced_is_the_gradient_and_twice_the_batch_statistics(programs):
    variables = abstract_variables(build_network(CONFIG, classes=3, channels=1), 1)
    losses = 2 + 1  # of each round, and the number of pixels
    expected = 4 * (size(variables["params"]) + 2 * size(variables["batch_stats"]) + losses)
    for program in programs.values():
        assert program.traffic.all_reduced_bytes == pytest.approx(expected, abs=16)


def test_twice_the_crops_are_twice_the_operations_and_twice_the_traffic(programs):
    # the losses of the rounds are weighted by a product that does not grow
    assert programs[4].arithmetic.flops == pytest.approx(2 * programs[2].arithmetic.flops, rel=1e-4)
    assert programs[4].traffic.bytes_moved == pytest.approx(2 * programs[2].traffic.bytes_moved, rel=0.05)


def test_the_program_is_the_one_that_training_runs(programs):
    model = build_network(CONFIG, classes=3, channels=1)
    optimizer = make_optimizer(CONFIG.training, 100)
    config = load_config(
        "quickstart", method="feedback-conv", training={"batch_size": 8, "augmentation": "none"}, data={"crop": 16}
    )
    devices = jax.local_devices()[:4]
    loss = CrossEntropy(np.array([0.5, 1.25, 2], np.float32))
    mapped = mapped_training(config, model, optimizer, loss, jax.random.key(3), devices)
    state = create_state(model, optimizer, jax.random.key(0), 1)
    real = DATA.shapes()._replace(
        **{name: np.ones(leaf.shape, leaf.dtype) for name, leaf in DATA.shapes()._asdict().items()}
    )
    compiled = mapped.lower(state, real).compile()
    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes == programs[2].memory.arguments
    assert memory.temp_size_in_bytes == programs[2].memory.temporaries
    traffic = Program(compiled.as_text()).step()  # the constants differ: the key, the length of the schedule
    assert traffic.bytes_moved == pytest.approx(programs[2].traffic.bytes_moved, rel=1e-3)
    assert traffic.kernels == programs[2].traffic.kernels


def test_a_prediction_takes_weights_and_tiles_and_no_optimiser():
    program = compile_prediction(CONFIG, DATA, jax.local_devices()[0], tile=32, batch=2)
    variables = abstract_variables(build_network(CONFIG, classes=3, channels=1), 1)
    arguments = 4 * size(variables) + 2 * 32 * 32 * 2 + 4 + 4 + 4
    assert program.memory.arguments == pytest.approx(arguments, abs=8)
    assert program.traffic.all_reduced_bytes == 0


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 29.98G of "
         "15.75G hbm. Exceeded hbm capacity by 14.23G.", 29.98 * 2**30),
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (43.57G) exceeds "
         "available HBM (15.75G).", 43.57 * 2**30),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem.", None),
        ("INTERNAL: something else", None),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_read_from_xlas_error(message, expected):
    found = bytes_that_do_not_fit(message)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1))
