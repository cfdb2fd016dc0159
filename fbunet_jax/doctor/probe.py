"""Started in a process of its own by `machine`, because a broken installation may end the process that imports it.

usage: python -m fbunet_jax.doctor.probe devices | step
"""

import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


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
    from fbunet_jax.training.loop import train

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
