"""``fbunet doctor``: is this machine fit for training?"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fbunet_jax.cli import compilation_cache


@dataclass(frozen=True)
class Arguments:
    """Say whether this machine can train, on which devices, and what to install or fix."""

    debug: bool = False
    """Show the traceback of an error."""


def command(options: Sequence[str], prog: str) -> int:
    """Print a line about everything that training needs; 1 if something stands in the way."""
    tyro.cli(Arguments, args=options, prog=prog)
    from fbunet_jax.doctor.diagnosis import Finding, diagnose
    from fbunet_jax.doctor.machine import examine

    print("Looking at this machine, and training a tiny network for one step ...", flush=True)
    findings = diagnose(examine())
    findings.insert(-1, Finding(*_cache()))
    for finding in findings:
        print(f"{finding.status:8} {finding.topic:9} {finding.text}")
        if finding.remedy:
            print(f"{'':18} -> {finding.remedy}")
    count = sum(finding.status == "problem" for finding in findings)
    print(f"{count} problem{'s' if count != 1 else ''}." if count else "No problem found.")
    return 1 if count else 0


def _cache() -> tuple:
    """Return the finding about the compilation cache."""
    folder = os.environ.get(compilation_cache.FOLDER, "")
    if not folder:
        where = compilation_cache.default_folder()
        remedy = f"fix its permissions, or set {compilation_cache.FOLDER}"
        return "warning", "cache", f"compiled programs are not kept: {where} cannot be written", remedy
    files = [path for path in Path(folder).rglob("*") if path.is_file()] if Path(folder).is_dir() else []
    size = sum(path.stat().st_size for path in files)
    return "ok", "cache", f"compiled programs are kept in {folder}: {size / 1e6:.1f} MB"
