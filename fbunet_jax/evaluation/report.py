"""One self-contained page with the numbers and pictures of a run, or of several runs side by side."""

import importlib.resources
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from flax import linen as nn

from fbunet_jax.config import Config, to_toml
from fbunet_jax.data.datasets import Dataset
from fbunet_jax.device_errors import device_errors
from fbunet_jax.evaluation import pictures, summary
from fbunet_jax.evaluation.compare import check_comparable, compare, interval_note, run_names
from fbunet_jax.evaluation.feedback_use import feedback_use
from fbunet_jax.evaluation.items import ItemCounts
from fbunet_jax.evaluation.pictures import Segmented, Shown
from fbunet_jax.evaluation.places import with_results
from fbunet_jax.evaluation.scores import absence_notes, evaluate_folds, present_items
from fbunet_jax.evaluation.segmentation import FoldSegmentation, load_run_data
from fbunet_jax.evaluation.statistics import LEAST_GROUPS, class_iou
from fbunet_jax.figures import class_colours
from fbunet_jax.models.methods import METHODS
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.files import write_atomically
from fbunet_jax.runs.trained import trained_folds
from fbunet_jax.tables import percent, percentage_points
from fbunet_jax.user_files import expand

EXTREMES = 3
"""How many of the worst and of the best images are shown."""


@dataclass
class _ReportedRun:
    """A run of the report: its counts, and its networks when a picture needs them."""

    run: Run
    name: str
    config: Config
    dataset: Dataset
    folds: list[ItemCounts]
    model: nn.Module | None = None

    def __post_init__(self) -> None:
        self._networks: dict[int, FoldSegmentation] = {}

    def network(self, fold: int) -> FoldSegmentation:
        """Return the network of a fold, restored once."""
        if fold not in self._networks:
            self._networks[fold] = FoldSegmentation(self.run, self.config, self.dataset, fold, model=self.model)
        return self._networks[fold]

    def segment(self, shown: Sequence[Shown]) -> dict[str, Segmented]:
        """Segment images, each with the fold that tested it."""
        found: dict[str, Segmented] = {}
        for fold in dict.fromkeys(each.fold for each in shown):
            names = [each.name for each in shown if each.fold == fold]
            found |= pictures.segment_shown(self.network(fold), names)
        return found

    @property
    def rounds(self) -> int:
        return self.folds[0].confusion.shape[1]

    @cached_property
    def ranked(self) -> list[Shown]:
        return pictures.rank(self.folds)


@device_errors("drawing the report")
def write_report(
    runs: Sequence[str | Path],
    *,
    split: str = "test",
    root: str = "",
    out: str | Path | None = None,
    results: str | Path | None = None,
    dataset: Dataset | None = None,
    model: nn.Module | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the report of a run; further runs of the same data and folds are shown beside it.

    Folds whose best checkpoint has not been evaluated yet are evaluated first.

    Args:
      runs: one run directory or more; the report is about the first.
      split: ``"test"`` or ``"validation"``.
      root: folder of the data set, where it is no longer where the runs found it.
      out: the file; report.html in the first run, or where its results are, by default.
      results: folder with the results of the first run; as for `fbunet_jax.evaluate` by default.
      dataset: the data set, if one was passed to the trainings: the same again.
      model: the network, if one was passed to one of the trainings: the same again.
      tell: called with a line about each fold that is evaluated.

    Returns:
      The file.

    Raises:
      UserError: a run has no trained fold, its data are missing, or the runs do not belong together.
    """
    opened = [Run(Path(run)) for run in runs]
    if results:
        opened[0] = with_results(opened[0], results)
    check_comparable(opened)
    passed = dataset
    config, dataset = load_run_data(opened[0], root, dataset=passed)
    reported = []
    for place, name in enumerate(run_names(opened)):
        run = opened[place]
        network = model if run.read_passed().model or len(opened) == 1 else None
        known = {counts.fold for counts in present_items(run, split)}
        missing = [fold for fold in trained_folds(run) if fold not in known]
        if missing or not known:
            run = opened[place] = with_results(run, run.results, tell)
            if run.results:  # what it has itself is not read from there
                known = {counts.fold for counts in present_items(run, split)}
                missing = [fold for fold in trained_folds(run) if fold not in known]
        if missing or not known:
            evaluate_folds(run, missing or None, split=split, root=root, dataset=passed, model=network, tell=tell)
        own = config if place == 0 else run.read_config()
        reported.append(_ReportedRun(run, name, own, dataset, present_items(run, split), network))
    page = _render(_content(reported, split))
    file = expand(out) if out else with_results(opened[0], opened[0].results, tell).report(split)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, page)
    return file


def _content(reported: Sequence[_ReportedRun], split: str) -> dict[str, Any]:
    """Return everything that the page shows."""
    first = reported[0]
    names = first.dataset.class_names
    several = len(reported) > 1
    comparison = compare([each.run.path for each in reported], split=split) if several else None
    colours = [f"rgb({red}, {green}, {blue})" for red, green, blue in class_colours(len(names)).tolist()]
    evaluated = [counts.fold for counts in first.folds]
    is_passed = bool(first.run.read_passed().dataset)
    return {
        "title": f"{first.run.label()} on {'arrays in memory' if is_passed else first.config.name}",
        "description": _description(first),
        "run": str(first.run.path),
        "split": split,
        "cut": first.config.data.cut,
        "folds": evaluated,
        "notices": _notices(first, split) + (comparison.left_out if comparison else []),
        "classes": list(zip(names, colours, strict=True)),
        "rounds": first.rounds,
        "scores": summary.scores(names, first.folds),
        "least_groups": LEAST_GROUPS,
        "confusion": summary.confusion_table(names, first.folds),
        "moves": summary.moves(names, first.folds),
        "feedback_use": feedback_use(first.run, split, first.network(evaluated[0]).trained.model),
        "curves": summary.curves(names, first.run, evaluated),
        "times": summary.training_times(first.run, first.folds),
        "settings": to_toml(first.config),
        "comparison": comparison,
        "comparison_note": interval_note(len(comparison.folds)) if comparison else "",
        **_pictures_of_run(first),
        "methods": _methods_side_by_side(reported, comparison.folds[0]) if comparison else [],
        "features": _features(reported, comparison.folds[0] if comparison else evaluated[0]),
    }


def _description(reported: _ReportedRun) -> str:
    """Say what the network is, and what a program passed instead of the settings."""
    passed = reported.run.read_passed()
    described = METHODS[reported.config.method].description if not passed.model else f"The network {passed.model}"
    others = [f"{name} {getattr(passed, name)}" for name in ("dataset", "loss") if getattr(passed, name)]
    return described + (f"; passed by a program: {', '.join(others)}" if others else "")


def _notices(reported: _ReportedRun, split: str) -> list[str]:
    """Say what the reader must know before the numbers."""
    notices = []
    if split == "validation":
        notices.append(
            "These are the validation images, by which the checkpoints were chosen: the numbers are too good. "
            "Report the test split."
        )
    count = reported.config.data.folds
    present = [counts.fold for counts in reported.folds]
    if missing := [str(fold) for fold in range(count) if fold not in present]:
        notices.append(
            f"Fold {', '.join(missing)} of {count} {'is' if len(missing) == 1 else 'are'} missing (not trained yet): "
            f"everything here is of fold {', '.join(map(str, present))} only."
        )
    values = {counts.fold: class_iou(counts.confusion[:, -1].sum(axis=0))[:-1].tolist() for counts in reported.folds}
    notices += absence_notes(reported.dataset.class_names, values)
    groups = {group for counts in reported.folds for group in counts.groups}
    if len(groups) < LEAST_GROUPS:
        notices.append(
            f"Only {len(groups)} {'group was' if len(groups) == 1 else 'groups were'} tested: there is no interval "
            f"from fewer than {LEAST_GROUPS}."
        )
    return notices


def _pictures_of_run(reported: _ReportedRun) -> dict[str, Any]:
    """Return the worst and best images, and the one in which most pixels moved between the rounds."""
    classes = len(reported.dataset.class_names)
    worst, best = pictures.worst_and_best(reported.ranked, EXTREMES)
    most_moved = max(reported.ranked, key=lambda shown: shown.moved, default=None)
    has_moved = reported.rounds > 1 and most_moved is not None and most_moved.moved > 0
    chosen = [*worst, *best, *([most_moved] if has_moved and most_moved else [])]
    segmented = reported.segment(list(dict.fromkeys(chosen)))

    def card(shown: Shown) -> dict[str, Any]:
        image = segmented[shown.name]
        return {
            "shown": shown,
            "stride": image.stride,
            "is_small": max(image.label.shape) < 256,
            "image": pictures.photograph(image.image),
            "truth": pictures.overlay(image, image.label, classes),
            "prediction": pictures.overlay(image, image.rounds[-1], classes),
        }

    example = None
    if has_moved and most_moved:
        image = segmented[most_moved.name]
        example = {
            "shown": most_moved,
            "is_small": max(image.label.shape) < 256,
            "panels": [
                ("Truth", pictures.plain_label(image.label, classes)),
                ("Round 1", pictures.plain_label(image.rounds[0], classes)),
                (f"Round {reported.rounds}", pictures.plain_label(image.rounds[-1], classes)),
                ("Pixels that moved", pictures.moved_pixels(image, classes)),
            ],
        }
    return {"worst": [card(shown) for shown in worst], "best": [card(shown) for shown in best], "example": example}


def _methods_side_by_side(reported: Sequence[_ReportedRun], fold: int) -> list[dict[str, Any]]:
    """Return the worst, the median and the best image of the first run in one fold, by every run (Fig. 7)."""
    classes = len(reported[0].dataset.class_names)
    ranked = pictures.rank([counts for counts in reported[0].folds if counts.fold == fold])
    chosen = list(dict.fromkeys([ranked[0], ranked[len(ranked) // 2], ranked[-1]])) if ranked else []
    by_run = [each.segment(chosen) for each in reported]
    scored = [{shown.name: shown for shown in pictures.rank([c for c in e.folds if c.fold == fold])} for e in reported]
    rows = []
    for shown in chosen:
        image = by_run[0][shown.name]
        panels = [("Image", pictures.photograph(image.image))]
        panels.append(("Truth", pictures.plain_label(image.label, classes)))
        for each, found, score in zip(reported, by_run, scored, strict=True):
            label = pictures.plain_label(found[shown.name].rounds[-1], classes)
            panels.append((f"{each.name}, IoU {percent(score[shown.name].mean_iou)} %", label))
        place = "worst" if shown == ranked[0] else "best" if shown == ranked[-1] else "median"
        rows.append({"shown": shown, "place": place, "is_small": max(image.label.shape) < 256, "panels": panels})
    return rows


def _features(reported: Sequence[_ReportedRun], fold: int) -> dict[str, Any] | None:
    """Return the first layer's summed features in the last round, of every run with feedback (Fig. 8)."""
    with_rounds = [each for each in reported if each.rounds > 1 and each.network(fold).has_features]
    ranked = pictures.rank([counts for counts in reported[0].folds if counts.fold == fold])
    if not with_rounds or not ranked:
        return None
    shown = ranked[len(ranked) // 2]
    tile = reported[0].config.data.crop
    image = pictures.first_tile(reported[0].dataset, shown.name, tile)
    maps = [(f"{each.name}, round {each.rounds}", each.network(fold)) for each in with_rounds]
    return {
        "shown": shown,
        "is_small": tile < 256,
        "panels": [("Image", image)] + [(name, pictures.feature_picture(net, shown.name)) for name, net in maps],
    }


def _render(content: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "signed": percentage_points, "thousands": lambda value: f"{value:,.0f}"}
    source = importlib.resources.files("fbunet_jax.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    before, after = environment.from_string(source).render(content, size="@size@").rsplit("@size@", 1)
    return f"{before}{(len(before) + len(after)) / 1e6:.1f} MB{after}"
