"""``fbunet train``: train folds of one method, or go on with them."""

import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from fbunet_jax.cli.options import given_config, parse_folds, spelled
from fbunet_jax.config import Config, load_config


@dataclass(frozen=True)
class Arguments:
    """Train folds of one method. The same command again goes on where the last checkpoint stands."""

    fold: str = "0"
    """Which fold: 0, 1, ..., or all, one after the other."""
    config: str = "quickstart"
    """A TOML file, or the name of a configuration that comes with the program. The options below override it."""
    out: str = ""
    """Run directory; runs/<config>/<method> by default, -seed<s> added for a seed other than 0."""
    fresh: bool = False
    """Set an existing fold aside (fold_K.old-N) and start again."""
    debug: bool = False
    """Show the traceback of an error."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def command(options: Sequence[str], prog: str) -> int:
    """Train folds of one method, or go on with them."""
    defaults = Arguments(settings=load_config(given_config(options, Arguments.config)))
    arguments = tyro.cli(Arguments, args=options, default=defaults, prog=prog)
    # As Ctrl-C does: the lock is released, so that a preempted job can start elsewhere at once. The handler itself,
    # not SIGINT raised again: a shell without job control starts its background jobs with SIGINT ignored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = arguments.settings
    # after parsing, so that --help does not wait for JAX
    from fbunet_jax.training.loop import train_fold

    out = arguments.out or None
    for fold in parse_folds(arguments.fold, config.data.folds):
        result = train_fold(config, fold, out=out, fresh=arguments.fresh)
        state = "was finished already" if result.was_finished else "is finished"
        previews = f"  previews     {result.directory.previews}\n" if config.training.previews else ""
        print(
            f"Fold {fold} {state}: best validation mean IoU {100 * result.best_mean_iou:.1f} % at step "
            f"{result.best_step} of {result.steps}.\n"
            f"  checkpoints  {result.directory.checkpoints}\n"
            f"  curves       {result.directory.curves}\n"
            f"{previews}"
            f"Next: {spelled('evaluate', prog)} {shlex.quote(str(result.run))} --fold {fold}"
        )
    return 0
