"""Where a number comes from: the commit of the program, the devices, the versions, the day."""

import datetime
import importlib.metadata
import subprocess
from pathlib import Path
from typing import TypedDict

import jax

_PACKAGE = Path(__file__).resolve().parents[1]
_VERSIONS_OF = ("jax", "jaxlib", "flax", "optax", "numpy")


class Process(TypedDict):
    """One process that worked on a cell.

    Attributes:
      commit: of the program, see `commit`.
      devices: the kind of each local device.
      versions: of the packages that compute.
      date: on which it began, in UTC.
    """

    commit: str
    devices: list[str]
    versions: dict[str, str | None]
    date: str


def this_process(commit_given: str = "") -> Process:
    """Return what this process computes with.

    Args:
      commit_given: the commit, where the program does not lie in a checkout.
    """
    return {
        "commit": commit_given or commit(),
        "devices": [device.device_kind for device in jax.local_devices()],
        "versions": {name: _version(name) for name in _VERSIONS_OF},
        "date": today(),
    }


def is_like(one: Process, other: Process) -> bool:
    """Say whether two processes differ in nothing but the date."""
    return {**one, "date": ""} == {**other, "date": ""}


def today() -> str:
    """Return the date in UTC, such as 2026-11-24."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def commit(package: Path = _PACKAGE) -> str:
    """Return the commit of the checkout that a package lies in, with " (dirty)" if its files differ from it.

    Without a checkout it is the version of the program. A package that is installed inside some other project's
    checkout does not count as a part of it.
    """
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        head = _git(package, "rev-parse", "HEAD")
        return f"{head} (dirty)" if _git(package, "status", "--porcelain", "--", ".") else head
    except (OSError, subprocess.CalledProcessError):
        return f"version {_version('fbunet-jax') or 'unknown'}"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None  # run from a folder that is not installed
