"""The command line: run, ``--pack`` before it and ``--harvest`` after it."""

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from filelock import FileLock, Timeout

from benchmarks.quarter_hour import parts
from benchmarks.quarter_hour.pack import BEGAN, Packing
from benchmarks.quarter_hour.run import QuarterHour
from benchmarks.quarter_hour.sizes import SIZES
from benchmarks.quarter_hour.steps import STEPS
from fbunet_jax.errors import ConfigError, UserError
from fbunet_jax.experiments.cells import TableFolder
from fbunet_jax.experiments.origin import commit

HERE = Path(__file__).resolve().parent

MOST_MINUTES = 100_000


@dataclass(frozen=True)
class Options:
    """Use the minutes of a borrowed GPU: check it, measure speed beside PyTorch, profile, and train cells of Table 1.

    The same command with the same --work resumes: what was measured is not measured again.
    """

    minutes: float | None = None
    """How long; the end, in which everything is saved, is counted in."""
    out: str = ""
    """Folder for what is brought back: at most 8 files of less than 15 MB."""
    data: str = ""
    """Folder of the Drosophila images, with stack1."""
    work: str = ""
    """Folder of the table and of what is compiled, kept for the next call. --pack and --harvest use it too. By default
    quarter-hour, or quarter-hour-small."""
    steps: tuple[Literal["golden", "speed", "profile", "together", "table"], ...] = STEPS
    """Which steps; they run in this order."""
    at_once: int | None = None
    """Cells that are trained at once; as many as are fastest together by default."""
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
    """Take what a run has brought back into --docs and --work, and run nothing."""
    docs: str = str(HERE.parents[1] / "docs")
    """For --pack and --harvest: the folder of performance.md and results/paper-setting."""


def main() -> int:
    """Run what is wanted.

    Returns:
      The exit code: 0, 1 if a step has failed, 2 for a user's mistake.
    """
    options = tyro.cli(Options)
    try:
        if options.pack:
            _pack(options)
        elif options.harvest:
            from benchmarks.quarter_hour.harvest import harvest

            table = TableFolder(_work(options) / "table")
            harvest(Path(options.harvest).expanduser(), Path(options.docs).expanduser(), table, options.size, _tell)
        else:
            return _run(options)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"Error: {error.filename or 'A file'}: {error.strerror or error}.", file=sys.stderr)
        return 2
    return 0


def _pack(options: Options) -> None:
    if not options.data:
        raise ConfigError("--data is missing: the folder of the Drosophila images, with stack1.")
    table = TableFolder(_work(options) / "table")
    finished, results = [table.cells], Path(options.docs).expanduser() / "results"
    if options.size == "full":  # a rehearsal's table is another one
        finished.append(results / "paper-setting" / "cells")
    packing = Packing(
        Path(options.data).expanduser(),
        table,
        finished,
        results / "accelerators",
        Path(options.machine).expanduser(),
        options.python,
    )
    packing.write(Path(options.pack).expanduser(), _tell)


def _run(options: Options) -> int:
    # run.sh has begun before
    began = time.monotonic() - max(0.0, time.time() - float(os.environ.get(BEGAN, time.time())))
    if not options.minutes or not options.out:
        raise ConfigError("--minutes and --out are missing: how long, and the folder for the results.")
    if not 0 < options.minutes < MOST_MINUTES:
        raise ConfigError(f"--minutes {options.minutes}: expected a number above 0 and below {MOST_MINUTES:,}.")
    if options.at_once is not None and options.at_once < 1:
        raise ConfigError(f"--at-once {options.at_once}: expected a number of at least 1.")
    if not options.data and not options.packed:
        raise ConfigError("--data is missing: the folder of the Drosophila images, with stack1; or --packed.")
    work, data = _work(options), Path(options.data).expanduser()
    program, measured = commit(), Path(options.docs).expanduser() / "results" / "accelerators"
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"Another call is running in {work}: wait for it, or give another --work.") from None
    if options.packed:
        packed, data = Path(options.packed).expanduser(), work / "images"
        if not (packed / "commit").is_file():
            raise ConfigError(f"--packed {packed} is not a folder that --pack has made.")
        program, measured = (packed / "commit").read_text(encoding="utf-8").strip(), packed / "measured"
        _unpack_once(packed / "images.tar.xz", data)
        if not _unpack_once(packed / "table.tar.xz", work / "table"):
            _tell(f"The table resumes from what is in {work / 'table'}, not as it was packed.")
    if not (data / "stack1").is_dir():
        raise ConfigError(f"--data {data} has no folder stack1: expected that of the Drosophila images.")
    hour = QuarterHour(
        options.size,
        SIZES[options.size],
        Path(options.out).expanduser(),
        work,
        data.absolute(),
        program,
        began + 60 * options.minutes,
        _tell,
        options.at_once,
        measured,
    )
    with lock:
        hour.run(options.steps)
    return 1 if hour.has_failed else 0


def _work(options: Options) -> Path:
    return Path(options.work or {"full": "quarter-hour", "small": "quarter-hour-small"}[options.size]).expanduser()


def _unpack_once(archive: Path, folder: Path) -> bool:
    """Unpack an archive unless its folder is there, whole or not at all, and say whether this call did."""
    if folder.exists():
        return False
    unfinished = folder.with_name(f"{folder.name}.unpacking")
    shutil.rmtree(unfinished, ignore_errors=True)
    parts.unpack(archive.read_bytes(), unfinished)
    unfinished.rename(folder)
    return True


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
