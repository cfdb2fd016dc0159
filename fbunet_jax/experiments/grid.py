"""The grid of trainings: which methods, folds and seeds, where each of them lies, and whether it is under way."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fbunet_jax.config import Config
from fbunet_jax.errors import ConfigError, did_you_mean
from fbunet_jax.runs.directory import FoldDirectory, Run, default_path


class Place(NamedTuple):
    """One training among others: where in a grid of methods, folds and seeds it stands."""

    method: str
    fold: int
    seed: int

    def __str__(self) -> str:
        """Return it as it is typed on the command line."""
        return f"{self.method}:{self.fold}:{self.seed}"

    @property
    def stem(self) -> str:
        """Name of files about it, without the suffix."""
        return f"{self.method}-fold{self.fold}-seed{self.seed}"


Runs = Callable[[Place], Run]
"""How run directories are named: returns that of a training."""


@dataclass(frozen=True)
class Grid:
    """Trainings that differ in method, fold and seed only.

    Attributes:
      config: the settings of all of them; its method and seed are not used.
      places: the trainings, in the order in which they are begun.
      run: names the run directories.
    """

    config: Config
    places: tuple[Place, ...]
    run: Runs

    @classmethod
    def full(
        cls, config: Config, methods: Sequence[str], folds: Sequence[int], seeds: Sequence[int], run: Runs
    ) -> "Grid":
        """Return every training, those of one fold together, so that methods can be compared early."""
        places = (Place(method, fold, seed) for seed in seeds for fold in folds for method in methods)
        return cls(config, tuple(places), run)

    methods = property(lambda self: list(dict.fromkeys(place.method for place in self)), doc="Each once, in order.")
    folds = property(lambda self: list(dict.fromkeys(place.fold for place in self)), doc="Each once, in order.")
    seeds = property(lambda self: list(dict.fromkeys(place.seed for place in self)), doc="Each once, in order.")

    def __iter__(self) -> Iterator[Place]:
        """Return an iterator over the trainings."""
        return iter(self.places)

    def __len__(self) -> int:
        """Return how many trainings there are."""
        return len(self.places)

    def select(self, only: Sequence[str], what: str) -> "Grid":
        """Return the trainings that were chosen, in their order.

        Args:
          only: METHOD, METHOD:FOLD or METHOD:FOLD:SEED of those to keep; all where there is none.
          what: what a training is called, such as "a cell of table 1".

        Raises:
          ConfigError: one of `only` names no training.
        """
        kept: set[Place] = set()
        for text in only:
            words = text.split(":")
            found = [place for place in self if str(place).split(":")[: len(words)] == words]
            if not found:
                raise ConfigError(
                    f"--only {text}: expected METHOD:FOLD or METHOD:FOLD:SEED of {what}: methods "
                    f"{', '.join(self.methods)}; folds {', '.join(map(str, self.folds))}; seeds "
                    f"{', '.join(map(str, self.seeds))}."
                    f"{did_you_mean(words[0], self.methods) if words[0] not in self.methods else ''}"
                )
            kept.update(found)
        return replace(self, places=tuple(place for place in self if place in kept)) if only else self

    def settings(self, place: Place) -> Config:
        """Return the settings of a training.

        Raises:
          ConfigError: there is no such method or seed.
        """
        return replace(self.config, method=place.method, seed=place.seed)

    def fold(self, place: Place) -> FoldDirectory:
        """Return the directory of a training."""
        return self.run(place).fold(place.fold)


def default_runs(config: Config, folder: Path | None = None) -> Runs:
    """Name run directories <method> or, for a seed other than 0, <method>-seed<s>; in runs/<config> by default."""

    def run(place: Place) -> Run:
        path = default_path(replace(config, method=place.method, seed=place.seed))
        return Run(folder / path.name if folder else path)

    return run


def runs_beside(first: str, seed: int) -> Runs:
    """Name the run directory of a seed as it was given, and those of others after it, as the default names are."""

    def run(place: Place) -> Run:
        path = first if place.seed == seed else f"{first.rstrip('/')}-seed{place.seed}"
        return Run(Path(path))

    return run
