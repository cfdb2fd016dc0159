"""The commands: parse, call, print. One file a command; heavy modules are imported when a command needs them."""

import contextlib
import errno
import importlib
import importlib.metadata
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import ModuleType

from fbunet_jax.cli.compilation_cache import use_compilation_cache
from fbunet_jax.cli.distributed import leaves_at_once
from fbunet_jax.errors import ConfigError, UserError, did_you_mean
from fbunet_jax.runs.interruption import StopAtOnce

EXIT_USER_ERROR = 2
EXIT_INTERNAL_ERROR = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

COMMANDS = (
    "download",
    "init",
    "check",
    "train",
    "evaluate",
    "predict",
    "report",
    "compare",
    "reproduce",
    "sweep",
    "jobs",
    "compile",
    "doctor",
)
"""In the order of the usage; each is a module here, with ``Arguments`` and ``command(options, prog) -> exit code``."""


_OPTIONS = {"out": "--out", "fresh": "--fresh", "root": "--data-root"}

_REMEDIES = {
    errno.ENOSPC: " Free space, or write to another disk.",
    errno.EDQUOT: " Free space, or write to another disk.",
    errno.EACCES: " Mend the permissions.",
    errno.EPERM: " Mend the permissions.",
    errno.EROFS: " Choose a folder that can be written.",
    errno.ENAMETOOLONG: " Shorten the name.",
}


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run a command.

    Args:
      argv: command and options; those of the process by default.
      prog: what --help calls the program.

    Returns:
      The exit code: 0, 2 for a user's mistake, 70 for a fault of the program, 75 where other processes are lost or
      still train, 130 when interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else EXIT_USER_ERROR
    if argv[0] == "--version":
        print(f"fbunet_jax {importlib.metadata.version('fbunet-jax')}")
        return 0
    name, *options = argv
    debug = "--debug" in options
    if not debug:
        _hide_repeated_errors()
    use_compilation_cache()
    try:
        if name not in COMMANDS:
            raise ConfigError(f"{name!r} is not a command.{did_you_mean(name, COMMANDS)}\n{_usage()}")
        return _module(name).command(options, prog or f"fbunet {name}")
    except UserError as error:
        return _failed(f"Error: {error}", EXIT_USER_ERROR, debug)
    except KeyboardInterrupt as interruption:
        somewhere = "the last checkpoint, if there is one"
        saved, place = (f": {interruption}", "there") if str(interruption) else ("", somewhere)
        again = {
            "train": f" The same command{' without --fresh' * ('--fresh' in options)} resumes from {place}.",
            "sweep": " The same command resumes.",
            "download": " The same command resumes with the files that are missing.",
        }.get(name if not {"--dry-run", "--dry_run"} & set(options) else "", "")
        code = _failed(f"Interrupted{saved}.{again}", EXIT_INTERRUPTED, debug)
        if isinstance(interruption, StopAtOnce):  # not even for the threads that write a checkpoint
            os._exit(code)
        return code
    except BrokenPipeError:  # the reader of a pipe has left, as in "train.py --help | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        message = (
            f"Error: {error.filename or 'a file'}: {error.strerror or error}.{_REMEDIES.get(error.errno or 0, '')}"
        )
        return _failed(message, EXIT_USER_ERROR, debug)
    except Exception as error:
        message = (
            f"Internal error, please report: {type(error).__name__}: {error}\nAttach the command, the run's "
            "config.toml and environment.json, and what the same command prints with --debug."
        )
        return _failed(message, EXIT_INTERNAL_ERROR, debug)


def _hide_repeated_errors() -> None:
    """Keep Orbax from logging, with tracebacks, what it also raises, and what its writing threads say after that."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", r"coroutine '.*' was never awaited", RuntimeWarning)
    show = sys.unraisablehook

    def show_others(unraisable: "sys.UnraisableHookArgs") -> None:
        if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
            show(unraisable)

    sys.unraisablehook = show_others


def _failed(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    # an argument of the library, in brackets, is an option here
    message = re.sub(r"\((out|fresh|root)\)", lambda found: f"({_OPTIONS[found[1]]})", message)
    with contextlib.suppress(OSError):  # the log may be what cannot be written
        print(message, file=sys.stderr, flush=True)
    if leaves_at_once():  # JAX would wait for the other processes of a training when this one ends
        os._exit(code)
    return code


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"fbunet_jax.cli.{name}")


def _usage() -> str:
    lines = [f"  {name:10} {_module(name).Arguments.__doc__.splitlines()[0]}" for name in COMMANDS]
    return "usage: fbunet COMMAND [OPTIONS]; fbunet COMMAND --help lists the options\n\n" + "\n".join(lines)
