"""A device that is full or lost while a fold trains: what was saved is kept, and resumed bit for bit."""

import io

import jax
import pytest

from fbunet_jax.config import load_config
from fbunet_jax.errors import DeviceError
from fbunet_jax.inference.validation import MappedValidation
from fbunet_jax.training.fold import train
from fbunet_jax.training.parallel import MappedTraining

FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34365504512 bytes."
LOST = "INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"


def tiny():
    return load_config(
        "quickstart",
        method="unet",
        data={"synthetic_images": 6, "synthetic_size": 32, "crop": 32, "folds": 3},
        model={"widths": [2, 3]},
        training={"epochs": 16, "batch_size": 8, "validate_every": 4, "previews": 0},
    )


def failing(kind, call, message):
    """Return a call of a class that raises what the device says at the call of this number."""
    before, count = kind.__call__, iter(range(100))

    def raising(self, *arguments, **options):
        if next(count) == call:
            raise jax.errors.JaxRuntimeError(message)
        return before(self, *arguments, **options)

    return raising


def stopped(tmp_path, monkeypatch, kind, call, message):
    """Train until the device fails, and return what is said."""
    with monkeypatch.context() as patched:
        patched.setattr(kind, "__call__", failing(kind, call, message))
        with pytest.raises(DeviceError) as found:
            train(tiny(), out=tmp_path / "run", stream=io.StringIO())
    return str(found.value)


def test_the_last_checkpoint_is_kept_named_and_resumed(tmp_path, monkeypatch):
    whole = train(tiny(), out=tmp_path / "whole", stream=io.StringIO())
    steps = [int(path.name) for path in whole.directory.checkpoints.iterdir() if path.name.isdecimal()]
    first, last = min(steps), max(steps)
    said = stopped(tmp_path, monkeypatch, MappedTraining, last - 1, FULL)
    assert f"(training, at step {last} of {last}): 34.4 GB at once do not fit. Lower training.batch_size (8)" in said
    kept = [int(path.name) for path in (tmp_path / "run/fold_0/checkpoints").iterdir() if path.name.isdecimal()]
    assert first <= max(kept) < last
    assert f"The checkpoint of step {max(kept)} of {last} is kept, and the same command resumes from there" in said
    said = stopped(tmp_path, monkeypatch, MappedValidation, 0, LOST)
    assert f"The device failed, or is not reached any more (validation, after step {last} of {last})" in said
    assert f"The checkpoint of step {max(kept)} of {last} is kept" in said
    again = train(tiny(), out=tmp_path / "run", stream=io.StringIO())
    assert again.directory.metrics.read_bytes() == whole.directory.metrics.read_bytes()


def test_before_the_first_checkpoint_another_run_directory_is_proposed(tmp_path, monkeypatch):
    monkeypatch.setattr(MappedTraining, "__call__", failing(MappedTraining, 0, FULL))
    with pytest.raises(DeviceError, match=r"No checkpoint had been written yet\. .*another run directory \(out\)"):
        train(tiny(), out=tmp_path / "run", stream=io.StringIO())
    assert not (tmp_path / "run" / "fold_0" / "lock").exists()
