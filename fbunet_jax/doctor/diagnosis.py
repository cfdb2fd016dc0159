"""Facts become findings: what is well, what to look at, what stands in the way, each with the remedy."""

import re
import shlex
from collections import Counter
from typing import Literal, NamedTuple

from fbunet_jax.device_errors import no_device
from fbunet_jax.doctor.machine import Device, Machine

CUDA_13_DRIVER, CUDA_12_DRIVER = 580, 525
"""The oldest NVIDIA drivers on which JAX's builds for CUDA 13 and CUDA 12 run (JAX's installation page)."""

CUDA_13_CAPABILITY, CUDA_12_CAPABILITY = 7.5, 5.2
"""The oldest GPUs for which those builds hold programs, likewise."""

LITTLE_MEMORY, LITTLE_DISK = 4 * 10**9, 10**9
"""Bytes below which a training may fail: the quickstart holds up to 2 GB, a fold at full width 30 MB on disk."""

Status = Literal["ok", "warning", "problem"]


class Finding(NamedTuple):
    """One line of the doctor's; the remedy is empty where there is nothing to do."""

    status: Status
    topic: str
    text: str
    remedy: str = ""


def diagnose(machine: Machine) -> list[Finding]:
    """Return a finding about everything that training needs."""
    return [
        _python(machine),
        _package(machine),
        _jax(machine),
        *_devices(machine),
        _memory(machine),
        _disk(machine),
        _step(machine),
        Finding("ok", "install", f"for this machine: {pip_line(machine)}"),
    ]


def extra(machine: Machine) -> str:
    """Return the extra of the package that fits this machine: cuda13, cuda12, tpu, or "" for the CPU."""
    if machine.tpu_hardware:
        return "tpu"
    release = _release(machine)
    capability = min((gpu.capability for gpu in machine.gpus), default=CUDA_13_CAPABILITY)
    if release >= CUDA_13_DRIVER and capability >= CUDA_13_CAPABILITY:
        return "cuda13"
    if release >= CUDA_12_DRIVER and capability >= CUDA_12_CAPABILITY:
        return "cuda12"
    return ""


def pip_line(machine: Machine) -> str:
    """Return the command that installs this package with what this machine needs."""
    wanted = f"[{extra(machine)}]" if extra(machine) else ""
    what = f"fbunet-jax{wanted} @ {machine.source}" if "://" in machine.source else machine.source + wanted
    editable = ["-e"] if machine.editable else []
    return shlex.join([machine.interpreter, "-m", "pip", "install", *editable, what])


def _python(machine: Machine) -> Finding:
    text = f"Python {machine.python} ({machine.interpreter})"
    if tuple(int(part) for part in re.findall(r"\d+", machine.python)[:2]) < (3, 11):
        return Finding("problem", "python", f"{text} is older than 3.11.", "Install a newer Python.")
    return Finding("ok", "python", text)


def _package(machine: Machine) -> Finding:
    if machine.conflicts:
        return Finding("problem", "packages", "; ".join(machine.conflicts) + ".", pip_line(machine))
    if machine.package is None:
        return Finding(
            "warning", "packages", f"fbunet_jax is not installed, only run from {machine.source}.", pip_line(machine)
        )
    names = ("flax", "optax", "orbax-checkpoint", "numpy")
    others = ", ".join(f"{name} {machine.versions.get(name, 'missing')}" for name in names)
    return Finding("ok", "packages", f"fbunet_jax {machine.package}, {others}")


def _jax(machine: Machine) -> Finding:
    versions = ", ".join(f"{name} {machine.versions.get(name, 'missing')}" for name in ("jax", "jaxlib"))
    if machine.devices.error:
        return Finding(
            *("problem", "jax"), *no_device(versions, machine.environment, machine.devices.error, pip_line(machine))
        )
    return Finding("ok", "jax", versions)


def _devices(machine: Machine) -> list[Finding]:
    if machine.devices.error:
        return []
    devices = [Device(each["platform"], each["kind"], each["bytes"]) for each in machine.devices.values["devices"]]
    text = "; ".join(
        f"{count} x {device.kind} ({device.platform})" + (f", {_size(device.memory)} each" if device.memory else "")
        for device, count in Counter(devices).items()
    )
    simulated = "xla_force_host_platform_device_count" in machine.environment.get("XLA_FLAGS", "")
    if simulated or machine.environment.get("JAX_NUM_CPU_DEVICES", "1") not in ("", "1"):
        remedy = "unset XLA_FLAGS and JAX_NUM_CPU_DEVICES, unless this is meant"
        return [Finding("warning", "devices", f"{text}: simulated, slower than one CPU device", remedy)]
    platforms = {device.platform for device in devices}
    found = [Finding("ok", "devices", text)]
    if not platforms & {"gpu", "cuda", "rocm"} and (machine.nvidia_hardware or machine.driver):
        found.append(_missing_gpu(machine))
    if "tpu" not in platforms and machine.tpu_hardware:
        found.append(_missing_tpu(machine))
    return found


def _missing_gpu(machine: Machine) -> Finding:
    """Say why JAX does not see the NVIDIA GPU that the system sees."""
    names = ", ".join(f"{count} x {name}" for name, count in Counter(gpu.name for gpu in machine.gpus).items())
    seen = f"{names or 'an NVIDIA GPU'} (driver {machine.driver or 'missing'}) is here but not used:"
    chosen = _hidden(machine, "cuda", "gpu")
    if chosen:
        return Finding("warning", "gpu", f"{seen} {chosen}", "unset it to train on the GPU")
    if not machine.driver:
        return Finding("warning", "gpu", f"{seen} it has no driver.", "install NVIDIA's driver, then run this again")
    if not extra(machine):
        text = f"{seen} JAX needs driver {CUDA_12_DRIVER} and compute capability {CUDA_12_CAPABILITY} at least."
        return Finding("problem", "gpu", text, "update the driver; an older GPU cannot be used")
    plugins = [name for name in machine.versions if name.startswith("jax-cuda")]
    if not plugins:
        return Finding("problem", "gpu", f"{seen} JAX is installed for the CPU only.", pip_line(machine))
    plugin = plugins[0]
    if not any(extra(machine) in name for name in plugins):
        return Finding("problem", "gpu", f"{seen} {plugin} does not fit this driver and GPU.", pip_line(machine))
    if machine.versions[plugin] != machine.versions.get("jaxlib"):
        text = f"{seen} {plugin} {machine.versions[plugin]} and jaxlib {machine.versions.get('jaxlib')} differ."
        return Finding("problem", "gpu", text, pip_line(machine))
    said = machine.devices.remark or "JAX does not say why"
    remedy = "end other programs that use the GPU, and see that nvidia-smi lists it; then " + pip_line(machine)
    return Finding("problem", "gpu", f"{seen} {said}", remedy)


def _missing_tpu(machine: Machine) -> Finding:
    seen = "a TPU is here but not used:"
    if chosen := _hidden(machine, "tpu"):
        return Finding("warning", "tpu", f"{seen} {chosen}", "unset it to train on the TPU")
    if "libtpu" not in machine.versions:
        return Finding("problem", "tpu", f"{seen} libtpu is not installed.", pip_line(machine))
    said = machine.devices.remark or "JAX does not say why"
    return Finding("problem", "tpu", f"{seen} {said}", "end other programs that use the TPU: it serves one at a time")


def _hidden(machine: Machine, *platforms: str) -> str:
    """Return the setting by which the user hides a kind of device, or ""."""
    chosen = machine.environment.get("JAX_PLATFORMS", "")
    if chosen and not set(chosen.split(",")) & set(platforms):
        return f"JAX_PLATFORMS={chosen} is set."
    visible = machine.environment.get("CUDA_VISIBLE_DEVICES")
    if "cuda" in platforms and visible is not None and visible.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible} is set."
    return ""


def _memory(machine: Machine) -> Finding:
    if machine.memory is None:
        return Finding("ok", "memory", "not told by this system")
    free = "" if machine.available is None else f", {_size(machine.available)} of it free"
    text = f"{_size(machine.memory)}{free}"
    if (machine.memory if machine.available is None else machine.available) < LITTLE_MEMORY:
        remedy = "close other programs, or train with a smaller --training.batch-size or --data.crop"
        return Finding("warning", "memory", f"{text}: less than {_size(LITTLE_MEMORY)}", remedy)
    return Finding("ok", "memory", text)


def _disk(machine: Machine) -> Finding:
    text = f"{_size(machine.free)} free in {machine.folder}"
    if not machine.writable:
        return Finding(
            "problem", "disk", f"{machine.folder} cannot be written.", "change to another folder, or use --out"
        )
    if machine.free < LITTLE_DISK:
        return Finding("warning", "disk", text, "free space, or use --out on another disk")
    return Finding("ok", "disk", text)


def _step(machine: Machine) -> Finding:
    if machine.devices.error:
        return Finding("problem", "training", "not tried, because JAX does not work.", "fix JAX first")
    if machine.step.error:
        return Finding(
            "problem", "training", f"one step of a tiny network failed: {machine.step.error}", pip_line(machine)
        )
    return Finding("ok", "training", f"one step of a tiny network in {machine.step.values['seconds']:.1f} s")


def _release(machine: Machine) -> int:
    """Return the major number of the NVIDIA driver, 0 without one."""
    return int(machine.driver.split(".")[0]) if machine.driver else 0


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
