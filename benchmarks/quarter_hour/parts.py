"""Files for a journey: a training that is not finished, and archives in parts that are small enough."""

import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fbunet_jax.errors import DataError
from fbunet_jax.experiments.cells import TableFolder
from fbunet_jax.experiments.grid import Place
from fbunet_jax.networks import build_network
from fbunet_jax.runs.checkpoints import FoldCheckpoints
from fbunet_jax.runs.directory import FoldDirectory
from fbunet_jax.runs.records import ValidationRecord, read_records
from fbunet_jax.training.state import abstract_state

PART_BYTES = 14_000_000


def training_files(folder: TableFolder, place: Place) -> list[Path]:
    """Return what a cell under way needs to resume: records, the latest checkpoint, and the best one so far."""
    run, fold = folder.run(place), folder.run(place).fold(place.fold)
    small = [run.config, run.folds, run.dataset, fold.environment, fold.inputs, fold.metrics, fold.timing]
    checkpoints = [*latest_and_best(fold)]
    files = [path for checkpoint in checkpoints for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    return [path for path in (*small, folder.processes(place), *files) if path.exists()]


def latest_and_best(fold: FoldDirectory) -> Iterator[Path]:
    """Yield the folders of the latest checkpoint of a fold, and of the best one if that is another."""
    scored, unfinished = _checkpoints(fold.checkpoints), _checkpoints(fold.unfinished)
    latest = max({**scored, **unfinished}, default=None)
    if latest is not None:
        # with a score it stands for all that is before it
        yield scored.get(latest, unfinished.get(latest, fold.path))
    scores = {record["step"]: record["mean_iou"] or 0.0 for record in read_records(fold.metrics, ValidationRecord)}
    best = max(scored, key=lambda step: (scores.get(step, 0.0), step), default=None)
    if best is not None and best != latest:
        yield scored[best]


def _checkpoints(folder: Path) -> dict[int, Path]:
    paths = folder.iterdir() if folder.is_dir() else []
    return {int(path.name): path for path in paths if path.name.isdecimal()}


def write_without_moments(folder: TableFolder, place: Place, target: FoldDirectory) -> None:
    """Write the best checkpoint of a training anew, without what the optimiser remembers, which is two thirds of it.

    The best weights are only evaluated; a training resumes from the latest checkpoint, so there must be a later one.

    Args:
      folder: of the table.
      place: of the training; without an average of the weights, which is kept beside the optimiser's moments.
      target: the fold's directory, elsewhere.
    """
    run, fold = folder.run(place), folder.run(place).fold(place.fold)
    config, dataset = run.read_config(), run.read_dataset()
    model = build_network(config, classes=len(dataset["class_names"]), channels=dataset["channels"])
    with FoldCheckpoints(fold, read_only=True) as checkpoints:
        step = checkpoints.best_step()
        assert step is not None
        state = checkpoints.restore(step, abstract_state(config, model, dataset["channels"]).stored())
        score = checkpoints.score(step)
    zeros = jax.tree.map(jnp.zeros_like, state["optimizer"])
    target.path.mkdir(parents=True)
    with FoldCheckpoints(target) as checkpoints:
        checkpoints.save(state | {"optimizer": zeros}, step, score)


def archive(files: Mapping[str, Path | bytes], compression: str = "") -> bytes:
    """Return a tar archive.

    Args:
      files: by their names in it.
      compression: of `tarfile.open`: "gz", "xz", or none.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}") as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.read_bytes() if isinstance(content, Path) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Unpack a tar archive; what would land outside of the folder is refused by `tarfile`.

    Raises:
      DataError: it is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"An archive for {folder.name} is damaged ({error}): copy it again.") from error


def split(data: bytes, folder: Path, name: str) -> dict[str, Any]:
    """Write bytes as ``name.0``, ``name.1``, … in a folder, and return what `join` needs to know."""
    parts = [data[first : first + PART_BYTES] for first in range(0, len(data), PART_BYTES)]
    for number, part in enumerate(parts):
        (folder / f"{name}.{number}").write_bytes(part)
    return {"parts": len(parts), "sha256": hashlib.sha256(data).hexdigest()}


def join(folder: Path, name: str, about: Mapping[str, Any]) -> bytes:
    """Return the bytes that `split` has written.

    Raises:
      DataError: a part is missing, or has changed.
    """
    paths = [folder / f"{name}.{number}" for number in range(about["parts"])]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise DataError(f"{', '.join(missing)} is missing: copy all parts of {name}.")
    data = b"".join(path.read_bytes() for path in paths)
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise DataError(f"The parts of {folder / name} are not those that were written. Copy them again.")
    return data


def named(paths: Iterable[Path], folder: Path) -> dict[str, Path | bytes]:
    """Return files by their paths below a folder."""
    return {path.relative_to(folder).as_posix(): path for path in paths}
