"""Compiles for one target in a process of its own, because a compiler may end the process that it runs in.

usage: python -m fbunet_jax.accelerators.worker FOLDER

FOLDER holds ``config.toml`` and ``request.json`` (a `Request`). The process ends when its standard input does. Each
answer is a line of JSON on standard output, whose key says what it is: ``devices``, ``training``, ``prediction``,
``largest``, and ``error`` for a user's mistake.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fbunet_jax.accelerators.devices import LANES, Device, parse_target


@dataclass(frozen=True)
class Request:
    """What to compile.

    Attributes:
      target: as `parse_target` reads it.
      data: fields of `StoredImages`.
      shares: crops a device, of each training program.
      largest: whether to look for the most crops a device that fit.
      tile: side of the tiles of the prediction in pixels.
      tiles: at once.
    """

    target: str
    data: dict[str, Any]
    shares: list[int]
    largest: bool
    tile: int
    tiles: int


def main(folder: Path) -> None:
    """Answer a request."""
    # standard input ends when the process that asked does, however that ended
    asker = os.dup(0)  # libtpu puts another file in its place
    threading.Thread(target=lambda: (os.read(asker, 1), os._exit(1)), daemon=True).start()
    # what the compilers print goes where errors go
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        channel.write(json.dumps(values) + "\n")
        channel.flush()

    from fbunet_jax.device_errors import device_errors
    from fbunet_jax.errors import UserError

    try:
        with device_errors("compiling", "Compiling takes several GB of this machine's memory."):
            _compile_all(folder, answer)
    except UserError as error:
        answer(error=str(error))


def _compile_all(folder: Path, answer: Callable[..., None]) -> None:
    from fbunet_jax.accelerators.programs import Compiled, StoredImages, compile_prediction, compile_training
    from fbunet_jax.accelerators.topologies import find_devices
    from fbunet_jax.config import load_config

    config = load_config(folder / "config.toml")
    request = Request(**json.loads((folder / "request.json").read_text(encoding="utf-8")))
    target, data = parse_target(request.target), StoredImages(**request.data)
    devices = find_devices(target)
    hosts = len({device.process_index for device in devices})
    answer(devices={"count": len(devices), "hosts": hosts, "kind": devices[0].device_kind})
    compiled: dict[int, Compiled] = {}

    def training(share: int) -> Compiled:
        if share not in compiled:
            compiled[share] = compile_training(config, data, devices, share)
            answer(training={"share": share, **asdict(compiled[share])})
        return compiled[share]

    for share in request.shares:
        training(share)
    answer(prediction=asdict(compile_prediction(config, data, devices[0], request.tile, request.tiles)))
    if request.largest:
        most = 2**31 // len(devices) - 1  # of a batch
        found = find_largest(lambda share: training(share).memory.total, target.device, request.shares[0], most)
        answer(largest=found)


def find_largest(memory: Callable[[int], int], device: Device, share: int, most: int = 2**20) -> int | None:
    """Return the most crops a device whose training fits; None if not even one does.

    Memory grows with the crops along a line, but for the rounding of layouts and what a compiler saves when memory is
    short: the result is that of a program that was compiled and fits, and not always the very largest.

    Args:
      memory: bytes that a program with so many crops a device takes; each call compiles one.
      device: for which.
      share: crops a device of the configuration.
      most: crops a device that are tried at the most.
    """
    # on a TPU a batch below the lanes takes as much memory as one that fills them
    first = share if device.is_gpu else max(share, LANES)
    while memory(first) > device.memory:
        if first == 1:
            return None
        first = max(1, first // 2)
    second = 2 * first
    slope = (memory(second) - memory(first)) / (second - first)
    verified = second if memory(second) <= device.memory else first
    if slope <= 0:
        return verified
    largest = min(int((device.memory - memory(first)) / slope) + first, most)
    for _ in range(4):
        if not device.is_gpu and largest > LANES:
            largest = largest // LANES * LANES
        if largest <= verified:
            break
        if memory(largest) <= device.memory:
            return largest
        # programs of other sizes are not quite on the line
        largest = int(0.98 * largest * min(1, device.memory / memory(largest)))
    return verified


if __name__ == "__main__":
    main(Path(sys.argv[1]))
