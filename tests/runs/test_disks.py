"""Disks that lack an ability: in this process as Python meets them, and below TensorStore by a library loaded first."""

import errno
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from orbax.checkpoint._src.serialization import tensorstore_utils

from fbunet_jax.errors import RunError
from fbunet_jax.runs import checkpoints, disks, sealed
from fbunet_jax.runs.checkpoints import try_checkpoints
from fbunet_jax.runs.disks import WAYS, remove_dry_runs, remove_left_behind, try_disk, way_to_write

HEADER = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <fcntl.h>
#include <dlfcn.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
"""
# what a mount without a lock daemon, one without fsync, and one that never replaces a file say
NO_LOCKS = """
static int refused(int command) { return command == F_SETLK || command == F_SETLKW || command == 37 || command == 38; }
int fcntl(int file, int command, ...) {
  va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list);
  if (refused(command)) { errno = ENOLCK; return -1; }
  static int (*real)(int, int, ...); if (!real) real = dlsym(RTLD_NEXT, "fcntl");
  return real(file, command, argument);
}
int fcntl64(int file, int command, ...) {
  va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list);
  return fcntl(file, command, argument);
}
int flock(int file, int operation) { errno = ENOLCK; return -1; }
"""
NO_SYNC = """
int fsync(int file) { errno = EINVAL; return -1; }
int fdatasync(int file) { errno = EINVAL; return -1; }
"""
NO_REPLACING = """
static int there(const char *path) { struct stat found; return stat(path, &found) == 0; }
int rename(const char *old, const char *new) {
  if (there(new)) { errno = EEXIST; return -1; }
  static int (*real)(const char *, const char *); if (!real) real = dlsym(RTLD_NEXT, "rename");
  return real(old, new);
}
int renameat(int a, const char *old, int b, const char *new) {
  if (there(new)) { errno = EEXIST; return -1; }
  static int (*real)(int, const char *, int, const char *); if (!real) real = dlsym(RTLD_NEXT, "renameat");
  return real(a, old, b, new);
}
"""
NO_LINKS = """
int link(const char *old, const char *new) { errno = EPERM; return -1; }
int linkat(int a, const char *old, int b, const char *new, int flags) { errno = EPERM; return -1; }
"""


@pytest.fixture
def on_disk(tmp_path):
    """Return what runs lines of Python with some functions of the C library replaced."""
    if not shutil.which("gcc"):
        pytest.skip("gcc, which makes the disks of these tests, is not installed")

    def run(source, lines):
        library = tmp_path / "library.so"
        (tmp_path / "library.c").write_text(HEADER + source)
        command = ["gcc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "library.c"), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        folder = tmp_path / "disk"
        folder.mkdir()
        script = f"import sys\nfrom pathlib import Path\nfolder = Path({str(folder)!r})\n{lines}"
        environment = os.environ | {"LD_PRELOAD": str(library), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert list(folder.iterdir()) == []
        return done.stdout.strip()

    return run


TRY = """
from fbunet_jax.errors import RunError
from fbunet_jax.runs.disks import try_disk
try:
    print(try_disk(folder))
except RunError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("source", "way"),
    [
        (NO_LINKS, {}),
        (NO_LOCKS, {"file_io_locking": {"mode": "lockfile"}}),
        (NO_SYNC, {"file_io_sync": False}),
        (NO_LOCKS + NO_SYNC, {"file_io_locking": {"mode": "lockfile"}, "file_io_sync": False}),
    ],
    ids=["no links", "no locks", "no fsync", "neither locks nor fsync"],
)
def test_the_safest_way_that_a_disk_has_is_found(on_disk, source, way):
    assert on_disk(source, TRY) == str(way)


def test_a_disk_that_never_replaces_a_file_is_refused(on_disk):
    said = on_disk(NO_REPLACING, TRY)
    assert "/disk cannot keep a training: renaming a file over another one was tried there: File exists." in said
    assert "(out) on another disk" in said


def test_checkpoints_are_written_and_read_without_locks(on_disk):
    lines = """
import shutil
import numpy as np
from fbunet_jax.runs.checkpoints import STATE, try_checkpoints
from fbunet_jax.runs.sealed import SealedCheckpoints, damage
try_checkpoints(folder)
checkpoints = SealedCheckpoints(folder / "checkpoints")
checkpoints.save(3, {STATE: {"a": np.arange(4.0)}})
checkpoints.close()
print(damage(folder / "checkpoints" / "3"))
found = SealedCheckpoints(folder / "checkpoints", read_only=True)
print(found.restore(3, {STATE: {"a": np.zeros(4)}})[STATE]["a"].tolist())
shutil.rmtree(folder / "checkpoints")
"""
    assert on_disk(NO_LOCKS, lines) == "None\n[0.0, 1.0, 2.0, 3.0]"


def test_a_usual_disk_is_used_as_ever_and_nothing_is_left_there(tmp_path, monkeypatch):
    assert try_disk(tmp_path) == {}
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    assert try_disk(Path("..")) == {}
    Path.cwd().rmdir()
    try_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_done_is_named_with_the_folder(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(RunError, match=r"a folder in it was tried there: Read-only file system\. Nothing was trained"):
        try_disk(tmp_path)


def test_the_first_reason_is_told_where_no_way_is_left(tmp_path, monkeypatch):
    ways = [{"file_io_locking": {"mode": "os"}}, {"file_io_locking": {"mode": "none"}}]
    monkeypatch.setattr(disks, "WAYS", tuple(ways))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        way_to_write(tmp_path / "file")


def contexts():
    """Return how Orbax writes files now, without and with its database."""
    found = [tensorstore_utils.get_ts_context(use_ocdbt=each) for each in (False, True)]
    return [[context[name].to_json() for name in ("file_io_locking", "file_io_sync")] for context in found]


def test_a_later_training_on_a_good_disk_writes_in_the_usual_way_again(tmp_path, monkeypatch):
    usual = contexts()
    monkeypatch.setattr(checkpoints, "try_disk", lambda _: WAYS[-1])
    try_checkpoints(tmp_path)
    assert contexts() == [[{"mode": "none"}, False]] * 2
    monkeypatch.setattr(checkpoints, "try_disk", lambda _: WAYS[1])
    try_checkpoints(tmp_path)
    assert contexts() == [[{"mode": "lockfile"}, True]] * 2
    monkeypatch.undo()
    try_checkpoints(tmp_path)
    assert contexts() == usual
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_saved_on_trial_is_told_of_the_disk(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "try_disk", lambda _: WAYS[1])
    monkeypatch.setattr(sealed.ocp.CheckpointManager, "save", refuse)
    with pytest.raises(
        RunError, match=r"saving a checkpoint was tried there: No space left on device\. Nothing"
    ) as told:
        try_checkpoints(tmp_path)
    assert "are kept" not in str(told.value)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    try_checkpoints(tmp_path)


def test_an_orbax_without_the_setting_does_on_a_usual_disk_and_is_named_on_others(tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "_usual", {})
    monkeypatch.delattr(tensorstore_utils, "_BASE_TS_CONTEXT")
    try_checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints, "try_disk", lambda _: WAYS[1])
    with pytest.raises(RunError, match=rf"Orbax {re.escape(sealed.ocp.__version__)} cannot be set to do without"):
        try_checkpoints(tmp_path)


JOINED = """
import sys
from pathlib import Path
import jax
port, process, folder = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process), cluster_detection_method="deactivate")
from orbax.checkpoint._src.serialization import tensorstore_utils
from fbunet_jax.errors import RunError
from fbunet_jax.runs import checkpoints, disks
for way in (disks.WAYS[-1], {}, None):
    def found(path):
        if process == "1" or way is None:
            raise RunError("cannot keep a training")
        return way
    checkpoints.try_disk = found
    try:
        checkpoints.try_checkpoints(Path(folder))
        print(tensorstore_utils.get_ts_context()["file_io_sync"].to_json())
    except RunError as error:
        print(error)
"""


def test_of_two_processes_the_first_tries_the_disk_and_both_write_as_it_found(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", JOINED, port, process, str(tmp_path)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in ("0", "1")
    ]
    try:
        said = [process.communicate(timeout=120)[0].splitlines()[-3:] for process in running]
    finally:
        for process in running:
            process.kill()
    assert said[0] == ["False", "True", "cannot keep a training"]
    assert said[1] == ["False", "True", "Process 0 of 2 failed: see its message."]
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_removed_and_what_may_be_in_use_stays(tmp_path):
    fold, now = tmp_path / "runs" / "run" / "fold_0", time.time()
    for name in (".try-1/checkpoints/1", "checkpoints/3", "../.fbunet-dry-run-1/run", "../../.fbunet-dry-run-2/run"):
        (fold / name).mkdir(parents=True)
    for path, age in ((".clock.1", 130), (".clock.2", 1)):
        (fold / path).touch()
        os.utime(fold / path, (now - age,) * 2)
    for folder, age in ((fold.parent / ".fbunet-dry-run-1", 25), (fold.parents[1] / ".fbunet-dry-run-2", 23)):
        os.utime(folder, (now - age * 3600,) * 2)
    remove_left_behind(fold)
    remove_dry_runs(fold.parent)
    assert sorted(path.name for path in fold.iterdir()) == [".clock.2", "checkpoints"]
    assert [path.name for path in fold.parent.iterdir()] == ["fold_0"]
    assert sorted(path.name for path in fold.parents[1].iterdir()) == [".fbunet-dry-run-2", "run"]
