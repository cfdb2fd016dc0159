"""What a machine without a network needs: this program, the images, wheels of what it lacks, and the table so far."""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quarter_hour import parts
from benchmarks.quarter_hour.table import recorded, unfinished_cells
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.experiments.cells import TableFolder
from fbunet_jax.experiments.grid import Place
from fbunet_jax.experiments.origin import commit
from fbunet_jax.runs.directory import Run

ROOT = Path(__file__).resolve().parents[2]

CODE = ("fbunet_jax", "benchmarks", "configs", "pyproject.toml")

MOST_BYTES = 60_000_000

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")

# what the labels are coded with, and what imagecodecs itself imports; the others are 25 MB
CODECS = {"png", "shared", "shared_cython"}

BEGAN = "FBUNET_QUARTER_HOUR_BEGAN"
"""Variable with the time at which run.sh has begun, in seconds since 1970."""

RUN = """\
#!/bin/sh
# usage: sh run.sh --minutes 9 --out DIR
# Installs the wheels that lie here, for this program alone, and runs it. Python is $PYTHON, or python3.
set -eu
export FBUNET_QUARTER_HOUR_BEGAN=${FBUNET_QUARTER_HOUR_BEGAN:-$(date +%s)}
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
python=${PYTHON:-python3}
if [ ! -e "$here/site/ready" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$here/site" "$here"/wheels/*.whl
  touch "$here/site/ready"
fi
export PYTHONPATH="$here/site:$here/code${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -P -m benchmarks.quarter_hour --packed "$here" "$@"
"""


@dataclass(frozen=True)
class Packing:
    """What is packed.

    Attributes:
      data: folder of the images, with ``stack1``.
      table: of this machine, with the training that is not finished.
      cells: folders of the finished cells, which need not be trained.
      measured: folder of earlier measurements, which tell how many cells to train at once.
      machine: file with a line for each package that the other machine has, as ``pip freeze`` prints them.
      python: version of its Python, such as "3.12".
    """

    data: Path
    table: TableFolder
    cells: list[Path]
    measured: Path
    machine: Path
    python: str

    def write(self, folder: Path, tell: Callable[[str], None]) -> None:
        """Write everything into a folder.

        Args:
          folder: a new one, or that of an earlier call, whose content is replaced.
          tell: called with a line about each part.

        Raises:
          UserError: something is missing, or the whole is too large to be carried.
        """
        if not (self.data / "stack1").is_dir():
            raise ConfigError(f"--data {self.data} has no folder stack1: expected that of the Drosophila images.")
        if not self.machine.is_file():
            raise ConfigError(f"--machine {self.machine} does not exist: expected what pip freeze prints there.")
        if folder.exists() and not _is_packed(folder):
            raise ConfigError(f"--pack {folder} is not a folder that this command has made: give a new one.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".packing-") as name:
            new = Path(name) / folder.name
            new.mkdir()
            self._fill(new, tell)
            sizes = {path.name: _size(path) for path in sorted(new.iterdir())}
            for part, size in sizes.items():
                tell(f"{size / 1e6:7.1f} MB  {part}")
            if sum(sizes.values()) > MOST_BYTES:
                raise RunError(
                    f"What is packed has {sum(sizes.values()) / 1e6:.1f} MB, and {MOST_BYTES / 1e6:.0f} can be "
                    f"carried. Take the largest of the above away, such as the training in {self.table.path / 'runs'}."
                )
            if folder.exists():
                folder.rename(Path(name) / "old")
            new.rename(folder)
        tell(f"{sum(sizes.values()) / 1e6:7.1f} MB in {folder}, for: sh {folder.name}/run.sh --minutes 9 --out brought")

    def _fill(self, folder: Path, tell: Callable[[str], None]) -> None:
        (folder / "run.sh").write_text(RUN, encoding="utf-8")
        (folder / "commit").write_text(commit() + "\n", encoding="utf-8")
        for name in CODE:
            _copy(ROOT / name, folder / "code" / name)
        images = [path for path in sorted((self.data / "stack1").rglob("*")) if path.is_file()]
        (folder / "images.tar.xz").write_bytes(parts.archive(parts.named(images, self.data), "xz"))
        _copy(self.measured, folder / "measured")
        self.fetch_wheels(folder / "wheels")
        (folder / "table.tar.xz").write_bytes(parts.archive(self.table_files(tell), "xz"))

    def fetch_wheels(self, folder: Path) -> None:
        """Download the wheels of what the other machine lacks, in versions that fit what it has.

        Raises:
          RunError: pip fails; the first of its errors says why.
        """
        needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
        target = ["--python-version", self.python, "--implementation", "cp", "--only-binary", ":all:"]
        target += [word for platform in PLATFORMS for word in ("--platform", platform)]
        with tempfile.TemporaryDirectory() as name:
            command = [sys.executable, "-m", "pip", "download", "--dest", name, "--constraint", str(self.machine)]
            done = subprocess.run([*command, *target, *needed], capture_output=True, text=True, check=False)
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
                reason = (lines or done.stderr.strip().splitlines() or ["it says no more"])[0]
                raise RunError(f"The wheels of what {self.machine} lacks cannot be downloaded: {reason}")
            lines = self.machine.read_text(encoding="utf-8").splitlines()
            has = {_canonical(re.split(r"[ =@<>~!;\[]", line, maxsplit=1)[0]) for line in lines if line[:1].isalnum()}
            folder.mkdir()
            for wheel in sorted(Path(name).glob("*.whl")):
                package = _canonical(wheel.name.split("-")[0])
                if package == "imagecodecs":
                    (folder / wheel.name).write_bytes(_fewer_codecs(wheel))
                elif package not in has:
                    shutil.copyfile(wheel, folder / wheel.name)

    def table_files(self, tell: Callable[[str], None]) -> dict[str, Path | bytes]:
        """Return the files of the table as it is: finished cells, without weights, and the training that is not."""
        files: dict[str, Path | bytes] = {}
        for cells in self.cells:
            files |= {f"cells/{path.name}": path for path in sorted(cells.glob("*.json"))}
        finished = {Path(name).stem for name in files}
        begun = [place for place in unfinished_cells(self.table) if place.stem not in finished]
        for place in begun[:1]:
            tell(f"{place}, which is not finished, resumes at step {recorded(self.table, place)[0]}.")
            files |= self._training(place)
        for place in begun[1:]:
            tell(f"{place} is not packed: one training that is not finished is enough to carry.")
        return files

    def _training(self, place: Place) -> dict[str, Path | bytes]:
        """Return the files of a training, its best checkpoint without the optimiser's moments."""
        files = parts.named(parts.training_files(self.table, place), self.table.path)
        _, *best = parts.latest_and_best(self.table.run(place).fold(place.fold))
        training = self.table.run(place).read_config().training
        if not best or training.weight_average or training.norm_batch_count:
            return files
        with tempfile.TemporaryDirectory() as name:
            small = Run(Path(name)).fold(place.fold)
            parts.write_without_moments(self.table, place, small)
            new = [path for path in (small.checkpoints / best[0].name).rglob("*") if path.is_file()]
            written = {name: path.read_bytes() for name, path in parts.named(new, small.checkpoints).items()}
        old = best[0].relative_to(self.table.path).as_posix()
        kept: dict[str, Path | bytes] = {name: path for name, path in files.items() if not name.startswith(f"{old}/")}
        return kept | {f"{Path(old).parent.as_posix()}/{name}": data for name, data in written.items()}


def _is_packed(folder: Path) -> bool:
    script = folder / "run.sh"
    return script.is_file() and script.read_text(encoding="utf-8").startswith("\n".join(RUN.splitlines()[:3]))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.exists():
        shutil.copyfile(source, target)


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _fewer_codecs(wheel: Path) -> bytes:
    """Return the wheel of imagecodecs with the codecs that are needed, and the libraries that these name."""
    with zipfile.ZipFile(wheel) as old:
        content = {name: old.read(name) for name in old.namelist()}
    libraries = {Path(name).name: name for name in content if name.startswith("imagecodecs.libs/")}
    modules = {
        name: re.fullmatch(r"imagecodecs/_(\w+)\.abi3\.so|imagecodecs/_(\w+)\.cpython.*", name) for name in content
    }
    kept = {
        name: data
        for name, data in content.items()
        if name not in libraries.values() and (not (m := modules[name]) or (m[1] or m[2]) in CODECS)
    }
    waiting = [data for name, data in kept.items() if name.endswith(".so")]
    while waiting:
        data = waiting.pop()
        for library, name in libraries.items():
            if name not in kept and library.encode() in data:
                kept[name] = content[name]
                waiting.append(content[name])
    target = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for name, data in kept.items():
            new.writestr(name, data)
    target.seek(0)
    return target.read()
