"""Where the results of an evaluation go: into the run, or elsewhere where the run cannot be written."""

import contextlib
import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from fbunet_jax.errors import RunError
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.files import create_once, read_json
from fbunet_jax.user_files import expand

Tell = Callable[[str], None]


class _Mark(TypedDict):
    run: str


def with_results(run: Run, out: str | Path | None = None, tell: Tell = lambda line: None) -> Run:
    """Return a run whose results go where they can be written.

    Args:
      run: that is to be evaluated.
      out: folder for the results; by default the run itself, or, where that cannot be written, a folder of the current
        one, named after the run.
      tell: called with a line that names that folder.

    Raises:
      RunError: the folder cannot be written, or holds the results of another run.
    """
    folds = run.fold_names()
    if not out and all(map(is_writable, (run.path, *map(run.path.joinpath, folds)))):
        return run
    path = run.path.resolve()
    folder = expand(out) if out else Path(f"evaluation-{path.parent.name}-{path.name}")
    mark = folder / "run.json"
    try:
        for each in (folder, *map(folder.joinpath, folds)):
            each.mkdir(parents=True, exist_ok=True)
        create_once(mark, json.dumps({"run": str(path)}) + "\n")
    except OSError as error:
        cannot = "" if out else f"The run {run.path} cannot be written, and "
        raise RunError(
            f"{cannot}{folder} cannot be written: {error.strerror}. Choose a folder for the results (out).",
            argument="out",
        ) from error
    if (found := read_json(mark, _Mark)["run"]) != str(path):
        raise RunError(
            f"{folder} holds the results of the run {found}. Choose another for those of {path} (out).", argument="out"
        )
    if not out:
        tell(f"{run.path} cannot be written: the results go to {folder}.")
    return replace(run, results=folder)


def is_writable(folder: Path) -> bool:
    """Say whether files can be made in a folder."""
    probe = folder / f".try-{secrets.token_hex(4)}"
    with contextlib.suppress(OSError):
        probe.touch(exist_ok=False)
        probe.unlink(missing_ok=True)  # whoever trains the fold removes what killed processes left
        return True
    return False
