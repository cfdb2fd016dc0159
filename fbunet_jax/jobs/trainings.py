"""The command that trains one place of many, spelled for a shell or a process."""

import sys
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fbunet_jax.config import Config
from fbunet_jax.runs import FoldDirectory, Place, Run, default_path
from fbunet_jax.toml_tables import to_table

ALONE = ("--distributed.num-processes", "1")
"""For ``fbunet train``: one training a process, although a launcher or a TPU slice would make it one of several."""

PROGRAM = (sys.executable, "-P", "-m", "fbunet_jax.cli")
"""This program, wherever it is called; -P: what lies in the working directory is not imported in place of a package."""


@dataclass(frozen=True)
class Trainings:
    """Trainings that differ in method, fold and seed only.

    Attributes:
      source: the TOML file or the name of the configuration.
      base: what it holds.
      config: the settings, with those that were changed; their method and seed are not used.
      places: the trainings.
      out: folder of the run directories; empty for runs/<name>.
      deterministic: only kernels that give the same bits every time.
    """

    source: str
    base: Config
    config: Config
    places: list[Place]
    out: str = ""
    deterministic: bool = False

    @property
    def folder(self) -> Path:
        """Folder of the run directories."""
        return Path(self.out).expanduser() if self.out else default_path(self.config).parent

    def run(self, place: Place) -> Run:
        """Return the run directory of a training, with the name that ``fbunet train`` gives it by default."""
        config = replace(self.config, method=place.method, seed=place.seed)
        return Run(self.folder / default_path(config).name)

    def fold(self, place: Place) -> FoldDirectory:
        """Return the directory of a training."""
        return self.run(place).fold(place.fold)

    def shared_options(self) -> list[str]:
        """Return the options that all of the trainings have."""
        deterministic = ["--deterministic"] if self.deterministic else []
        return ["--config", self.source, *deterministic, *setting_options(self.config, self.base)]

    def options(self, place: Place) -> list[str]:
        """Return the options of ``fbunet train`` for one of the trainings."""
        own = ["--method", place.method, "--fold", str(place.fold), "--seed", str(place.seed)]
        return [*own, "--out", str(self.run(place).path), *ALONE, *self.shared_options()]

    def sweep_options(self) -> list[str]:
        """Return the options of ``fbunet sweep`` for all of the trainings."""
        methods, folds, seeds = (dict.fromkeys(column) for column in zip(*self.places, strict=True))
        own = ["--methods", *methods, "--fold", *map(str, folds), "--seed", str(min(seeds)), "--seeds", str(len(seeds))]
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
