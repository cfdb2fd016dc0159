"""What several commands share: the words of folds and configurations, and how the user calls a command."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from fbunet_jax.errors import ConfigError


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


def given_option(options: Sequence[str], name: str, default: str) -> str:
    """Return the value of an option that is needed before the others are parsed; the last one counts."""
    for index, option in reversed(list(enumerate(options))):
        if option.startswith(f"{name}="):
            return option.removeprefix(f"{name}=")
        if option == name and index + 1 < len(options):
            return options[index + 1]
    return default


def spelled(name: str, prog: str) -> str:
    """Return how the user calls another command, after the way in which this one was called.

    Args:
      name: of the other command.
      prog: what this one was called, such as "train.py" or "fbunet train".
    """
    if not prog.endswith(".py"):
        program = Path(sys.argv[0])
        if program.name == "__main__.py":
            return shlex.join([_interpreter(), "-m", "fbunet_jax.cli", name])
        # in an environment that is not active, "fbunet" alone would not be found
        if program.name != "fbunet" or shutil.which("fbunet") == str(program):
            return f"fbunet {name}"
        return shlex.join([str(_from_here(program)), name])
    return shlex.join([_interpreter(), str(Path(sys.argv[0]).with_name(f"{name}.py"))])


def _interpreter() -> str:
    """Return how this Python is typed here."""
    # not resolved: a virtual environment's interpreter is a link to that of the system, and yet another one
    return "python" if shutil.which("python") == sys.executable else str(_from_here(Path(sys.executable)))


def _from_here(path: Path) -> Path:
    """Return a path as it is typed in the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def size_text(count: float) -> str:
    """Return a number of bytes in the unit that suits it, such as "1.56 GB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * size:
            return f"{float(f'{count / size:.3g}'):g} {unit}"
    return f"{count:.0f} bytes"
