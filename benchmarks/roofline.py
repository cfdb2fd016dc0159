"""How near the training step comes to what the device can do, and how its time grows.

python -m benchmarks.roofline --help lists the options. The roofline is that of one 256 x 256 training image of
feedback-convlstm: the operations of its convolutions and matrix products, and their operands and results, each moved
once, counted in the traced step. The device's own rates are measured: copying an array, and multiplying two matrices.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

from benchmarks.contender import CLASS_WEIGHTS, CLASSES, Task, ours, settings
from fbunet_jax.accelerators.arithmetic import Arithmetic, count_arithmetic
from fbunet_jax.losses import CrossEntropy
from fbunet_jax.networks import build_network
from fbunet_jax.training.memory import reuse_host_memory
from fbunet_jax.training.state import make_optimizer, state_shapes
from fbunet_jax.training.steps import make_train_step


@dataclass(frozen=True)
class Options:
    """Measure the device's rates, the share of the roofline, and growth with pixels, batch and rounds."""

    precision: Literal["float32", "mixed"] = "float32"
    """float32, or bfloat16 computation with float32 parameters."""
    batch: int = 4
    """Images in a step."""
    sizes: tuple[int, ...] = (64, 128, 256, 512)
    """Sides in pixels of one image, for the growth of training."""
    forward_sizes: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    """Sides in pixels of one image, for the growth of prediction."""
    batches: tuple[int, ...] = (1, 2, 4, 8)
    """Images in a step of 128 x 128 pixels."""
    rounds: tuple[int, ...] = (1, 2, 3, 4)
    """Rounds of a step of 4 images of 128 x 128 pixels."""
    repeats: int = 5
    """Measurements, of which the median counts."""


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call that returns when the device has finished; the first one compiles."""
    run()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def copy_bandwidth(repeats: int) -> float:
    """Return the bytes a second that are read and written when a large array is copied."""
    count = 2**26 if jax.default_backend() == "cpu" else 2**29
    array = jnp.ones(count, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return 2 * array.nbytes / seconds(lambda: copy(array).block_until_ready(), repeats)


def matrix_rate(precision: str, repeats: int) -> float:
    """Return the floating-point operations a second of a product of two large matrices."""
    side, kind = (2048, jnp.float32) if jax.default_backend() == "cpu" else (8192, jnp.bfloat16)
    matrix = jnp.ones((side, side), kind if precision == "mixed" else jnp.float32)
    product = jax.jit(jnp.dot)
    return 2 * side**3 / seconds(lambda: product(matrix, matrix).block_until_ready(), repeats)


def step_seconds(task: Task, repeats: int) -> float:
    """Return the time of one step of our own training or prediction."""
    run, batches, _ = ours(task)
    return seconds(lambda: run(batches), repeats) / batches


def step_arithmetic(task: Task) -> Arithmetic:
    """Return what convolutions and matrix products of a training step take at the least."""
    config = settings(task)
    model, optimizer = build_network(config, classes=CLASSES, channels=1), make_optimizer(config.training, 2**20)
    shape, crops = jax.ShapeDtypeStruct, (task.batch, task.size, task.size)
    batch = {"image": shape((*crops, 1), jnp.float32), "label": shape(crops, jnp.int32)}
    step = make_train_step(model, optimizer, CrossEntropy(CLASS_WEIGHTS), 0.5)
    return count_arithmetic(step, state_shapes(config, model, 1), batch)


def growth(name: str, unit: str, tasks: Sequence[tuple[int, Task]], repeats: int) -> None:
    """Print lines of a table: time, and time divided by the amount of work, relative to the first line."""
    first = None
    for amount, task in tasks:
        measured = step_seconds(task, repeats)
        pixels = task.batch * task.size**2 * task.rounds
        first = first or measured / pixels
        print(f"| {name} | {amount} {unit} | {measured:.4g} | {measured / pixels / first:.2f} |", flush=True)


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    reuse_host_memory()  # as in training; otherwise a copy is the clearing of pages
    print(f"{jax.local_devices()[0].device_kind}, {options.precision}, JAX {jax.__version__}")
    bandwidth, rate = copy_bandwidth(options.repeats), matrix_rate(options.precision, options.repeats)
    print(f"copy {bandwidth / 1e9:.1f} GB/s, matrix product {rate / 1e9:.0f} GFLOP/s")
    task = Task("ours", "train", options.batch, 256, options.precision, (8, 16, 32, 64, 128))
    image = step_seconds(task, options.repeats) / options.batch
    needed = step_arithmetic(task)
    print(
        f"one training image of 256 x 256: {needed.flops / options.batch / 1e9:.1f} GFLOP, "
        f"{needed.bytes / options.batch / 1e9:.2f} GB at the least"
    )
    least = {
        "arithmetic": needed.flops / options.batch / rate,
        "memory": needed.bytes / options.batch / bandwidth,
    }
    limit = max(least, key=lambda name: least[name])
    print(
        f"one training image of 256 x 256: {image:.4g} s; the roofline {least[limit]:.4g} s ({limit}): "
        f"{100 * least[limit] / image:.0f} % of it"
    )
    print("\n| grows with | amount | s a step | s a pixel, image and round, relative to the first |\n|---|---|---|---|")
    small = replace(task, size=128)
    series = {
        "pixels, training": ("wide", [(side, replace(task, batch=1, size=side)) for side in options.sizes]),
        "pixels, prediction": (
            "wide",
            [(side, replace(task, task="forward", batch=1, size=side)) for side in options.forward_sizes],
        ),
        "batch": ("images", [(batch, replace(small, batch=batch)) for batch in options.batches]),
        "rounds": ("rounds", [(rounds, replace(small, batch=4, rounds=rounds)) for rounds in options.rounds]),
    }
    for name, (unit, tasks) in series.items():
        growth(name, unit, tasks, options.repeats)


if __name__ == "__main__":
    main()
