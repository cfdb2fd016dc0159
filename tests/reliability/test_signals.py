"""SIGTERM and Ctrl-C in any phase: the work so far is saved, and the same command resumes from there."""

import signal
import time

import pytest

from tests.reliability.conftest import TrainingCommand

EPOCHS = ("--training.epochs", "4", "--training.preview-every", "1")
PHASES = ("compilation", "step", "validation", "write", "seal", "record", "drawing")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    command = TrainingCommand(tmp_path_factory.mktemp("undisturbed") / "run", *EPOCHS)
    code, _, errors = command.run()
    assert code == 0, errors
    return command.contents()


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        pytest.param(phase, number, marks=() if (phase, number) in SHORT else pytest.mark.long)
        for SHORT in [{("validation", signal.SIGTERM), ("step", signal.SIGINT)}]
        for phase in PHASES
        for number in (signal.SIGTERM, signal.SIGINT)
    ],
)
def test_a_signal_saves_at_the_next_boundary_and_the_run_goes_on(undisturbed, tmp_path, phase, number):
    command = TrainingCommand(tmp_path / "run", *EPOCHS)
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "empty")} if phase == "compilation" else {}
    code, _, errors = command.run(phase, 1, [number], **cache)
    ended = time.monotonic()
    assert code == 130
    [fault] = command.faults
    assert fault["phase"] == phase
    print(f"{phase} {number.name}: ended {ended - fault['time']:.1f} s after the signal")
    # a compilation is waited for; the promise is 10 s, and the machine of a test may be busy
    assert phase == "compilation" or ended - fault["time"] < 30
    last = errors.splitlines()[-1]
    assert last.startswith("Interrupted: step ")
    assert last.endswith("of 12 is saved. The same command resumes from there.")
    assert "Traceback" not in errors
    assert not command.fold.lock.exists()
    saved = int(last.split()[2])
    code, _, errors = command.run()
    assert code == 0, errors
    assert f"resumes at step {saved}:" in errors
    assert command.contents() == undisturbed


def test_a_second_signal_stops_at_once_although_the_disk_hangs(undisturbed, tmp_path):
    command = TrainingCommand(tmp_path / "run", *EPOCHS)
    code, _, errors = command.run("hang", 1, [signal.SIGTERM])
    assert code == 130
    assert errors.splitlines()[-1] == "Interrupted. The same command resumes from the last checkpoint, if there is one."
    assert "Traceback" not in errors
    assert not command.fold.lock.exists()
    code, _, errors = command.run()
    assert code == 0, errors
    assert command.contents() == undisturbed


def test_the_signals_of_a_finished_fold_change_nothing(undisturbed, tmp_path):
    """A signal while the last checkpoint is written: the fold is finished, and the next fold is not begun."""
    command = TrainingCommand(tmp_path / "run", *EPOCHS, "--fold", "all")
    code, _, errors = command.run("seal", 2, [signal.SIGTERM])
    assert code == 130
    assert errors.splitlines()[-1].startswith("Interrupted")
    assert not (tmp_path / "run" / "fold_1").exists()
    assert command.contents() == undisturbed
