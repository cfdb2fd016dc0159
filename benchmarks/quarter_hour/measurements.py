"""What was measured on devices, as ``docs/results/accelerators`` keeps it, and the part of performance.md about it."""

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import speed
from benchmarks.quarter_hour.sizes import SIZES
from benchmarks.quarter_hour.steps import STEPS
from fbunet_jax.errors import DataError
from fbunet_jax.runs.files import read_json

BEGIN, END = "<!-- measured: written by benchmarks.quarter_hour -->", "<!-- end of measured -->"
"""Around the part of performance.md that is written anew from all measurements."""

COLUMN = "measured, crops/s"
"""Of a table of performance.md whose rows begin with the names of devices."""


class Measured(NamedTuple):
    """What one step has measured.

    Attributes:
      date: in UTC.
      commit: of the program.
      is_whole: the step came to its end.
      result: as the step wrote it.
    """

    date: str
    commit: str
    is_whole: bool
    result: Any


def read_measurements(folder: Path) -> dict[str, dict[str, Measured]]:
    """Return what was measured last, by the device's name and the step, in the order of both.

    A result that is whole is not replaced by a later one that is not.
    """
    found: dict[str, dict[str, Measured]] = {}
    # of one day, the one with the larger number in its name is the later one
    paths = sorted(folder.glob("*.json"), key=lambda path: (len(path.name), path.name))
    for content in sorted((read_json(path, dict[str, Any]) for path in paths), key=lambda content: content["date"]):
        steps = found.setdefault(content["device"], {})
        for name, step in content["measured"].items():
            if name not in steps or step["status"] == "done" or not steps[name].is_whole:
                steps[name] = Measured(content["date"], content["commit"], step["status"] == "done", step["result"])
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
    """Return the crops a second of our training as the counted table has it, None if it was not measured."""
    task = SIZES["full"].task("mixed")
    for result in results:
        if all(result[name] == getattr(task, name) for name in ("contender", "task", "batch", "size", "precision")):
            return 1 / statistics.median(result["seconds_an_image"])
    return None


def fill_column(page: str, rates: Mapping[str, float]) -> str:
    """Return a page with the rates in the column `COLUMN`, in the rows whose first cell is in the name of a device.

    Rows of other devices have none.
    """
    lines, column = page.splitlines(keepends=True), None
    for number, line in enumerate(lines):
        cells = line.split("|")
        if not line.startswith("|"):
            column = None
        elif COLUMN in [cell.strip() for cell in cells]:
            column = [cell.strip() for cell in cells].index(COLUMN)
        elif column is not None and not cells[1].startswith("--"):
            found = [rate for name, rate in rates.items() if cells[1].strip() in name.split() and "MIG" not in name]
            cells[column] = f" {found[0]:,.0f} " if found else "  "
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
        title += "" if step.is_whole else ", as far as it came"
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
        sentences.append(
            f"Under the profiler, which takes CUDA graphs away, a step took {1e3 * result['profiled_step']:.3g} ms: "
            f"{runs:,.0f} kernels, which ran for {busy:.3g} ms together. The {len(kernels)} longest:"
        )
    yield " ".join(sentences)
    if kernels:
        lines = ["| kernel | share, % | ms a step | launches a step | GB/s, counted |", "|---|---|---|---|---|"]
        for each in kernels:
            moved, seconds = each["counted_bytes"], each["seconds_a_step"]
            rate = "" if moved is None else f"{moved / seconds / 1e9:,.{0 if moved > 1e10 * seconds else 2}f}"
            name, share = each["name"][:60].replace("|", " "), 100 * each["share"]
            lines.append(f"| `{name}` | {share:.1f} | {1e3 * seconds:.3g} | {each['launches_a_step']:.3g} | {rate} |")
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
