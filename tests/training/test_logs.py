"""Event files hold what was recorded, and a disk that is full does not stop a training."""

import errno
import os
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from fbunet_jax.training.logs import EventFile


def events(folder):
    """Read an event file: records of length, its checksum, the bytes, their checksum."""
    [path] = folder.iterdir()
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[12 + length + 4 :]
    return found


def test_events_are_read_back_in_order_after_the_step_from_which_older_ones_do_not_count(tmp_path):
    said = []
    file = EventFile(tmp_path / "events", 7, said.append)
    file.add({"loss": 0.5, "iou/a": 0.25}, 8)
    file.add({"loss": 0.125}, 9)
    version, start, *values = events(tmp_path / "events")  # on disk before the file is closed
    file.close()
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (7, 1)
    assert [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in values] == [
        (8, "loss", 0.5),
        (8, "iou/a", 0.25),
        (9, "loss", 0.125),
    ]
    assert not said


@pytest.mark.parametrize("place", ["write", "flush"])
def test_a_full_disk_is_told_once_and_the_rest_is_left_out(tmp_path, monkeypatch, place):
    said = []
    file = EventFile(tmp_path / "events", 1, said.append)

    def fail(self, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, place, fail)
    for step in range(50):
        file.add({"loss": 0.5}, step)
    file.close()
    assert said == [
        f"Warning: {tmp_path / 'events'} has no more events for TensorBoard: No space left on device. "
        "Training continues."
    ]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    file = EventFile(tmp_path / "file" / "events", 1, said.append)
    file.add({"loss": 0.5}, 1)
    assert len(said) == 1
    assert "Not a directory" in said[0]
