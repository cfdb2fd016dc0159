"""What a disk can do, tried in the folder that is meant before anything is kept there."""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorstore

from fbunet_jax.errors import RunError
from fbunet_jax.runs.files import CLOCK, disk_time, write_atomically
from fbunet_jax.runs.locks import STALE_SECONDS

_LOCK_FILES = {"file_io_locking": {"mode": "lockfile"}}
_NO_SYNC = {"file_io_sync": False}
WAYS: tuple[dict[str, Any], ...] = (
    {},
    _LOCK_FILES,
    _NO_SYNC,
    _LOCK_FILES | _NO_SYNC,
    # each file has one writer here, and gets its name by a rename
    {"file_io_locking": {"mode": "none"}} | _NO_SYNC,
)
"""Settings of TensorStore's context with which files can be written, from the safest on."""


_SCRATCH = ".try-"
DRY_RUN = ".fbunet-dry-run-"
"""How the names of folders begin in which something is tried."""

_DAY = 24 * 3600.0


def way_to_write(folder: Path) -> dict[str, Any]:
    """Return the first of `WAYS` in which TensorStore can write files into a folder, and replace them.

    Raises:
      OSError, ValueError, NotImplementedError: there is none; the error is that of the first way.
    """
    first: Exception | None = None
    for way in WAYS:
        with scratch_folder(folder) as scratch:
            try:
                context = tensorstore.Context(way)
                spec = {"driver": "file", "path": f"{scratch.resolve()}/"}  # a path with ".." is refused
                store = tensorstore.KvStore.open(spec, context=context).result()
                for content in (b"one", b"the other"):
                    store.write("file", content).result()
                    if store.read("file").result().value != content:
                        raise OSError(None, "what was written is not what is read")
                return way
            except (OSError, ValueError, NotImplementedError) as error:
                first = first or error
    assert first
    raise first


def try_disk(folder: Path) -> dict[str, Any]:
    """Try in a folder what a training needs of its disk, and return the way to write checkpoints there.

    Raises:
      RunError: says what the disk cannot do.
    """
    needs = ""
    try:
        needs = "a folder in it"
        with scratch_folder(folder) as scratch:
            needs = "writing a small file"
            write_atomically(scratch / "file", "one")
            needs = "renaming a file over another one"
            write_atomically(scratch / "file", "the other")
            needs = "renaming a folder"
            (scratch / "before").mkdir()
            (scratch / "before").rename(scratch / "after")
        needs = "writing files as a checkpoint has them"
        return way_to_write(folder)
    except (OSError, ValueError, NotImplementedError) as error:
        raise refused(folder, needs, error) from error


def refused(folder: Path, needs: str, error: BaseException) -> RunError:
    """Return what to raise where a disk cannot do what a training needs."""
    return RunError(
        f"The disk of {folder} cannot keep a training: {needs} was tried there: {reason(error)}. Nothing was "
        "trained. Fix that (space, permissions, how the disk is mounted), or choose a run directory (out) on "
        "another disk.",
        argument="out",
    )


def reason(error: BaseException) -> str:
    """Return what the operating system said, which TensorStore hides in a paragraph."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"os_error_code='(\d+)'|\[OS error (\d+)", str(error))
    if number:
        return os.strerror(int(number[1] or number[2]))
    return str(error).splitlines()[0].rstrip(". ") if str(error) else type(error).__name__


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder in a folder, and remove it."""
    scratch = folder / f"{_SCRATCH}{secrets.token_hex(4)}"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_left_behind(fold: Path) -> None:
    """Remove what killed processes left of trials in the folder of a fold, which this process holds."""
    for path in fold.glob(f"{_SCRATCH}*"):  # only who holds a fold tries anything there for longer than a moment
        _remove(path)
    for path in _older(fold, CLOCK, STALE_SECONDS):  # others look at the clock to see whether it is held
        _remove(path)


def remove_dry_runs(run: Path) -> None:
    """Remove what dry runs that were killed left in a run directory and above it, where they are made; not today's."""
    path = run.absolute()
    for folder in (path, *path.parents[:3]):  # of runs/<config>/<method>, up to the current folder
        for left in _older(folder, DRY_RUN, _DAY):
            _remove(left)


def _older(folder: Path, prefix: str, seconds: float) -> list[Path]:
    """Return what lies in a folder under names that begin so, and has not changed for some seconds of its disk."""
    with contextlib.suppress(OSError):
        found = {path: path.lstat().st_mtime for path in folder.glob(f"{prefix}*")}
        now = disk_time(folder) if found else 0.0
        return [path for path, changed in found.items() if now - changed >= seconds]
    return []


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
