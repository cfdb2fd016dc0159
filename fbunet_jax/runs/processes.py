"""The processes of one training, on one host or on many: which of them writes, and what all of them agree on.

Every function here but `is_first` and `are_many` is called by all processes, in the same order. With a single process
nothing is sent and nothing changes.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax import Device
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import ArrayLike, NDArray

from fbunet_jax.errors import ConfigError, RunError, UserError

AXIS = "data"
"""Name of the axis over the devices of all processes."""

Result = TypeVar("Result")
Error = TypeVar("Error", bound=BaseException)


class FailedElsewhere(RunError):
    """Another process failed, and tells why; this one only ends with it."""


_agreed: list[BaseException] = []


def are_many() -> bool:
    """Say whether this training runs in more than one process."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Say whether this is the process that writes records and pictures, holds the lock and prints."""
    return jax.process_index() == 0


def gather(values: ArrayLike) -> NDArray[Any]:
    """Return the values of every process, `[processes, ...]`; of types that JAX has, and of one shape everywhere."""
    return np.asarray(multihost_utils.process_allgather(np.asarray(values)))


def from_first(values: Sequence[int]) -> list[int]:
    """Return the 32-bit integers of the first process, as many of them as this one has."""
    return cast(list[int], gather(np.asarray(values, np.int32))[0].tolist())


def state_of_first(tree: Any) -> Any:
    """Return the first process's arrays: another kind of processor may round the random ones otherwise."""
    return multihost_utils.broadcast_one_to_all(tree) if are_many() else tree


def together(work: Callable[[], Result]) -> Result:
    """Do the same work on every process; where it fails on one, it fails on all of them.

    Raises:
      UserError, OSError: on the first of the processes that failed.
      FailedElsewhere: on the others.
    """
    if not are_many():
        return work()
    error: UserError | OSError | None = None
    try:
        result = work()
    except (UserError, OSError) as caught:
        error = caught
    failed = gather(error is not None)
    if failed.any():
        first = int(failed.argmax())
        if error and first == jax.process_index():
            raise agreed(error)
        raise agreed(FailedElsewhere(f"Process {first} of {jax.process_count()} failed: see its message.")) from error
    return result


def first(work: Callable[[], Result]) -> Result | None:
    """Do something on the first process alone, while the others wait; see `together`."""
    return together(lambda: work() if is_first() else None)


def check_same(values: bytes, message: str) -> None:
    """Raise a RunError unless all processes have the same bytes, of one length; ``{process}`` is one that differs."""
    found = gather(np.frombuffer(values, np.uint8))
    differs = (found != found[0]).any(axis=1)

    def check() -> None:
        if differs.any() and is_first():
            raise RunError(message.format(process=int(differs.argmax())))

    together(check)


def agree(requested: bool, due: bool) -> tuple[bool, bool]:
    """Return whether a signal was noted on any process, and whether the first one thinks that a checkpoint is due."""
    if not are_many():
        return requested, due
    found = gather([requested, due])
    return bool(found[:, 0].any()), bool(found[0, 1])


def check_signal(requested: bool) -> None:
    """Raise a KeyboardInterrupt, on every process, if a signal was noted on any."""
    if agree(requested, due=False)[0]:
        raise agreed(KeyboardInterrupt())


def agreed(error: Error) -> Error:
    """Note that every process raises an error now, so that all can take leave of each other in order."""
    _agreed.append(error)
    return error


def found_by_all(error: UserError) -> UserError:
    """Return what a process raises where all have found the same error: the first one tells it."""
    return agreed(error if is_first() else FailedElsewhere("Process 0 found the same: see its message."))


def is_agreed(error: BaseException) -> bool:
    """Say whether every process has raised an error at the same place."""
    return any(error is each for each in _agreed)


def all_devices() -> list[Device]:
    """Return the devices of all processes, those of one process beside each other, in the same order everywhere.

    Raises:
      ConfigError: a process has more devices than another.
    """
    devices = [jax.local_devices(process_index) for process_index in range(jax.process_count())]
    counts = [len(local) for local in devices]
    if len(set(counts)) > 1:
        raise ConfigError(
            f"The processes have {', '.join(map(str, counts))} devices: expected as many on each. Give every process "
            "the same number (CUDA_VISIBLE_DEVICES, or JAX_LOCAL_DEVICE_IDS)."
        )
    return [device for local in devices for device in local]


def global_arrays(tree: Any) -> Any:
    """Return arrays that every process has replicated on its devices as arrays of all of them; nothing is copied."""
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(all_devices()), (AXIS,))
    return multihost_utils.host_local_array_to_global_array(tree, mesh, PartitionSpec())


def replicate(tree: Any, devices: Sequence[Device] | None = None) -> Any:
    """Put every array of a pytree on all devices (the local ones by default), so that a mapped call copies nothing."""
    mesh = Mesh(np.array(devices or jax.local_devices()), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def local_rows(devices: Sequence[Device]) -> list[int]:
    """Return the places of this process's devices among all that are mapped over: the rows that it feeds."""
    return [place for place, device in enumerate(devices) if device.process_index == jax.process_index()]
