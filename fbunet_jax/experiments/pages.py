"""A table as a page to read: ``table.md``, and the rows of its figure."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from fbunet_jax.evaluation.scores import absence_notes
from fbunet_jax.experiments import page_parts
from fbunet_jax.experiments.cells import TableFolder, read_cells, shown
from fbunet_jax.experiments.origin import Process
from fbunet_jax.experiments.page_parts import baselines_of, difference_text, rare_names, spread_text
from fbunet_jax.experiments.paper import PaperTable
from fbunet_jax.experiments.tabulate import LARGE, tabulate
from fbunet_jax.figures import TableRow, draw_table
from fbunet_jax.runs.files import write_atomically
from fbunet_jax.tables import duration, markdown, percent


def write_table(table: PaperTable, folder: TableFolder) -> list[Path]:
    """Write ``table.md``, ``table.json`` and ``table.png`` from the cells of a folder.

    Args:
      table: the paper's.
      folder: of its cells.

    Returns:
      What was written; nothing if no cell is finished.

    Raises:
      RunError: a cell is damaged, or two have different settings.
    """
    cells = read_cells(folder.cells)
    if not cells:
        return []
    content = tabulate(table, cells)
    page, numbers, figure = (folder.path / f"table.{suffix}" for suffix in ("md", "json", "png"))
    write_atomically(numbers, json.dumps(content, indent=1) + "\n")
    title = f"Table {table.number}: {table.title}" if table.number else table.title
    title += (
        ""
        if content["is_papers_data"] or not table.number
        else f" (other images than the paper's: {content['data']['name']})"
    )
    draw_table(figure, [*content["class_names"], "mean"], figure_rows(content), title)
    write_atomically(page, as_markdown(content))
    return [page, numbers, figure]


def figure_rows(content: Mapping[str, Any]) -> list[TableRow]:
    """Return the rows of the figure, in %, from the content of ``table.json``."""
    columns = len(content["class_names"]) + 1
    rows = []
    for row in content["rows"]:
        cells = np.array([_values(cell) for cell in row["cells"]], np.float64).reshape(-1, columns)
        paper = row["paper"] if content["is_papers_data"] else None
        summary = [
            np.array(_values(each) if each else [None] * columns, np.float64)
            for each in (row["mean"], row["deviation"], paper)
        ]
        rows.append(TableRow(row["method"], 100 * cells, *(100 * values for values in summary)))
    return rows


def as_markdown(content: Mapping[str, Any]) -> str:
    """Return ``table.md`` from the content of ``table.json``."""
    number = content["table"]
    parts = [
        f"# Table {number} of Shibuya & Hotta (2020), run again: {content['title']}"
        if number
        else f"# {content['title']}",
        _caption(content),
        _numbers_table(content),
        f"![The numbers of {f'table {number}' if number else 'the table'}](table.png)",
        *page_parts.rare_classes(content),
        *page_parts.further(content),
        *page_parts.maps(content),
    ]
    if number and not content["is_papers_data"]:
        parts += ["## The paper's numbers, of its own images", _paper_table(content)]
    parts += ["## Setting", _setting(content), f"```toml\n{tomli_w.dumps(content['setting'])}```"]
    parts += ["## Cells", _origin(content), _cells_table(content)]
    return "\n\n".join(parts) + "\n"


def _caption(content: Mapping[str, Any]) -> str:
    several = any(row["first_round_mean_iou"] is not None for row in content["rows"])
    baselines = baselines_of(content)
    sentences = [
        "IoU in % on the test images: mean ± standard deviation (n - 1) over cells. A cell is one training of a method "
        "on one fold with one seed, evaluated at its best validation mean IoU.",
        "A method without a cell has not been run.",
    ]
    if not content["table"]:
        pass
    elif content["is_papers_data"]:
        sentences.append("Below ours stands the paper's number, which it gives without a deviation.")
    else:
        sentences.append(
            f"**These are not the paper's images** but {content['data']['name']}: the paper's numbers cannot be "
            "compared with these, and stand apart."
        )
    if several:
        sentences.append("Round 1 is the mean IoU of the first round; the other columns are the last round's.")
    if rare_names(content):
        sentences.append(
            f"The column of the large classes is the mean over {', '.join(content['large_classes'])}, which hold at "
            f"least {100 * LARGE:.0f} % of the pixels: the IoU of the others depends on which objects a fold holds."
        )
    if baselines:
        named = " or ".join(f"`{name}`" for name in baselines)
        sentences.append(
            f"A difference to {named} in mean IoU is of cells of the same fold and seed, from counts that are averaged "
            "over the seeds of a fold and summed over folds; in brackets its "
            "95 % jackknife interval over folds, where there are at least two. The folds share training images, so the "
            "interval is rather too narrow than too wide."
        )
    if len({tuple((c["fold"], c["seed"]) for c in row["cells"]) for row in content["rows"] if row["cells"]}) > 1:
        sentences.append(
            "**The rows are over different folds or seeds** (last column): compare methods by the differences, not by "
            "their means."
        )
    lacking = {cell["fold"]: cell["iou"] for row in content["rows"] for cell in row["cells"]}
    if notes := absence_notes(content["class_names"], dict(sorted(lacking.items()))):
        sentences += [
            *notes,
            "The mean column is the mean of the classes' means, each over the cells that have the class.",
        ]
    if content["is_papers_data"]:
        sentences += content["notes"]
    return " ".join(sentences)


def _numbers_table(content: Mapping[str, Any]) -> str:
    baselines, has_rare = baselines_of(content), bool(rare_names(content))
    header = ["method", "", *content["class_names"], "mean", *["large classes"] * has_rare, "round 1"]
    header += [*(f"minus `{name}`" for name in baselines), "cells"]
    rows = []
    for row in content["rows"]:
        mean, deviation = (_values(row[key]) if row[key] else [] for key in ("mean", "deviation"))
        ours = [spread_text(*each) for each in zip(mean, deviation, strict=True)]
        ours = ours or [""] * (len(content["class_names"]) + 1)
        ours += [spread_text(row["large_mean"], row["large_deviation"])] * has_rare
        title = f"{row['title']} (`{row['method']}`)"
        differences = [difference_text(row, name, row["folds"]) for name in baselines]
        rows.append([title, "ours", *ours, _first_round(row), *differences, _which(row)])
        if content["is_papers_data"] and row["paper"]:
            paper = [*map(percent, _values(row["paper"])), *[""] * has_rare]
            rows.append(["", "paper", *paper, "", *[""] * len(baselines), ""])
    return markdown(header, rows)


def _paper_table(content: Mapping[str, Any]) -> str:
    rows = [[row["title"], *map(percent, _values(row["paper"]))] for row in content["rows"] if row["paper"]]
    return "\n\n".join([markdown(["method", *content["paper_class_names"], "mean"], rows), *content["notes"]])


def _which(row: Mapping[str, Any]) -> str:
    count = len(row["cells"])
    if not count:
        return ""
    return f"{count}: folds {_list(row['folds'])}; seeds {_list(row['seeds'])}"


def _setting(content: Mapping[str, Any]) -> str:
    """Say in a few words what was trained how, and in what that differs from the paper."""
    data, model, training = (content["setting"][part] for part in ("data", "model", "training"))
    config = content["config"]
    weights = training["class_weights"]
    whose = "the paper's protocol" if content["table"] else "the setting of the project"
    changed = [
        f"`{each['setting']}` {_plain(each['ours'])} (there {_plain(each['paper'])})"
        for each in content["differs_from_paper"]
    ]
    protocol = (
        f"It differs from {whose}, as the configuration `{config}` states it, in {'; '.join(changed)}."
        if changed
        else f"No setting differs from {whose}, as the configuration `{config}` states it."
    )
    return (
        f"Data: {content['data']['name']} (layout `{data['layout']}`), {len(content['class_names'])} classes, "
        f"{data['folds']} folds (`{data['fold_scheme']}`), fingerprint `{content['data']['fingerprint']}`. Training: "
        f"{training['epochs']} epochs, batches of {training['batch_size']}, learning rate "
        f"{training['learning_rate']:g} ({training['schedule']}), augmentation {training['augmentation']}, class "
        f"weights {weights if isinstance(weights, str) else _plain(weights)}, round weight "
        f"{training['round_weight']:g}, batch-norm momentum {model['batch_norm_momentum']:g}, {model['precision']}. "
        f"{protocol}"
    )


def _origin(content: Mapping[str, Any]) -> str:
    """Say on which devices, by which commits and when the cells were trained, and how many by each."""
    cells = [cell for row in content["rows"] for cell in row["cells"]]
    if not cells:
        return "No cell of this table is finished."
    processes = [cell["processes"] for cell in cells]
    versions = sorted(
        {f"{name} {version}" for each in processes for s in each for name, version in s["versions"].items() if version}
    )
    dates = sorted({cell["date"] for cell in cells})
    days = f"on {dates[0]}" if len(dates) == 1 else f"from {dates[0]} to {dates[-1]}"
    evaluating = {_short(cell["evaluated_by"]["commit"]) for cell in cells if cell["evaluated_by"]}
    evaluated = f" Evaluated in other ways by {', '.join(sorted(evaluating))}." if evaluating else ""
    return (
        f"Devices: {_counted(_devices(each) for each in processes)}. Commits: "
        f"{_counted(_commits(each) for each in processes)}. Finished {days}. "
        f"{', '.join(versions)}.{evaluated} The time is that of epochs and validations on the clock, and the minutes "
        "are those of the processor, of all threads, meanwhile."
    )


def _cells_table(content: Mapping[str, Any]) -> str:
    after = ["mean", "round 1", "best step", "time", "minutes", "devices", "commit", "date"]
    rows = []
    for row in content["rows"]:
        for cell in row["cells"]:
            place = [f"`{row['method']}`", str(cell["fold"]), str(cell["seed"])]
            work = [f"{cell['step']} of {cell['steps']}", duration(cell["seconds"])]
            processor = cell["processor_seconds"]
            work.append("" if processor is None else f"{processor / 60:.0f}")
            origin = [_devices(cell["processes"]), _commits(cell["processes"]), cell["date"]]
            rows.append([*place, *map(percent, _values(cell)), _first_round(cell), *work, *origin])
    return markdown(["method", "fold", "seed", *content["class_names"], *after], rows) if rows else ""


def _first_round(source: Mapping[str, Any]) -> str:
    return "" if source["first_round_mean_iou"] is None else percent(source["first_round_mean_iou"])


def _devices(processes: Sequence[Process]) -> str:
    kinds = [Counter(process["devices"]) for process in processes]
    return ", then ".join(dict.fromkeys(" + ".join(f"{n} x {kind}" for kind, n in each.items()) for each in kinds))


def _commits(processes: Sequence[Process]) -> str:
    return ", then ".join(dict.fromkeys(_short(process["commit"]) for process in processes))


def _short(commit: str) -> str:
    """Shorten the hash of a commit, and nothing else."""
    head, space, rest = commit.partition(" ")
    return (head[:10] if len(head) == 40 else head) + space + rest


def _counted(texts: Iterable[str]) -> str:
    return "; ".join(f"{text} ({n} cell{'s' if n > 1 else ''})" for text, n in Counter(texts).items())


def _values(source: Mapping[str, Any]) -> list[float | None]:
    return [*source["iou"], source["mean_iou"]]


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _plain(value: Any) -> str:
    return shown(value).strip('"')
