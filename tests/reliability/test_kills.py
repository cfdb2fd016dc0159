"""A run that is killed again and again ends like one that was never disturbed, byte for byte."""

import contextlib
import random
import signal
import subprocess
import time
from collections import Counter

import pytest

from tests.reliability.conftest import TrainingCommand

KILLED = -signal.SIGKILL
INJECTED = ("compilation", "step", "validation", "write", "seal", "commit", "deletion", "record")


def kill(command, phase, count, empty_cache):
    """Start the command again and kill it in a phase."""
    # what is compiled already cannot be killed while it compiles
    cache = {"JAX_COMPILATION_CACHE_DIR": str(empty_cache)} if phase == "compilation" else {}
    code, _, errors = command.run(phase, count, [signal.SIGKILL], **cache)
    assert code == KILLED, (phase, code, errors)
    assert command.faults[-1]["phase"] == phase


def kill_somewhere(command, seconds):
    """Start the command again and kill it after some seconds; return its exit code."""
    process = command.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    process.kill()
    process.communicate()
    return process.returncode


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("each", "anywhere", "epochs"),
    [pytest.param(1, 2, 16, id="short"), pytest.param(5, 15, 150, id="long", marks=pytest.mark.long)],
)
def test_a_run_killed_in_every_phase_ends_byte_for_byte_like_an_undisturbed_one(tmp_path, each, anywhere, epochs):
    undisturbed = TrainingCommand(tmp_path / "undisturbed", "--training.epochs", str(epochs))
    began = time.monotonic()
    assert undisturbed.run()[0] == 0
    whole = time.monotonic() - began
    # every step is saved, so that a kill can find a save at any of them
    command = TrainingCommand(tmp_path / "killed", "--training.epochs", str(epochs), "--training.save-minutes", "0")
    random.seed(each)
    # the first write of a process: until it is struck no commit is let through
    kills = [
        (phase, 1 if phase == "write" else random.choice([1, 1, 2])) for phase in INJECTED for _ in range(each)
    ] + [("random", 0)] * anywhere
    random.shuffle(kills)
    struck = Counter()
    for number, (phase, count) in enumerate(kills):
        if phase == "random":
            code = kill_somewhere(command, random.uniform(0, min(whole, 20)))
            assert code == KILLED
        else:
            kill(command, phase, count, tmp_path / f"empty-{number}")
        struck[phase] += 1
        print(number, phase, count, sorted(p.name for p in command.fold.unfinished.glob("*")))
    code, output, errors = command.run()
    assert code == 0, errors
    assert "is finished" in output
    expected, found = undisturbed.contents(), command.contents()
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert all(struck[phase] >= each for phase in INJECTED)
    print("kills by phase:", dict(struck))
