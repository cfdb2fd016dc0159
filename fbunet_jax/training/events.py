"""Event files for TensorBoard: written where they are asked for, and nothing that happens to them stops a training."""

import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar


class EventFile:
    """One event file. tensorboardX's own writer has a thread, and a full disk there would make the training wait."""

    def __init__(self, folder: Path, first_step: int, tell: Callable[[str], None]) -> None:
        """Begin a file.

        Args:
          folder: of all event files of a fold.
          first_step: earlier files' events from this step on do not count.
          tell: called once, with a sentence, if events cannot be written.
        """
        self._folder, self._tell = folder, tell
        self._writer: RecordWriter | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
            self._writer = RecordWriter(str(folder / name))
        except OSError as error:
            self._give_up(error)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(
            Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.SessionStatus.START))
        )

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Write values by name."""
        for name, value in values.items():
            self._write(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        if self._writer:
            try:
                self._writer.flush()
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._writer:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None

    def _write(self, event: Event) -> None:
        if self._writer:
            try:
                self._writer.write(event.SerializeToString())
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.close()
        self._tell(f"Warning: {self._folder} has no more events for TensorBoard: {error.strerror}. Training goes on.")
