"""Ctrl-C and SIGTERM stop a training between two steps, never in the middle of a checkpoint."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

AT_ONCE_AFTER = 1.0
"""Seconds after the first signal: launchers send it to a process and once more to its whole group."""


_raised = threading.Event()
"""A signal has come while no `Interruption` was entered; it may have been dropped."""


def raise_on_signals() -> None:
    """Let SIGTERM raise a KeyboardInterrupt as Ctrl-C does, before an `Interruption` is entered, which is told of it.

    Python drops an exception that is raised in a destructor or in a callback of its garbage collector, and JAX has one:
    a training that was told to stop while it was starting went on. The handler itself and not SIGINT raised again: a
    shell without job control starts its background jobs with SIGINT ignored.
    """
    _raised.clear()
    signal.signal(signal.SIGTERM, _raise)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    _raised.set()
    raise KeyboardInterrupt


def raise_dropped() -> None:
    """Raise a KeyboardInterrupt if a signal has come since `raise_on_signals`: Python may have dropped the first."""
    if _raised.is_set():
        raise KeyboardInterrupt


def forget_dropped() -> None:
    """Take a signal for answered: what the process does next, as in a notebook, is not stopped by it."""
    _raised.clear()


class StopAtOnce(KeyboardInterrupt):
    """A second signal: nothing is waited for."""


class Interruption:
    """While it is entered, the first signal is only noted; one a second later stops at once.

    A KeyboardInterrupt that Python raises wherever it is can be lost, or leave a lock taken, inside the event
    loop with which checkpoints are written; the training then never ended. Only signals whose handler is that of Ctrl-C
    are taken over: one that is ignored, or that an application handles itself, stays as it is.

    Attributes:
      requested: a signal has come.
    """

    def __init__(self) -> None:
        self.requested, self._noted_at = False, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python sets handlers in the main thread only
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) in (signal.default_int_handler, _raise):
                    self._before[number] = signal.signal(number, self._note)
            if self._before and _raised.is_set():
                _raised.clear()
                self.requested, self._noted_at = True, time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._noted_at = True, now
        elif now - self._noted_at > AT_ONCE_AFTER:
            raise StopAtOnce
