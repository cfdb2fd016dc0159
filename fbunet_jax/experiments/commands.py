"""The commands that train a grid, as words for a shell or a process."""

import sys
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fbunet_jax.config import Config
from fbunet_jax.experiments.grid import Grid, Place
from fbunet_jax.runs.directory import FoldDirectory
from fbunet_jax.toml_tables import to_table

ALONE = ("--distributed.num-processes", "1")
"""For ``fbunet train``: one training a process, although a launcher or a TPU slice would make it one of several."""

PROGRAM = (sys.executable, "-P", "-m", "fbunet_jax.cli")
"""This program, wherever it is called; -P: what lies in the working directory is not imported in place of a package."""


class Job(NamedTuple):
    """A training that a process of its own does.

    Attributes:
      place: where in its grid it stands.
      words: the command.
      directory: of the training, whose records say how far it is.
      log: file that keeps what the process says.
      epochs: of the training.
      experiment: to which it belongs, if there are several.
    """

    place: Place
    words: list[str]
    directory: FoldDirectory
    log: Path
    epochs: int
    experiment: str = ""

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.experiment} {self.place}".strip()


@dataclass(frozen=True)
class Commands:
    """The commands for the trainings of a grid.

    Attributes:
      grid: the trainings.
      folder: of the run directories.
      source: the TOML file or the name of the configuration.
      base: what it holds; the settings of the grid are that, with some changed.
      deterministic: only kernels that give the same bits every time.
    """

    grid: Grid
    folder: Path
    source: str
    base: Config
    deterministic: bool = False

    def shared_options(self) -> list[str]:
        """Return the options that all of the trainings have."""
        deterministic = ["--deterministic"] if self.deterministic else []
        return ["--config", self.source, *deterministic, *setting_options(self.grid.config, self.base)]

    def options(self, place: Place) -> list[str]:
        """Return the options of ``fbunet train`` for one of the trainings."""
        own = ["--method", place.method, "--fold", str(place.fold), "--seed", str(place.seed)]
        return [*own, "--out", str(self.grid.run(place).path), *ALONE, *self.shared_options()]

    def jobs(self) -> list[Job]:
        """Return the trainings as processes of this machine."""
        epochs, logs = self.grid.config.training.epochs, self.folder / "sweep"
        return [
            Job(p, [*PROGRAM, "train", *self.options(p)], self.grid.fold(p), logs / f"{p.stem}.log", epochs)
            for p in self.grid
        ]

    def sweep_options(self) -> list[str]:
        """Return the options of ``fbunet sweep`` for all of the trainings."""
        methods, folds, seeds = self.grid.methods, map(str, self.grid.folds), self.grid.seeds
        own = ["--methods", *methods, "--fold", *folds, "--seed", str(min(seeds)), "--seeds", str(len(seeds))]
        return [*own, "--out", str(self.folder), *self.shared_options()]


def setting_options(config: Config, base: Config) -> list[str]:
    """Return the options that make `config` of `base`; method and seed are left out."""
    # an option each for the values of classes that have names already, one option for all if there are none
    whole = () if base.data.classes else ("data.classes",)
    changed, before = (dict(_flat(to_table(each), whole)) for each in (config, base))
    found = []
    for name in {**before, **changed}:
        value = changed.get(name)
        if name not in ("method", "seed") and value != before.get(name):
            found += _option(f"--{name.replace('_', '-')}", value)
    return found


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        group, _, last = name.removeprefix("--").rpartition(".")
        return [name if value else f"--{group}.no-{last}"]
    if isinstance(value, Mapping):
        return [name, *(str(word) for pair in value.items() for word in pair)]
    if isinstance(value, list):
        return [name, *map(str, value)]
    # not in two words: text may begin with "-"
    return [f"{name}={value}"]


def _flat(table: Mapping[str, Any], whole: Container[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted name and value of every setting; tables named in `whole` are values."""
    for key, value in table.items():
        if isinstance(value, Mapping) and prefix + key not in whole:
            yield from _flat(value, whole, f"{prefix}{key}.")
        else:
            yield prefix + key, value
