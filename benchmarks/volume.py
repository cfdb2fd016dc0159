"""A volume that does not fit in memory: time, peak memory and bytes of its segmentation, by one process or pinned ones.

python -m benchmarks.volume --help lists the options. The volume is procedural tissue, written chunk by chunk; the
network is the quickstart's, trained on one fold. Rates are those after the first chunk of a process, which compiles.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from fbunet_jax.data.layouts.synthetic import synthetic_image
from fbunet_jax.inference.axes import Axis
from fbunet_jax.inference.zarr_output import ZarrImage

ROOT = Path(__file__).resolve().parents[1]
CHUNK = 1024
DRAWN = 8
"""Images that are drawn; chunks repeat them in four turns, since drawing takes longer than writing."""

_WORKER = "import sys; from benchmarks.volume_worker import work; work(sys.argv[1:])"


@dataclass(frozen=True)
class Options:
    """Measure `fbunet predict` on a synthetic OME-Zarr volume, which is kept, so that a second call finds it."""

    height: int = 20_000
    """Of a section, in pixels."""
    width: int = 20_000
    """Of a section, in pixels."""
    sections: int = 4
    """Planes of the volume."""
    folder: str = ""
    """Where volume, run and results lie; a temporary folder, which is removed, if not given."""
    run: str = ""
    """A trained run; the quickstart is trained for --epochs if not given."""
    epochs: int = 28
    """Of that training."""
    shard: str = ""
    """Only one part of the chunks, such as 1/100."""
    pinned: tuple[int, ...] = ()
    """Numbers of processes to time one after the other, each process pinned to a core of its own: 1 2 times one, then
    two. One process on all cores if not given."""
    predict: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """More options of predict, such as --predict=--tile=1024 --predict=--overlap=128."""


def write_volume(path: Path, options: Options) -> None:
    """Write the volume chunk by chunk, in bounded memory, unless it is there."""
    if path.exists():
        return
    drawn = [synthetic_image(seed, CHUNK)[0][..., 0] for seed in range(DRAWN)]
    axes = [Axis("z", options.sections, 0.05, unit="micrometer")]
    axes += [Axis("y", options.height, 0.004, unit="micrometer"), Axis("x", options.width, 0.004, unit="micrometer")]
    unfinished = path.with_name(f"unfinished-{path.name}")
    volume = ZarrImage(unfinished, axes, np.uint8, CHUNK)
    volume.create({})
    number = 0
    for page in range(options.sections):
        for top in range(0, options.height, CHUNK):
            for left in range(0, options.width, CHUNK):
                pixels = np.rot90(drawn[number % DRAWN], number // DRAWN % 4)
                rows, columns = (
                    range(top, min(top + CHUNK, options.height)),
                    range(left, min(left + CHUNK, options.width)),
                )
                volume.write(page, rows, columns, pixels[: len(rows), : len(columns)])
                number += 1
    unfinished.rename(path)


def train(folder: Path, options: Options) -> Path:
    """Return the run, trained on fold 0 of the quickstart if none is given."""
    run = Path(options.run) if options.run else folder / "run"
    if not options.run:
        command = [sys.executable, str(ROOT / "train.py"), "--fold", "0", "--out", str(run)]
        subprocess.run([*command, "--training.epochs", str(options.epochs)], cwd=ROOT, check=True)
    return run


def measure(command: Sequence[str], cores: Sequence[int | None]) -> list[dict[str, Any]]:
    """Run one process a core (None for all cores) at the same time, each its shard, and return what each tells."""
    processes = []
    for index, core in enumerate(cores, start=1):
        shard = ["--shard", f"{index}/{len(cores)}"] if len(cores) > 1 else []
        pin = ["taskset", "--cpu-list", str(core)] if core is not None else []
        call = [*pin, sys.executable, "-c", _WORKER, *command, *shard]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        processes.append(subprocess.Popen(call, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("A process failed; what it printed stands above.")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def bytes_of(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def same_files(one: Path, other: Path) -> bool:
    """Say whether two folders hold the same files with the same bytes."""
    names = [{path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} for folder in (one, other)]
    return names[0] == names[1] and all((one / name).read_bytes() == (other / name).read_bytes() for name in names[0])


def line(name: str, results: Sequence[dict[str, Any]]) -> str:
    """Return a row of the table."""
    rate = sum(result["rate"] for result in results)
    peaks = ", ".join(f"{result['peak'] / 2**30:.2f}" for result in results)
    chunks = sum(result["chunks"] for result in results)
    wall = max(result["seconds"] for result in results)
    return f"| {name} | {chunks} | {wall:.1f} | {rate / 1e6:.3f} | {peaks} |"


def compare(folder: Path, options: Options) -> None:
    """Write, train, predict, print."""
    volume = folder / f"{options.height}x{options.width}x{options.sections}.ome.zarr"
    write_volume(volume, options)
    command = ["predict", str(train(folder, options)), str(volume), *options.predict]
    available = sorted(os.sched_getaffinity(0))
    if any(not 1 <= number <= len(available) for number in options.pinned):
        sys.exit(f"--pinned: {options.pinned}, but this process may use {len(available)} cores. Give 1 to that number.")
    ways: dict[str, list[int | None]] = {"1 process, all cores": [None]}
    if options.pinned:
        ways = {f"pinned processes: {number}": list(available[:number]) for number in options.pinned}
    if options.shard and any(number > 1 for number in options.pinned):
        sys.exit("--shard and several pinned processes, which have shards of their own: leave one of them out.")
    rows, outs = [], []
    for name, cores in ways.items():
        out = folder / f"out-{volume.name}-{len(cores) if options.pinned else 'all'}"
        # of an earlier call, whose chunks would not be computed again
        shutil.rmtree(out, ignore_errors=True)
        part = ["--shard", options.shard] if options.shard else []
        rows.append(line(name, measure([*command, "--out", str(out), *part], cores)))
        outs.append(out)
    size = f"{options.height} x {options.width} x {options.sections}"
    print(f"{size} pixels, {bytes_of(volume) / 1e6:.1f} MB; results {bytes_of(outs[0]) / 1e6:.1f} MB")
    print("| | chunks | seconds | megapixels/s after the first chunk | peak memory of each, GiB |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))
    if len(outs) > 1:
        equal = all(same_files(outs[0] / "labels", out / "labels") for out in outs[1:])
        print(f"The labels of all are {'the same, byte for byte' if equal else 'NOT the same'}.")


def main() -> None:
    """Measure in the folder of the options, or in a temporary one."""
    options = tyro.cli(Options)
    if options.folder:
        folder = Path(options.folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        compare(folder, options)
        return
    with tempfile.TemporaryDirectory() as temporary:
        compare(Path(temporary), options)


if __name__ == "__main__":
    main()
