"""The queue: a device each, failures told, signals passed on; with a stand-in for the training command."""

import io
import json
import os
import re
import signal

import pytest

from fbunet_jax.cli import main
from fbunet_jax.config import load_config
from fbunet_jax.experiments.commands import Commands
from fbunet_jax.experiments.devices import Device
from fbunet_jax.experiments.grid import Grid, default_runs
from fbunet_jax.experiments.probe import Answer
from fbunet_jax.experiments.progress import Board
from fbunet_jax.experiments.queue import Sweep
from fbunet_jax.runs import interruption
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.locks import fold_lock


def sweep_of(tmp_path, methods=("unet",), folds=(0, 1, 2), devices=("0", "1")):
    config = load_config("quickstart", training={"epochs": 2})
    grid = Grid.full(config, methods, folds, [0], default_runs(config, tmp_path))
    commands = Commands(grid, tmp_path, "quickstart", config)
    found = [Device(name, {"CUDA_VISIBLE_DEVICES": name}) for name in devices]
    stream = io.StringIO()
    return Sweep(commands.jobs(), found, Board(stream)), stream


def command(tmp_path, *options):
    return main(["sweep", "--training.epochs", "2", "--method", "unet", "--out", str(tmp_path), *options])


def test_every_training_gets_a_device_to_itself_and_the_next_one_starts_when_one_ends(tmp_path, stand_in):
    stand_in("meet", "meet", *["finish"] * 5)
    sweep, stream = sweep_of(tmp_path, folds=range(7))
    assert not sweep.run()
    # the stand-in fails if its device is taken
    assert [outcome.state for outcome in sweep.outcomes] == ["finished"] * 7
    taken = {}
    for line in stream.getvalue().splitlines():
        if start := re.match(r"(\S+) on (\d):", line):
            assert start[2] not in taken.values()
            taken[start[1]] = start[2]
        elif end := re.match(r"(\S+) is finished", line):
            del taken[end[1]]
    assert taken == {}
    assert [round(outcome.progress.best, 2) for outcome in sweep.outcomes[:2]] == [0.25, 0.35]
    assert "unet:1:0 is finished: best validation IoU 35.0 %" in stream.getvalue()


def test_one_that_fails_is_told_with_its_last_lines_and_the_others_go_on(tmp_path, stand_in, hardware, capsys):
    stand_in("fail", "finish", "finish", "finish", "finish")
    hardware("gpu", "Imaginary", 2)
    assert command(tmp_path) == 2
    output, errors = capsys.readouterr()
    log = tmp_path / "sweep" / "unet-fold0-seed0.log"
    assert f"unet:0:0 failed. The end of {log} (exit code 2):\n  two\n  three\n  four\n" in errors
    assert errors.splitlines()[-1].startswith("Error: unet:0:0 failed")
    rows = [line.split() for line in output.splitlines()]
    assert [row[3] for row in rows] == ["state", "failed", *["finished"] * 4]
    assert [row[4] for row in rows[1:]] == ["1/2", *["2/2"] * 4]


def test_one_that_the_kernel_has_killed_is_explained_and_the_others_go_on(tmp_path, stand_in):
    stand_in("killed", "finish")
    sweep, stream = sweep_of(tmp_path, folds=[0, 1], devices=["0"])
    assert not sweep.run()
    assert [outcome.state for outcome in sweep.outcomes] == ["failed", "finished"]
    said = stream.getvalue()
    assert "it was killed, as Linux does when memory is short: train fewer at once" in said
    assert "resumes from its last checkpoint" in said


def test_a_signal_is_passed_on_what_runs_is_saved_and_nothing_more_is_started(tmp_path, stand_in, hardware, capsys):
    stand_in("save", "save", "finish", "finish", "finish")
    hardware("gpu", "Imaginary", 1)
    assert command(tmp_path) == 130
    output, errors = capsys.readouterr()
    assert [line.split()[3] for line in output.splitlines()[1:]] == ["stopped", *["not"] * 4]
    assert errors.splitlines()[-1] == "Interrupted: 1 stopped, 4 not begun. The same command resumes."
    assert (tmp_path / "sweep" / "unet-fold0-seed0.log").read_text() == "saved 1\n"
    stand_in(*["finish"] * 5)
    assert command(tmp_path) == 0


def test_a_second_signal_is_passed_on_too(tmp_path, stand_in, monkeypatch):
    stand_in("insist")
    monkeypatch.setattr(interruption, "AT_ONCE_AFTER", 0.0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sweep, _ = sweep_of(tmp_path, folds=[0])
    with pytest.raises(interruption.StopAtOnce):
        sweep.run()
    assert sweep.outcomes[0].state == "stopped"
    assert (tmp_path / "sweep" / f"{sweep.outcomes[0].place.stem}.log").read_text() == "saved 2\n"


def test_a_fold_that_another_process_trains_is_left_to_it(tmp_path, stand_in):
    stand_in(*["finish"] * 3)
    sweep, stream = sweep_of(tmp_path)
    with fold_lock(Run(tmp_path / "unet").fold(1)):
        assert not sweep.run()
    assert [outcome.state for outcome in sweep.outcomes] == ["finished", "elsewhere", "finished"]
    assert "unet:1:0 is being trained by another process." in stream.getvalue()


def test_only_when_all_is_finished_the_exit_code_is_0(tmp_path, stand_in, hardware):
    stand_in(*["finish"] * 5)
    hardware("gpu", "Imaginary", 2)
    with fold_lock(Run(tmp_path / "unet").fold(1)):
        assert command(tmp_path, "--fold", "0", "1") == 75
    assert command(tmp_path, "--fold", "0", "1") == 0


def test_on_a_cpu_each_worker_keeps_to_its_share_of_the_cores(tmp_path, stand_in, hardware):
    stand_in(*["finish"] * 5)
    hardware("cpu", "cpu", 8)
    before = os.sched_getaffinity(0)
    assert command(tmp_path, "--fold", "0", "--workers", "1") == 0
    assert json.loads((tmp_path / "unet" / "fold_0" / "cores").read_text()) == sorted(before)
    one = min(before)
    sweep, _ = sweep_of(tmp_path, folds=[1])
    sweep._free[0] = (0, Device("core", {}, frozenset([one])))
    sweep.run()
    assert json.loads((tmp_path / "unet" / "fold_1" / "cores").read_text()) == [one]
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fold", "5"], "--fold 5: expected all, or numbers from 0 to 4"),
        (["--methods", "unett"], "Did you mean 'unet'?"),
        (["--methods", "ru-net"], "--method unet and --methods"),
        (["--seeds", "0"], "--seeds 0"),
        (["--workers", "0"], "--workers 0"),
        (["--workers", "3"], "this machine has 2 x Imaginary"),
    ],
)
def test_a_mistake_gets_a_sentence_and_exit_code_2_and_leaves_nothing(tmp_path, hardware, capsys, options, message):
    hardware("gpu", "Imaginary", 2)
    options = ["--out", str(tmp_path / "runs"), *options]
    if "unett" not in options:
        options += ["--method", "unet"]
    assert main(["sweep", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_machine_without_a_device_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "fbunet_jax.experiments.devices.examine_devices", lambda: Answer({}, "no answer within 60 seconds")
    )
    assert command(tmp_path) == 2
    assert "JAX finds no device: no answer within 60 seconds" in capsys.readouterr().err
