"""The parts of a table's page beside the table itself: rare classes, other evaluations, and what the maps are worth."""

from collections.abc import Mapping, Sequence
from typing import Any

from fbunet_jax.evaluation.objects import MATCHED
from fbunet_jax.experiments.tabulate import BASELINES
from fbunet_jax.tables import markdown, percent, percentage_points


def rare_names(content: Mapping[str, Any]) -> list[str]:
    """Return the classes that are not large."""
    return [name for name in content["class_names"] if name not in content["large_classes"]]


def baselines_of(content: Mapping[str, Any]) -> list[str]:
    """Return the methods to which there is a difference."""
    found = {each["to"] for row in content["rows"] for each in row["differences"]}
    return [name for name in BASELINES if name in found]


def spread_text(mean: float | None, deviation: float | None) -> str:
    """Return a mean in %, with its deviation if there is one; empty for none."""
    if mean is None:
        return "" if deviation is None else percent(mean)
    return percent(mean) + (f" ± {percent(deviation)}" if deviation is not None else "")


def points_text(value: float | None, interval: Sequence[float] | None) -> str:
    """Return a difference in percentage points, with its interval if there is one; empty for none."""
    if value is None:
        return ""
    bounds = f" ({percentage_points(interval[0])} to {percentage_points(interval[1])})" if interval else ""
    return percentage_points(value) + bounds


def difference_text(summary: Mapping[str, Any], baseline: str, folds: Sequence[int]) -> str:
    """Return the difference in mean IoU to a baseline; its folds too, where they are not those of the row."""
    found = next((each for each in summary["differences"] if each["to"] == baseline), None)
    if not found or found["mean_iou"] is None:
        return ""
    return _with_folds(points_text(found["mean_iou"], found["mean_iou_interval"]), found["folds"], folds)


def _with_folds(text: str, folds: Sequence[int], of_row: Sequence[int]) -> str:
    """Return a text with its folds, where they are not those of the row."""
    return text + (f", folds {', '.join(map(str, folds))}" if folds != list(of_row) else "")


def rare_classes(content: Mapping[str, Any]) -> list[str]:
    """Return a section about the classes that are not large: their objects and their area."""
    parts = []
    for name in rare_names(content):
        index = content["class_names"].index(name)
        rows = [_rare_row(row, index) for row in content["rows"] if row["count"]]
        least = {row["objects"]["least_pixels"] for row in content["rows"] if row["objects"]}
        header = ["method", "IoU", "predicted / true area", "objects found", "objects right", "cells"]
        sizes = f" of at least {', '.join(map(str, sorted(least)))} pixels" if least else ""
        parts += [
            f"## Objects of {name}",
            f"Connected components{sizes}, through consecutive sections where the images are a stack. Found: of the "
            f"objects in the labels, those that the segmentation covers to {100 * MATCHED:.0f} % at least. Right: of "
            "its own objects, those that the labels cover to that share. Both are summed over the cells.",
            markdown(header, rows),
        ]
    return parts


def _rare_row(row: Mapping[str, Any], index: int) -> list[str]:
    counted = row["objects"] and row["objects"]["classes"][index]
    shares = (
        [_share(counted["found"], counted["truth"]), _share(counted["right"], counted["predicted"])]
        if counted
        else ["", ""]
    )
    area = row["area"][index]
    iou = spread_text(row["mean"]["iou"][index], row["deviation"]["iou"][index])
    return [f"`{row['method']}`", iou, "" if area is None else f"{area:.2f}", *shares, str(row["count"])]


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({100 * part / whole:.0f} %)" if whole else "")


def further(content: Mapping[str, Any]) -> list[str]:
    """Return a section with the same weights evaluated in other ways."""
    names = list(dict.fromkeys(name for row in content["rows"] for name in row["further"]))
    if not names:
        return []
    baselines, has_rare = baselines_of(content), bool(rare_names(content))
    header = ["method", "evaluated", *content["class_names"], "mean", *["large classes"] * has_rare]
    header += [*(f"minus `{name}`" for name in baselines), "cells"]
    rows = []
    for row in content["rows"]:
        ways = {"as in the table": row, **row["further"]} if row["further"] else {}
        for name, found in ways.items():
            values = [
                spread_text(*each)
                for each in zip(
                    [*found["mean"]["iou"], found["mean"]["mean_iou"]],
                    [*found["deviation"]["iou"], found["deviation"]["mean_iou"]],
                    strict=True,
                )
            ]
            large = [spread_text(found["large_mean"], found["large_deviation"])] * has_rare
            differences = [difference_text(found, baseline, row["folds"]) for baseline in baselines]
            rows.append([f"`{row['method']}`", _way(name), *values, *large, *differences, str(found["count"])])
    return [
        "## The same weights, evaluated in other ways",
        "Whole: whole images in overlapping tiles, as a prediction segments them. Crops: crops of that side, each by "
        "itself. Views: the mean over the 8 rotations and mirror images. Offsets: with an offset for the logits of "
        "each class, fitted on the validation part of the fold.",
        markdown(header, rows),
    ]


def _way(name: str) -> str:
    """Return the name of a further evaluation in words: "whole-tta" is "whole, views"."""
    return ", ".join("views" if word == "tta" else word for word in name.split("-"))


def maps(content: Mapping[str, Any]) -> list[str]:
    """Return a section about what the fed-back maps are worth, if a method has been evaluated with others."""
    rows = []
    for row in content["rows"]:
        changed = row["maps"]
        if changed:
            own = spread_text(row["mean"]["mean_iou"], row["deviation"]["mean_iou"])
            texts = [
                _with_folds(points_text(found["mean_iou"], found["mean_iou_interval"]), found["folds"], row["folds"])
                if (found := changed.get(name))
                else ""
                for name in ("zeros", "other")
            ]
            rows.append([f"`{row['method']}`", own, *texts])
    if not rows:
        return []
    return [
        "## Is the feedback used?",
        "Every round after the first is given zeros, or the class maps of another image, in place of its own; "
        "everything else stays. Differences in mean IoU to its own maps, in percentage points, with 95 % intervals "
        "over folds.",
        markdown(["method", "own maps", "zeros", "another image's"], rows),
    ]
