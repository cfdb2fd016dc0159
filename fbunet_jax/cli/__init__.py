"""The commands: parse, call, print. One file a command; heavy modules are imported when a command needs them."""

import ast
import contextlib
import errno
import importlib
import importlib.metadata
import itertools
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from fbunet_jax.cli import environment
from fbunet_jax.cli.compilation_cache import use_compilation_cache
from fbunet_jax.cli.distributed import leaves_at_once
from fbunet_jax.device_errors import device_error
from fbunet_jax.errors import ConfigError, UserError, did_you_mean
from fbunet_jax.runs.interruption import StopAtOnce, forget_dropped

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
    "queue",
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
    errno.EACCES: " Fix the permissions.",
    errno.EPERM: " Fix the permissions.",
    errno.EROFS: " Choose a folder that can be written.",
    errno.ENAMETOOLONG: " Shorten the name.",
    errno.ENOMEM: " This machine, or the limit of this job, has too little memory for it.",
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
    environment.prepare(is_program=argv is None or prog is not None)
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
        _settle(name, options)
        code = _module(name).command(options, prog or f"fbunet {name}")
        sys.stdout.flush()  # here, where an error gets a sentence
        return code
    except UserError as error:
        return _failed(f"Error: {_with_option(error)}", EXIT_USER_ERROR, debug)
    except KeyboardInterrupt as interruption:
        forget_dropped()
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
        file = error.filename or _given_out(options) or "a file"
        message = f"Error: {file}: {error.strerror or error}.{_REMEDIES.get(error.errno or 0, '')}"
        return _failed(message, EXIT_USER_ERROR, debug)
    except Exception as error:
        return _failed(*_other_error(error, name), debug)


def _given_out(options: Sequence[str]) -> str:
    """Return what --out names: a disk that is full does not say which file it was."""
    return next((after for word, after in itertools.pairwise(options) if word == "--out"), "")


def _other_error(error: Exception, name: str) -> tuple[str, int]:
    """Return message and exit code of an error that no room has put into a sentence."""
    if isinstance(error, UnicodeEncodeError):  # "surrogates not allowed": streams escape what they lack
        before, rest = error.object[: error.start], error.object[error.start :]
        found = re.split(r'[\s,"<>]', before)[-1] + re.split(r'[\s,"<>]', rest)[0]
        return f"Error: {found!a} is not a name in UTF-8, so it cannot be recorded. Rename the file.", EXIT_USER_ERROR
    if fault := device_error(error, name) or environment.fault_of_jax(error):
        return f"Error: {fault}", EXIT_USER_ERROR
    if "transfer" in str(error) and "isallowed" in str(error):
        sentence = f"JAX's transfer guard is set in this program ({str(error).splitlines()[0]}). Set it to allow."
        return f"Error: {sentence}", EXIT_USER_ERROR
    return (
        f"Internal error, please report: {type(error).__name__}: {error}\nAttach the command, the run's "
        "config.toml and environment.json, and what the same command prints with --debug."
    ), EXIT_INTERNAL_ERROR


def _settle(name: str, options: Sequence[str]) -> None:
    """Settle what JAX computes with, and find what would keep it from starting, before it is imported.

    Raises:
      ConfigError: the current folder is gone, or XLA would not start.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError(f"The current folder is gone: {error.strerror}. Change to another.") from error
    overridden = environment.pin_settings()
    for before, word in zip(["", *options], options, strict=False):
        if not word.strip() and not before.startswith("--"):
            raise ConfigError(f"An argument of {name} is empty ({word!r}). Is a variable of the shell not set?")
    if name in environment.COMPUTING and not {"-h", "--help"} & set(options):
        for line in overridden:
            _say(line)
        environment.check_address_space()
        environment.check_compiler_flags()


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # the log may be what cannot be written
        print(message, file=sys.stderr, flush=True)


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


def _with_option(error: UserError) -> str:
    """Return an error's message with the option in place of the library's argument, which stands last in it."""
    before, mark, after = str(error).rpartition(f"({error.argument})")
    return f"{before}({_OPTIONS[error.argument]}){after}" if mark and error.argument in _OPTIONS else str(error)


def _failed(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _say(message)
    if leaves_at_once():  # JAX would wait for the other processes of a training when this one ends
        os._exit(code)
    return code


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"fbunet_jax.cli.{name}")


def _usage() -> str:
    lines = [f"  {name:10} {_summary(name)}" for name in COMMANDS]
    return "usage: fbunet COMMAND [OPTIONS]; fbunet COMMAND --help lists the options\n\n" + "\n".join(lines)


def _summary(name: str) -> str:
    """Return the first line of the docstring of a command's arguments, also where Python has dropped it (-OO)."""
    tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
    (arguments,) = [each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == "Arguments"]
    return (ast.get_docstring(arguments) or "").split("\n")[0]
