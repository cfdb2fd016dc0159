"""The commands: parse, call, print. Heavy modules are imported when a command needs them, so that --help is quick."""

import logging
import os
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fbunet_jax.config import Config, load_config
from fbunet_jax.errors import ConfigError, UserError, did_you_mean

EXIT_USER_ERROR = 2
EXIT_INTERNAL_ERROR = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


@dataclass(frozen=True)
class Train:
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


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the best checkpoint of every fold and print IoU by class, fold and round."""

    run: Annotated[str, tyro.conf.Positional]
    """Run directory, such as runs/quickstart/feedback-convlstm."""
    fold: str = "all"
    """Which fold: 0, 1, ..., or all that are trained."""
    split: Literal["test", "validation"] = "test"
    """Which part of each fold."""
    data_root: str = ""
    """Folder of the data set, where it is no longer where the run found it."""
    debug: bool = False
    """Show the traceback of an error."""


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run a command.

    Args:
      argv: command and options; those of the process by default.
      prog: what --help calls the program.

    Returns:
      The exit code: 0, 2 for a user's mistake, 70 for a fault of the program, 130 when interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else EXIT_USER_ERROR
    name, *options = argv
    debug = "--debug" in options
    if not debug:  # Orbax logs, with tracebacks, what it also raises
        logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        if name not in COMMANDS:
            raise ConfigError(f"{name!r} is not a command.{did_you_mean(name, COMMANDS)}\n{_usage()}")
        return COMMANDS[name](options, prog or f"fbunet {name}")
    except UserError as error:
        return _failed(f"Error: {error}", EXIT_USER_ERROR, debug)
    except KeyboardInterrupt:
        again = " The same command goes on from the last checkpoint." if name == "train" else ""
        return _failed(f"Interrupted.{again}", EXIT_INTERRUPTED, debug)
    except BrokenPipeError:  # the reader of a pipe has left, as in "train.py --help | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        message = f"Error: {error.filename or 'a file'}: {error.strerror or error}. Free space or mend the permissions."
        return _failed(message, EXIT_USER_ERROR, debug)
    except Exception as error:
        message = (
            f"Internal error, please report: {type(error).__name__}: {error}\nAttach the command, the run's "
            "config.toml and environment.json, and what the same command prints with --debug."
        )
        return _failed(message, EXIT_INTERNAL_ERROR, debug)


def _failed(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    return code


def _usage() -> str:
    lines = [f"  {name:10} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "usage: fbunet COMMAND [OPTIONS]; fbunet COMMAND --help lists the options\n\n" + "\n".join(lines)


def train(options: Sequence[str], prog: str) -> int:
    """Train folds of one method, or go on with them."""
    defaults = Train(settings=load_config(_given_config(options)))
    arguments = tyro.cli(Train, args=options, default=defaults, prog=prog)
    # as Ctrl-C does: the lock is released, so that a preempted job can start elsewhere at once
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    config = arguments.settings
    # after parsing, so that --help does not wait for JAX
    from fbunet_jax.training.loop import train_fold

    out = arguments.out or None
    for fold in parse_folds(arguments.fold, config.data.folds):
        result = train_fold(config, fold, out=out, fresh=arguments.fresh)
        state = "was finished already" if result.was_finished else "is finished"
        print(
            f"Fold {fold} {state}: best validation mean IoU {100 * result.best_mean_iou:.1f} % at step "
            f"{result.best_step} of {result.steps}.\n"
            f"  checkpoints  {result.directory.checkpoints}\n"
            f"  curves       {result.directory.curves}\n"
            f"  previews     {result.directory.previews}\n"
            f"Next: {_command('evaluate', prog)} {shlex.quote(str(result.run))} --fold {fold}"
        )
    return 0


def evaluate(options: Sequence[str], prog: str) -> int:
    """Evaluate a run's folds on their test or validation part."""
    arguments = tyro.cli(Evaluate, args=options, prog=prog)
    from fbunet_jax.evaluation import crossval
    from fbunet_jax.runs import Run

    run = Run(Path(arguments.run))
    count = run.read_config().data.folds
    folds = None if arguments.fold == "all" else parse_folds(arguments.fold, count)
    evaluation = crossval.evaluate(
        arguments.run, folds, split=arguments.split, root=arguments.data_root, tell=lambda line: print(line, flush=True)
    )
    print(crossval.table(evaluation))
    if missing := crossval.missing_folds(evaluation, count):
        present = ", ".join(str(entry["fold"]) for entry in evaluation["folds"])
        print(f"Missing: fold {', '.join(map(str, missing))} of {count}; mean and std are over fold {present} only.")
    print(f"Written: {run.evaluation(arguments.split)}")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str], str], int]] = {"train": train, "evaluate": evaluate}


def parse_folds(text: str, count: int) -> list[int]:
    """Return the folds that "all" or a number names.

    Raises:
      ConfigError: neither, or a number outside 0 ... count - 1.
    """
    if text == "all":
        return list(range(count))
    if not text.isdecimal() or int(text) >= count:
        raise ConfigError(f"--fold {text}: expected a number from 0 to {count - 1}, or all.")
    return [int(text)]


def _command(name: str, prog: str) -> str:
    """Return how the user calls a command, after the way in which this one was called."""
    if not prog.endswith(".py"):
        return f"fbunet {name}"
    # not resolved: a virtual environment's interpreter is a link to that of the system, and yet another one
    interpreter = Path(sys.executable)
    if shutil.which("python") == sys.executable:
        interpreter = Path("python")
    elif interpreter.is_relative_to(Path.cwd()):
        interpreter = interpreter.relative_to(Path.cwd())
    return shlex.join([str(interpreter), str(Path(sys.argv[0]).with_name(f"{name}.py"))])


def _given_config(options: Sequence[str]) -> str:
    """Return what --config names, before the other options are parsed over it."""
    for index, option in enumerate(options):
        if option.startswith("--config="):
            return option.removeprefix("--config=")
        if option == "--config" and index + 1 < len(options):
            return options[index + 1]
    return Train.config
