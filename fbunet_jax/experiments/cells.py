"""The folder of a table and its finished cells: a small JSON file and an ``.npz`` file each.

A cell is one training of a method on a fold with a seed. Both files can be copied between machines: they hold no path,
and they can be read without this program.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
from flax.traverse_util import flatten_dict
from numpy.typing import NDArray

from fbunet_jax.config import Config
from fbunet_jax.config_formats import BEFORE_FORMAT_2, comparable, items_are_tiles, with_missing
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.scores import Entry, checked_entry
from fbunet_jax.experiments.grid import Place
from fbunet_jax.experiments.origin import Process
from fbunet_jax.models.methods import METHODS
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.files import read_json, write_atomically
from fbunet_jax.runs.trained import TrainedFold
from fbunet_jax.toml_tables import to_table

FORMAT = 2
"""Version of the format of a cell; a newer one is refused. In format 1 the evaluation is of format 1 too."""

# They change no number, or differ from cell to cell.
_NOT_COMPARED = {"model.rematerialise", "training.previews", "training.preview_every", "training.save_minutes"}


class DataDescription(TypedDict):
    """The data set of a cell: the last part of its folder's path, and what a run remembers of it."""

    name: str
    class_names: list[str]
    channels: int
    fingerprint: str


class Cell(TypedDict):
    """The content of a cell's JSON file.

    Attributes:
      format: version of this format.
      method: of the network.
      fold: that was left out.
      seed: of the training.
      setting: every setting but the method, the seed, and what belongs to one machine.
      data: the data set.
      evaluation: of the test part, as in evaluation.json.
      validation_mean_iou: of the same checkpoint, by which it was chosen.
      steps: of the training in all; the best checkpoint's is in ``evaluation``.
      parameters: how many numbers were learnt.
      seconds: that epochs and validations took; starting and compiling do not count, except for the first step.
      processor_seconds: of all threads meanwhile, on the host; absent where an earlier version trained a part of it.
      further: evaluations of the same checkpoint in other ways, by the name of each, see `experiments.evaluations`.
      evaluated_by: the process that made the further ones, or the last of them.
      processes: the processes that worked on it.
      date: on which it was finished, in UTC.
    """

    format: int
    method: str
    fold: int
    seed: int
    setting: dict[str, Any]
    data: DataDescription
    evaluation: Entry
    validation_mean_iou: float
    steps: int
    parameters: int
    seconds: float
    processor_seconds: NotRequired[float]
    further: NotRequired[dict[str, Entry]]
    evaluated_by: NotRequired[Process]
    processes: list[Process]
    date: str


@dataclass(frozen=True)
class TableFolder:
    """The folder of a table: what is finished, and what is under way."""

    path: Path

    cells = property(lambda self: self.path / "cells", doc="Finished cells, two files each, which can be copied.")

    def run(self, place: Place) -> Run:
        """Return the run directory with all folds of a method and a seed."""
        return Run(self.path / "runs" / f"{place.method}-seed{place.seed}")

    def processes(self, place: Place) -> Path:
        """Return the file that keeps who has worked on a cell."""
        return self.path / "processes" / f"{place.stem}.json"


def place_of(cell: Cell) -> Place:
    """Return where a cell stands."""
    return Place(cell["method"], cell["fold"], cell["seed"])


def setting_of(config: Config) -> dict[str, Any]:
    """Return what a cell keeps of the settings."""
    table = to_table(config)
    data = {key: value for key, value in table["data"].items() if key != "root"}
    rest = {key: value for key, value in table.items() if key not in ("name", "method", "seed", "data")}
    return {**rest, "data": data}


def weights_of(trained: TrainedFold, setting: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a cell's ``.npz`` file.

    Args:
      trained: the best checkpoint.
      setting: of the cell; kept as JSON text, so that the file alone says what the network is.

    Returns:
      ``params/...`` and ``batch_stats/...`` under their paths in the tree, ``normalisation/kind``, ``/mean`` and
      ``/deviation``, ``class_names`` and ``setting``.
    """
    weights = {name: np.asarray(leaf) for name, leaf in flatten_dict(trained.variables, sep="/").items()}
    normalisation = {f"normalisation/{name}": np.array(value) for name, value in asdict(trained.normalisation).items()}
    return (
        weights
        | normalisation
        | {"class_names": np.array(trained.class_names), "setting": np.array(json.dumps(setting))}
    )


def write_cell(folder: Path, cell: Cell, weights: Mapping[str, Any]) -> Path:
    """Write both files of a cell, and return the path of the JSON file; with it the cell is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(weights))
    stem = place_of(cell).stem
    write_atomically(folder / f"{stem}.npz", buffer.getvalue())
    return write_numbers(folder, cell)


def write_numbers(folder: Path, cell: Cell) -> Path:
    """Write the JSON file of a cell, and return its path."""
    path = folder / f"{place_of(cell).stem}.json"
    write_atomically(path, json.dumps(cell, indent=1) + "\n")
    return path


def read_cells(folder: Path) -> list[Cell]:
    """Read every cell of a folder, by method, fold and seed, and check that they belong in one table.

    Raises:
      RunError: a file is damaged, or two cells differ in a setting or in the data (the first difference is named).
    """
    paths = [path for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")]
    cells = sorted((read_cell(path) for path in paths), key=lambda cell: _order(place_of(cell)))
    for cell in cells[1:]:
        if difference := first_difference(cells[0], cell["setting"], cell["data"]):
            raise RunError(
                f"{folder / place_of(cell).stem}.json has {difference} in {place_of(cells[0]).stem}.json. A table "
                "never mixes settings: move one of them to the folder of another table (--out)."
            )
        old, new = sorted((cells[0], cell), key=lambda each: "tile" in each["evaluation"])
        if (
            "tile" not in old["evaluation"]
            and "tile" in new["evaluation"]
            and not items_are_tiles(complete(cell["setting"]))
        ):
            raise RunError(
                f"{folder / place_of(old).stem}.json was evaluated by an earlier version, in separate tiles, and "
                f"{place_of(new).stem}.json as prediction segments images: their numbers cannot stand in one table. "
                "Move the first to the folder of another table (--out)."
            )
    return cells


def first_difference(cell: Cell, setting: Mapping[str, Any], data: Mapping[str, Any] | None) -> str:
    """Say in what a setting, or a data set, first differs from that of a cell; empty if in nothing that matters.

    Args:
      cell: the cell.
      setting: as `setting_of` returns it.
      data: class names, channels and fingerprint; None does not compare them.
    """
    for name, now, before in differences(setting, cell["setting"]):
        return f"{name} {shown(now)}, and it is {shown(before)}"
    kept: Mapping[str, Any] = cell["data"]
    for name in ("class_names", "channels", "fingerprint"):
        if data is not None and data[name] != kept[name]:
            return f"other data: {name} {shown(data[name])}, and it is {shown(kept[name])}"
    return ""


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted name, first and second value of every setting that differs and matters; None for one not set.

    A setting that an older cell lacks has the value that says what was done then.
    """
    flat, against = (_flat(comparable(complete(each))) for each in (one, other))
    for name in {**flat, **against}:
        if flat.get(name) != against.get(name) and name not in _NOT_COMPARED:
            yield name, flat.get(name), against.get(name)


def is_complete(setting: Mapping[str, Any]) -> bool:
    """Say whether a cell has the settings of format 2."""
    return BEFORE_FORMAT_2.keys() <= _flat(setting).keys()


def complete(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting of a cell with what it lacks: the values that say what was done then."""
    return with_missing(setting, {**_flat(setting_of(Config())), **BEFORE_FORMAT_2})


def _flat(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings under their dotted names."""
    return flatten_dict(dict(setting), sep=".", is_leaf=lambda path, _: path[-1:] == ("classes",))


def read_cell(path: Path) -> Cell:
    """Read the JSON file of a cell of any format, as one of the present format.

    Its numbers must follow from its counts, by its own format.

    Raises:
      RunError: the file is damaged, was renamed, or its format is newer than this version.
    """
    version = read_json(path, dict[str, Any]).get("format")
    if version not in (1, FORMAT):
        raise RunError(
            f"{path} has format {version!r}; this version reads formats 1 and {FORMAT}. Use the version that wrote it."
        )
    cell = read_json(path, Cell)
    if place_of(cell).stem != path.stem or cell["method"] not in METHODS:
        raise RunError(f"{path} holds the cell {place_of(cell)}: expected the name {place_of(cell).stem}.json.")
    classes, further = len(cell["data"]["class_names"]), cell.get("further", {})
    evaluation, *others = (checked_entry(entry, classes) for entry in (cell["evaluation"], *further.values()))
    has_format = cell["evaluation"].get("format", 1) == version
    # of one checkpoint
    places = {(entry["fold"], entry["step"]) for entry in (cell["evaluation"], *further.values())}
    is_whole = has_format and places == {(cell["fold"], cell["evaluation"]["step"])} and cell["processes"]
    if evaluation is None or None in others or not is_whole:
        raise RunError(f"{path} is damaged: its numbers do not follow from its counts. Copy it again.")
    checked: Cell = {**cell, "format": FORMAT, "evaluation": evaluation}
    if further:
        checked["further"] = dict(zip(further, cast(list[Entry], others), strict=True))
    return checked


def _order(place: Place) -> tuple[int, int, int]:
    return list(METHODS).index(place.method), place.fold, place.seed


def shown(value: Any) -> str:
    """Return the value of a setting as text."""
    return "not set" if value is None else json.dumps(value)
