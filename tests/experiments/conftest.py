"""What the tests of many trainings share; cells that nobody has trained, with counts that a test chooses."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from fbunet_jax.config import load_config
from fbunet_jax.evaluation.scores import fold_entry
from fbunet_jax.experiments import commands, devices, queue
from fbunet_jax.experiments.cells import setting_of
from fbunet_jax.experiments.probe import Answer


@pytest.fixture
def stand_in(monkeypatch):
    """Put the stand-in in place of the training command; call the result with what each fold shall do."""
    monkeypatch.setattr(commands, "PROGRAM", (sys.executable, str(Path(__file__).with_name("stand_in.py"))))
    monkeypatch.setattr(queue, "POLL_SECONDS", 0.02)

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


@pytest.fixture(scope="session")
def make_cell():
    """Return a function that makes a cell from its confusion matrices `[R, K, K]`."""

    def make(method, fold, seed, confusion, config="drosophila", **settings):
        loaded = load_config(config, **settings)
        names = ["cytoplasm", "membrane", "mitochondria", "synapse"][: np.shape(confusion)[-1]]
        process = {"commit": "c" * 40, "devices": ["NVIDIA H200"], "versions": {"jax": "0.10.2"}, "date": "2026-11-24"}
        return {
            "format": 2,
            "method": method,
            "fold": fold,
            "seed": seed,
            "setting": setting_of(loaded),
            "data": {"name": "vnc", "class_names": names, "channels": 1, "fingerprint": "f"},
            "evaluation": fold_entry(fold, 9, 2, np.array(confusion)),
            "validation_mean_iou": 0.5,
            "steps": 12,
            "parameters": 100,
            "seconds": 90.0,
            "processes": [process],
            "date": "2026-11-25",
        }

    return make
