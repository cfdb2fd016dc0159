"""``fbunet reproduce``: the paper's tables, trained and evaluated again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from fbunet_jax.cli.options import given_option
from fbunet_jax.cli.trainings import check_grid, parse_several_folds
from fbunet_jax.config import Config, load_config
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.experiments.paper import TABLES
from fbunet_jax.runs.interruption import raise_on_signals
from fbunet_jax.user_files import expand


@dataclass(frozen=True)
class Arguments:
    """Train what is missing of a table of the paper, and write it. The same command again resumes."""

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
    further: tuple[Literal["size", "offsets", "maps", "views", "none"], ...] = ("size", "offsets", "maps")
    """How else each cell is evaluated: whole images, or crops where the images are not cut; with offsets fitted on
    validation; with other maps fed back; over the 8 dihedral views; or none."""
    commit: str = ""
    """What the cells name as the commit of the program; found by itself where it lies in a checkout."""
    debug: bool = False
    """Show the traceback of an error."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def command(options: Sequence[str], prog: str) -> int:
    """Train and evaluate what is missing of a table, and write it."""
    number = given_option(options, "--table", "1")
    own = next((table.config for table in TABLES.values() if str(table.number) == number), TABLES[1].config)
    given = load_config(given_option(options, "--config", own))
    defaults = Arguments(table=tyro.MISSING, settings=given)
    arguments = tyro.cli(Arguments, args=options, default=defaults, prog=prog)
    raise_on_signals()
    table, config = TABLES[arguments.table], arguments.settings
    if config.method != given.method:
        raise ConfigError(f"--method {config.method}: a table has several. Choose with --only {config.method}:0.")
    if arguments.minutes is not None and not arguments.minutes >= 0:
        raise ConfigError(f"--minutes {arguments.minutes}: expected a number of at least 0.")
    folds = parse_several_folds(arguments.folds, config.data.folds, "--folds")
    # after parsing, so that --help does not wait for JAX
    from fbunet_jax.experiments import pages, reproduce
    from fbunet_jax.experiments.cells import TableFolder
    from fbunet_jax.training.memory import reuse_host_memory

    folder = TableFolder(expand(arguments.out or f"reproduce/table-{table.number}"))
    whole = check_grid(config, [row.method for row in table.rows], folds, arguments.seeds, folder.run)
    grid = whole.select(arguments.only, f"a cell of table {table.number}")
    outcomes = []
    if not arguments.table_only:
        reuse_host_memory()
        outcomes = reproduce.reproduce(
            grid,
            folder,
            minutes=arguments.minutes,
            commit=arguments.commit,
            further=[kind for kind in arguments.further if kind != "none"],
            tell=lambda line: print(line, flush=True),
            finished=lambda: pages.write_table(table, folder),
        )
    written = pages.write_table(table, folder)
    print("\n".join(f"Written: {path}" for path in written) or f"No cell is finished in {folder.cells}.")
    if missing := [str(outcome.place) for outcome in outcomes if outcome.state != "finished"]:
        left = f"{len(missing)} of {len(grid)} cells: {', '.join(missing)}"
        print(f"Missing: {left}. The same command resumes them.")
    if failed := [str(outcome.place) for outcome in outcomes if outcome.state == "failed"]:
        raise RunError(f"{', '.join(failed)} could not be finished, for the reasons above.")
    return 0
