"""A profile of our training step: its longest kernels, and its measured time beside the bytes that it moves.

usage: python -m benchmarks.quarter_hour.profile SIZE RESULT

The program is that of the speed comparison, in mixed precision. RESULT is written anew after each part, so that what
fails takes nothing with it: the time of a step, what is counted in the program of this device, the kernels. That
program's text is left beside RESULT, as ``program.txt.gz``.
"""

import gzip
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.contender import training
from benchmarks.quarter_hour.sizes import SIZES
from benchmarks.roofline import copy_bandwidth
from fbunet_jax.accelerators.hlo import Program
from fbunet_jax.runs.files import write_atomically

LONGEST = 15
SECONDS, CALLS = 1.0, 3
"""Of the measurement without the profiler, and calls of the step with it."""


class Kernel(NamedTuple):
    """All launches of one kernel, or of those that carry out one instruction together.

    Attributes:
      name: of the kernel, or of the instruction of XLA's program that it carries out, if the profiler knows it.
      seconds: together.
      launches: how often.
    """

    name: str
    seconds: float
    launches: int


def kernels(data: Any) -> list[Kernel]:
    """Return the kernels of a profile, the longest first.

    Args:
      data: a `jax.profiler.ProfileData`. On a GPU the streams of the devices count; on a CPU the instructions of XLA's
        program, wherever they ran.
    """
    found: dict[str, list[int]] = {}
    with warnings.catch_warnings():
        # of JAX's own types under Python 3.12; where warnings are errors, that one would end the process
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, nanoseconds in _events(data):
            each = found.setdefault(name, [0, 0])
            each[0] += nanoseconds
            each[1] += 1
    every = [Kernel(name, 1e-9 * total, launches) for name, (total, launches) in found.items()]
    return sorted(every, key=lambda kernel: -kernel.seconds)


def _events(data: Any) -> Iterator[tuple[str, int]]:
    planes = list(data.planes)
    if jax.default_backend() != "cpu":
        planes = [plane for plane in planes if plane.name.startswith("/device:")]
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        for line in plane.lines:
            # a device's other lines sum up its streams
            if not devices or line.name.startswith("Stream"):
                for event in line.events:
                    operation = dict(event.stats).get("hlo_op")
                    # copies between host and device belong to no step
                    if operation or (devices and not re.match("Memcpy(HtoD|H2D|DtoH|D2H)", event.name)):
                        yield str(operation or event.name), event.duration_ns


def as_table(found: Iterable[Kernel], steps: int, program: Program) -> list[dict[str, Any]]:
    """Return the longest kernels: their share of the time of all; seconds, launches, counted bytes a step."""
    every = list(found)
    total = sum(kernel.seconds for kernel in every)
    return [
        {
            "name": kernel.name,
            "share": kernel.seconds / total,
            "seconds_a_step": kernel.seconds / steps,
            "launches_a_step": kernel.launches / steps,
            # an instruction is carried out once a step
            "counted_bytes": program.bytes_moved_by(kernel.name),
        }
        for kernel in every[:LONGEST]
    ]


def main() -> None:
    """Measure, count, profile."""
    name, path = sys.argv[1], Path(sys.argv[2])
    task = SIZES[name].task("mixed")
    mapped, state, store, items = training(task)

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, _ = mapped(state, store, items)
        jax.block_until_ready(state)

    def timed(calls: int) -> float:
        began = time.perf_counter()
        run(calls)
        return time.perf_counter() - began

    run(1)
    calls = max(1, round(SECONDS / timed(1)))
    times = [timed(calls) / (calls * mapped.steps_per_call) for _ in range(3)]
    result: dict[str, Any] = {
        "device": jax.local_devices()[0].device_kind,
        "jax": jax.__version__,
        "batch": task.batch,
        "side": task.size,
        "precision": task.precision,
        "seconds_a_step": times,
    }

    def write(**more: Any) -> None:
        result.update(more)
        write_atomically(path, json.dumps(result, indent=1) + "\n")

    write(copied_bytes_a_second=copy_bandwidth(5))
    text = mapped.lower(state, store).compile().as_text() or ""
    write_atomically(path.with_name("program.txt.gz"), gzip.compress(text.encode()))
    # what NVIDIA's collectives use is main memory too
    program = Program(text, frozenset({0, 1}))
    traffic = program.step()
    write(counted={"bytes_moved": traffic.bytes_moved, "kernels": traffic.kernels})
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            seconds = timed(CALLS)
        (file,) = Path(folder).rglob("*.xplane.pb")
        found = kernels(jax.profiler.ProfileData.from_file(str(file)))
    steps = CALLS * mapped.steps_per_call
    if not found:
        sys.exit("The profile has no kernel: the profiler of this device did not start.")
    write(
        profiled_step=seconds / steps,
        kernels=as_table(found, steps, program),
        kernels_a_step=sum(kernel.launches for kernel in found) / steps,
        kernel_seconds_a_step=sum(kernel.seconds for kernel in found) / steps,
    )
    longest = [f"{100 * each['share']:5.1f} %  {each['name']}" for each in result["kernels"]]
    print(f"{np.median(times):.3g} s a step", *longest, sep="\n")


if __name__ == "__main__":
    main()
