import json
import os
import socket
import subprocess
import sys
import time

import pytest

from fbunet_jax.errors import RunError
from fbunet_jax.runs import locks
from fbunet_jax.runs.directory import FoldDirectory
from fbunet_jax.runs.files import read_json
from fbunet_jax.runs.locks import fold_lock
from tests.threads import at_once


@pytest.fixture
def fold(tmp_path):
    fold = FoldDirectory(tmp_path / "fold_0")
    fold.path.mkdir()
    return fold


def held_by(fold, host, process, age=0.0):
    fold.lock.write_text(json.dumps({"host": host, "process": process, "system": locks._system()}))
    os.utime(fold.lock, (time.time() - age,) * 2)


def process_that_ended():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_the_lock_names_this_process_and_goes_with_it(fold):
    with fold_lock(fold):
        lock = read_json(fold.lock, dict)
        assert (lock["host"], lock["process"]) == (socket.gethostname(), os.getpid())
    assert list(fold.path.iterdir()) == []


def test_the_lock_goes_when_training_fails(fold):
    with pytest.raises(KeyboardInterrupt), fold_lock(fold):
        raise KeyboardInterrupt
    assert list(fold.path.iterdir()) == []


def test_a_fold_held_by_another_process_is_refused_and_the_holder_named(fold):
    script = (
        "import sys, pathlib\nfrom fbunet_jax.runs.directory import FoldDirectory\n"
        "from fbunet_jax.runs.locks import fold_lock\n"
        "with fold_lock(FoldDirectory(pathlib.Path(sys.argv[1]))):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(fold.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError) as error, fold_lock(fold):
            pass
        assert f"process {holder.pid} on host {socket.gethostname()}" in str(error.value)
        holder.stdin.close()
    with fold_lock(fold):
        pass


def test_a_process_that_was_killed_is_followed_at_once(fold):
    held_by(fold, socket.gethostname(), process_that_ended())
    with fold_lock(fold):
        assert read_json(fold.lock, dict)["process"] == os.getpid()


def test_a_lock_of_another_host_is_respected_until_its_heartbeat_has_stopped_for_two_minutes(fold):
    # a process of this number need not exist here
    held_by(fold, "other-host", process_that_ended(), age=110)
    with pytest.raises(RunError, match="on host other-host"), fold_lock(fold):
        pass
    held_by(fold, "other-host", 1, age=130)
    with fold_lock(fold):
        assert read_json(fold.lock, dict)["host"] == socket.gethostname()


@pytest.mark.parametrize("age", [0, 130])
def test_one_of_many_gets_a_free_or_a_stale_lock(fold, age):
    for _ in range(40):
        fold.lock.unlink(missing_ok=True)
        if age:
            held_by(fold, "other-host", 1, age)
        results = at_once(lambda _: locks._acquire(fold.lock))
        assert sum(result is None for result in results) == 1
        assert all(isinstance(result, RunError) and "being trained" in str(result) for result in results if result)


def test_a_takeover_that_was_broken_off_holds_nobody_up(fold):
    held_by(fold, "other-host", 1, age=130)
    guard = fold.path / "lock.takeover"
    guard.mkdir()
    os.utime(guard, (0, 0))
    with fold_lock(fold):
        assert not guard.exists()


def test_the_heartbeat_renews_the_lock(fold, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.02)
    with fold_lock(fold):
        os.utime(fold.lock, (0, 0))
        deadline = time.monotonic() + 10
        while fold.lock.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert time.time() - fold.lock.stat().st_mtime < 10


def test_a_lock_that_another_process_took_over_is_left_to_it(fold):
    with fold_lock(fold):
        fold.lock.unlink()
        held_by(fold, "other-host", 1)
    assert read_json(fold.lock, dict)["host"] == "other-host"


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\x00", b"{}", b'{"host": "a"}'])
def test_a_damaged_lock_is_held_for_two_minutes_and_then_taken_over(fold, content):
    fold.lock.write_bytes(content)
    with pytest.raises(RunError, match="is being trained by process 0 on host unknown"), fold_lock(fold):
        pass
    long_ago = time.time() - 121
    os.utime(fold.lock, (long_ago, long_ago))
    with fold_lock(fold) as still_held:
        still_held()


def test_a_process_of_another_container_with_the_same_host_name_is_not_judged_by_its_number(fold):
    mine = json.loads(locks._my_name())
    dead = 2**22 + 1  # above the highest number of a process
    fold.lock.write_text(json.dumps({**mine, "process": dead, "system": "another"}))
    with pytest.raises(RunError, match="is being trained by"), fold_lock(fold):
        pass
    fold.lock.write_text(json.dumps({**mine, "process": dead}))
    with fold_lock(fold):
        pass


def test_whoever_lost_a_fold_is_told_so(fold):
    with fold_lock(fold) as still_held:
        fold.lock.write_text("{}")
        with pytest.raises(RunError, match="another one took it over"):
            still_held()


def test_whoever_finds_no_lock_is_not_told_of_another_process(fold):
    with fold_lock(fold) as still_held:
        fold.lock.unlink()
        with pytest.raises(RunError, match="or the lock in it is gone: somebody moved or removed it"):
            still_held()


@pytest.mark.parametrize("skew", [180, -180, 10**6, -(10**6)])
def test_the_clock_of_this_host_decides_nothing(fold, monkeypatch, skew):
    held_by(fold, "other-host", 1, age=1)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + skew)
    with pytest.raises(RunError, match="on host other-host"), fold_lock(fold):
        pass
    monkeypatch.undo()
    held_by(fold, "other-host", 1, age=130)
    monkeypatch.setattr(time, "time", lambda: real() + skew)
    with fold_lock(fold):
        assert read_json(fold.lock, dict)["host"] == socket.gethostname()
    assert list(fold.path.iterdir()) == []


def test_the_clock_of_the_disk_is_read_from_the_disk(fold, monkeypatch):
    # the server is an hour behind: it gives its own time to what is created, the lock of another host included
    behind, touch = 3600, locks.Path.touch

    def created(path, **options):
        touch(path, **options)
        os.utime(path, (time.time() - behind,) * 2)

    monkeypatch.setattr(locks.Path, "touch", created)
    held_by(fold, "other-host", 1, age=behind + 10)
    with pytest.raises(RunError, match="on host other-host"), fold_lock(fold):
        pass


def test_a_heartbeat_that_may_not_set_times_writes_instead(fold, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError

    with fold_lock(fold):
        os.utime(fold.lock, (0, 0))
        before = fold.lock.read_text()
        monkeypatch.setattr(os, "utime", refuse)
        locks._renew(fold.lock)
        assert fold.lock.stat().st_mtime > 1
        assert fold.lock.read_text() == before


def test_a_lock_is_held_by_one_of_many_on_a_disk_without_hard_links(fold, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    for age in (0, 130, 0, 130):
        fold.lock.unlink(missing_ok=True)
        if age:
            held_by(fold, "other-host", 1, age)
        results = at_once(lambda _: locks._acquire(fold.lock))
        assert sum(result is None for result in results) == 1
        assert all("being trained" in str(result) for result in results if result)
