"""The folder of a prediction: what lies where, what may be replaced, and who may join in."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fbunet_jax.errors import DataError, RunError
from fbunet_jax.inference.inputs import InputImage
from fbunet_jax.inference.outputs import UNFINISHED, short_hash
from fbunet_jax.runs.disks import scratch_folder
from fbunet_jax.runs.files import create_once, read_json, write_atomically
from fbunet_jax.user_files import is_text, listed, real, same_name


class OutputFolder:
    """Where results go: ``labels/``, ``probabilities/``, ``uncertainty/``, ``overlays/`` and the tables."""

    def __init__(self, path: Path) -> None:
        """Name the files; nothing is created yet."""
        self.path = path
        self.record = path / "prediction.json"
        self.summary = path / "summary.csv"
        self.label_next = path / "label_next.csv"

    def labels(self, name: str) -> Path:
        """Return the label file of an image."""
        return self.path / "labels" / f"{name}.tif"

    def probabilities(self, name: str) -> Path:
        """Return the file of an image's class probabilities."""
        return self.path / "probabilities" / f"{name}.tif"

    def uncertainty(self, name: str) -> Path:
        """Return the file of an image's entropy and disagreement."""
        return self.path / "uncertainty" / f"{name}.tif"

    def overlay(self, name: str, page: int, pages: int) -> Path:
        """Return the picture of a page."""
        overlays = self.path / "overlays"
        return overlays / f"{name}.png" if pages == 1 else overlays / name / f"z{page:03d}.png"

    def scratch(self, name: str, what: str) -> Path:
        """Return a file that does not outlive the command."""
        return self.path / f"{UNFINISHED}{short_hash(name)}-{what}"

    def begin(self, settings: dict[str, Any], images: Sequence[InputImage] = (), *, overwrite: bool) -> None:
        """Create the folder, remove earlier results, and record what the new ones are made with.

        Args:
          settings: what the results are made with.
          images: that will be segmented; none may be among the results that are removed.
          overwrite: whether results may be replaced.

        Raises:
          RunError: it holds results that may not be replaced, or files that are not results.
          DataError: results of two images would lie in one place, or its disk takes their names for one.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: expected a folder. Choose another with --out.")
        if self.path.is_dir() and listed(self.path):
            if not self.record.exists():
                raise RunError(
                    f"{self.path} holds files that are not results of predict, which could be lost. Choose a new "
                    "folder with --out."
                )
            if self._has_results() and not overwrite:
                raise RunError(
                    f"{self.path} holds results already. Choose another folder with --out, or replace them with "
                    "--overwrite."
                )
            self._remove_results(images)
        self.path.mkdir(parents=True, exist_ok=True)
        self._check_names(images)
        write_atomically(self.record, _as_text(settings))

    def join(self, settings: dict[str, Any], images: Sequence[InputImage], *, overwrite: bool = False) -> None:
        """Create the folder, or resume in one that was begun with the same settings, by whatever process.

        Args:
          settings: what the results are made with.
          images: that will be segmented; none may be among the results.
          overwrite: whether to remove earlier results first.

        Raises:
          RunError: it holds results of other settings, or files that are not results.
        """
        if not is_text(str(self.path)):
            raise RunError(f"{str(self.path)!r} is not text in UTF-8, which OME-Zarr needs. Choose another with --out.")
        if overwrite and self.record.exists():
            self.begin(settings, images, overwrite=True)
            return
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: expected a folder. Choose another with --out.")
        self.path.mkdir(parents=True, exist_ok=True)
        self._keep_apart(images)
        # looked at before the record: whoever began the folder wrote that first
        foreign = bool(listed(self.path))
        if foreign and not self.record.exists():
            raise RunError(
                f"{self.path} holds files that are not results of predict, which could be lost. Choose a new folder "
                "with --out."
            )
        self._check_names(images)
        if create_once(self.record, _as_text(settings)):
            return
        found = read_json(self.record, dict[str, Any])
        # versions before 0.2 wrote class indices, and did not say so
        found.setdefault("classes", {name: index for index, name in enumerate(found.get("class_names", ()))})
        found.setdefault("offsets", None)
        for name, value in json.loads(_as_text(settings)).items():
            if name not in found or found[name] != value:
                raise RunError(
                    f"{self.path} holds results that were made with {name} = {json.dumps(found.get(name))}, now it is "
                    f"{json.dumps(value)}. Give the same settings to resume, choose another folder with --out, or "
                    "replace them with --overwrite."
                )

    def _has_results(self) -> bool:
        """Say whether an image was finished."""
        return _holds_a_result(self.path / "labels") or self.summary.exists() or self.label_next.exists()

    def _remove_results(self, images: Sequence[InputImage]) -> None:
        """Remove what this command writes, or results of other settings would stay beside the new ones."""
        for path in (*self._keep_apart(images), self.summary, self.label_next, *self.path.glob(f"{UNFINISHED}*")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _check_names(self, images: Sequence[InputImage]) -> None:
        """Raise a DataError if results of two images would lie in one place, as names or as the disk has them."""
        alike: dict[str, InputImage] = {}
        for image in images:
            other = alike.setdefault(same_name(image.name), image)
            if other is image:
                continue
            with scratch_folder(self.path) as scratch:
                for each in (other, image):
                    (scratch / each.name).parent.mkdir(parents=True, exist_ok=True)
                (scratch / other.name).touch()
                is_one = (scratch / image.name).exists()
            if is_one:
                raise DataError(
                    f"{other.path} and {image.path} would have one result: the disk of {self.path} does not tell upper "
                    "from lower case, or ways to write an accent. Rename one of them, or choose another --out."
                )
        for name, image in alike.items():
            for other_name in _names_in_the_way(name):
                if other_name in alike:
                    other = alike[other_name]
                    raise DataError(
                        f"The results of {image.path} ({image.name}) would lie among those of {other.path} "
                        f"({other.name}). Segment them into different folders."
                    )

    def _keep_apart(self, images: Sequence[InputImage]) -> list[Path]:
        """Return the folders of results, among which none of the images may be."""
        results = [self.path / name for name in ("labels", "probabilities", "uncertainty", "overlays")]
        within = [real(folder) for folder in results]
        files = [file for image in images for file in image.files]
        places = {parent: real(parent) for parent in {file.parent for file in files}}
        for file in files:
            place = real(file) if file.is_symlink() else places[file.parent] / file.name
            if any(place.is_relative_to(folder) for folder in within):
                raise RunError(f"{file} is among the results in {self.path}. Choose another folder with --out.")
        return results


def _holds_a_result(folder: Path) -> bool:
    """Say whether a folder of label files, or one in it, holds a file that is complete."""
    if not folder.is_dir():
        return False
    inner = (each for each in listed(folder) if not each.name.startswith(UNFINISHED))
    return any(not each.is_dir() or _holds_a_result(each) for each in inner)


def _names_in_the_way(name: str) -> Iterator[str]:
    """Yield the names of images whose files would be folders of a name, or one of whose pages would be its picture."""
    if page := re.fullmatch(r"(.+)/z[0-9]{3,}", name, re.DOTALL):
        yield page[1]
    for depth in range(1, name.count("/") + 1):
        folder = name.rsplit("/", depth)[0]
        yield from (folder.removesuffix(ending) for ending in (".tif", ".png", ".ome.zarr") if folder.endswith(ending))


def _as_text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=1) + "\n"
