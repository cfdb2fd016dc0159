"""A process that ends when the one that has started it does, however that ended."""

import signal
import sys
from collections.abc import Sequence

# PR_SET_PDEATHSIG is 1, and stays over exec; a preexec_fn would fork a process with JAX's threads in it
_TIE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[1]), 0, 0, 0)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def tied(command: Sequence[str], number: signal.Signals) -> list[str]:
    """Return the command whose process gets a signal from Linux then; the same command on other systems."""
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIE, str(int(number)), *command]
