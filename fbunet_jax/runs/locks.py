"""The lock of a fold: one process on any host trains it, and a heartbeat tells the others that it lives."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from fbunet_jax.errors import RunError
from fbunet_jax.runs.directory import FoldDirectory
from fbunet_jax.runs.files import alone, create_once, disk_time

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 120.0


@contextlib.contextmanager
def fold_lock(fold: FoldDirectory) -> Iterator[Callable[[], None]]:
    """Hold a fold for this process; a heartbeat tells others on any host that it lives.

    Yields:
      A function that raises a RunError when another process has taken the fold over, because this one was suspended.

    Raises:
      RunError: another process holds it (its host and process id are named).
    """
    try:
        fold.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"The folder {fold.path} cannot be created: {error.strerror}.") from error
    _acquire(fold.lock)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(fold.lock, stop), daemon=True)
    thread.start()

    def check() -> None:
        try:
            mine = _is_mine(fold.lock)
        except FileNotFoundError as error:
            raise RunError(
                f"{fold.path} or the lock in it is gone: somebody moved or removed it. Nothing more is written there. "
                "Put it back, and give the same command again."
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"The lock {fold.lock} cannot be read any more: {error}.") from error
        if not mine:
            raise RunError(
                f"{fold.path} is not held by this process any more: while it was suspended, another one took it over. "
                "That one goes on; nothing more is written here."
            )

    try:
        yield check
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(OSError, ValueError):
            if _is_mine(fold.lock):
                fold.lock.unlink(missing_ok=True)


def is_held(fold: FoldDirectory) -> bool:
    """Say whether a process trains a fold now; the lock of one that has died does not count.

    Raises:
      RunError: the lock cannot be read.
    """
    if not fold.lock.exists():
        return False
    try:
        with fold_lock(fold):
            return False
    except RunError:
        if fold.lock.exists():
            return True
        raise


def _my_name() -> str:
    return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "system": _system()})


def _system() -> str:
    """Return what tells apart the systems of one host name: since when it runs, and containers with own processes."""
    facts = []
    with contextlib.suppress(OSError):  # Linux only
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(facts)


def _is_mine(lock: Path) -> bool:
    """Say whether this process holds the lock still; while it was suspended, another may have taken it over."""
    return lock.read_text(encoding="utf-8") == _my_name()


def _acquire(lock: Path) -> None:
    while not create_once(lock, _my_name(), fills=False):  # an empty one is held like a damaged one
        holder = _holder(lock)
        if holder and not holder.abandoned:
            raise RunError(
                f"{lock.parent} is being trained by process {holder.process} on host {holder.host}. Wait for it, or "
                f"stop it; a lock without a heartbeat for {STALE_SECONDS:.0f} seconds is taken over."
            )
        _remove_abandoned(lock)


class _Holder(NamedTuple):
    host: str
    process: int
    abandoned: bool
    """Without a heartbeat, or a process of this host that ended."""


def _holder(lock: Path) -> _Holder | None:
    """Return who holds a lock, or None if there is none."""
    try:
        with lock.open("rb") as file:  # opened first: a network's file system then asks the server for the time
            stale = disk_time(lock.parent) - os.fstat(file.fileno()).st_mtime >= STALE_SECONDS
            name = json.loads(file.read().decode())
        host, process, system = str(name["host"]), int(name["process"]), str(name.get("system", ""))
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise RunError(f"{lock} is a folder: expected the file that says who trains this fold. Remove it.") from error
    except (ValueError, TypeError, KeyError, AttributeError):  # damaged: whoever wrote it may live
        return _Holder("unknown", 0, stale)
    return _Holder(host, process, stale or (system == _system() and _died_here(host, process)))


def _remove_abandoned(lock: Path) -> None:
    """Remove a lock that nobody holds; one process at a time, or the second would remove the first one's new lock."""
    with alone(lock.with_name(f"{lock.name}.takeover"), STALE_SECONDS) as is_alone:
        # not when it is gone: another process may be about to create its own
        if is_alone and (holder := _holder(lock)) and holder.abandoned:
            lock.unlink(missing_ok=True)


def _died_here(host: str, process: int) -> bool:
    """Say whether the holder was a process of this host that no longer exists."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _beat(lock: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError, ValueError):
            if _is_mine(lock):
                _renew(lock)


def _renew(lock: Path) -> None:
    """Give the lock the present time of its disk."""
    try:
        os.utime(lock)
    except OSError:  # not permitted on some network disks: the same bytes again do as well
        with lock.open("r+b") as file:
            file.write(_my_name().encode())
