"""How much memory there is to read into: of the machine, the container, the job and the shell's limits."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

_GROUPS = Path("/sys/fs/cgroup")
_PROCESS = Path("/proc/self")
_V2 = ("memory.max", "memory.current", "")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def machine_memory() -> tuple[int | None, int | None]:
    """Return the bytes of memory in all and available, None where not known; a control group's limit counts."""
    total = available = None
    with suppress(OSError, ValueError, AttributeError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError):
        available = _field(Path("/proc/meminfo").read_text(), "MemAvailable")
    for folder, (limit, used, prefix) in _groups():
        with suppress(OSError, ValueError):  # "max" is not a number: no limit
            allowed = int((folder / limit).read_text())
            if total is not None and allowed < total:
                left = allowed - int((folder / used).read_text()) + _cached(folder, prefix)
                total, available = allowed, left if available is None else min(available, left)
    return total, available


def available_memory() -> int | None:
    """Return the bytes that this process can still take, None where that is not known; ``ulimit`` counts too."""
    left = [each for each in (machine_memory()[1], *_left_by_limits()) if each is not None]
    return max(0, min(left)) if left else None


def _left_by_limits() -> Iterator[int]:
    """Yield what the limits of the shell leave to this process (Linux)."""
    if resource is None:
        return
    with suppress(OSError):
        status = (_PROCESS / "status").read_text()
        for name, held in (("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")):
            allowed, taken = resource.getrlimit(getattr(resource, name))[0], _field(status, held)
            if allowed != resource.RLIM_INFINITY and taken is not None:
                yield allowed - taken


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the folders of the control groups that this process lies in, and the names of their files."""
    places = [(_GROUPS, _V2), (_GROUPS / "memory", _V1)]
    yield from places
    lines: list[str] = []
    with suppress(OSError):
        lines = (_PROCESS / "cgroup").read_text().splitlines()
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = places[1] if controllers else places[0]
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(1, len(parts) + 1):
            yield root.joinpath(*parts[:depth]), names


def _cached(folder: Path, prefix: str) -> int:
    """Return the bytes of a group that hold files only, which the system gives up when memory is wanted."""
    with suppress(OSError):
        text = (folder / "memory.stat").read_text()
        return sum(
            int(found[1])
            for name in ("active_file", "inactive_file")
            if (found := re.search(rf"^{prefix}{name} (\d+)$", text, re.MULTILINE))
        )
    return 0


def _field(text: str, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else None
