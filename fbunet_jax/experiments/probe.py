"""What JAX says of this machine, asked in a process of its own: a broken installation may end the one that imports it.

usage: python -m fbunet_jax.experiments.probe devices | step
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

DEVICES_SECONDS = 120.0
STEP_SECONDS = 300.0
"""A process that has not answered by then hangs."""


class Answer(NamedTuple):
    """What a process of this module said: values, or an error; and the last line that it wrote to standard error."""

    values: dict[str, Any]
    error: str = ""
    remark: str = ""


def examine_devices() -> Answer:
    """Ask JAX in a process of its own, so that this one starts no device and takes none of its memory."""
    return ask("devices", DEVICES_SECONDS)


def child_environment() -> dict[str, str]:
    """Return the environment in which ``python -P`` of another process finds this package."""
    environment = dict(os.environ)
    # a checkout need not be installed; what lies in the working directory must not be imported in place of a package
    paths = [str(Path(__file__).resolve().parents[2]), environment.get("PYTHONPATH", "")]
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def ask(question: str, seconds: float) -> Answer:
    """Ask a process of this module, in which whatever is broken may break."""
    environment = child_environment()
    # another process may hold most of the GPU's memory
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    command = [sys.executable, "-P", "-m", "fbunet_jax.experiments.probe", question]
    code, output, errors = run_briefly(command, seconds, environment)
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    remark = lines[-1] if lines else ""
    if code == 0:
        with suppress(ValueError, IndexError):
            return Answer(json.loads(output.splitlines()[-1]), "", remark)
    if code is None:
        return Answer({}, f"no answer within {seconds:.0f} seconds", remark)
    return Answer({}, remark or f"the process ended with exit code {code}, without a word", remark)


def run_briefly(
    command: list[str], seconds: float, environment: dict[str, str] | None = None
) -> tuple[int | None, str, str]:
    """Return exit code, output and errors; None for a process that did not end, 127 for a program that is not there."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return None, "", ""
    except OSError:
        return 127, "", ""
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def devices() -> dict[str, Any]:
    """Return JAX's devices: platform, kind, and bytes of memory where they tell."""
    import jax

    found = [
        {
            "platform": device.platform,
            "kind": device.device_kind,
            "bytes": (device.memory_stats() or {}).get("bytes_limit"),
        }
        for device in jax.local_devices()
    ]
    return {"devices": found}


def step() -> dict[str, Any]:
    """Train a tiny network for one step, with validation and checkpoint, and return the seconds it took."""
    import jax

    from fbunet_jax.config import load_config
    from fbunet_jax.training.fold import train

    config = load_config(
        "quickstart",
        data={"synthetic_images": 3, "synthetic_size": 64, "crop": 32, "folds": 3},
        model={"widths": [2, 3]},
        training={"epochs": 1, "batch_size": jax.local_device_count(), "previews": 1},
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fbunet-doctor-") as folder:
        train(config, 0, out=Path(folder) / "run", stream=io.StringIO())
    return {"seconds": time.perf_counter() - began}


if __name__ == "__main__":
    result = {"devices": devices, "step": step}[sys.argv[1]]()
    sys.stdout.write(json.dumps(result) + "\n")
