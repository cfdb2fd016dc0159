"""What the tests of many trainings share."""

import json
import signal
import sys
from pathlib import Path

import pytest

from fbunet_jax.doctor.machine import Answer
from fbunet_jax.jobs import devices, sweep


@pytest.fixture
def stand_in(monkeypatch):
    """Put the stand-in in place of the training command; call the result with what each fold shall do."""
    monkeypatch.setattr(sweep, "PROGRAM", (sys.executable, str(Path(__file__).with_name("stand_in.py"))))
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.02)

    def deeds(*each):
        monkeypatch.setenv("STAND_IN", json.dumps({str(fold): deed for fold, deed in enumerate(each)}))

    return deeds


@pytest.fixture
def hardware(monkeypatch):
    """Let this machine have other devices; call the result with platform, kind and number."""

    def have(platform, kind, count):
        found = [{"platform": platform, "kind": kind, "bytes": None}] * count
        monkeypatch.setattr(devices, "examine_devices", lambda: Answer({"devices": found}))

    return have


@pytest.fixture(autouse=True)
def handlers():
    """Give the handlers of signals back, which a command sets for the whole process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
