"""Is the feedback used? What a report says of later rounds that were given other class maps than the image's own."""

import shlex
from collections.abc import Sequence
from typing import Any

from flax import linen as nn

from fbunet_jax.evaluation.scores import Entry, Mean, pool, present_entries
from fbunet_jax.evaluation.variants import Maps, Variant
from fbunet_jax.models.given_maps import why_not_fed_back
from fbunet_jax.runs.directory import Run

CHANGED: dict[Maps, str] = {"zeros": "zeros", "other": "maps of another image"}
"""What a report calls the class maps that later rounds may be given in place of the image's own."""


def feedback_use(run: Run, split: str, model: nn.Module) -> dict[str, Any] | None:
    """Return the IoU with other class maps, over the folds that were evaluated with each of them.

    Args:
      run: the run, evaluated with the image's own maps.
      split: ``"test"`` or ``"validation"``.
      model: its network.

    Returns:
      The ``folds``; the ``names`` of the maps; ``rows``, the mean IoU last, with the value of the image's ``own`` maps
      and, for each of the ``others``, value and difference to it; and the ``commands`` for what folds lack. Without a
      fold that has all, there are no rows. None for a network in which no class maps are fed back.
    """
    if why_not_fed_back(model):
        return None
    own = _by_fold(run, split)
    evaluated = {maps: _by_fold(run, split + Variant(maps=maps).suffix) for maps in CHANGED}
    shown = {maps: entries for maps, entries in evaluated.items() if entries}
    folds = [fold for fold in own if shown and all(fold in entries for entries in shown.values())]
    class_names, rows = run.read_dataset()["class_names"], []
    if folds:
        columns = [
            _row(pool(class_names, split, [entries[fold] for fold in folds])["mean"])
            for entries in (own, *shown.values())
        ]
        for name, (first, *others) in zip([*class_names, "mean"], zip(*columns, strict=True), strict=True):
            rows.append({"name": name, "own": first, "others": [(value, value - first) for value in others]})
    return {
        "folds": folds,
        "names": [CHANGED[maps] for maps in shown],
        "rows": rows,
        "commands": [_command(run, split, maps) for maps, found in evaluated.items() if own.keys() - found.keys()],
    }


def _by_fold(run: Run, split: str) -> dict[int, Entry]:
    return {entry["fold"]: entry for entry in present_entries(run, split)}


def _row(scores: Mean) -> Sequence[float]:
    """Return the IoU of every class and the mean; NaN where there is none."""
    return [float("nan") if value is None else value for value in (*scores["iou"], scores["mean_iou"])]


def _command(run: Run, split: str, maps: Maps) -> str:
    """Return what evaluates a run with these maps: a command, or a call where a program passed data or network."""
    passed, path, results = run.read_passed(), str(run.path), str(run.results or "")
    if names := [name for name in ("dataset", "model") if getattr(passed, name)]:
        options = {"maps": maps} | ({"split": split} if split != "test" else {}) | ({"out": results} if results else {})
        given = [f"{name}={name}" for name in names] + [f"{name}={value!r}" for name, value in options.items()]
        return f"evaluate({', '.join([repr(path), *given])})"
    words = ["fbunet", "evaluate", path, "--maps", maps]
    words += ["--split", split] * (split != "test") + ["--out", results] * bool(results)
    return shlex.join(words)
