"""Small files that are written whole or not at all, and read with care."""

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fbunet_jax.errors import RunError

Content = TypeVar("Content")

RESTORE = "Copy it again if the run is a copy, or start a new run."


def create_once(path: Path, text: str) -> bool:
    """Write a file atomically unless it exists, and say whether this call did: of several processes, one wins."""
    temporary = _write_aside(path, text)
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write or replace a file: a reader sees the old content or the new one, never a part."""
    _write_aside(path, content).replace(path)


def _write_aside(path: Path, content: str | bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the operating system name a path; that of a full disk does not say where."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_json(path: Path, expected: type[Content]) -> Content:
    """Read a JSON file of a run.

    Args:
      path: of the file.
      expected: the type that its content has, such as a TypedDict; a key that this does not have is an error.

    Raises:
      RunError: it is missing or broken, holds something else, or a number that is not finite.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: the run directory is incomplete. {RESTORE}") from error
    except (ValueError, RecursionError, OSError) as error:
        raise RunError(f"{path} cannot be read as JSON: {error}. {RESTORE}") from error
    try:
        found = typed(content, expected)
        if unknown := next(_left_out(content, found), ""):
            raise ValueError(f"unknown key {unknown!r}")
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}. {RESTORE}") from error
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
