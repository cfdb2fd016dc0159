import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from fbunet_jax import runs
from fbunet_jax.config import Config, DataConfig, TrainingConfig
from fbunet_jax.errors import RunError
from fbunet_jax.runs import (
    FoldDirectory,
    Run,
    create_once,
    create_or_open,
    default_path,
    fold_lock,
    read_json,
    set_aside,
    write_atomically,
)

DATASET = {"class_names": ["a", "b"], "channels": 1, "fingerprint": "0f"}


def at_once(task, count=8):
    """Call task(0), task(1), ... in as many threads, released together; return what each returned or raised."""
    barrier, results = threading.Barrier(count), [None] * count

    def one(index):
        barrier.wait()
        try:
            results[index] = task(index)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def open_run(path, config=None, **changes):
    return create_or_open(path, config or Config(), folds='{"folds": []}', dataset=DATASET | changes)


def test_a_file_is_created_once_whole_and_by_the_first_of_many(tmp_path):
    texts = [str(index) * 100_000 for index in range(8)]
    for trial in range(5):
        path = tmp_path / f"{trial}.json"
        assert at_once(lambda index, path=path: create_once(path, texts[index])) == [None] * 8
        winner = path.read_text()
        assert winner in texts
        create_once(path, "late")
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
        runs.write_atomically(tmp_path / "a.json", "new")
    assert raised.value.filename == str(tmp_path / "a.json")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]


def test_a_run_is_created_with_its_settings_folds_and_data_and_read_back(tmp_path):
    config = Config(seed=3, training=TrainingConfig(epochs=2))
    run = open_run(tmp_path / "new" / "run", config)

    assert sorted(file.name for file in run.path.iterdir()) == ["config.toml", "dataset.json", "folds.json"]
    assert run.read_config() == config
    assert run.read_dataset() == {"format": 1} | DATASET
    assert open_run(run.path, config) == run


def test_the_folds_of_the_first_process_are_kept(tmp_path):
    run = open_run(tmp_path)
    create_or_open(tmp_path, Config(), folds='{"folds": [1]}', dataset=DATASET)
    assert read_json(run.folds) == {"folds": []}


def test_processes_that_start_together_agree_on_one_run(tmp_path):
    configs = [Config(seed=index % 2) for index in range(8)]
    results = at_once(lambda index: open_run(tmp_path, configs[index]))

    seed = Run(tmp_path).read_config().seed
    for index, result in enumerate(results):
        if index % 2 == seed:
            assert result == Run(tmp_path)
        else:
            assert isinstance(result, RunError)


def test_other_settings_are_refused_and_each_difference_is_named(tmp_path):
    open_run(tmp_path, Config(data=DataConfig(classes={"a": 0})))
    other = Config(
        seed=1,
        data=DataConfig(folds=3, classes={"a": 1}),
        model=dataclasses.replace(Config().model, rounds=3),
        training=TrainingConfig(learning_rate=1e-3),
    )
    with pytest.raises(RunError) as error:
        open_run(tmp_path, other, fingerprint="1e")
    for difference in (
        "seed was 0 and is now 1",
        "data.folds was 5 and is now 3",
        "data.classes was {'a': 0} and is now {'a': 1}",
        "model.rounds was None and is now 3",
        "training.learning_rate was 0.0001 and is now 0.001",
        "fingerprint of the data was '0f' and is now '1e'",
        "--out",
    ):
        assert difference in str(error.value)


@pytest.mark.parametrize("changes", [{"class_names": ["b", "a"]}, {"channels": 3}, {"fingerprint": ""}])
def test_other_data_are_refused(tmp_path, changes):
    open_run(tmp_path)
    with pytest.raises(RunError, match=f"{next(iter(changes))} of the data was"):
        open_run(tmp_path, **changes)


@pytest.mark.parametrize(
    "config",
    [
        Config(data=DataConfig(root="elsewhere")),
        Config(name="renamed"),
        Config(training=TrainingConfig(previews=0, preview_every=50)),
    ],
)
def test_what_does_not_change_a_result_may_change(tmp_path, config):
    open_run(tmp_path)
    open_run(tmp_path, config)
    assert Run(tmp_path).read_config() == config


@pytest.mark.parametrize(
    ("schedule", "before", "now", "allowed"),
    [
        ("constant", 10, 20, True),
        ("constant", 10, 9, False),
        ("cosine", 10, 20, False),
        ("one-cycle", 10, 20, False),
    ],
)
def test_only_a_run_with_a_constant_learning_rate_can_be_prolonged(tmp_path, schedule, before, now, allowed):
    first, second = (Config(training=TrainingConfig(schedule=schedule, epochs=epochs)) for epochs in (before, now))
    open_run(tmp_path, first)
    if allowed:
        open_run(tmp_path, second)
        with pytest.raises(RunError, match=r"settings: seed was 0 and is now 1\. Use"):
            open_run(tmp_path, dataclasses.replace(second, seed=1))
    else:
        with pytest.raises(RunError, match=f"training.epochs was {before} and is now {now}"):
            open_run(tmp_path, second)


def test_a_run_that_cannot_be_written_or_read_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written.*--out"):
        open_run(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="is not a run directory"):
        Run(tmp_path).read_config()
    with pytest.raises(RunError, match=r"dataset.json is missing"):
        Run(tmp_path).read_dataset()
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(RunError, match=r"dataset.json cannot be read as JSON"):
        Run(tmp_path).read_dataset()


def test_a_run_of_a_newer_format_is_refused(tmp_path):
    run = open_run(tmp_path)
    run.config.write_text(run.config.read_text().replace("format = 1", "format = 2"))
    with pytest.raises(RunError, match="has format 2; this version reads format 1"):
        run.read_config()


def test_the_default_path_is_runs_config_method_and_seed():
    assert default_path(Config(name="mine", method="unet")).as_posix() == "runs/mine/unet"
    assert default_path(Config(name="mine", method="unet", seed=2)).as_posix() == "runs/mine/unet-seed2"


def test_the_names_in_a_run_are_those_of_the_design(tmp_path):
    run, fold = Run(tmp_path), Run(tmp_path).fold(3)
    names = [run.config, run.folds, run.evaluation("test"), run.evaluation("validation")]
    assert [path.name for path in names] == [
        "config.toml",
        "folds.json",
        "evaluation.json",
        "evaluation-validation.json",
    ]
    files = ("checkpoints", "metrics", "timing", "environment", "curves", "previews", "lock")
    assert [getattr(fold, name).relative_to(tmp_path).as_posix() for name in files] == [
        "fold_3/checkpoints",
        "fold_3/metrics.jsonl",
        "fold_3/timing.jsonl",
        "fold_3/environment.json",
        "fold_3/curves.png",
        "fold_3/previews",
        "fold_3/lock",
    ]
    assert fold.evaluation("test").name == "evaluation.json"


def test_set_aside_takes_the_first_free_number_and_keeps_everything(tmp_path):
    fold = Run(tmp_path).fold(0)
    (tmp_path / "fold_0.old-1").mkdir()
    (tmp_path / "fold_0.old-3").mkdir()
    for content, expected in (("x", "fold_0.old-2"), ("y", "fold_0.old-4")):
        fold.path.mkdir()
        fold.metrics.write_text(content)
        assert set_aside(fold) == tmp_path / expected
        assert (tmp_path / expected / "metrics.jsonl").read_text() == content
        assert not fold.path.exists()


@pytest.fixture
def fold(tmp_path):
    fold = FoldDirectory(tmp_path / "fold_0")
    fold.path.mkdir()
    return fold


def held_by(fold, host, process, age=0.0):
    fold.lock.write_text(json.dumps({"host": host, "process": process, "system": runs._system()}))
    os.utime(fold.lock, (time.time() - age,) * 2)


def process_that_ended():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_the_lock_names_this_process_and_goes_with_it(fold):
    with fold_lock(fold):
        lock = read_json(fold.lock)
        assert (lock["host"], lock["process"]) == (socket.gethostname(), os.getpid())
    assert list(fold.path.iterdir()) == []


def test_the_lock_goes_when_training_fails(fold):
    with pytest.raises(KeyboardInterrupt), fold_lock(fold):
        raise KeyboardInterrupt
    assert list(fold.path.iterdir()) == []


def test_a_fold_held_by_another_process_is_refused_and_the_holder_named(fold):
    script = (
        "import sys, pathlib; from fbunet_jax.runs import FoldDirectory, fold_lock\n"
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
        assert read_json(fold.lock)["process"] == os.getpid()


def test_a_lock_of_another_host_is_respected_until_its_heartbeat_has_stopped_for_two_minutes(fold):
    # a process of this number need not exist here
    held_by(fold, "other-host", process_that_ended(), age=110)
    with pytest.raises(RunError, match="on host other-host"), fold_lock(fold):
        pass
    held_by(fold, "other-host", 1, age=130)
    with fold_lock(fold):
        assert read_json(fold.lock)["host"] == socket.gethostname()


@pytest.mark.parametrize("age", [0, 130])
def test_one_of_many_gets_a_free_or_a_stale_lock(fold, age):
    for _ in range(40):
        fold.lock.unlink(missing_ok=True)
        if age:
            held_by(fold, "other-host", 1, age)
        results = at_once(lambda _: runs._acquire(fold.lock))
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
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.02)
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
    assert read_json(fold.lock)["host"] == "other-host"


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
    mine = json.loads(runs._my_name())
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
