"""Memory of this process and its devices: the most that they have held, and how it is kept."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import jax

from fbunet_jax.config import Config


def peak_host_bytes() -> int:
    """Return the most memory that this process has held, as the operating system counts it."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage, it does not begin with the memory of the process that started this one
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peak_device_bytes() -> int | None:
    """Return the most memory in use on one local device so far, or None where the devices do not tell."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if known else None


def less_memory(config: Config) -> str:
    """Return what makes a training take less memory, as sentences for whoever has too little."""
    training, model = config.training, config.model
    ways = [f"Lower training.batch_size ({training.batch_size}) or data.crop ({config.data.crop})"]
    if not model.rematerialise:
        ways.append("set model.rematerialise")
    if model.precision == "float32":
        ways.append('set model.precision = "bfloat16"')
    return f"{', or '.join(ways)}."


def reuse_host_memory() -> None:
    """Keep memory that is freed, on a CPU, for the next step; the process then never gives any back.

    Otherwise the operating system clears every page of a step's buffers anew: with glibc a quarter of the time of a
    step (280,000 pages for 4 images of 256 x 256, JAX 0.10.2). For programs that train and then end: it holds for the
    whole process, and cannot be taken back. Call it before JAX starts its first device. On a CPU, steps then also run
    in the thread that calls them. Where the C library has no ``mallopt``, memory is given back as before.
    """
    # steps then run in this thread, whose heap can grow; that of another thread is made of small pieces
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() == "cpu":
        with contextlib.suppress(AttributeError, TypeError):
            library = ctypes.CDLL(None)
            library.mallopt(_MOST_MAPPED, 0)
            library.mallopt(_TRIM_THRESHOLD, -1)


# of malloc.h
_TRIM_THRESHOLD, _MOST_MAPPED = -1, -4
