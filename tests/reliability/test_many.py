"""Several processes at once, other settings, other numbers of devices, and several seeds."""

import json
import os
import re
import signal
import socket

import numpy as np
import pytest

from tests.reliability.conftest import TrainingCommand

EPOCHS = ("--training.epochs", "2", "--method", "unet")


def test_five_folds_of_one_run_started_at_the_same_moment_all_work(tmp_path):
    many = ("--data.synthetic-images", "10", "--data.folds", "5", *EPOCHS)
    commands = [TrainingCommand(tmp_path / "run", *many, "--fold", str(fold)) for fold in range(5)]
    processes = [command.start() for command in commands]
    results = [(process.communicate(timeout=500)[1], process.returncode) for process in processes]
    assert [code for _, code in results] == [0] * 5, results
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["config.toml", "dataset.json", *(f"fold_{fold}" for fold in range(5)), "folds.json"]


def test_a_second_process_on_a_fold_is_refused_with_host_and_process_of_the_first(tmp_path):
    command = TrainingCommand(tmp_path / "run", *EPOCHS)
    first = command.start("step", 1, [signal.SIGSTOP])
    os.waitpid(first.pid, os.WUNTRACED)
    code, _, errors = command.run()
    assert code == 2
    assert f"is being trained by process {first.pid} on host {socket.gethostname()}" in errors
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=300)
    assert first.returncode == 0, errors


def test_a_process_that_was_suspended_until_its_fold_was_taken_over_writes_nothing_more(tmp_path):
    epochs = ("--training.epochs", "8", "--method", "unet")
    undisturbed, command = (TrainingCommand(tmp_path / name, *epochs) for name in ("undisturbed", "run"))
    assert undisturbed.run()[0] == 0
    first = command.start("step", 8, [signal.SIGSTOP])
    os.waitpid(first.pid, os.WUNTRACED)
    # as another host would see it: the heartbeat has stopped
    name = json.loads(command.fold.lock.read_text())
    command.fold.lock.write_text(json.dumps({**name, "host": "elsewhere"}))
    long_ago = command.fold.lock.stat().st_mtime - 121
    os.utime(command.fold.lock, (long_ago, long_ago))
    second = command.start("step", 2, [signal.SIGSTOP])
    os.waitpid(second.pid, os.WUNTRACED)
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=300)
    assert first.returncode == 2
    assert "another one took it over" in errors.splitlines()[-1]
    second.send_signal(signal.SIGCONT)
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert command.contents() == undisturbed.contents()


def test_a_lock_of_another_host_without_a_heartbeat_for_two_minutes_is_taken_over(tmp_path):
    command = TrainingCommand(tmp_path / "run", *EPOCHS)
    command.fold.path.mkdir(parents=True)
    command.fold.lock.write_text(json.dumps({"host": "elsewhere", "process": 1}))
    code, _, errors = command.run()
    assert code == 2
    assert "is being trained by process 1 on host elsewhere" in errors
    long_ago = command.fold.lock.stat().st_mtime - 121
    os.utime(command.fold.lock, (long_ago, long_ago))
    code, _, errors = command.run()
    assert code == 0, errors


@pytest.mark.parametrize("devices", [pytest.param((1, 2), id="1-2"), pytest.param((4, 1), marks=pytest.mark.long)])
def test_a_run_goes_on_with_another_number_of_devices(tmp_path, devices):
    def flags(count):
        return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}

    same = TrainingCommand(tmp_path / "same", *EPOCHS)
    assert same.run(**flags(devices[0]))[0] == 0
    moved = TrainingCommand(tmp_path / "moved", *EPOCHS)
    assert moved.run("step", 4, [signal.SIGTERM], **flags(devices[0]))[0] == 130
    code, _, errors = moved.run(**flags(devices[1]))
    assert code == 0, errors
    assert "resumes at step 4" in errors
    assert f"on {devices[1]} x cpu" in errors
    losses = [
        [json.loads(line)["loss"] for line in command.fold.metrics.read_text().splitlines() if '"train"' in line]
        for command in (same, moved)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_other_settings_are_refused_each_by_name_and_the_epochs_of_a_constant_schedule_may_grow(tmp_path):
    constant = ("--training.schedule", "constant")
    command = TrainingCommand(tmp_path / "run", *EPOCHS, *constant)
    assert command.run()[0] == 0
    other = ("--method", "ru-net", "--model.widths", "3", "4", "--seed", "7", "--data.folds", "2", "--data.crop", "16")
    code, _, errors = TrainingCommand(tmp_path / "run", *EPOCHS, *constant, *other).run()
    assert code == 2
    for name in ("method", "seed", "data.folds", "data.crop", "model.widths"):
        assert re.search(rf"{re.escape(name)} was .* and is now ", errors), name
    code, _, errors = TrainingCommand(tmp_path / "run", *EPOCHS, "--training.epochs", "4", *constant).run()
    assert code == 0, errors
    assert "resumes at step 6" in errors
    code, _, errors = TrainingCommand(tmp_path / "run", *EPOCHS, *constant).run()
    assert code == 2
    assert "training.epochs was 4 and is now 2" in errors


def test_the_epochs_of_another_schedule_may_not_grow_and_the_reason_is_told(tmp_path):
    assert TrainingCommand(tmp_path / "run", *EPOCHS).run()[0] == 0
    code, _, errors = TrainingCommand(tmp_path / "run", *EPOCHS, "--training.epochs", "4").run()
    assert code == 2
    assert "training.epochs was 2 and is now 4" in errors
    assert "the learning rate of every step depends on them" in errors


def test_several_seeds_have_a_run_each_and_their_spread_is_told(tmp_path):
    command = TrainingCommand(tmp_path / "run", *EPOCHS, "--seed", "3", "--seeds", "3", "--training.previews", "0")
    code, output, errors = command.run()
    assert code == 0, errors
    runs = ["run", "run-seed4", "run-seed5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == runs
    best = []
    for name in runs:
        text = (tmp_path / name / "fold_0" / "metrics.jsonl").read_text()
        best.append(100 * max(json.loads(line)["mean_iou"] for line in text.splitlines() if '"validation"' in line))
    last = output.splitlines()[-1]
    assert f"mean IoU {np.mean(best):.1f} % with standard deviation {np.std(best, ddof=1):.1f}:" in last
    assert re.findall(r"([\d.]+) \(seed (\d)\)", last) == [
        (f"{b:.1f}", str(s)) for b, s in zip(best, (3, 4, 5), strict=True)
    ]


@pytest.mark.long
def test_the_same_seed_gives_the_same_bytes(tmp_path):
    first, second = (TrainingCommand(tmp_path / name, *EPOCHS, "--deterministic") for name in ("first", "second"))
    assert first.run()[0] == second.run()[0] == 0
    assert first.contents() == second.contents()
