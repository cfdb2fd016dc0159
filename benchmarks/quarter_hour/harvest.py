"""What a run has brought back becomes results: cells of the table, and what was measured in ``docs/performance.md``."""

import json
import re
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import speed
from benchmarks.quarter_hour import parts
from benchmarks.quarter_hour.run import CELLS, FORMAT, RESULTS, STEPS, UNFINISHED
from benchmarks.quarter_hour.table import recorded
from fbunet_jax.errors import DataError, RunError
from fbunet_jax.files import create_once, read_json, write_atomically
from fbunet_jax.reproduction.cells import read_cell, read_cells
from fbunet_jax.reproduction.pages import write_table
from fbunet_jax.reproduction.reproduce import TableFolder
from fbunet_jax.reproduction.tables import TABLES
from fbunet_jax.runs import Place

BEGIN, END = "<!-- measured: written by benchmarks.quarter_hour -->", "<!-- end of measured -->"
"""Around the part of performance.md that is written anew from all measurements."""

COLUMN = "measured, crops/s"
"""Of a table of performance.md whose rows begin with the names of devices."""


class Measured(NamedTuple):
    """What one step has measured.

    Attributes:
      date: in UTC.
      commit: of the program.
      result: as the step wrote it.
    """

    date: str
    commit: str
    result: Any


def harvest(source: Path, docs: Path, table: TableFolder, size: str, tell: Callable[[str], None]) -> None:
    """Merge what a run has brought back; what is there already is kept, and named where it differs.

    Args:
      source: the run's output folder.
      docs: the folder of ``performance.md`` and ``results``.
      table: on this machine, for weights and the training that is not finished.
      size: of the run: the numbers of a rehearsal do not get among the others.
      tell: called with a line about each thing.

    Raises:
      UserError: the folder is not that of a run, of another size, or damaged.
    """
    results = read_json(source / RESULTS, dict[str, Any])
    if results.get("format") != FORMAT:
        raise RunError(f"{source / RESULTS} has format {results.get('format')!r}; this version reads format {FORMAT}.")
    if results["size"] != size:
        raise RunError(f"{source} is a run of the size {results['size']}: harvest it with --size {results['size']}.")
    steps = results["steps"]
    for name, step in steps.items():
        tell(f"{name}: {step['status']}{', ' + step['reason'] if step.get('reason') else ''}")
    if not steps.get("golden", {}).get("result", {}).get("passes", True):
        raise RunError(
            f"On {steps['golden']['result']['device']} the golden weights do not give the CPU's logits and loss. What "
            f"was measured and trained there cannot be trusted, and is left in {source}."
        )
    _harvest_cells(source, docs / "results" / "paper-setting", table, tell)
    _harvest_training(source, table, results.get("unfinished"), tell)
    _harvest_measurements(results, docs, tell)


def _harvest_cells(source: Path, target: Path, table: TableFolder, tell: Callable[[str], None]) -> None:
    if not (source / CELLS).exists():
        tell("No cell was finished.")
        return
    with tempfile.TemporaryDirectory() as name:
        parts.unpack((source / CELLS).read_bytes(), Path(name))
        for path in sorted(Path(name).glob("*.json")):
            read_cell(path)  # that it is whole
            arrays = path.with_suffix(".npz")
            for folder in (target / "cells", table.cells):
                folder.mkdir(parents=True, exist_ok=True)
                there = folder / path.name
                if not create_once(there, path.read_text(encoding="utf-8")):
                    if json.loads(there.read_text(encoding="utf-8")) != json.loads(path.read_text(encoding="utf-8")):
                        tell(f"{there} is another training of the same cell, and is kept.")
                elif folder == target / "cells":
                    tell(f"New: {there}")
            if arrays.exists() and not (table.cells / arrays.name).exists():
                write_atomically(table.cells / arrays.name, arrays.read_bytes())
    for path in write_table(TABLES[1], target):
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
        finished = any((cell["method"], cell["fold"], cell["seed"]) == tuple(place) for cell in read_cells(table.cells))
        if finished or here >= there:
            tell(f"{place}, at step {there}, is further here already: step {here}.")
            return
        run = table.run(place).path
        if run.exists():
            number = next(n for n in range(1, 1000) if not run.with_name(f"{run.name}.old-{n}").exists())
            run.rename(run.with_name(f"{run.name}.old-{number}"))
        run.parent.mkdir(parents=True, exist_ok=True)
        brought.run(place).path.rename(run)
        if brought.processes(place).exists():
            table.processes(place).parent.mkdir(parents=True, exist_ok=True)
            brought.processes(place).replace(table.processes(place))
    tell(f"{place} is not finished: step {there}, in {run}. The next --pack takes it along.")


def _existing(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _harvest_measurements(results: Mapping[str, Any], docs: Path, tell: Callable[[str], None]) -> None:
    measured = {name: step["result"] for name, step in results["steps"].items() if step.get("result")}
    if not measured:
        tell("Nothing was measured.")
        return
    name = _device(measured)
    content = {**{key: results[key] for key in ("commit", "date", "size")}, "device": name, "measured": measured}
    text = json.dumps(content, indent=1) + "\n"
    folder = _existing(docs / "results" / "accelerators")
    stem = f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}-{results['date']}"
    for path in (folder / f"{stem}{number}.json" for number in ("", *(f"-{n}" for n in range(2, 100)))):
        if create_once(path, text):
            tell(f"Written: {path}")
            break
        if path.read_text(encoding="utf-8") == text:
            break
    page = docs / "performance.md"
    write_atomically(page, rewrite(page.read_text(encoding="utf-8"), read_measurements(folder)))
    tell(f"Written: {page}")


def _device(measured: Mapping[str, Any]) -> str:
    """Return the name of the device, which every result has."""
    for result in measured.values():
        first = result[0] if isinstance(result, list) else result
        if isinstance(first, Mapping) and first.get("device"):
            return str(first["device"])
    raise DataError("None of the results names its device.")


def read_measurements(folder: Path) -> dict[str, dict[str, Measured]]:
    """Return what was measured last, by the device's name and the step, in the order of both."""
    found: dict[str, dict[str, Measured]] = {}
    contents = [read_json(path, dict[str, Any]) for path in sorted(folder.glob("*.json"))]
    for content in sorted(contents, key=lambda content: content["date"]):
        steps = found.setdefault(content["device"], {})
        steps |= {name: Measured(content["date"], content["commit"], r) for name, r in content["measured"].items()}
    return {device: {name: found[device][name] for name in STEPS if name in found[device]} for device in sorted(found)}


def rewrite(page: str, measured: Mapping[str, Mapping[str, Measured]]) -> str:
    """Return performance.md with its measured part, and its measured column, as the measurements have them.

    Raises:
      DataError: the page has no such part.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"The page lacks the lines {BEGIN} and {END}, between which the measurements stand.")
    part = "\n\n".join(section(device, steps) for device, steps in measured.items())
    known = {device: training_rate(steps["speed"].result) for device, steps in measured.items() if "speed" in steps}
    rates = {device: rate for device, rate in known.items() if rate}
    return fill_column(f"{before}{BEGIN}\n\n{part}\n\n{END}{after}", rates)


def training_rate(results: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the images a second of our training with the first batch size, None if it was not measured."""
    for result in results:
        if result["contender"] == "ours" and result["task"] == "train" and result["precision"] == "mixed":
            return 1 / statistics.median(result["seconds_an_image"])
    return None


def fill_column(page: str, rates: Mapping[str, float]) -> str:
    """Return a page with the rates in the column `COLUMN`, in the rows whose first cell is in the name of a device."""
    lines, column = page.splitlines(keepends=True), None
    for number, line in enumerate(lines):
        cells = line.split("|")
        if not line.startswith("|"):
            column = None
        elif COLUMN in [cell.strip() for cell in cells]:
            column = [cell.strip() for cell in cells].index(COLUMN)
        elif column is not None and (device := cells[1].strip()):
            for name, rate in rates.items():
                if device in name.split():
                    cells[column] = f" {rate:,.0f} "
                    lines[number] = "|".join(cells)
    return "".join(lines)


def section(device: str, steps: Mapping[str, Measured]) -> str:
    """Return what was measured on one device, as Markdown."""
    paragraphs = [f"### {device}"]
    for name, step in steps.items():
        title, make = _MAKERS[name]
        commit = re.sub(r"\b([0-9a-f]{7})[0-9a-f]{33}\b", r"\1", step.commit)
        results = step.result if isinstance(step.result, list) else [step.result]
        versions = dict.fromkeys(each.get("version") or f"jax {each['jax']}" for each in results)
        text, *more = make(step.result)
        paragraphs += [f"**{title}** ({', '.join([step.date, f'commit {commit}', *versions])}). {text}", *more]
    return "\n\n".join(paragraphs)


def _golden(result: Mapping[str, Any]) -> Iterator[str]:
    texts = [
        f"{precision} by {max(each.values()):.1g} (at most {result['tolerances'][precision]:g})"
        for precision, each in result["device_beside_cpu"].items()
    ]
    yield f"Logits and loss of fixed weights differ from those of the CPU, relative to the largest: {', '.join(texts)}."


def _speed(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"`feedback-convlstm`, {results[0]['size']} x {results[0]['size']} pixels:"
    yield speed.table([dict(result) for result in results])


def _profile(result: Mapping[str, Any]) -> Iterator[str]:
    step = statistics.median(result["seconds_a_step"])
    sentences = [f"A training step of {result['batch']} crops in mixed precision takes {1e3 * step:.3g} ms."]
    if bandwidth := result.get("copied_bytes_a_second"):
        sentences.append(f"The device copies {bandwidth / 1e9:,.0f} GB/s.")
    if counted := result.get("counted"):
        moved = f"The program moves {counted['bytes_moved'] / 1e9:.3g} GB in {counted['kernels']:,} kernels"
        least = counted["bytes_moved"] / bandwidth if bandwidth else 0.0
        share = f", which takes {1e3 * least:.3g} ms at that rate, {100 * least / step:.0f} % of the step"
        sentences.append(f"{moved}{share if bandwidth else ''}.")
    kernels = result.get("kernels", [])
    if kernels:
        busy, runs = 1e3 * result["kernel_seconds_a_step"], result["kernels_a_step"]
        sentences.append(f"The profiler saw {runs:,.0f} kernels a step, which ran for {busy:.3g} ms together.")
        sentences.append(f"The {len(kernels)} longest:")
    yield " ".join(sentences)
    if kernels:
        lines = ["| kernel | share, % | ms a step | runs a step | GB/s, counted |", "|---|---|---|---|---|"]
        for each in kernels:
            seconds, moved = each["seconds_a_step"] / each["runs_a_step"], each["bytes_a_run"]
            rate = f"{moved / seconds / 1e9:,.{0 if moved > 1e10 * seconds else 2}f}" if moved is not None else ""
            share, time = 100 * each["share"], 1e3 * each["seconds_a_step"]
            name = each["name"][:60].replace("|", " ")
            lines.append(f"| `{name}` | {share:.1f} | {time:.3g} | {each['runs_a_step']:.3g} | {rate} |")
        yield "\n".join(lines)


def _together(result: Mapping[str, Any]) -> Iterator[str]:
    texts = [f"{number}: {rate:,.0f}" for number, rate in result["images_per_second"].items()]
    yield f"Trainings at once in float32, batch {result['batch']}, and their images/s together: {', '.join(texts)}."


_MAKERS: Mapping[str, tuple[str, Callable[[Any], Iterator[str]]]] = {
    "golden": ("Correct", _golden),
    "speed": ("Speed", _speed),
    "profile": ("Profile", _profile),
    "together": ("Side by side", _together),
}
