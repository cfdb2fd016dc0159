"""Contenders that fail, or are slow, do not take the others with them."""

import json
import math
import re
import subprocess
import sys
import time

import pytest

from benchmarks.contender import Task
from benchmarks.speed import Contestant, compare, killed_at_the_end, table

TASK = Task("ours", "train", 2, 16, "float32", (2, 3))
ANSWERS = """
echo '{"compile_s": 1, "device": "stand-in"}'
while read line; do echo 'a library speaks'; echo '{"seconds_an_image": 0.5}'; done
echo '{"peak_host_gib": 1, "peak_device_gib": null}'
"""


@pytest.fixture
def stand_in(tmp_path):
    """Return a function that makes an interpreter which is a shell script."""

    def make(name, script):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_one_that_ends_is_named_and_the_others_are_measured(stand_in, capsys):
    whole = stand_in("whole", ANSWERS)
    tasks = [(TASK, stand_in("ends", "exit 3")), (TASK, whole), (TASK, stand_in("never", ANSWERS.split("while")[0]))]
    results = compare(tasks, 3, at_once=2, until=math.inf)
    assert [result["seconds_an_image"] for result in results] == [[0.5, 0.5, 0.5]]
    assert results[0]["peak_host_gib"] == 1
    assert capsys.readouterr().err.count("ours, train, float32, batch 2 ended without an answer") == 2


def test_when_the_time_is_over_what_was_measured_is_kept(stand_in, capsys):
    first_only = f"{ANSWERS.split('while')[0]}read line; echo '{{\"seconds_an_image\": 0.25}}'; exec sleep 600"
    began = time.monotonic()
    tasks = [(TASK, stand_in("slow", "exec sleep 600")), (TASK, stand_in("first", first_only))]
    results = compare(tasks, 2, at_once=2, until=began + 10)
    assert time.monotonic() - began < 60
    assert [result["seconds_an_image"] for result in results] == [[0.25]]
    assert results[0]["device"] == "stand-in"
    assert "ours, train, float32, batch 2: the time is over." in capsys.readouterr().err
    assert "| 0.250 | 0.250 to 0.250 | 4.00 | 1.00 | 1.0 |  |" in table(results)


def test_the_ratio_is_the_median_of_those_measured_side_by_side():
    common = {"task": "train", "precision": "mixed", "batch": 8, "compile_s": 2.0, "peak_device_gib": 3.0}
    ours = {**common, "contender": "ours", "seconds_an_image": [1.0, 2.0, 4.0]}
    peer = {**common, "contender": "torch", "seconds_an_image": [3.0, 4.0, 4.0]}
    other = {**peer, "batch": 16}
    rows = table([ours, peer, other]).splitlines()[2:]
    assert [row.split("|")[8].strip() for row in rows] == ["1.00", "2.00", ""]


def test_our_contender_runs_by_the_clock_and_says_what_it_is():
    with killed_at_the_end() as running:
        running.append(Contestant(TASK, sys.executable))
        running[0].wait()
        began = time.monotonic()
        running[0].ask(0.5)
        assert running[0].listen() > 0
        assert time.monotonic() - began >= 0.5
        result = running[0].finish()
    assert result["device"] == "cpu"
    assert re.fullmatch(r"jax \d+\.\d+.*", result["version"])
    assert json.loads(json.dumps(result))["widths"] == [2, 3]


def test_a_process_ends_with_the_one_that_has_started_it():
    """Also where that was killed and could not see to it."""
    inner = "import time; print('up', flush=True); time.sleep(600)"
    outer = f"""
import signal, subprocess, sys, time
from benchmarks.parents import tied
subprocess.Popen(tied([sys.executable, "-c", {inner!r}], signal.SIGKILL))
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.kill()
    # the pipe ends when nobody is left who could write into it
    assert process.communicate(timeout=60)[0] == ""
