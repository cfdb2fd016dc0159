"""Ctrl-C and SIGTERM stop a training between two steps, never in the middle of a checkpoint."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interruption:
    """While it is entered, the first signal is only noted and `check` raises it; a second one stops at once.

    A KeyboardInterrupt that Python raises wherever it is can be lost, or leave a lock taken, inside the event
    loop with which checkpoints are written; the training then never ended. Only signals whose handler is that of Ctrl-C
    are taken over: one that is ignored, or that an application handles itself, stays as it is.
    """

    def __init__(self) -> None:
        self._requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python sets handlers in the main thread only
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is signal.default_int_handler:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def check(self) -> None:
        """Raise a KeyboardInterrupt if a signal has come."""
        if self._requested:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
