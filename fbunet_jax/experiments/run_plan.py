"""Run a plan: a process for each cell, several at once, at the lowest priority; paused, stopped and resumed at will."""

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fbunet_jax.errors import RunError
from fbunet_jax.experiments import commands
from fbunet_jax.experiments.cells import (
    Cell,
    first_difference,
    is_complete,
    place_of,
    read_cell,
    read_cells,
    setting_of,
)
from fbunet_jax.experiments.commands import Job
from fbunet_jax.experiments.evaluations import variants
from fbunet_jax.experiments.grid import Place
from fbunet_jax.experiments.pages import write_table
from fbunet_jax.experiments.plan import Plan, Planned
from fbunet_jax.experiments.plan_page import write_page
from fbunet_jax.runs.files import write_atomically
from fbunet_jax.runs.opening import in_format_1
from fbunet_jax.runs.trained import best_step

PAUSED = "paused"
"""Name of the file in the folder of the experiments that suspends what runs while it is there."""


def jobs(plan: Plan, out: Path, data_root: str) -> list[Job]:
    """Return a process for each cell that is missing or lacks an evaluation; what has begun comes first.

    Args:
      plan: the experiments.
      out: their folder.
      data_root: folder of the data set, where no setting names it.

    Raises:
      RunError: a cell is damaged, or has other settings than another one or than the plan.
    """
    found = []
    for planned in plan.planned:
        cells = {place_of(cell): cell for cell in read_cells(planned.folder.cells)}
        _check_settings(planned, list(cells.values()))
        for place in planned.grid:
            if place not in cells or _lacks(planned, place, cells[place]):
                words = [*commands.PROGRAM, "queue", str(plan.path), "--out", str(out), "--data-root", data_root]
                words += ["--cell", f"{planned.name}/{place}"]
                log, epochs = planned.folder.path / "logs" / f"{place.stem}.log", planned.grid.config.training.epochs
                found.append(Job(place, words, planned.grid.fold(place), log, epochs, planned.name))
    return sorted(found, key=lambda job: not job.directory.has_started())


def _check_settings(planned: Planned, cells: Sequence[Cell]) -> None:
    """Refuse a plan that was changed since its cells were trained, also where none of them is missing."""
    config = planned.grid.config
    if any(not is_complete(cell["setting"]) for cell in cells):
        config = in_format_1(config)
    if cells and (difference := first_difference(cells[0], setting_of(config), None)):
        raise RunError(
            f"The settings of {planned.name} in the plan do not fit its finished cells: they have {difference} in "
            f"{planned.folder.cells / place_of(cells[0]).stem}.json. Give the experiment the settings of its cells, or "
            "another name."
        )


def _lacks(planned: Planned, place: Place, cell: Cell) -> bool:
    """Say whether a finished cell could be evaluated further: its weights are still there."""
    run = planned.grid.run(place)
    wanted = variants(planned.grid.settings(place), planned.experiment.further)
    return (
        not wanted.keys() <= cell.get("further", {}).keys()
        and run.config.is_file()
        and best_step(run, place.fold) == cell["evaluation"]["step"]
    )


def write_pages(plan: Plan, out: Path) -> list[Path]:
    """Write the table of every experiment that has a cell, and the page of the plan; return what was written."""
    written = [path for planned in plan.planned for path in write_table(planned.experiment.paper_table, planned.folder)]
    return [write_page(plan, out), *written]


def copy_numbers(plan: Plan, source: Path, target: Path) -> int:
    """Copy the JSON files of cells that another folder of the plan lacks, or has with fewer evaluations.

    By their content, because a checkout gives files the date of today. Another training of the same place stays.

    Returns:
      How many were copied.

    Raises:
      RunError: a cell is damaged.
    """
    count = 0
    for planned in plan.planned:
        here, there = (folder / planned.name / "cells" for folder in (source, target))
        for file in sorted(here.glob("[!.]*.json")):
            copy = there / file.name
            if not copy.exists() or _says_more(read_cell(file), read_cell(copy)):
                there.mkdir(parents=True, exist_ok=True)
                write_atomically(copy, file.read_bytes())
                count += 1
    return count


def _says_more(cell: Cell, other: Cell) -> bool:
    """Say whether a cell is the other one with more evaluations; the seconds tell trainings apart."""
    return cell["seconds"] == other["seconds"] and cell.get("further", {}).keys() > other.get("further", {}).keys()


def lower_priority() -> None:
    """Leave the processor to everything else on this machine, as far as its system lets a process say so."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(19)
    if sys.platform == "linux":
        # nice alone does not reach across groups of processes
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text("19\n")


def within(plan: Plan, cell: str) -> tuple[Planned, Sequence[Place]]:
    """Return the experiment and the place that EXPERIMENT/METHOD:FOLD:SEED names."""
    (planned,) = plan.select([cell]).planned
    return planned, planned.grid.places


def for_folder(plan: Plan, folder: Path) -> Plan:
    """Return the plan with the experiments' folders inside another folder."""
    return replace(
        plan,
        planned=tuple(replace(p, folder=replace(p.folder, path=folder / p.name)) for p in plan.planned),
    )
