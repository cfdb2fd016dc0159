"""What a shell, a notebook, a scheduler or a daemon hands to a command is made sane, before heavy modules are imported.

Here and not in the package: all of it concerns the whole process, and a library must leave that alone.
"""

import codecs
import contextlib
import getpass
import logging
import os
import re
import shutil
import subprocess
import sys
import traceback
import warnings

from fbunet_jax.device_errors import no_device
from fbunet_jax.errors import ConfigError, DeviceError

PINNED = {
    "JAX_ENABLE_X64": "0",
    "JAX_DEFAULT_DTYPE_BITS": None,
    "JAX_DEFAULT_PRNG_IMPL": "threefry2x32",
    "JAX_ENABLE_CUSTOM_PRNG": "0",
    "JAX_RANDOM_SEED_OFFSET": "0",
    "JAX_THREEFRY_PARTITIONABLE": "1",
    "JAX_DEFAULT_MATMUL_PRECISION": None,
    "JAX_DISABLE_JIT": "0",
    "JAX_SOFTMAX_CUSTOM_JVP": None,
    "JAX_ALLOW_F16_REDUCTIONS": None,
}
"""What decides the numbers of a training, and its value in every command; None for JAX's own.

How hard the compiler tries (JAX_DISABLE_MOST_OPTIMIZATIONS, JAX_OPTIMIZATION_LEVEL) is the user's, like XLA_FLAGS: it
is recorded, and compared when a fold resumes.
"""

_HINDERING = (
    *("JAX_DEBUG_NANS", "JAX_DEBUG_INFS", "JAX_DEBUG_KEY_REUSE", "JAX_CHECK_TRACER_LEAKS", "JAX_ENABLE_CHECKS"),
    *("JAX_TRANSFER_GUARD", "JAX_TRANSFER_GUARD_HOST_TO_DEVICE", "JAX_TRANSFER_GUARD_DEVICE_TO_HOST"),
    *("JAX_TRANSFER_GUARD_DEVICE_TO_DEVICE", "JAX_NO_TRACING", "JAX_NO_EXECUTION", "JAX_THREAD_GUARD"),
    *(
        "JAX_LEGACY_PRNG_KEY",
        "JAX_EXPLICIT_X64_DTYPES",
        "JAX_RAISE_PERSISTENT_CACHE_ERRORS",
        "JAX_DISABLE_VMAP_SHMAP_ERROR",
    ),
    *("JAX_ERROR_CHECKING_BEHAVIOR_NAN", "JAX_ERROR_CHECKING_BEHAVIOR_DIVIDE", "JAX_ERROR_CHECKING_BEHAVIOR_OOB"),
)
"""What JAX offers for debugging: it ends a sound command, and its own checks are what a user gets."""

COMPUTING = ("train", "evaluate", "predict", "report", "reproduce", "sweep")
"""The commands that start JAX's devices, here or in processes of their own."""

NARROWEST = 40
"""Columns below which the list of options is not laid out: tyro never ends in a single one."""

LEAST_ADDRESSES = 2 * 10**9
"""Bytes of address space (ulimit -v) without which JAX, or a library under it, aborts the process when it starts."""

_NUMBERS = ("NUMPY_MADVISE_HUGEPAGE",)
"""Variables of libraries that end the import of one if they are not a number."""

_PROTOCOL_BUFFERS = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"

_FLAGS_SECONDS = 60.0
_SIMULATED = re.compile(r"--xla_force_host_platform_device_count=\d+")
_BOOLEANS = {"0": False, "false": False, "no": False, "off": False, "n": False, "f": False} | {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "y": True,
    "t": True,
}


def prepare(*, is_program: bool) -> None:
    """Make streams, folders, names, warnings and the settings of libraries what the commands count on.

    Args:
      is_program: this process is the command and nothing else, so that it may be started once more.
    """
    _open_streams()
    is_utf8 = codecs.lookup(sys.getfilesystemencoding()).name == "utf-8" or sys.flags.utf8_mode
    # once: python -X utf8=0 and -E would not be changed by it
    if is_program and not is_utf8 and os.environ.get("PYTHONUTF8") != "1":
        _start_in_utf8()
    _show_warnings()
    if os.path.expanduser("~") == "~":  # noqa: PTH111 (no HOME, and a user that the system does not know)
        os.environ["HOME"] = "/nonexistent"
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = "unknown"
    # a notebook hands its own backend to the commands that it starts
    os.environ["MPLBACKEND"] = "agg"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where its cache lies concerns nobody
    _check_progress_bars()
    for name in _NUMBERS:
        if not os.environ.get(name, "0").isdigit():
            del os.environ[name]
    # notebooks for an old TensorFlow set one that today's library does not have
    if os.environ.get(_PROTOCOL_BUFFERS, "python") not in ("python", "upb"):
        del os.environ[_PROTOCOL_BUFFERS]
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)


def _open_streams() -> None:
    """Put /dev/null where a standard stream is closed, so that no file takes its number; print what cannot be encoded.

    A character that the encoding of a terminal, a pipe or a log does not have is written as an escape.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            if (opened := os.open(os.devnull, os.O_RDWR)) != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
        if mode == "w":
            with contextlib.suppress(AttributeError, ValueError, OSError):  # a stream that a program has put there
                getattr(sys, name).reconfigure(errors="backslashreplace")
            with contextlib.suppress(AttributeError, ValueError, OSError):
                # a pipe of another program may be non-blocking, and refuse what does not fit at once
                os.set_blocking(getattr(sys, name).fileno(), True)


def _start_in_utf8() -> None:
    """Start this process again with UTF-8 for names of files, which Python can choose at its start only."""
    os.environ["PYTHONUTF8"] = "1"
    if codecs.lookup(sys.stdout.encoding).name == "ascii":
        os.environ.setdefault("PYTHONIOENCODING", "ascii:backslashreplace")  # what the terminal shows stays as it was
    with contextlib.suppress(OSError):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _show_warnings() -> None:
    """Show warnings that PYTHONWARNINGS makes errors: they are those of other people's packages."""
    if "error" not in os.environ.get("PYTHONWARNINGS", "") or any(word.startswith("-W") for word in sys.orig_argv):
        return
    del os.environ["PYTHONWARNINGS"]
    warnings.filters[:] = [("default", *each[1:]) if each[0] == "error" else each for each in warnings.filters]  # type: ignore[index]
    warnings.filterwarnings("default")


def _check_progress_bars() -> None:
    """Drop variables of tqdm that are not numbers where it needs some, or replace what a bar is given (TQDM_FILE)."""
    for name in [name for name in os.environ if name.startswith("TQDM_")]:
        if name not in ("TQDM_DISABLE", "TQDM_ASCII", "TQDM_COLOUR", "TQDM_LEAVE", "TQDM_BAR_FORMAT"):
            try:
                ok = float(os.environ[name]) >= 0 and name.removeprefix("TQDM_") in (
                    "MININTERVAL",
                    "MAXINTERVAL",
                    "MINITERS",
                    "NCOLS",
                    "SMOOTHING",
                    "DELAY",
                    "POSITION",
                )
            except ValueError:
                ok = False
            if not ok:
                del os.environ[name]


def pin_settings() -> list[str]:
    """Set what decides the numbers before JAX is imported, and return a sentence about what is not used, if anything.

    In a process that has imported JAX already they stay as they are; a training records and compares them.
    """
    if "jax" in sys.modules:
        return []
    overridden = []
    for name, value in {**PINNED, **dict.fromkeys(_HINDERING)}.items():
        given = os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
        if given is not None and _meaning(given) != _meaning(value or ("0" if name in _HINDERING else "")):
            overridden.append(f"{name}={given}")
    if not overridden:
        return []
    are = "are" if overridden[1:] else "is"
    return [f"Warning: {', '.join(overridden)} {are} not used: the commands compute with settings of their own."]


def _meaning(text: str) -> bool | str:
    return _BOOLEANS.get(text.strip().lower(), text.strip().lower())


def check_address_space() -> None:
    """Raise a DeviceError if the limit of the shell on addresses leaves JAX too few to start: it would abort.

    Raises:
      DeviceError: says the limit, and what is needed.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESSES:
        raise DeviceError(
            f"This process may use {limit:,} bytes of memory (ulimit -v), and JAX does not start with fewer than "
            f"{LEAST_ADDRESSES:,}. Raise the limit, or that of the batch job.",
            "memory",
        )


def check_compiler_flags() -> None:
    """Raise a ConfigError if XLA does not know a flag of XLA_FLAGS: it would abort the process without a word of ours.

    A process of its own tries them, unless they are those that simulate devices.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if not _SIMULATED.sub("", flags).strip() or "jax" in sys.modules:
        return
    command = [sys.executable, "-P", "-c", "import jax; jax.devices()"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    try:
        tried = subprocess.run(
            command, env=environment, capture_output=True, timeout=_FLAGS_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    said = tried.stderr.decode("utf-8", "replace")
    if tried.returncode and "parse_flags" in said:
        reasons = [line.split("] ", 1)[-1] for line in said.splitlines() if re.match(r"[EF]\d{4} ", line)]
        raise ConfigError(
            f"XLA_FLAGS={flags} is not understood by this XLA: {reasons[0].rstrip('.')}. Correct or unset it."
        )


def fault_of_jax(error: BaseException) -> str:
    """Return a sentence if JAX has not started, for a setting or a device that is not there; "" for another error."""
    files = [frame.filename.replace(os.sep, "/") for frame in traceback.extract_tb(error.__traceback__)]
    is_setting = isinstance(error, ValueError | TypeError) and files[-1].endswith("jax/_src/config.py")
    if not is_setting and not any(file.endswith("jax/_src/xla_bridge.py") for file in files):
        return ""
    said = str(error).strip().rstrip(".") or type(error).__name__
    if is_setting:
        given = {name: value for name, value in os.environ.items() if name.startswith("JAX_") and name not in PINNED}
        named = [name for name in given if name in said or name.lower() in said or given[name] in said]
        setting = ", ".join(f"{name}={given[name]}" for name in named or given)
        return f"JAX does not start with {setting}: {said}. Correct or unset it."
    text, remedy = no_device("JAX", os.environ, said, "see fbunet doctor")
    return f"{text}. {remedy[0].upper()}{remedy[1:]}."
