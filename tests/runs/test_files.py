import errno
import os
import threading

import pytest

from fbunet_jax.runs.files import create_once, write_atomically
from tests.threads import at_once


def test_a_file_is_created_once_whole_and_by_the_first_of_many(tmp_path):
    texts = [str(index) * 100_000 for index in range(8)]
    for trial in range(5):
        path = tmp_path / f"{trial}.json"
        created = at_once(lambda index, path=path: create_once(path, texts[index]))
        winner = path.read_text()
        assert created == [text == winner for text in texts]
        assert winner in texts
        assert not create_once(path, "late")
        assert path.read_text() == winner
    assert len(list(tmp_path.iterdir())) == 5


def test_a_reader_sees_the_old_text_or_the_new_one_never_a_part(tmp_path):
    path = tmp_path / "evaluation.json"
    texts = [letter * 200_000 for letter in "ab"]
    write_atomically(path, texts[0])
    stop, seen = threading.Event(), set()

    def read():
        while not stop.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        write_atomically(path, texts[turn % 2])
    stop.set()
    reader.join()
    assert seen <= set(texts)
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.json").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_atomically(tmp_path / "a.json", "new")
    assert raised.value.filename == str(tmp_path / "a.json")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]
