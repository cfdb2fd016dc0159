"""``fbunet queue``: the experiments of a plan, one after the other, beside other work."""

import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fbunet_jax.cli.sweep import EXIT_ELSEWHERE
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.runs.interruption import raise_on_signals
from fbunet_jax.user_files import expand

if TYPE_CHECKING:
    from fbunet_jax.experiments.plan import Plan


@dataclass(frozen=True)
class Arguments:
    """Run the experiments of a plan, one training a core at the lowest priority. The same command again resumes."""

    plan: Annotated[str, tyro.conf.Positional]
    """TOML file with a table [[experiments]] each: docs/reproduction.md."""
    out: str = "experiments"
    """Folder of the experiments, each in a folder of its own."""
    data_root: str = ""
    """Folder of the data set, where the settings of an experiment do not name it."""
    only: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="EXPERIMENT[/METHOD[:FOLD]]")
    ] = ()
    """Run these only; give it again for more."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many trainings at the same time; one a core, or one a GPU or TPU chip, by default."""
    minutes: float | None = None
    """Stop after so many, between two steps, with everything saved."""
    numbers: str = ""
    """A folder that keeps the numbers of finished cells, without their weights: what it has is not trained again, and
    what is finished is copied there."""
    pause: bool = False
    """Suspend what runs in the folder of the experiments, until --resume; a file named paused in it does the same."""
    resume: bool = False
    """Let what is suspended continue."""
    pages: bool = False
    """Train nothing: write the tables and the page from the cells that there are."""
    cell: str = ""
    """Train and evaluate one cell in this process, EXPERIMENT/METHOD:FOLD:SEED: what the queue starts."""
    debug: bool = False
    """Show the traceback of an error."""


def command(options: Sequence[str], prog: str) -> int:
    """Run the experiments of a plan."""
    arguments = tyro.cli(Arguments, args=options, prog=prog)
    raise_on_signals()
    if arguments.minutes is not None and not arguments.minutes >= 0:
        raise ConfigError(f"--minutes {arguments.minutes}: expected a number of at least 0.")
    # after parsing, so that --help does not wait for JAX
    from fbunet_jax.experiments import run_plan
    from fbunet_jax.experiments.plan import read_plan

    out = expand(arguments.out)
    # a child process is given it, and may be started from elsewhere
    root = str(expand(arguments.data_root).absolute()) if arguments.data_root else ""
    if arguments.pause or arguments.resume:
        return _pause(out / run_plan.PAUSED, arguments.pause)
    plan = read_plan(expand(arguments.plan).absolute(), out, root)
    if arguments.cell:
        return _one_cell(plan.select([arguments.cell]))
    chosen, kept = plan.select(arguments.only), expand(arguments.numbers) if arguments.numbers else None
    if kept:
        run_plan.copy_numbers(plan, kept, out)

    def write() -> None:
        run_plan.write_pages(plan, out)
        if kept:
            run_plan.copy_numbers(plan, out, kept)
            run_plan.write_pages(run_plan.for_folder(plan, kept), kept)

    write()
    if arguments.pages:
        print(f"Written: {out / 'README.md'}")
        return 0
    return _run(chosen, arguments, out, root, write)


def _pause(file: Path, pause: bool) -> int:
    from fbunet_jax.runs.directory import FoldDirectory
    from fbunet_jax.runs.locks import is_held

    if not file.parent.is_dir():
        raise ConfigError(f"{file.parent} is not a folder of experiments (--out).")
    if pause:
        file.touch()
    else:
        file.unlink(missing_ok=True)
    if not is_held(FoldDirectory(file.parent)):
        then = "the next one waits until --resume" if pause else "the next one starts at once"
        print(f"No queue runs in {file.parent}: {then}.")
        return 0
    print(f"{'Paused' if pause else 'Resumed'}: what runs in {file.parent} follows within a second.")
    return 0


def _one_cell(plan: "Plan") -> int:
    from fbunet_jax.experiments.reproduce import reproduce
    from fbunet_jax.experiments.run_plan import lower_priority
    from fbunet_jax.training.memory import reuse_host_memory

    lower_priority()
    reuse_host_memory()
    (planned,) = plan.planned
    outcomes = reproduce(
        planned.grid,
        planned.folder,
        further=planned.experiment.further,
        tell=lambda line: print(line, flush=True),
    )
    states = {outcome.state for outcome in outcomes}
    return 0 if states == {"finished"} else EXIT_ELSEWHERE if "elsewhere" in states else 2


def _run(plan: "Plan", arguments: Arguments, out: Path, root: str, write: Callable[[], None]) -> int:
    from fbunet_jax.experiments.devices import find_devices
    from fbunet_jax.experiments.progress import Board
    from fbunet_jax.experiments.queue import Sweep
    from fbunet_jax.experiments.run_plan import PAUSED, jobs
    from fbunet_jax.runs.directory import FoldDirectory
    from fbunet_jax.runs.locks import fold_lock
    from fbunet_jax.training.logs import default_stream

    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # the trainings have sessions of their own, and would go on unseen when the terminal is closed
        signal.signal(signal.SIGHUP, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    deadline = math.inf if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    board = Board(default_stream())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with fold_lock(FoldDirectory(out)):
        waiting = jobs(plan, out, root)
        board.line(
            f"{len(waiting)} cell{'s are' if len(waiting) != 1 else ' is'} missing, or could be evaluated further."
        )
        if not waiting:
            return 0
        sweep = Sweep(
            waiting,
            find_devices(arguments.workers, shares=cores),
            board,
            deadline=deadline,
            pause=out / PAUSED,
            ended=lambda job: write(),
        )
        interrupted = sweep.run()
    states = Counter(outcome.state for outcome in sweep.outcomes)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    print(f"{counts}. Written: {out / 'README.md'}")
    if interrupted:
        raise KeyboardInterrupt(counts)
    if failed := [str(outcome.place) for outcome in sweep.outcomes if outcome.state == "failed"]:
        raise RunError(f"{', '.join(failed)} failed, for the reasons above. The same command tries them again.")
    return EXIT_ELSEWHERE if states["elsewhere"] else 0
