"""The command line: run, ``--pack`` before it and ``--harvest`` after it."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.quarter_hour import parts
from benchmarks.quarter_hour.run import STEPS, QuarterHour
from benchmarks.quarter_hour.sizes import SIZES
from fbunet_jax.errors import ConfigError, UserError
from fbunet_jax.reproduction.origin import commit
from fbunet_jax.reproduction.reproduce import TableFolder

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Options:
    """Use the minutes of a borrowed GPU: check it, measure speed beside PyTorch, profile, and train cells of Table 1.

    The same command with the same --work goes on: what was measured is not measured again.
    """

    minutes: float | None = None
    """How long; the end, in which everything is saved, is counted in."""
    out: str = ""
    """Folder for what is brought back: at most 8 files of less than 15 MB."""
    data: str = ""
    """Folder of the Drosophila images, with stack1."""
    work: str = "quarter-hour"
    """Folder of the table and of what is compiled, kept for the next call. --pack and --harvest use it too."""
    steps: tuple[Literal["golden", "speed", "profile", "together", "table"], ...] = STEPS
    """Which steps; they run in this order."""
    size: Literal["full", "small"] = "full"
    """small: a rehearsal, for any computer and images of 128 x 128 pixels."""
    packed: str = ""
    """Folder that --pack has made, instead of --data."""
    pack: str = ""
    """Make a folder with all that a machine without a network needs, run.sh among it, and run nothing."""
    machine: str = str(HERE / "machine.txt")
    """For --pack: what pip freeze prints on that machine."""
    python: str = "3.12"
    """For --pack: the version of its Python."""
    harvest: str = ""
    """Take what a run has brought back into --results and --work, and run nothing."""
    docs: str = str(HERE.parents[1] / "docs")
    """For --pack and --harvest: the folder of performance.md and results/paper-setting."""


def main() -> int:
    """Run what is wanted."""
    options = tyro.cli(Options)
    try:
        if options.pack:
            _pack(options)
        elif options.harvest:
            from benchmarks.quarter_hour.harvest import harvest

            harvest(
                Path(options.harvest),
                Path(options.docs),
                TableFolder(Path(options.work) / "table"),
                options.size,
                _tell,
            )
        else:
            _run(options)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _pack(options: Options) -> None:
    from benchmarks.quarter_hour.pack import Packing

    if not options.data:
        raise ConfigError("--data is missing: the folder of the Drosophila images, with stack1.")
    table = TableFolder(Path(options.work).expanduser() / "table")
    finished = [table.cells]
    if options.size == "full":  # a rehearsal's table is another one
        finished.append(Path(options.docs) / "results" / "paper-setting" / "cells")
    packing = Packing(Path(options.data).expanduser(), table, finished, Path(options.machine), options.python)
    packing.write(Path(options.pack).expanduser(), _tell)


def _run(options: Options) -> None:
    began = time.monotonic()
    if not options.minutes or not options.out:
        raise ConfigError("--minutes and --out are missing: how long, and the folder for the results.")
    if not options.data and not options.packed:
        raise ConfigError("--data is missing: the folder of the Drosophila images, with stack1; or --packed.")
    work, data, program = Path(options.work).expanduser(), Path(options.data).expanduser(), ""
    if options.packed:
        packed, data = Path(options.packed), work / "images"
        program = (packed / "commit").read_text(encoding="utf-8").strip()
        if not data.exists():
            parts.unpack((packed / "images.tar.xz").read_bytes(), data)
        if not (work / "table").exists():  # another call has gone on with it
            parts.unpack((packed / "table.tar.xz").read_bytes(), work / "table")
    if not (data / "stack1").is_dir():
        raise ConfigError(f"--data {data} has no folder stack1: expected that of the Drosophila images.")
    QuarterHour(
        options.size,
        SIZES[options.size],
        Path(options.out).expanduser(),
        work,
        data.absolute(),
        program or commit(),
        began + 60 * options.minutes,
        _tell,
    ).run(options.steps)


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
