"""Small files that are written whole or not at all, and read with care."""

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typeguard

from fbunet_jax.errors import RunError

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


def read_json(path: Path, expected: Any = Any) -> Any:
    """Read a JSON file of a run.

    Args:
      path: of the file.
      expected: the type that its content has, such as a TypedDict.

    Raises:
      RunError: it is missing or broken, holds something else, or a number that is not finite.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
        strategy = typeguard.CollectionCheckStrategy.ALL_ITEMS
        return typeguard.check_type(content, expected, collection_check_strategy=strategy)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: the run directory is incomplete.") from error
    except typeguard.TypeCheckError as error:
        raise RunError(f"{path} is damaged: {error}. {RESTORE}") from error
    except (ValueError, RecursionError, OSError) as error:
        raise RunError(f"{path} cannot be read as JSON: {error}.") from error


def _whole(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"the whole number {text[:9]}… has {len(text)} characters")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value
