"""Several processes train a fold together: one that is stopped, killed or mistaken ends all of them, and none of the
work is lost, whatever the number of processes that go on.
"""

import json
import re
import signal
import socket
from collections import Counter

import numpy as np
import pytest

from tests.reliability.conftest import TrainingCommand

LOST = 75
LAST_WORDS = re.compile("Error: .*another process of this training has ended or does not answer.* resumes from .*")
EPOCHS = ("--training.epochs", "4")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(out, processes, fault=(None, "none", 1, ()), options=EPOCHS, own=None):
    """Run the command in several processes; return exit code, output and errors of each.

    `fault` is a process, and what is planted in it; `own` are options that only some processes get.
    """
    address = ("--distributed.coordinator-address", f"127.0.0.1:{free_port()}")
    running = []
    for process in range(processes):
        place = (*address, "--distributed.num-processes", str(processes), "--distributed.process-id", str(process))
        command = TrainingCommand(
            out, *options, *place, "--distributed.lost-seconds", "20", *(own or {}).get(process, ())
        )
        victim, *planted = fault
        running.append(command.start(*planted) if process == victim else command.start())
    try:
        found = [(*process.communicate(timeout=300), process.returncode) for process in running]
    finally:
        for process in running:
            process.kill()
    return [(code, output, errors) for output, errors, code in found]


def metrics(command):
    records = [json.loads(line) for line in command.fold.metrics.read_text().splitlines()]
    counts = Counter((record["kind"], record["step"]) for record in records)
    assert set(counts.values()) == {1}, counts
    return records


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    command = TrainingCommand(tmp_path_factory.mktemp("undisturbed") / "run", *EPOCHS)
    results = run(command.out, 2)
    assert [code for code, *_ in results] == [0, 0], results
    assert "in 2 processes" in results[0][2]
    assert "Next:" in results[0][1]
    assert "Next:" not in results[1][1]
    assert not results[1][2]
    return command


def test_after_a_signal_to_one_all_stop_at_the_same_step_and_go_on_bit_for_bit(undisturbed, tmp_path):
    command = TrainingCommand(tmp_path / "run", *EPOCHS)
    (first, _, errors), (second, _, silent) = run(command.out, 2, (1, "step", 8, [signal.SIGTERM]))
    assert (first, second) == (130, 130)
    assert errors.splitlines()[-1] == "Interrupted: step 8 of 12 is saved. The same command resumes from there."
    assert not silent
    assert not command.fold.lock.exists()
    (first, _, errors), (second, *_) = run(command.out, 2)
    assert (first, second) == (0, 0)
    assert "resumes at step 8:" in errors
    assert len(metrics(command)) == 6
    assert command.contents() == undisturbed.contents()


def test_where_one_is_killed_the_other_says_so_and_any_number_of_processes_goes_on(undisturbed, tmp_path):
    command = TrainingCommand(tmp_path / "run", *EPOCHS)
    for victim, count in ((1, 8), (0, 3)):
        results = run(command.out, 2, (victim, "step", count, [signal.SIGKILL]))
        code, _, errors = results[1 - victim]
        assert (results[victim][0], code) == (-signal.SIGKILL, LOST)
        assert LAST_WORDS.fullmatch(errors.splitlines()[-1]), errors
        assert "Traceback" not in errors
    code, _, errors = command.run()
    assert code == 0, errors
    assert "resumes at step 6:" in errors
    for record, expected in zip(metrics(command), metrics(undisturbed), strict=True):
        assert (record["kind"], record["step"]) == (expected["kind"], expected["step"])
        name = "loss" if record["kind"] == "train" else "mean_iou"
        assert np.isclose(record[name], expected[name], atol=1e-4)


def test_a_mistake_ends_all_processes_and_is_told_once(tmp_path):
    results = run(tmp_path / "odd", 2, options=("--training.batch-size", "5", *EPOCHS))
    assert [code for code, *_ in results] == [2, 2]
    assert "training.batch_size = 5 does not divide over the 2 devices" in results[0][2]
    assert not results[1][2]
    results = run(tmp_path / "other", 2, own={1: ("--seed", "1")})
    assert [code for code, *_ in results] == [2, 2]
    assert "Error: Process 1 has another fold, other settings or other images than process 0." in results[0][2]
    assert not results[1][2]
    assert not (tmp_path / "other").exists()


def test_one_that_waits_for_the_others_in_vain_says_where(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    place = ("--distributed.coordinator-address", address, "--distributed.num-processes", "2")
    command = TrainingCommand(
        tmp_path / "run", *place, "--distributed.process-id", "1", "--distributed.start-seconds", "2"
    )
    code, _, errors = command.run()
    assert code == LOST
    last = errors.splitlines()[-1]
    assert last.startswith("Error: The processes of this training did not find each other within 2 seconds.")
    assert last.endswith(f"{address}.")
    assert not command.out.exists()


@pytest.mark.long
def test_four_processes_end_when_one_hangs_and_one_goes_on(tmp_path):
    command = TrainingCommand(tmp_path / "run", *EPOCHS)
    address = ("--distributed.coordinator-address", f"127.0.0.1:{free_port()}")
    running = []
    for process in range(4):
        place = (*address, "--distributed.num-processes", "4", "--distributed.process-id", str(process))
        each = TrainingCommand(command.out, *EPOCHS, *place, "--distributed.lost-seconds", "10")
        running.append(each.start("step", 8, [signal.SIGSTOP]) if process == 2 else each.start())
    others = [process for number, process in enumerate(running) if number != 2]
    try:
        for process in others:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == LOST
            assert LAST_WORDS.fullmatch(errors.splitlines()[-1]), errors
    finally:
        for process in running:
            process.kill()
            process.communicate()
    command.fold.lock.unlink(missing_ok=True)
    assert [code for code, *_ in run(command.out, 4)] == [0] * 4
    assert len(metrics(command)) == 6
