"""Small files that are written whole or not at all, and read with care."""

import contextlib
import errno
import json
import math
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fbunet_jax.errors import RunError
from fbunet_jax.user_files import read_text

Content = TypeVar("Content")

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What fsync says on a disk that has none."""

FILLED_AFTER = 5.0
"""Seconds in which a file that another process has just created, on a disk without hard links, has its content."""

CLOCK = ".clock."
"""How the names of files begin that are created to see what time it is."""

RESTORE = "Copy it again if the run is a copy, or start a new run."


def create_once(path: Path, text: str, *, fills: bool = True) -> bool:
    """Write a file atomically unless it exists, and say whether this call did: of several processes, one wins.

    On a disk without hard links (exFAT, SMB, Google Drive, gcsfuse) the file is empty for a moment; one that stays so,
    because that process was killed, counts as absent if it `fills`.
    """
    temporary = _write_aside(path, text)
    try:
        return _create(temporary, path) or (fills and _fill(temporary, path))
    finally:
        temporary.unlink(missing_ok=True)


def _create(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        # a server that has answered twice: the first answer, which was lost, was yes
        return temporary.stat().st_nlink > 1
    except OSError:
        pass
    try:
        path.open("x").close()
    except FileExistsError:
        is_left_empty(path)  # a reader that comes next finds its content
        return False
    try:
        temporary.replace(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def _fill(temporary: Path, path: Path) -> bool:
    while is_left_empty(path):
        with alone(path.with_name(f".{path.name[:40]}.takeover"), FILLED_AFTER) as is_alone:
            if is_alone and is_left_empty(path):
                temporary.replace(path)
                return True
    return False


def is_left_empty(path: Path) -> bool:
    """Say whether whoever created a file was killed before it had its content; one being filled is waited for."""
    try:
        if path.stat().st_size:
            return False
        age = disk_time(path.parent) - path.stat().st_mtime
        until = time.monotonic() + min(FILLED_AFTER, FILLED_AFTER - age)
        while not path.stat().st_size:
            if time.monotonic() >= until:
                return True
            time.sleep(0.01)
    except FileNotFoundError:
        pass
    return False


@contextlib.contextmanager
def alone(guard: Path, stale: float) -> Iterator[bool]:
    """Hold a folder that one process at a time can make, and yield whether it is this one.

    Args:
      guard: the folder, removed at the end.
      stale: seconds after which whoever made it was killed.
    """
    try:
        guard.mkdir()
    except FileExistsError:
        with contextlib.suppress(OSError):
            if disk_time(guard.parent) - guard.stat().st_mtime >= stale:
                guard.rmdir()
        time.sleep(0.01)
        yield False
        return
    try:
        yield True
    finally:
        guard.rmdir()


def disk_time(folder: Path) -> float:
    """Return what time it is for the disk of a folder, whose server may have another clock than this host."""
    probe = folder / f"{CLOCK}{secrets.token_hex(4)}"
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write or replace a file: a reader sees the old content or the new one, never a part."""
    _write_aside(path, content).replace(path)


def _write_aside(path: Path, content: str | bytes) -> Path:
    # a name that is as long as the disk takes leaves no room for more
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            _sync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the operating system name a path; that of a full disk does not say where."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_json(path: Path, expected: type[Content], remedy: str = RESTORE) -> Content:
    """Read a JSON file of a run.

    Args:
      path: of the file.
      expected: the type that its content has, such as a TypedDict; a key that this does not have is an error.
      remedy: what to do about a file that cannot be used.

    Raises:
      RunError: it is missing or broken, holds something else, or a number that is not finite.
    """
    try:
        text = read_text(path, lambda fault: RunError(f"{fault} {remedy}"))
        content = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: the run directory is incomplete. {remedy}") from error
    except RunError:
        raise
    except (ValueError, RecursionError, OSError) as error:
        raise RunError(f"{path} cannot be read as JSON: {error}. {remedy}") from error
    try:
        found = typed(content, expected)
        if unknown := next(_left_out(content, found), ""):
            raise ValueError(f"unknown key {unknown!r}")
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}. {remedy}") from error
    return found


def typed(content: Any, expected: type[Content]) -> Content:
    """Return JSON content as its type has it, without the keys that this does not have.

    Raises:
      ValueError: it is of another type; says where, such as "rounds[...].confusion: expected `array`, got `str`".
    """
    try:
        return msgspec.convert(content, expected)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at ")
        text = text.replace("Invalid enum value", "unknown value")
        place = place.strip("`").removeprefix("$").removeprefix(".")
        raise ValueError(f"{place}: " * bool(place) + text[0].lower() + text[1:]) from None


def _left_out(content: Any, found: Any) -> Iterator[str]:
    """Yield the keys of JSON content that its type does not have."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _left_out(value, found[key]) if key in found else (key,)
    elif isinstance(content, list):
        for value, kept in zip(content, found, strict=True):
            yield from _left_out(value, kept)


def _whole(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"the whole number {text[:9]}… has {len(text)} characters")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value
