"""``fbunet reproduce``: the paper's tables, trained and evaluated again."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fbunet_jax.cli.options import given_config, parse_several_folds
from fbunet_jax.config import Config, load_config
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.interruption import raise_on_signals
from fbunet_jax.reproduction.tables import TABLES


@dataclass(frozen=True)
class Arguments:
    """Train what is missing of a table of the paper, and write it. The same command again goes on."""

    table: Literal[1, 2, 3, 4]
    """Which: 1, methods on Drosophila; 2, methods on mouse; 3 and 4, places of the ConvLSTMs on the same."""
    out: str = ""
    """Folder of the table; reproduce/table-<N> by default."""
    config: str = ""
    """A TOML file, or the name of a configuration; drosophila for tables 1 and 3, mouse for 2 and 4 by default. The
    options below override it."""
    folds: tuple[str, ...] = ("all",)
    """Which folds of each method: all, or their numbers."""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Train each method on each fold with N seeds, from --seed on."""
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="METHOD:FOLD[:SEED]")] = ()
    """Train these cells only; give it again for more. METHOD alone is all of its folds and seeds."""
    minutes: float | None = None
    """Stop after so many, between two steps, with everything saved."""
    table_only: bool = False
    """Train nothing: write the table from the cells that the folder has."""
    commit: str = ""
    """What the cells name as the commit of the program; found by itself where it lies in a checkout."""
    debug: bool = False
    """Show the traceback of an error."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def command(options: Sequence[str], prog: str) -> int:
    """Train and evaluate what is missing of a table, and write it."""
    given = load_config(given_config(options, TABLES[_given_table(options)].config))
    defaults = Arguments(table=tyro.MISSING, settings=given)
    arguments = tyro.cli(Arguments, args=options, default=defaults, prog=prog)
    raise_on_signals()
    table, config = TABLES[arguments.table], arguments.settings
    if config.method != given.method:
        raise ConfigError(f"--method {config.method}: a table has several. Choose with --only {config.method}:0.")
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds {arguments.seeds}: expected a number of at least 1.")
    if arguments.minutes is not None and not arguments.minutes >= 0:
        raise ConfigError(f"--minutes {arguments.minutes}: expected a number of at least 0.")
    out = Path(arguments.out or f"reproduce/table-{table.number}").expanduser()
    folds = parse_several_folds(arguments.folds, config.data.folds, "--folds")
    seeds = range(config.seed, config.seed + arguments.seeds)
    # after parsing, so that --help does not wait for JAX
    from fbunet_jax.reproduction import pages, reproduce
    from fbunet_jax.training.memory import reuse_host_memory

    places = reproduce.select_places(table, folds, seeds, arguments.only)
    outcome = reproduce.Outcome([])
    if not arguments.table_only:
        reuse_host_memory()
        outcome = reproduce.reproduce(
            config,
            places,
            out,
            minutes=arguments.minutes,
            commit=arguments.commit,
            tell=lambda line: print(line, flush=True),
            finished=lambda: pages.write_table(table, out),
        )
    written = pages.write_table(table, out)
    print("\n".join(f"Written: {path}" for path in written) or f"No cell is finished in {out / 'cells'}.")
    if outcome.missing:
        print(
            f"Missing: {len(outcome.missing)} of {len(places)} cells: {', '.join(map(str, outcome.missing))}. The same "
            "command goes on with them."
        )
    if outcome.failures:
        raise RunError(f"{', '.join(map(str, outcome.failures))} could not be finished, for the reasons above.")
    return 0


def _given_table(options: Sequence[str]) -> int:
    """Return what --table names, before the other options are parsed over that table's configuration."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--table", nargs="?")
    text = parser.parse_known_args(list(options))[0].table
    return next((number for number in TABLES if str(number) == text), 1)
