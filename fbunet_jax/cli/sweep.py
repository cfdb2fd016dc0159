"""``fbunet sweep``: many trainings at once, one a device of this machine."""

import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from fbunet_jax.cli.trainings import TrainingArguments, check_trainings, given_base
from fbunet_jax.errors import RunError
from fbunet_jax.runs.interruption import raise_on_signals

EXIT_ELSEWHERE = 75
"""Nothing failed, but not all is finished: another process trains it (EX_TEMPFAIL of sysexits.h)."""


@dataclass(frozen=True)
class Arguments(TrainingArguments):
    """Train methods and folds at the same time, one a device. The same command again resumes."""

    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many at the same time: at most one a GPU or TPU chip, which is the default; on a CPU, into how many shares
    its cores are divided, 1 by default."""


def command(options: Sequence[str], prog: str) -> int:
    """Train methods and folds at the same time, and tell what became of each; 0 only if all are finished."""
    base = given_base(options)
    arguments = tyro.cli(Arguments, args=options, default=Arguments(settings=base), prog=prog)
    raise_on_signals()
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # the trainings have sessions of their own, and would go on unseen when the terminal is closed
        signal.signal(signal.SIGHUP, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    commands = check_trainings(arguments, base)
    # after parsing, so that --help does not wait for JAX
    from fbunet_jax.experiments.devices import find_devices
    from fbunet_jax.experiments.progress import Board, outcome_table
    from fbunet_jax.experiments.queue import Sweep
    from fbunet_jax.training.logs import default_stream

    epochs = commands.grid.config.training.epochs
    sweep = Sweep(commands.jobs(), find_devices(arguments.workers), Board(default_stream()))
    interrupted = sweep.run()
    print(outcome_table(sweep.outcomes, epochs))
    states = Counter(outcome.state for outcome in sweep.outcomes)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    if interrupted:
        raise KeyboardInterrupt(counts)
    if failed := [str(outcome.place) for outcome in sweep.outcomes if outcome.state == "failed"]:
        raise RunError(f"{', '.join(failed)} failed, for the reasons above. The same command tries them again.")
    return EXIT_ELSEWHERE if states["elsewhere"] else 0
