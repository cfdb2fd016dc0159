"""The most memory that this process and its devices have held."""

import resource
import sys
from pathlib import Path

import jax


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
