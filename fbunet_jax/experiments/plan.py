"""A plan: several experiments, each a grid of trainings in a setting of its own, one after the other.

A TOML file with a table ``[[experiments]]`` each, see docs/reproduction.md.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from fbunet_jax.config import Config, find_config, load_config
from fbunet_jax.errors import ConfigError, did_you_mean
from fbunet_jax.experiments.cells import TableFolder
from fbunet_jax.experiments.evaluations import FURTHER, Further
from fbunet_jax.experiments.grid import Grid
from fbunet_jax.experiments.paper import TABLES, PaperTable, Row
from fbunet_jax.models.methods import METHODS
from fbunet_jax.toml_tables import from_table, read_toml

FORMAT = 1
"""Version of the format of a plan; a newer one is refused."""


@dataclass(frozen=True)
class Experiment:
    """A grid of trainings, as the plan has it.

    Attributes:
      name: of its folder.
      title: what it is for; that of the paper's table by default.
      table: of the paper, whose methods are trained and whose numbers stand beside ours; 0 for none.
      methods: those that are trained; all of the table by default.
      config: a TOML file, or the name of a configuration; the table's by default.
      folds: all by default.
      seeds: how many, from that of the settings on.
      further: how the checkpoints are evaluated beside the number of the table, see `experiments.evaluations`.
      reference: EXPERIMENT:METHOD whose cells of the same fold and seed these are compared with; none by default.
    """

    name: str
    title: str = ""
    table: int = 0
    methods: tuple[str, ...] = ()
    config: str = ""
    folds: tuple[int, ...] = ()
    seeds: int = 1
    further: tuple[str, ...] = FURTHER
    reference: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z0-9][a-z0-9._-]*", self.name):
            raise ConfigError(f"name = {self.name!r}: expected small letters, digits and -, because it names a folder.")
        if self.table not in (0, *TABLES):
            raise ConfigError(f"table = {self.table}: expected one of {', '.join(map(str, TABLES))}, or 0 for none.")
        if not self.table and not (self.methods and self.config and self.title):
            raise ConfigError(f"{self.name}: without a table of the paper it needs title, config and methods.")
        for method in self.methods:
            if method not in METHODS:
                raise ConfigError(f"{method!r} is not a method.{did_you_mean(method, METHODS)}")
        for key, values in (("methods", self.methods), ("folds", self.folds)):
            if twice := [value for value in values if values.count(value) > 1]:
                raise ConfigError(f"{self.name}: {key} has {twice[0]!r} twice: expected each once.")
        for kind in self.further:
            if kind not in get_args(Further):
                known = get_args(Further)
                raise ConfigError(
                    f"further has {kind!r}: expected some of {', '.join(known)}.{did_you_mean(kind, known)}"
                )
        if self.seeds < 1:
            raise ConfigError(f"seeds = {self.seeds}: expected a number of at least 1.")

    @property
    def paper_table(self) -> PaperTable:
        """The table that its cells fill."""
        if self.table:
            table = TABLES[self.table]
            rows = tuple(row for row in table.rows if not self.methods or row.method in self.methods)
            return replace(table, rows=rows, title=self.title or table.title)
        rows = tuple(Row(method, METHODS[method].description) for method in self.methods)
        return PaperTable(0, self.title, (), self.config, None, rows)


@dataclass(frozen=True)
class Planned:
    """An experiment with its settings and its folder.

    Attributes:
      experiment: as the plan has it.
      grid: its trainings.
      folder: of its cells and its table.
    """

    experiment: Experiment
    grid: Grid
    folder: TableFolder

    name = property(lambda self: self.experiment.name, doc="Of the experiment.")


@dataclass(frozen=True)
class Plan:
    """Experiments in the order in which they are run."""

    path: Path
    planned: tuple[Planned, ...] = field(default=())

    def select(self, only: Sequence[str]) -> "Plan":
        """Return the trainings that were chosen, each by EXPERIMENT, or EXPERIMENT/METHOD[:FOLD[:SEED]].

        Raises:
          ConfigError: one names no training.
        """
        names = [each.name for each in self.planned]
        chosen: dict[str, list[str]] = {}
        for text in only:
            name, _, place = text.partition("/")
            if name not in names:
                raise ConfigError(
                    f"--only {text}: {name!r} is not an experiment of {self.path}.{did_you_mean(name, names)} They "
                    f"are: {', '.join(names)}."
                )
            chosen.setdefault(name, []).append(place)
        if not only:
            return self
        kept = []
        for each in self.planned:
            if each.name in chosen:
                places = [place for place in chosen[each.name] if place]
                grid = (
                    each.grid if "" in chosen[each.name] else each.grid.select(places, f"an experiment of {self.path}")
                )
                kept.append(replace(each, grid=grid))
        return replace(self, planned=tuple(kept))


def read_plan(path: Path, out: Path, data_root: str = "") -> Plan:
    """Read a plan.

    Args:
      path: the TOML file.
      out: folder of the experiments' folders.
      data_root: folder of the data set, where no setting names it.

    Raises:
      ConfigError: the file cannot be read, or a key or value is not as it should be.
    """
    content = read_toml(path)
    version, tables = content.pop("format", None), content.pop("experiments", None)
    if version != FORMAT or isinstance(version, bool):
        raise ConfigError(f"{path} has format {version!r}: expected format = {FORMAT} at its top.")
    if content:
        raise ConfigError(f"{path}: unknown key {next(iter(content))!r}: expected format and [[experiments]].")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, Mapping) for table in tables):
        raise ConfigError(f"{path} has no [[experiments]]: expected a table for each.")
    planned = [
        _planned(table, f"{path}, experiment {number}", out, data_root) for number, table in enumerate(tables, 1)
    ]
    names = [each.name for each in planned]
    for each in planned:
        if names.count(each.name) > 1:
            raise ConfigError(f"{path}: two experiments are called {each.name!r}.")
        if each.experiment.reference:
            name, _, method = each.experiment.reference.partition(":")
            methods = {other.name: other.grid.methods for other in planned}
            if method not in methods.get(name, ()):
                raise ConfigError(
                    f"{path}, {each.name}: reference = {each.experiment.reference!r}: expected EXPERIMENT:METHOD of "
                    f"this plan, such as {names[0]}:{planned[0].grid.methods[0]}."
                )
    return Plan(path, tuple(planned))


def _planned(table: Mapping[str, Any], where: str, out: Path, data_root: str) -> Planned:
    settings = table.get("settings", {})
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{where}: settings = {settings!r}: expected a table of settings.")
    if "name" not in table:
        raise ConfigError(f"{where}: name is missing: it names the folder.")
    experiment = from_table(Experiment, {key: value for key, value in table.items() if key != "settings"}, where)
    name = experiment.config or experiment.paper_table.config
    try:
        load_config(name)  # so that a mistake of that file is not said of the settings
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    try:
        config = load_config(name, **settings)
    except ConfigError as error:
        raise ConfigError(f"{where}, settings: {str(error).removeprefix(f'{find_config(name)}: ')}") from None
    return Planned(experiment, _grid(experiment, config, where, out, data_root), TableFolder(out / experiment.name))


def _grid(experiment: Experiment, config: Config, where: str, out: Path, data_root: str) -> Grid:
    if data_root and not config.data.root:
        config = replace(config, data=replace(config.data, root=data_root))
    folds = experiment.folds or range(config.data.folds)
    if wrong := [fold for fold in folds if not 0 <= fold < config.data.folds]:
        raise ConfigError(f"{where}: folds has {wrong[0]}: expected numbers from 0 to {config.data.folds - 1}.")
    methods = [row.method for row in experiment.paper_table.rows]
    seeds = range(config.seed, config.seed + experiment.seeds)
    return Grid.full(config, methods, folds, seeds, TableFolder(out / experiment.name).run)
