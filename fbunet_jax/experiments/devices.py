"""The devices of this machine, one for each training that runs at the same time."""

import itertools
import os
from typing import NamedTuple

from fbunet_jax.device_errors import no_device
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.experiments.probe import examine_devices


class Device(NamedTuple):
    """What one process may use.

    Attributes:
      name: as it is told.
      environment: variables that show the process this device and no other.
      cores: CPU cores that the process is bound to; empty for any.
    """

    name: str
    environment: dict[str, str]
    cores: frozenset[int] = frozenset()


def find_devices(workers: int | None = None, *, shares: int = 1) -> list[Device]:
    """Return the devices of JAX's default kind, each of which can serve a process of its own.

    Args:
      workers: at most so many; on a CPU, into how many shares of its cores it is divided. All devices by default.
      shares: of the cores of a CPU, by default.

    Raises:
      ConfigError: there are fewer devices.
      RunError: JAX does not start.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: expected a number of at least 1.")
    answer = examine_devices()
    if answer.error:
        text, remedy = no_device("JAX", os.environ, answer.error, "see fbunet doctor")
        raise RunError(f"{text}. {remedy[0].upper()}{remedy[1:]}.")
    platform, kind = answer.values["devices"][0]["platform"], answer.values["devices"][0]["kind"]
    if platform == "cpu":
        return _shares(workers or shares)
    count = len(answer.values["devices"])
    # JAX sees the two cores of such a chip, and a process has a chip
    chips = count // 2 if kind in ("TPU v2", "TPU v3") else count
    found = [_tpu(chip, kind) for chip in range(chips)] if platform == "tpu" else [_gpu(i, kind) for i in range(count)]
    if workers is not None and workers > len(found):
        raise ConfigError(f"--workers {workers}: this machine has {len(found)} x {kind}, and each worker needs one.")
    return found[:workers]


def _gpu(index: int, kind: str) -> Device:
    # numbers or names of GPUs, where the user or a batch system has chosen some
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    name = visible.split(",")[index].strip() if visible else str(index)
    return Device(f"GPU {name} ({kind})", {"CUDA_VISIBLE_DEVICES": name})


def _tpu(chip: int, kind: str) -> Device:
    alone = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    return Device(f"chip {chip} ({kind})", {"TPU_VISIBLE_CHIPS": str(chip), **alone})


def _shares(workers: int) -> list[Device]:
    """Divide the cores that this process may use; with more workers than cores, some share one."""
    if not hasattr(os, "sched_getaffinity"):
        return [Device(f"worker {worker}", {}) for worker in range(workers)]
    cores = sorted(os.sched_getaffinity(0))
    bounds = [worker * len(cores) // workers for worker in range(workers + 1)]
    shares = [cores[first:end] or [cores[first]] for first, end in itertools.pairwise(bounds)]
    return [Device(f"CPU cores {', '.join(map(str, share))}", {}, frozenset(share)) for share in shares]
