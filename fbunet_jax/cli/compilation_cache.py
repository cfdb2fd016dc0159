"""Compiled programs are kept on disk, so that the same command starts sooner the next time.

Here and not in the package, because a library must not change JAX's global settings when it is imported. They are set
through JAX's own environment variables, before JAX is imported; a variable that the user has set is left as it is.
"""

import hashlib
import os
import platform
import tempfile
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not on Windows, whose files can be locked
    fcntl = None

FOLDER = "JAX_COMPILATION_CACHE_DIR"
MAX_SIZE = "JAX_COMPILATION_CACHE_MAX_SIZE"

MAX_BYTES = 2 * 2**30
"""The programs used longest ago are removed beyond this size."""


def use_compilation_cache() -> None:
    """Let JAX keep compiled programs, unless the folder cannot be written or the user has set another one."""
    if FOLDER in os.environ:
        return
    folder = default_folder()
    if is_writable(folder):
        os.environ[FOLDER] = str(folder)
        os.environ.setdefault(MAX_SIZE, str(MAX_BYTES))


def default_folder() -> Path:
    """Return the folder for this kind of machine: ~/.cache/fbunet_jax/compiled/<kind>, XDG_CACHE_HOME respected.

    A program for a CPU uses the instructions of that CPU, which JAX's own key does not tell apart; a home directory is
    often shared by different ones.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    # the specification has relative paths ignored; "~" stays as it is where there is no home, and is not writable
    root = Path(home) if Path(home).is_absolute() else Path(os.path.expanduser("~/.cache"))  # noqa: PTH111
    kind = f"{platform.machine()}-{hashlib.blake2b(_cpu().encode(), digest_size=6).hexdigest()}"
    return root / "fbunet_jax" / "compiled" / kind


def is_writable(folder: Path) -> bool:
    """Say whether files can be made and locked in a folder, as JAX's cache does; it is created where it is missing."""
    if not folder.is_absolute():
        return False
    try:
        # others must not write what this user will run
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            if fcntl:  # without locks (some home directories on a network) JAX would warn at every program
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _cpu() -> str:
    """Return the CPU's model and instructions, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(line for line in lines if line.startswith(names))
