import errno
import os
import threading
import time

import pytest

from fbunet_jax.runs.files import FILLED_AFTER, create_once, write_atomically
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


@pytest.fixture(params=[errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV])
def without_links(request, monkeypatch):
    def refuse(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", refuse)


def test_without_hard_links_too_a_file_is_created_once_and_whole(tmp_path, without_links):
    texts = [str(index) * 100_000 for index in range(8)]
    for trial in range(3):
        path = tmp_path / f"{trial}.json"
        created = at_once(lambda index, path=path: create_once(path, texts[index]))
        winner = path.read_text()
        assert created == [text == winner for text in texts]
        assert winner in texts
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_that_cannot_be_created_without_links_leaves_nothing(tmp_path, without_links, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"):
        create_once(tmp_path / "a.json", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_a_server_made_and_then_denied_counts(tmp_path, monkeypatch):
    link = os.link

    def twice(*paths):
        link(*paths)
        link(*paths)

    monkeypatch.setattr(os, "link", twice)
    assert create_once(tmp_path / "a.json", "text")
    assert not create_once(tmp_path / "a.json", "other")
    assert (tmp_path / "a.json").read_text() == "text"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_without_fsync_keeps_files_all_the_same(tmp_path, monkeypatch, code):
    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    write_atomically(tmp_path / "a.json", "text")
    assert (tmp_path / "a.json").read_text() == "text"


def test_a_name_as_long_as_the_disk_takes_is_written(tmp_path):
    path = tmp_path / ("ü" * 125 + ".json")  # 255 bytes
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [(path.name, "new")]


def test_a_file_that_a_killed_process_left_empty_is_filled_by_one_of_many(tmp_path, without_links):
    path = tmp_path / "config.toml"
    path.touch()
    os.utime(path, (time.time() - FILLED_AFTER - 1,) * 2)
    texts = [str(index) * 100_000 for index in range(8)]
    created = at_once(lambda index: create_once(path, texts[index]))
    assert created == [text == path.read_text() for text in texts]
    assert sum(created) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["config.toml"]


def test_an_empty_file_that_another_process_is_filling_is_waited_for(tmp_path, without_links):
    path = tmp_path / "config.toml"
    path.touch()
    filling = threading.Timer(0.2, write_atomically, (path, "other"))
    filling.start()
    assert not create_once(path, "text")
    filling.join()
    assert path.read_text() == "other"
