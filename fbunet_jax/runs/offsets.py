"""The offsets of a fold: what is added to the logits of its classes, and which weights that was fitted for."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from fbunet_jax.errors import RunError
from fbunet_jax.runs.directory import FoldDirectory, Run
from fbunet_jax.runs.files import read_json, write_atomically
from fbunet_jax.runs.trained import TrainedFold

FORMAT = 1
"""Version of the format of ``offsets.json``."""

LIMIT = 5.0
"""Largest offset."""

_REMEDY = "Remove it and fit the offsets again."


class Reached(TypedDict):
    """IoU of every class and their mean, 0 to 1; None for a class without a pixel of truth."""

    mean_iou: float
    iou: list[float | None]


class Offsets(TypedDict):
    """The content of ``offsets.json``.

    ``step`` and ``weights``, their fingerprint, say which checkpoint it belongs to; ``before`` and ``after`` are of
    ``pixels`` labelled pixels in ``images`` items of the validation part.
    """

    format: int
    fold: int
    step: int
    weights: str
    class_names: list[str]
    offsets: list[float]
    images: int
    pixels: int
    before: Reached
    after: Reached


def write_offsets(file: Path, content: Offsets) -> None:
    """Write or replace a fold's offsets."""
    write_atomically(file, json.dumps(content, indent=1) + "\n")


def find_offsets(directory: FoldDirectory, trained: TrainedFold) -> tuple[Path, Offsets] | None:
    """Return the offsets that belong to a fold's weights, and their file; None if there are none.

    Those where the results of an evaluation go come first, then those in the run.

    Raises:
      RunError: a file is damaged, or newer than this version.
    """
    for file in dict.fromkeys((directory.offsets, FoldDirectory(directory.path).offsets)):
        if file.is_file() and _belongs(found := read_offsets(file), trained):
            return file, found
    return None


def read_offsets(file: Path) -> Offsets:
    """Read a file of offsets.

    Raises:
      RunError: it is damaged, or newer than this version.
    """
    found = read_json(file, Offsets, _REMEDY)
    if found["format"] != FORMAT:
        raise RunError(
            f"{file} has format {found['format']}; this version reads format {FORMAT}. Use the version that wrote it, "
            "or remove it and fit the offsets again."
        )
    names, offsets = found["class_names"], found["offsets"]
    if len(offsets) != len(names) or not all(abs(offset) <= LIMIT for offset in offsets):
        raise RunError(
            f"{file} is damaged: expected an offset from {-LIMIT:g} to {LIMIT:g} for each of the {len(names)} classes "
            f"that it names. {_REMEDY}"
        )
    has_shares = all(0 <= found[when]["mean_iou"] <= 1 for when in ("before", "after"))
    if not has_shares or min(found["images"], found["pixels"]) < 1:
        raise RunError(
            f"{file} is damaged: expected a mean IoU from 0 to 1 of at least one pixel in one image. {_REMEDY}"
        )
    return found


def with_offsets(run: Run, folds: Sequence[TrainedFold], folder: Path | None = None) -> list[TrainedFold]:
    """Return trained folds that add their offsets.

    Args:
      run: the run; offsets where its results go come first.
      folds: as they were trained.
      folder: results of an evaluation, where the offsets are looked for instead.

    Raises:
      RunError: a fold has no offsets that belong to its weights, or their file is damaged.
    """
    place = run if folder is None else Run(folder)
    found = [find_offsets(place.fold(trained.fold), trained) for trained in folds]
    if lacking := [trained for trained, each in zip(folds, found, strict=True) if each is None]:
        reasons = " ".join(_reason(run, place.fold(trained.fold).offsets, trained) for trained in lacking)
        chosen = f" --fold {lacking[0].fold}" if len(lacking) == 1 else ""
        out = f" --out {shlex.quote(str(folder))}" if folder else ""
        raise RunError(
            f"{reasons} Fit them on the validation part: fbunet evaluate {shlex.quote(str(run.path))}{chosen} "
            f"--offsets{out}, or evaluate(..., offsets=True) in Python."
        )
    return [
        replace(trained, offsets=tuple(each[1]["offsets"]))
        for trained, each in zip(folds, found, strict=True)
        if each is not None
    ]


def _belongs(found: Offsets, trained: TrainedFold) -> bool:
    """Say whether offsets were fitted for these weights; a step alone may be that of another training."""
    expected = trained.fold, trained.step, list(trained.class_names), replace(trained, offsets=None).fingerprint()
    return (found["fold"], found["step"], found["class_names"], found["weights"]) == expected


def _reason(run: Run, file: Path, trained: TrainedFold) -> str:
    why = f"{file} is missing."
    if file.is_file():
        why = f"those in {file} were fitted for another one, of step {read_offsets(file)['step']}."
    return f"Fold {trained.fold} of {run.path} has no offsets for its checkpoint of step {trained.step}: {why}"
