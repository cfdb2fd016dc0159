"""The options of the commands about many trainings: which methods, folds and seeds, with which settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from fbunet_jax.cli.options import given_config, parse_several_folds
from fbunet_jax.config import CUSTOM, Config, load_config
from fbunet_jax.errors import ConfigError
from fbunet_jax.jobs.trainings import Trainings
from fbunet_jax.runs import all_places


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
    return load_config(given_config(options, TrainingArguments.config))


def check_trainings(arguments: TrainingArguments, base: Config) -> Trainings:
    """Return the trainings that the options name.

    Raises:
      ConfigError: there are no such methods, folds or seeds.
    """
    config = arguments.settings
    if arguments.methods and config.method != base.method:
        raise ConfigError(f"--method {config.method} and --methods: give the methods with one of the two.")
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds {arguments.seeds}: expected a number of at least 1.")
    methods = list(dict.fromkeys(arguments.methods or (config.method,)))
    folds = parse_several_folds(arguments.fold, config.data.folds, "--fold")
    seeds = range(config.seed, config.seed + arguments.seeds)
    if CUSTOM in methods:
        raise ConfigError(f"method {CUSTOM!r} stands for a network that a Python program passed: only it can train it.")
    for method in methods:
        replace(config, method=method, seed=seeds[-1])  # raises for one that does not exist
    places = all_places(methods, folds, seeds)
    return Trainings(arguments.config, base, config, places, arguments.out, arguments.deterministic)
