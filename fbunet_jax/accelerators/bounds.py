"""What compiled programs need, held against the public figures of a device: which times they cannot stay below."""

from typing import Any, TypedDict

from fbunet_jax.accelerators.devices import SECONDS_A_LAUNCH, Device, Target
from fbunet_jax.config import Config


class Memory(TypedDict):
    """Bytes of one device; None for what the compiler does not report."""

    arguments: int | None
    temporaries: int | None
    code: int | None
    total: int
    capacity: int


class Seconds(TypedDict):
    """Of one step at the device's public figures; None for what a device does not report or do."""

    bytes: float | None
    flops: float
    links: float | None
    launches: float | None


class Needs(TypedDict):
    """Of one program on one device; None for what the device does not report."""

    compile_seconds: float
    memory: Memory
    fits: bool
    bytes_moved: int | None
    flops: int
    kernels: int | None
    seconds_at_peak: Seconds


class Training(Needs):
    """Of one step; batches are crops a device, and what cannot run has no speed."""

    all_reduced_bytes: int | None
    crops_per_second_at_most: float | None
    fold_seconds_at_least: float | None
    bytes_per_crop: dict[str, float | None]
    recommended_batch: int | None
    largest_batch: int | None


class Prediction(Needs):
    """Of one batch of tiles."""

    tile: int
    batch: int
    megapixels_per_second_at_most: float | None


class Report(TypedDict):
    """What a target needs: of each device, in bytes and seconds."""

    device: str
    devices: int
    hosts: int
    training: Training
    prediction: Prediction


def training_needs(
    config: Config, target: Target, share: int, programs: dict[int, dict[str, Any]], steps: int, largest: int | None
) -> Training:
    """Return what a training needs on each device of a target.

    Args:
      config: the settings.
      target: the devices.
      share: crops a device of the configuration.
      programs: for each number of crops a device the fields of its `Compiled`.
      steps: of a fold.
      largest: the most crops a device that fit, if they were looked for.
    """
    device, program = target.device, programs[share]
    needs = _needs(config, target, program)
    longest = _longest(needs)
    per_crop = {
        each: programs[each]["traffic"]["bytes_moved"] / each if _fits(programs[each], device) else None
        for each in sorted(programs)
    }
    fitting = {each: moved for each, moved in per_crop.items() if moved}
    # of one batch alone nothing can be recommended, and on a GPU the traffic of a crop hardly depends on it
    compared = fitting if len(per_crop) > 1 and not device.is_gpu else {}
    return {
        **needs,
        "all_reduced_bytes": program["traffic"] and program["traffic"]["all_reduced_bytes"],
        "crops_per_second_at_most": longest and share / longest,
        "fold_seconds_at_least": longest and steps * longest,
        "bytes_per_crop": {str(each): moved for each, moved in per_crop.items()},
        "recommended_batch": min(compared, key=lambda each: compared[each], default=None),
        "largest_batch": largest,
    }


def prediction_needs(config: Config, target: Target, program: dict[str, Any], tile: int, tiles: int) -> Prediction:
    """Return what the prediction of a batch of tiles needs on one device.

    Args:
      config: the settings.
      target: the devices.
      program: the fields of its `Compiled`.
      tile: side of a tile in pixels.
      tiles: at once.
    """
    needs = _needs(config, target, program)
    longest = _longest(needs)
    speed = longest and tiles * tile**2 / longest / 1e6
    return {**needs, "tile": tile, "batch": tiles, "megapixels_per_second_at_most": speed}


def _needs(config: Config, target: Target, program: dict[str, Any]) -> Needs:
    device, memory, traffic = target.device, program["memory"], program["traffic"]
    return {
        "compile_seconds": program["seconds"],
        "memory": {
            "arguments": memory["arguments"],
            "temporaries": memory["temporaries"],
            "code": memory["code"],
            "total": memory["total"],
            "capacity": device.memory,
        },
        "fits": _fits(program, device),
        "bytes_moved": traffic and traffic["bytes_moved"],
        "flops": program["arithmetic"]["flops"],
        "kernels": traffic["kernels"] if traffic and device.is_gpu else None,
        "seconds_at_peak": _seconds(config, target, program),
    }


def _fits(program: dict[str, Any], device: Device) -> bool:
    return program["traffic"] is not None and program["memory"]["total"] <= device.memory


def _seconds(config: Config, target: Target, program: dict[str, Any]) -> Seconds:
    """Return how long a program takes at the least for each of its demands, each by itself."""
    device, traffic, count = target.device, program["traffic"], target.count
    flops = program["arithmetic"]["flops"] / device.flops[config.model.precision]
    if not traffic:
        return {"bytes": None, "flops": flops, "links": None, "launches": None}
    # in a ring a device sends nearly all of it twice; switches between GPUs may add, so that it sends it once
    sent = (1 if device.is_gpu else 2) * traffic["all_reduced_bytes"] * (count - 1) / count
    return {
        "bytes": traffic["bytes_moved"] / device.bandwidth,
        "flops": flops,
        "links": sent / device.links,
        "launches": traffic["kernels"] * SECONDS_A_LAUNCH if device.is_gpu else None,
    }


def _longest(needs: Needs) -> float | None:
    """Return the longest time, below which a program cannot stay; None if it does not fit."""
    seconds = needs["seconds_at_peak"]
    if not needs["fits"] or seconds["bytes"] is None:
        return None
    return max(seconds["bytes"], seconds["flops"], seconds["links"] or 0, seconds["launches"] or 0)
