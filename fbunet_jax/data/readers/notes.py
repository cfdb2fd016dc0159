"""What a user may want to know of a file that is read all the same."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger("fbunet_jax.data")
"""Printed to the standard error stream where a program sets nothing else up."""


class Note(NamedTuple):
    """A sentence about a file, without its name."""

    path: Path
    found: str


_collectors: list[list[Note]] = []
_said: set[str] = set()


def note(path: Path, found: str) -> None:
    """Hand a note to whoever collects notes, or else print it; what was printed of one file is not of another."""
    for collector in _collectors:
        collector.append(Note(path, found))
    if not _collectors and found not in _said:
        _said.add(found)
        log.warning("Warning: %s %s (Said once: other files may have the same.)", path, found)


@contextlib.contextmanager
def noted() -> Iterator[list[Note]]:
    """Collect the notes that are made meanwhile."""
    notes: list[Note] = []
    _collectors.append(notes)
    try:
        yield notes
    finally:
        _collectors.remove(notes)
