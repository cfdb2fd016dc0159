"""``fbunet compile``: what a training needs on devices that are not here."""

import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fbunet_jax.accelerators.bounds import Report
from fbunet_jax.accelerators.devices import Target, parse_target
from fbunet_jax.cli.options import given_option, parse_folds, size_text
from fbunet_jax.config import Config, load_config
from fbunet_jax.errors import ConfigError
from fbunet_jax.runs.interruption import raise_on_signals
from fbunet_jax.user_files import expand

EXIT_DOES_NOT_FIT = 1

Number = Annotated[int | None, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True)
class Arguments:
    """Compile a training for TPUs and GPUs that are not here: memory, traffic, and the least time it can take."""

    targets: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="for", metavar="DEVICE")] = ()
    """A TPU slice with its shape in chips (v4:2x2x1, v5e:4x4, v5p:2x2x1, v6e:4x4), or a GPU (a100-40gb, a100-80gb,
    h100, h200, b200; h100:8 for eight on a host, h100:2x8 for two hosts). Give it again for more."""
    config: str = "quickstart"
    """A TOML file, or the name of a configuration that comes with the program. The options below override it."""
    fold: str = "0"
    """The fold whose training is compiled."""
    classes: Number = None
    """Number of classes, where --data.root is not given; known for drosophila and mouse, as are the next three."""
    channels: Number = None
    """Number of image channels, likewise."""
    images: Number = None
    """Number of images, likewise: each is a group of its own in the folds."""
    size: Number = None
    """Side of the square images in pixels, likewise."""
    image_type: Literal["uint8", "uint16", "float32"] | None = None
    """Type in which the images are stored, likewise; uint8 if it is not known."""
    batches: tuple[int, ...] = ()
    """Also compile with so many crops a device, to see how the traffic grows; 64 and 128 on a TPU by default."""
    largest_batch: bool = False
    """Find the most crops a device that fit: compiles a few times more."""
    tile: Number = None
    """Side of the tiles of the prediction in pixels; 512 by default."""
    tiles: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """Tiles that are predicted at once."""
    out: str = ""
    """JSON file for all figures."""
    debug: bool = False
    """Show what the compilers print, and the traceback of an error."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def command(options: Sequence[str], prog: str) -> int:
    """Compile for every target and print what it needs; 1 if a program does not fit on one of them."""
    defaults = Arguments(settings=load_config(given_option(options, "--config", Arguments.config)))
    arguments = tyro.cli(Arguments, args=options, default=defaults, prog=prog)
    raise_on_signals()  # the compiler, which is another process, ends too
    targets, fold, out = _checked(arguments)
    config = arguments.settings
    # after parsing, so that --help does not wait for JAX
    from fbunet_jax.accelerators.compiling import FORMAT, check_target, compile_for, find_tile
    from fbunet_jax.accelerators.workload import DataNumbers, find_workload
    from fbunet_jax.networks import build_network
    from fbunet_jax.runs.files import write_atomically
    from fbunet_jax.training.setup import check_crop

    # everything that can be wrong is found before minutes of compiling
    check_crop(config, config.model.multiple)
    names = ("classes", "channels", "images", "size", "image_type")
    workload = find_workload(config, fold, DataNumbers(**{name: getattr(arguments, name) for name in names}))
    build_network(config, classes=workload.classes, channels=workload.channels)
    find_tile(config, arguments.tile)
    for target in targets:
        check_target(config, target, arguments.batches)
    reports: list[Report] = []
    for target in targets:
        report = compile_for(
            config,
            workload,
            target,
            shares=arguments.batches,
            largest=arguments.largest_batch,
            tile=arguments.tile,
            tiles=arguments.tiles,
            tell=_show,
            log=_show if arguments.debug else lambda text: None,
        )
        reports.append(report)
        print(describe(config, target, report), flush=True)
        if out:
            content = {"format": FORMAT, "jax": importlib.metadata.version("jax"), "targets": reports}
            write_atomically(out, json.dumps(content, indent=1) + "\n")
    if out:
        print(f"Written: {out}")
    fits = all(report["training"]["fits"] and report["prediction"]["fits"] for report in reports)
    return 0 if fits else EXIT_DOES_NOT_FIT


def _checked(arguments: Arguments) -> tuple[list[Target], int, Path | None]:
    """Return targets, fold and output file, as far as they can be checked without JAX.

    Raises:
      ConfigError: one of them does not fit.
    """
    if not arguments.targets:
        raise ConfigError("--for is missing: for which devices? Such as --for v5e:4x4 or --for h100.")
    targets = [parse_target(text) for text in arguments.targets]
    (fold, *more) = parse_folds(arguments.fold, arguments.settings.data.folds)
    if more:
        raise ConfigError("--fold all: expected one fold; the others take as long.")
    if wrong := [number for number in (*arguments.batches, arguments.tiles) if number < 1]:
        raise ConfigError(f"--batches and --tiles: {wrong[0]} is not a number of crops or tiles: expected at least 1.")
    out = expand(arguments.out) if arguments.out else None
    if out and ((out.exists() and not out.is_file()) or not os.access(out.absolute().parent, os.W_OK)):
        raise ConfigError(f"--out {out}: expected a file in a folder that exists and can be written.")
    return targets, fold, out


def _show(text: str) -> None:
    if sys.stderr:  # print(file=None) would write to standard output
        print(text, file=sys.stderr, flush=True)


def describe(config: Config, target: Target, report: Report) -> str:
    """Return what a target needs, in lines.

    Args:
      config: the settings.
      target: a `Target`.
      report: a `Report` about it.
    """
    from fbunet_jax.tables import duration

    device, training, prediction = target.device, report["training"], report["prediction"]
    count, hosts = report["devices"], report["hosts"]
    many = f"{count} x {device.description}" + (f" on {hosts} hosts" if hosts > 1 else "")
    crop, share = config.data.crop, config.training.batch_size // count
    lines = [
        f"{target.text}: {many}; {config.method} in {config.model.precision}. Compiled, not run.",
        f"Training step of {share} crops of {crop} x {crop} on each (batch {config.training.batch_size}), "
        f"compiled in {training['compile_seconds']:.0f} s:",
        *_demands(config, device, training),
    ]
    if rate := training["crops_per_second_at_most"]:
        together = f", {count * rate:,.0f} by all {count}" if count > 1 else ""
        seconds = training["fold_seconds_at_least"] or 0.0
        least = f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
        lines.append(f"  at most      {rate:,.0f} crops/s a device{together}")
        lines.append(f"  a fold       {least} at the least, without validation and start")
    if len(training["bytes_per_crop"]) > 1:
        grown = ", ".join(
            f"{each}: {'does not fit' if moved is None else size_text(moved)}"
            for each, moved in training["bytes_per_crop"].items()
        )
        lines.append(f"  moved a crop {grown} (with so many crops a device)")
    if best := training["recommended_batch"]:
        told = ", as it is" if best == share else f": --training.batch-size {best * count}"
        lines.append(f"  recommended  {best} crops a device{told}")
    if best := training["largest_batch"]:
        lines.append(f"  largest      {best} crops a device fit: --training.batch-size {best * count}")
    lines += [
        f"Prediction of {prediction['batch']} tiles of {prediction['tile']} x {prediction['tile']} on one device, "
        f"compiled in {prediction['compile_seconds']:.0f} s:",
        *_demands(config, device, prediction),
    ]
    if rate := prediction["megapixels_per_second_at_most"]:
        lines.append(f"  at most      {rate:,.0f} megapixels/s of tiles a device")
    return "\n".join(lines)


def _demands(config: Config, device: Any, program: Any) -> list[str]:
    """Return lines on memory, traffic, arithmetic, links and kernels, the longest of the times marked."""
    memory, seconds = program["memory"], program["seconds_at_peak"]
    names = ("arguments", "temporaries", "code")
    sizes = {name: memory[name] or 0 for name in names}
    sizes["results"] = memory["total"] - sum(sizes.values()) if sizes["arguments"] else 0
    parts = " + ".join(f"{size_text(size)} {name}" for name, size in sizes.items() if size)
    needed, capacity = size_text(memory["total"]), size_text(memory["capacity"])
    if parts:
        lines = [f"  memory       {needed} of {capacity}: {'fits' if program['fits'] else 'DOES NOT FIT'} ({parts})"]
    else:
        lines = [f"  memory       {needed} or more, of {capacity}: DOES NOT FIT"]
    rates = {
        "bytes": ("moved", program["bytes_moved"], f"{device.bandwidth / 1e9:,.0f} GB/s"),
        "flops": ("computed", program["flops"], f"{device.flops[config.model.precision] / 1e12:,.0f} TFLOP/s"),
        "links": ("all-reduced", program.get("all_reduced_bytes"), f"{device.links / 1e9:,.0f} GB/s"),
        "launches": ("kernels", program["kernels"], "1 microsecond each"),
    }
    longest = max(each for each in seconds.values() if each is not None)
    for key, (word, amount, rate) in rates.items():
        if amount and seconds[key] is not None:
            shown = {"flops": f"{amount / 1e9:,.1f} GFLOP", "launches": f"{amount:,}"}.get(key, size_text(amount))
            mark = "   <- the longest" if seconds[key] == longest and program["bytes_moved"] else ""
            lines.append(f"  {word:12} {shown:16} {1e3 * seconds[key]:8.3f} ms at {rate}{mark}")
    return lines
