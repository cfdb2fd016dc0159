"""The public figures of accelerators, and how they are named: ``v5e:4x4``, ``h100``, ``h100:2x8``.

Sources. TPUs: Google Cloud's documentation, the pages named in the table (read in November 2026); the memory that a
program can use is what XLA's compiler says when one does not fit. GPUs: NVIDIA's data sheets (SXM parts, dense rates);
the description that the compiler gets follows XLA's own (openxla/xla, xla/backends/gpu/target_config/specs).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fbunet_jax.errors import ConfigError, did_you_mean

Plugin = Literal["tpu", "cuda13"]

GPU_SHARE = 0.75
"""Share of a GPU's memory that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""

SECONDS_A_LAUNCH = 1e-6
"""That a kernel takes on a GPU at the least: an assumption, below the time of an empty one."""

LANES = 128
"""Width of a TPU's vector registers. XLA lays the batch along them where channels are few."""


@dataclass(frozen=True)
class Device:
    """One chip or card.

    Attributes:
      description: its full name.
      plugin: the extra of JAX that compiles for it.
      memory: bytes that a program can use.
      bandwidth: of main memory, bytes a second.
      flops: floating-point operations a second of the matrix units, by the type of `model.precision`, at JAX's default
        precision: float32 convolutions run as TF32 on a GPU and as bfloat16 on a TPU.
      links: bytes a second that a device sends to others of its slice or host, over all links, in one direction.
      source: where the figures stand.
      most: devices of the largest slice that can be rented, or 0 if there is no such limit.
      describes: fields of XLA's description of a GPU.
    """

    description: str
    plugin: Plugin
    memory: int
    bandwidth: float
    flops: Mapping[str, float]
    links: float
    source: str
    most: int = 0
    describes: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, not a TPU."""
        return self.plugin != "tpu"


def _tpu(name: str, gibibytes: float, bandwidth: float, teraflops: float, links: float, most: int) -> Device:
    # one pass of the bfloat16 matrix unit serves float32 too, at JAX's default precision
    flops = {"bfloat16": teraflops * 1e12, "float32": teraflops * 1e12}
    source = f"cloud.google.com/tpu/docs/{name}"
    return Device(f"TPU {name}", "tpu", int(gibibytes * 2**30), bandwidth * 1e9, flops, links * 1e9, source, most)


def _gpu(
    description: str,
    total: int,
    bandwidth: float,
    bfloat16: float,
    tf32: float,
    links: float,
    source: str,
    **fields: object,
) -> Device:
    fields = {
        **{"device_memory_size": total, "memory_bandwidth": int(bandwidth * 1e9), "name": description},
        **fields,
    }
    flops = {"bfloat16": bfloat16 * 1e12, "float32": tf32 * 1e12}
    return Device(
        description, "cuda13", int(total * GPU_SHARE), bandwidth * 1e9, flops, links * 1e9, source, describes=fields
    )


_AMPERE = {
    **{"core_count": 108, "fpus_per_core": 64, "clock_rate_ghz": 1.41, "l2_cache_size": 41943040, "major": 8},
    **{"shared_memory_per_core": 167936, "shared_memory_per_block_optin": 166912},
}
_HOPPER = {
    **{"core_count": 132, "fpus_per_core": 128, "clock_rate_ghz": 1.98, "l2_cache_size": 52428800, "major": 9},
    **{"shared_memory_per_core": 233472, "shared_memory_per_block_optin": 232448},
}
_BLACKWELL = {**_HOPPER, "core_count": 148, "clock_rate_ghz": 1.965, "l2_cache_size": 132644864, "major": 10}

DEVICES: Mapping[str, Device] = {
    # GiB that XLA lets a program use; GB/s; TFLOP/s; GB/s over all links in one direction; chips of the largest slice
    "v4": _tpu("v4", 30.75, 1228, 275, 300, 4096),
    "v5e": _tpu("v5e", 15.75, 819, 197, 200, 256),
    "v5p": _tpu("v5p", 95.74, 2765, 459, 600, 6144),
    "v6e": _tpu("v6e", 31.25, 1638, 918, 400, 256),
    "a100-40gb": _gpu("NVIDIA A100-SXM4-40GB", 42331013120, 1555.2, 312, 156, 300, "NVIDIA A100 data sheet", **_AMPERE),
    "a100-80gb": _gpu(
        "NVIDIA A100-SXM4-80GB", 85100068864, 2039.04, 312, 156, 300, "NVIDIA A100 data sheet", **_AMPERE
    ),
    "h100": _gpu("NVIDIA H100 80GB HBM3", 84942979072, 3352.32, 989, 494, 450, "NVIDIA H100 data sheet", **_HOPPER),
    "h200": _gpu("NVIDIA H200", 151397597184, 4800, 989, 494, 450, "NVIDIA H200 data sheet", **_HOPPER),
    "b200": _gpu("NVIDIA B200", 191514411008, 7672.32, 2250, 1125, 900, "NVIDIA HGX B200 data sheet", **_BLACKWELL),
}
"""By the name that ``--for`` takes."""


@dataclass(frozen=True)
class Target:
    """Some devices of one kind, as `parse_target` reads them.

    Attributes:
      text: as it was given.
      name: of the device in `DEVICES`.
      shape: of a TPU slice in chips, or hosts and GPUs a host.
    """

    text: str
    name: str
    shape: tuple[int, ...]

    @property
    def device(self) -> Device:
        """Its figures."""
        return DEVICES[self.name]

    @property
    def count(self) -> int:
        """How many devices."""
        return math.prod(self.shape)


def parse_target(text: str) -> Target:
    """Read a name such as ``v5e:4x4``, ``h100``, ``h100:8`` (one host) or ``h100:2x8`` (two).

    Raises:
      ConfigError: there is no such device, or it is no such name.
    """
    name, _, topology = text.lower().partition(":")
    if name not in DEVICES:
        raise ConfigError(f"--for {text}: {name!r} is not a known device. {_expected()}{did_you_mean(name, DEVICES)}")
    if not re.fullmatch(r"([0-9]{1,5}(x[0-9]{1,5})*)?", topology) or (":" in text and not topology):
        raise ConfigError(f"--for {text[:40]}: what follows the colon is not a shape such as 4x4. {_expected()}")
    shape = tuple(int(side) for side in topology.split("x")) if topology else ()
    if 0 in shape:
        raise ConfigError(f"--for {text}: a shape has sides of at least 1.")
    if DEVICES[name].is_gpu:
        if len(shape) > 2:
            raise ConfigError(f"--for {text}: expected {name}:GPUS, or {name}:HOSTSxGPUS with the GPUs of each host.")
        return Target(text, name, (1,) * (2 - len(shape)) + shape)
    sides = 3 if name in ("v4", "v5p") else 2
    if len(shape) != sides:
        example = "2x2x1" if sides == 3 else "2x2"
        raise ConfigError(
            f"--for {text}: expected a slice of {name} with {sides} sides in chips, such as {name}:{example}."
        )
    target = Target(text, name, shape)
    if target.count > target.device.most:
        raise ConfigError(f"--for {text}: {target.count} chips; the largest slice of {name} has {target.device.most}.")
    return target


def _expected() -> str:
    tpus = ", ".join(f"{name}:..." for name, device in DEVICES.items() if not device.is_gpu)
    gpus = ", ".join(name for name, device in DEVICES.items() if device.is_gpu)
    return f"Expected a TPU slice ({tpus} with its shape in chips, such as v5e:4x4) or a GPU ({gpus})."


def gpu_description(device: Device) -> str:
    """Return what XLA's compiler has to know of a GPU, a text proto (`stream_executor.GpuTargetConfigProto`)."""
    own = dict(device.describes)
    major = own.pop("major")
    fields: dict[str, object] = {
        **{"threads_per_block_limit": 1024, "threads_per_warp": 32, "shared_memory_per_block": 49152},
        **{"threads_per_core_limit": 2048, "block_dim_limit_x": 2147483647},
        **{"block_dim_limit_y": 65535, "block_dim_limit_z": 65535},
        **{"registers_per_core_limit": 65536, "registers_per_block_limit": 65536, "thread_dim_limit_x": 1024},
        **{"thread_dim_limit_y": 1024, "thread_dim_limit_z": 64, "device_address_bits": 64},
        **{"driver_version": "13.0.0", "runtime_version": "13.0.0", "compile_time_toolkit_version": "13.0.0"},
        **{"dnn_version": "9.10.0"},
        **own,
    }
    lines = [f'{key}: "{value}"' if isinstance(value, str) else f"{key}: {value}" for key, value in fields.items()]
    return (
        f"gpu_device_info {{ {' '.join(lines)} cuda_compute_capability {{ major: {major} minor: 0 }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 } '
        f'device_description_str: "{device.description}"'
    )
