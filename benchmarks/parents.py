"""A process that ends when the one that has started it does, however that ended."""

import ctypes
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def ends_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Return the ``preexec_fn`` that lets Linux send a signal to the new process then; None on other systems."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return lambda: library.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
