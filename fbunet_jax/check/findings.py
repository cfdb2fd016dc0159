"""What a check lists: faults, and what is worth a look."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fbunet_jax.data.faults import EXPECTED, Fault
from fbunet_jax.errors import UserError


@dataclass(frozen=True)
class Finding:
    """A fault or a warning, as the check lists it; texts are whole sentences, but for ``found`` after a file."""

    severity: Literal["fault", "warning"]
    kind: str
    file: str
    found: str
    expected: str
    remedy: str


def as_finding(error: UserError, kind: str = "settings") -> Finding:
    """Return the finding that a fault is; the last sentence of another error is its remedy."""
    if isinstance(error, Fault):
        return Finding("fault", error.kind, error.file, error.found, EXPECTED[error.kind], error.remedy)
    found, end, remedy = str(error).removesuffix(".").rpartition(". ")
    return Finding("fault", kind, "", found + end.strip(), EXPECTED[kind], f"{remedy}.")


def warning(kind: str, file: Path | str, found: str, remedy: str) -> Finding:
    """Return a warning: training works, but its result may be worse than it looks."""
    return Finding("warning", kind, str(file), found, EXPECTED[kind], remedy)
