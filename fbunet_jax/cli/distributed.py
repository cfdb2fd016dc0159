"""Several processes, on one host or on many, joined by JAX's own distributed runtime into one training.

What is done here concerns the whole process, so it is done by commands and not by the package.
"""

import contextlib
import ctypes
import importlib.util
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fbunet_jax.errors import ConfigError

EXIT_LOST = 75
"""Another process of the training ended: what a scheduler may start again (EX_TEMPFAIL of sysexits.h)."""

_AGAIN = "The same command, on all hosts, resumes from the last checkpoint."
_LOST = (
    "Error: another process of this training has ended or does not answer, so this one ends too; its own message says "
    f"why, if it could leave one. {_AGAIN}"
)
_ABORTED = (
    "Error: JAX has stopped this process, as its lines above say; most likely another process of this training has "
    f"ended or does not answer. {_AGAIN}"
)


@dataclass(frozen=True)
class Distributed:
    """How several processes train one fold together. Slurm, Open MPI and TPU slices need none of this."""

    coordinator_address: str = ""
    """HOST:PORT of process 0, the same on all; the port must be free there."""
    num_processes: int = 0
    """How many processes there are; 1 to train alone, whatever a launcher has started."""
    process_id: int = -1
    """Which of them this is: 0, 1, ..."""
    start_seconds: int = 300
    """In which all processes must have started."""
    lost_seconds: int = 60
    """Without a sign of life after which a process counts as lost, and all others end."""


_leaves_at_once = False


def leaves_at_once() -> bool:
    """Say whether this process must end without waiting for the others, which do not know that it does."""
    return _leaves_at_once


@contextlib.contextmanager
def joined(options: Distributed) -> Iterator[None]:
    """Join the processes that were started together, if there are several; before JAX starts a device.

    An error that all processes have is raised on the first one only; one that the others do not know of makes this
    process end at once, and they end when they notice, with EXIT_LOST.

    Raises:
      ConfigError: the options do not fit each other, or the processes do not find each other.
    """
    if not (arguments := _arguments(options)):
        yield
        return
    _initialize(arguments, options)
    from fbunet_jax.runs import processes

    try:
        yield
    except processes.FailedElsewhere:
        raise SystemExit(2) from None
    except BaseException as error:
        if _is_loss(error):
            _end(_LOST)
        if not processes.is_agreed(error):
            global _leaves_at_once
            _leaves_at_once = True
        elif isinstance(error, KeyboardInterrupt) and not processes.is_first():
            raise SystemExit(130) from None
        raise


def _arguments(options: Distributed) -> dict[str, object]:
    """Return what ``jax.distributed.initialize`` needs, or nothing for a single process."""
    if options.num_processes == 1:
        return {}
    given = [bool(options.coordinator_address), options.num_processes > 0, options.process_id >= 0]
    if any(given):
        if not all(given):
            raise ConfigError(
                "--distributed: expected all three of --distributed.coordinator-address HOST:PORT, "
                "--distributed.num-processes and --distributed.process-id, or none of them."
            )
        if not options.process_id < options.num_processes:
            raise ConfigError(
                f"--distributed.process-id {options.process_id}: expected 0 to {options.num_processes - 1}, because "
                f"there are {options.num_processes} processes."
            )
        host, _, port = options.coordinator_address.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(
                f"--distributed.coordinator-address {options.coordinator_address}: expected HOST:PORT of process 0, "
                "such as node1:4321."
            )
        return {
            "coordinator_address": options.coordinator_address,
            "num_processes": options.num_processes,
            "process_id": options.process_id,
            "cluster_detection_method": "deactivate",
        }
    return _started_by_launcher()


def _started_by_launcher() -> dict[str, object]:
    """Return the arguments where Slurm, Open MPI or a TPU slice has started several processes, or nothing.

    JAX finds out the rest. It takes the tasks of a Slurm job for processes, but in a job's script or in an interactive
    shell there is only one, however many the job may start; those of the step are what was started.
    """
    # Open MPI first: where it starts its own daemons by srun, their variables reach its processes too
    if (ranks := _number("OMPI_COMM_WORLD_SIZE")) > 1:
        if "OMPI_MCA_orte_hnp_uri" not in os.environ:  # by which JAX knows Open MPI; version 5 does not set it
            raise ConfigError(
                f"Open MPI has started {ranks} processes, but does not tell where process 0 is. Give "
                "--distributed.coordinator-address HOST:PORT, --distributed.num-processes $OMPI_COMM_WORLD_SIZE and "
                "--distributed.process-id $OMPI_COMM_WORLD_RANK, in a command that a shell runs on each host."
            )
        return {"cluster_detection_method": "ompi"}
    if (tasks := _number("SLURM_STEP_NUM_TASKS")) > 1:
        return {"num_processes": tasks, "cluster_detection_method": "slurm"}
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES") or ""
    is_tpu = importlib.util.find_spec("libtpu") and any(map(Path.exists, map(Path, ("/dev/accel0", "/dev/vfio/0"))))
    # where the environment does not name the hosts, JAX asks the metadata of the TPU VM
    asks = not hosts and "TPU_SKIP_MDS_QUERY" not in os.environ
    return {"cluster_detection_method": None} if is_tpu and (asks or "," in hosts) else {}


def launched() -> tuple[int, int]:
    """Return the number of this process, from 0, and how many Slurm or Open MPI has started together; 0 and 1 alone."""
    for count, index in (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID")):
        if (processes := _number(count)) > 1:
            return _number(index), processes
    return 0, 1


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else 0


def _initialize(arguments: dict[str, object], options: Distributed) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # its handler of SIGTERM would take the place of ours, see fbunet_jax/runs/interruption.py
    jax.config.update("jax_enable_preemption_service", False)
    not_found = (
        f"The processes of this training did not find each other within {options.start_seconds} seconds. Start the "
        "same command on all hosts, see that none has ended with an error of its own, and that each reaches the port "
        "of process 0"
    )
    not_found += f", {options.coordinator_address}." if options.coordinator_address else "."
    _tell_when_aborted(f"Error: {not_found}")  # as JAX does when it has waited long enough
    try:
        jax.distributed.initialize(
            **arguments,  # type: ignore[arg-type]
            initialization_timeout=options.start_seconds,
            heartbeat_timeout_seconds=options.lost_seconds,
            shutdown_timeout_seconds=options.lost_seconds,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{not_found} JAX says: {reason}") from error
    _tell_when_aborted(_ABORTED)


def _is_loss(error: BaseException | None) -> bool:
    """Say whether an error, or one that it came from, is that of a connection to another process."""
    while error is not None:
        if isinstance(error, RuntimeError | ValueError | TimeoutError) and any(word in str(error) for word in _SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


_SIGNS = ("Gloo ", "gloo/transport", "coordination service", "CoordinationService", "_complete barrier", "NCCL")
"""In the texts of JAX's errors when a collective or a barrier has lost a process."""


_ending = threading.Lock()


def _end(message: str) -> None:
    """Say once why this process ends, and end: in order it cannot, because that would wait for the lost process."""
    if _ending.acquire(blocking=False):
        with contextlib.suppress(OSError):
            os.write(2, f"{message}\n".encode())
        os._exit(EXIT_LOST)
    threading.Event().wait()  # until the other thread has said it


def _tell_when_aborted(message: str) -> None:
    """Say why this process ends where JAX's runtime aborts it, in a thread of its own and without an exception.

    A handler of Python's would wait for the main thread, which may wait for the lost process.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: _end(message))
    _handlers.append(handler)
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.signal.argtypes, library.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
        library.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


_handlers: list[object] = []
"""What C calls must not be collected."""
