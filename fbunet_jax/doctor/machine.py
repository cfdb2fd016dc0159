"""What this machine has: facts only, gathered so that nothing that is broken can raise an error here."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlparse

from fbunet_jax.data.readers.memory import machine_memory
from fbunet_jax.device_errors import ASKING
from fbunet_jax.experiments.probe import STEP_SECONDS, Answer, ask, examine_devices, run_briefly

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu"),
)
"""Whose versions are looked up."""

VARIABLES = (*ASKING, "CUDA_VISIBLE_DEVICES", "XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
"""Environment variables that change which devices JAX sees."""

_NVIDIA, _GOOGLE = "0x10de", "0x1ae0"
_DISPLAY = "0x03"


class Gpu(NamedTuple):
    """An NVIDIA GPU as its driver describes it."""

    name: str
    capability: float


class Device(NamedTuple):
    """A device as JAX describes it; memory in bytes, None where it does not tell."""

    platform: str
    kind: str
    memory: int | None


@dataclass(frozen=True)
class Machine:
    """Facts about this machine, this Python, and this folder.

    Attributes:
      python: version.
      interpreter: path of the Python that runs.
      package: version of fbunet_jax, None if it is not installed.
      source: what pip would install, without extras: "fbunet-jax", or where this one came from.
      editable: whether it was installed with "pip install -e".
      versions: of the `PACKAGES` that are installed.
      conflicts: what pip finds missing or unfit among the packages needed.
      environment: those of `VARIABLES` that are set.
      driver: version of the NVIDIA driver, "" without one.
      gpus: that the driver lists.
      nvidia_hardware: an NVIDIA GPU is on the bus.
      tpu_hardware: a Google TPU is attached.
      devices: what `probe` said of JAX's devices.
      memory: bytes in all, the limit of the container or job if that is lower; None if unknown.
      available: bytes of it that are free; None if unknown.
      folder: the working directory.
      free: bytes free on its disk.
      writable: whether files can be made in it.
      step: what `probe` said of one step of training.
    """

    python: str
    interpreter: str
    package: str | None
    source: str
    editable: bool
    versions: dict[str, str]
    conflicts: tuple[str, ...]
    environment: dict[str, str]
    driver: str
    gpus: tuple[Gpu, ...]
    nvidia_hardware: bool
    tpu_hardware: bool
    devices: Answer
    memory: int | None
    available: int | None
    folder: str
    free: int
    writable: bool
    step: Answer


def examine() -> Machine:
    """Gather the facts; takes some seconds, because it starts JAX and trains a step."""
    source, editable = _source()
    driver, gpus = _nvidia()
    memory, available = machine_memory()
    here = os.getcwd()  # noqa: PTH109 (the same, but as text)
    devices = examine_devices()
    return Machine(
        python=platform.python_version(),
        interpreter=sys.executable,
        package=_version("fbunet-jax"),
        source=source,
        editable=editable,
        versions={name: version for name in PACKAGES if (version := _version(name))},
        conflicts=_conflicts(),
        environment={name: os.environ[name] for name in VARIABLES if name in os.environ},
        driver=driver,
        gpus=gpus,
        nvidia_hardware=bool(gpus) or _on_bus(_NVIDIA, _DISPLAY),
        tpu_hardware=_on_bus(_GOOGLE, "") or bool(list(Path("/dev").glob("accel[0-9]*"))),
        devices=devices,
        memory=memory,
        available=available,
        folder=here,
        free=shutil.disk_usage(here).free,
        writable=_writable(here),
        # without a device a step cannot be tried
        step=devices if devices.error else ask("step", STEP_SECONDS),
    )


def _version(name: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def _source() -> tuple[str, bool]:
    """Return what pip would install again, and whether it is installed as editable."""
    try:
        text = importlib.metadata.distribution("fbunet-jax").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return str(Path(__file__).resolve().parents[2]), True  # a checkout
    if not text:
        return "fbunet-jax", False
    origin = json.loads(text)
    if "vcs_info" in origin:
        return f"{origin['vcs_info']['vcs']}+{origin['url']}", False
    parts = urlparse(origin["url"])
    return unquote(parts.path) if parts.scheme == "file" else origin["url"], "dir_info" in origin


def _conflicts() -> tuple[str, ...]:
    """Return the complaints of "pip check" about this package and those that it needs; nothing without pip."""
    if not importlib.util.find_spec("pip"):
        return ()
    _, output, _ = run_briefly([sys.executable, "-m", "pip", "--disable-pip-version-check", "check"], 60.0)
    needed = re.compile(r"(fbunet-jax|jax|jaxlib|flax|optax|orbax-checkpoint|jax-cuda\d+-\w+) ")
    return tuple(line for line in output.splitlines() if needed.match(line))


def _nvidia() -> tuple[str, tuple[Gpu, ...]]:
    """Return the version of the NVIDIA driver and the GPUs that it lists."""
    query = "--query-gpu=driver_version,compute_cap,name"
    code, output, _ = run_briefly(["nvidia-smi", query, "--format=csv,noheader"], 30.0)
    rows = [[cell.strip() for cell in line.split(",", 2)] for line in output.splitlines()] if code == 0 else []
    rows = [row for row in rows if len(row) == 3 and re.fullmatch(r"\d+\.\d+", row[1])]
    if rows:
        return rows[0][0], tuple(Gpu(name, float(capability)) for _, capability, name in rows)
    with suppress(OSError):  # a container without nvidia-smi
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", text):
            return found[1], ()
    return "", ()


def _on_bus(vendor: str, kind: str) -> bool:
    """Say whether a PCI device of a vendor, whose class begins with `kind`, is there (Linux)."""
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with suppress(OSError):
            found, its_kind = ((device / name).read_text("ascii").strip() for name in ("vendor", "class"))
            if found == vendor and its_kind.startswith(kind):
                return True
    return False


def _writable(folder: str) -> bool:
    with suppress(OSError), tempfile.TemporaryFile(dir=folder):
        return True
    return False
