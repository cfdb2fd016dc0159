"""The options of the commands about many trainings: which methods, folds and seeds, with which settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from fbunet_jax.cli.options import given_option
from fbunet_jax.config import CUSTOM, Config, load_config
from fbunet_jax.errors import ConfigError
from fbunet_jax.experiments.commands import Commands
from fbunet_jax.experiments.grid import Grid, Runs, default_runs
from fbunet_jax.runs.directory import default_path
from fbunet_jax.user_files import expand


@dataclass(frozen=True)
class TrainingArguments:
    """Every method on every fold with every seed; all other settings are the same."""

    config: str = "quickstart"
    """A TOML file, or the name of a configuration that comes with the program. The options below override it."""
    methods: tuple[str, ...] = ()
    """Which methods; the one of the settings by default."""
    fold: tuple[str, ...] = ("all",)
    """Which folds of each method: all, or their numbers."""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Train each method on each fold with N seeds, from --seed on."""
    out: str = ""
    """Folder of the run directories, which are named <method> or <method>-seed<s>; runs/<config> by default."""
    deterministic: bool = False
    """Only kernels that give the same bits every time; see fbunet train --help."""
    debug: bool = False
    """Show the traceback of an error."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def given_base(options: Sequence[str]) -> Config:
    """Return the configuration over which the options are parsed."""
    return load_config(given_option(options, "--config", TrainingArguments.config))


def check_trainings(arguments: TrainingArguments, base: Config) -> Commands:
    """Return the commands of the trainings that the options name.

    Raises:
      ConfigError: there are no such methods, folds or seeds.
    """
    config = arguments.settings
    if arguments.methods and config.method != base.method:
        raise ConfigError(f"--method {config.method} and --methods: give the methods with one of the two.")
    methods = list(dict.fromkeys(arguments.methods or (config.method,)))
    if CUSTOM in methods:
        raise ConfigError(f"method {CUSTOM!r} stands for a network that a Python program passed: only it can train it.")
    folds = parse_several_folds(arguments.fold, config.data.folds, "--fold")
    folder = expand(arguments.out) if arguments.out else default_path(config).parent
    grid = check_grid(config, methods, folds, arguments.seeds, default_runs(config, folder))
    return Commands(grid, folder, arguments.config, base, arguments.deterministic)


def check_grid(config: Config, methods: Sequence[str], folds: Sequence[int], seeds: int, run: Runs) -> Grid:
    """Return the trainings of methods and folds with so many seeds, from that of the settings on.

    Raises:
      ConfigError: there are no such methods or seeds.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: expected a number of at least 1.")
    grid = Grid.full(config, methods, folds, range(config.seed, config.seed + seeds), run)
    for place in grid:
        grid.settings(place)  # raises for one that does not exist
    return grid


def parse_several_folds(words: Sequence[str], count: int, option: str) -> list[int]:
    """Return the folds that "all" or several numbers name, in order and each once.

    Args:
      words: what was given.
      count: how many folds there are.
      option: under which they were given.

    Raises:
      ConfigError: neither, or a number outside 0 ... count - 1.
    """
    if list(words) == ["all"]:
        return list(range(count))
    if not words or any(not word.isdecimal() or int(word) >= count for word in words):
        raise ConfigError(f"{option} {' '.join(words)}: expected all, or numbers from 0 to {count - 1}.")
    return sorted(set(map(int, words)))
