"""What a run has brought back becomes results: cells of the table, and what was measured in ``docs/performance.md``."""

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.quarter_hour import parts
from benchmarks.quarter_hour.measurements import Measured, read_measurements, rewrite
from benchmarks.quarter_hour.run import CELLS, FORMAT, RESULTS, UNFINISHED, Results
from benchmarks.quarter_hour.table import recorded
from fbunet_jax.errors import ConfigError, DataError, RunError, UserError
from fbunet_jax.experiments.cells import TableFolder, first_difference, place_of, read_cell, read_cells
from fbunet_jax.experiments.grid import Place
from fbunet_jax.experiments.pages import write_table
from fbunet_jax.experiments.paper import TABLES
from fbunet_jax.runs.files import create_once, read_json, write_atomically
from fbunet_jax.runs.opening import compare

OWN_DOCS = Path(__file__).resolve().parents[2] / "docs"


def harvest(source: Path, docs: Path, table: TableFolder, size: str, tell: Callable[[str], None]) -> None:
    """Merge what a run has brought back; what is there already is kept, and named where it differs.

    Args:
      source: the run's output folder.
      docs: the folder of ``performance.md`` and ``results``.
      table: on this machine, for weights and the training that is not finished.
      size: of the run: the numbers of a rehearsal do not get into the documentation of the project.
      tell: called with a line about each thing.

    Raises:
      UserError: the folder is not that of a run, of another size, damaged, or cannot be trusted; or a part of it could
        not be merged, and then the others are.
    """
    results = read_json(source / RESULTS, Results)
    if results.get("format") != FORMAT:
        raise RunError(f"{source / RESULTS} has format {results.get('format')!r}; this version reads format {FORMAT}.")
    if results["size"] != size:
        raise RunError(f"{source} is a run of the size {results['size']}, and --size is {size}.")
    if size != "full" and docs.resolve() == OWN_DOCS:
        raise ConfigError("A rehearsal does not get into the project's own documentation: give another --docs.")
    for name, step in results["steps"].items():
        tell(f"{name}: {step['status']}{', ' + step['reason'] if step.get('reason') else ''}")
    _check_golden(source, results["steps"].get("golden", {"status": "skipped"}), tell)
    errors = []
    for part in (
        lambda: _harvest_measurements(results, docs, tell),
        lambda: _harvest_training(source, table, results.get("unfinished"), tell),
        lambda: _harvest_cells(source, docs / "results" / "paper-setting", table, tell),
    ):
        try:
            part()
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise RunError(" ".join(errors))


def _check_golden(source: Path, step: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    """Raise an error if the device was found wrong; say so if it was not found right."""
    found = step.get("result")
    if not found:
        tell("The golden weights were not tried in this run: nobody knows that the device computes what it should.")
    elif not found.get("passes"):
        differing = {name: found[name] for name in ("cpu_beside_golden", "device_beside_cpu") if name in found}
        raise RunError(
            f"The golden weights have not passed on {found.get('device', 'the device')}: {differing}. What was "
            f"measured and trained there cannot be trusted, and is left in {source}."
        )


def _harvest_cells(source: Path, target: Path, table: TableFolder, tell: Callable[[str], None]) -> None:
    if not (source / CELLS).exists():
        tell("No cell was finished.")
        return
    with tempfile.TemporaryDirectory() as name:
        parts.unpack((source / CELLS).read_bytes(), Path(name))
        brought, folders = read_cells(Path(name)), (target / "cells", table.cells)
        # before anything is written: a table never mixes settings or images
        for folder in folders:
            for kept in read_cells(folder)[:1]:
                for cell in brought:
                    if difference := first_difference(kept, cell["setting"], cell["data"]):
                        raise RunError(
                            f"The cells of {source} were left out, because those of {folder} differ: {place_of(cell)} "
                            f"has {difference} there."
                        )
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            for cell in brought:
                path = Path(name) / f"{place_of(cell).stem}.json"
                there, arrays = folder / path.name, path.with_suffix(".npz")
                is_new = create_once(there, path.read_text(encoding="utf-8"))
                if not is_new and read_cell(there) != cell:
                    tell(f"{there} is another training of the same cell, and is kept.")
                elif folder == table.cells and arrays.exists() and not (folder / arrays.name).exists():
                    write_atomically(folder / arrays.name, arrays.read_bytes())
                elif is_new and folder != table.cells:
                    tell(f"New: {there}")
    for path in write_table(TABLES[1], TableFolder(target)):
        tell(f"Written: {path}")


def _harvest_training(
    source: Path, table: TableFolder, about: Mapping[str, Any] | None, tell: Callable[[str], None]
) -> None:
    """Put a training that is not finished where the next --pack finds it, unless it is further there."""
    if not about:
        return
    method, fold, seed = about["place"].split(":")
    place = Place(method, int(fold), int(seed))
    with tempfile.TemporaryDirectory(dir=_existing(table.path)) as name:
        parts.unpack(parts.join(source, UNFINISHED, about), Path(name))
        brought = TableFolder(Path(name))
        here, there = recorded(table, place)[0], recorded(brought, place)[0]
        if place in [place_of(cell) for cell in read_cells(table.cells)] or here >= there:
            tell(f"{place}, at step {there}, is further here already.")
            return
        run, new = table.run(place), brought.run(place)
        if run.config.exists():
            compare(run, new.read_config(), new.read_dataset())
        run.path.mkdir(parents=True, exist_ok=True)
        for mine, its in ((run.config, new.config), (run.folds, new.folds), (run.dataset, new.dataset)):
            create_once(mine, its.read_text(encoding="utf-8"))  # other folds may be there
        if run.fold(place.fold).path.exists():
            tell(f"What was here of {place} is set aside, as {run.fold(place.fold).set_aside()}.")
        new.fold(place.fold).path.rename(run.fold(place.fold).path)
        if brought.processes(place).exists():
            table.processes(place).parent.mkdir(parents=True, exist_ok=True)
            brought.processes(place).replace(table.processes(place))
    tell(f"{place} is not finished: step {there}, in {run.path}. The next --pack takes it along.")


def _existing(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _harvest_measurements(results: Mapping[str, Any], docs: Path, tell: Callable[[str], None]) -> None:
    measured = {
        name: {"status": step["status"], "result": step["result"]}
        for name, step in results["steps"].items()
        if step.get("result")
    }
    if not measured:
        tell("Nothing was measured.")
        return
    name = _device(measured)
    content = {**{key: results[key] for key in ("commit", "date", "size")}, "device": name, "measured": measured}
    text = json.dumps(content, indent=1) + "\n"
    folder, page = docs / "results" / "accelerators", docs / "performance.md"
    if not page.is_file():
        raise RunError(f"{page} is missing: expected the page into which measurements are written.")
    before = page.read_text(encoding="utf-8")
    origin = (results["date"], results["commit"], True)
    try:  # that it can be shown, before it is kept
        rewrite(before, {name: {step: Measured(*origin, each["result"]) for step, each in measured.items()}})
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise RunError(f"The measurements of {name} cannot be read: {type(error).__name__}, {error}.") from error
    stem = f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}-{results['date']}"
    for path in (_existing(folder) / f"{stem}{number}.json" for number in ("", *(f"-{n}" for n in range(2, 100)))):
        if create_once(path, text):
            tell(f"Written: {path}")
            break
        if path.read_text(encoding="utf-8") == text:
            break
    write_atomically(page, rewrite(before, read_measurements(folder)))
    tell(f"Written: {page}")


def _device(measured: Mapping[str, Any]) -> str:
    """Return the name of the device, which every result has.

    Raises:
      DataError: they have none, or several.
    """
    first = [result[0] if isinstance(result, list) else result for result in (s["result"] for s in measured.values())]
    names = {str(each.get("device")) for each in first if isinstance(each, Mapping)}
    if len(names) != 1 or "None" in names:
        raise DataError(f"The results must name one device, and have {', '.join(sorted(names)) or 'none'}.")
    return names.pop()
