"""The page of a plan: what is finished, under way and missing, and what came out so far."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fbunet_jax.experiments.cells import Cell, place_of, read_cells
from fbunet_jax.experiments.page_parts import points_text, spread_text
from fbunet_jax.experiments.plan import Plan, Planned
from fbunet_jax.experiments.tabulate import (
    Choose,
    difference,
    further_entry,
    have_one_truth,
    large_classes,
    mean_iou,
    table_entry,
)
from fbunet_jax.runs.files import write_atomically
from fbunet_jax.tables import markdown


def write_page(plan: Plan, out: Path) -> Path:
    """Write ``README.md`` in the folder of the experiments, and return its path.

    Raises:
      RunError: a cell is damaged, or two of one experiment have different settings.
    """
    cells = {planned.name: read_cells(planned.folder.cells) for planned in plan.planned}
    parts = [
        f"# The experiments of {plan.path.name}",
        "A cell is one training of a method on one fold with one seed. Hours are of the processor, of all threads, in "
        "epochs and validations, of the finished cells; earlier versions did not record them, and where some cells "
        "lack them it says of how many the hours are. Those that are left are an estimate from the finished cells of "
        "the same method, a cell that has begun counted whole; not known before each method has one.",
        _progress(plan.planned, cells),
        "IoU in % on the test images, as each table has it: mean ± standard deviation (n - 1) over cells. The "
        "difference is to the cells of the same fold and seed of another experiment, in percentage points, from counts "
        "that are averaged over the seeds of a fold and summed over folds, with its 95 % jackknife interval over "
        "folds.",
        _results(plan.planned, cells),
    ]
    path = out / "README.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n\n".join(parts) + "\n")
    return path


def _progress(planned: Sequence[Planned], cells: Mapping[str, Sequence[Cell]]) -> str:
    rows = []
    for each in planned:
        finished = {place_of(cell): cell for cell in cells[each.name]}
        missing = [place for place in each.grid if place not in finished]
        begun = [place for place in missing if each.grid.fold(place).has_started()]
        title = each.experiment.paper_table.title
        name = f"[{each.name}]({each.name}/table.md)" if finished else each.name
        done = f"{len(each.grid) - len(missing)} of {len(each.grid)}"
        shown = ", ".join(map(str, begun))
        rows.append(
            [name, title, done, shown, _spent(list(finished.values())), _left(each, missing, list(finished.values()))]
        )
    return markdown(["experiment", "", "cells", "begun", "hours", "hours left"], rows)


def _spent(cells: Sequence[Cell]) -> str:
    """Return the hours of the cells that have them, and of how many those are unless of all."""
    known = [hours for cell in cells if (hours := _hours(cell)) is not None]
    if not known:
        return ""
    return f"{sum(known):.1f}" + (f" (of {len(known)} cells)" if len(known) < len(cells) else "")


def _hours(cell: Cell) -> float | None:
    seconds = cell.get("processor_seconds")
    return None if seconds is None else seconds / 3600


def _left(planned: Planned, missing: Sequence[object], cells: Sequence[Cell]) -> str:
    """Return the hours that the missing cells will take, where every method has a finished one."""
    if not missing:
        return "0"
    known: dict[str, list[float]] = {}
    for cell in cells:
        if (hours := _hours(cell)) is not None:
            known.setdefault(cell["method"], []).append(hours)
    places = [place for place in planned.grid if place in missing]
    if not all(place.method in known for place in places):
        return "not known"
    return f"{sum(float(np.mean(known[place.method])) for place in places):.1f}"


def _results(planned: Sequence[Planned], cells: Mapping[str, Sequence[Cell]]) -> str:
    rows = []
    for each in planned:
        found = cells[each.name]
        for method in dict.fromkeys(cell["method"] for cell in found):
            own = [cell for cell in found if cell["method"] == method]
            mean, deviation = mean_iou(own)
            rows.append(
                [
                    each.name,
                    f"`{method}`",
                    str(len(own)),
                    spread_text(mean, deviation),
                    _reference(each, own, cells),
                ]
            )
    return markdown(["experiment", "method", "cells", "mean IoU", "difference"], rows)


def _reference(planned: Planned, own: Sequence[Cell], cells: Mapping[str, Sequence[Cell]]) -> str:
    """Return the difference to the cells that the experiment is compared with."""
    if not planned.experiment.reference:
        return ""
    name, _, method = planned.experiment.reference.partition(":")
    others = [cell for cell in cells.get(name, []) if cell["method"] == method]
    if not have_one_truth(own, others):
        return f"none to {planned.experiment.reference}: other images or labels"
    if not others:
        return ""
    one, other = (cells[0]["setting"]["data"]["cut"] for cells in (own, others))
    choose: tuple[Choose, Choose] = (table_entry, table_entry)
    by = ""
    if one != other:  # whole images and crops of them are other numbers: compare crops with crops
        if one and other:
            return f"none to {planned.experiment.reference}: other crops"
        by, crops = f" by crops of {one or other}", further_entry(f"crops{one or other}")
        choose = (crops, table_entry) if other else (table_entry, crops)
    found = difference(own, others, planned.experiment.reference, large_classes(own), choose)
    if not found:
        return ""
    text = points_text(found["mean_iou"], found["mean_iou_interval"])
    return f"{text} to {planned.experiment.reference}{by}, folds {', '.join(map(str, found['folds']))}"
