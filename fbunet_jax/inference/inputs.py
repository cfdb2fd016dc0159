"""What a user gives becomes a list of images to segment, each with a name and one or more files."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.folds import natural_key
from fbunet_jax.data.layouts.listing import NamedFile
from fbunet_jax.data.readers.image_files import IMAGE_SUFFIXES
from fbunet_jax.errors import DataError
from fbunet_jax.inference.file_names import NamedInput, Patterns, RunNaming, own_name
from fbunet_jax.inference.zarr_input import is_zarr
from fbunet_jax.user_files import is_clutter, listed, missing, real, stem, suffix


@dataclass(frozen=True)
class InputImage:
    """One image to segment.

    Attributes:
      name: of its results, such as "07" for 07.tif and 07.ome.tif; with folders where the names of the run have them.
      files: one, or one for each channel.
      hint: what to say if its channels are too few.
    """

    name: str
    files: tuple[Path, ...]
    hint: str = ""

    @classmethod
    def alone(cls, file: Path) -> "InputImage":
        """Return the image of a file whose name says nothing else."""
        return cls(stem(file), (file,))

    @property
    def path(self) -> Path:
        """The first file."""
        return self.files[0]


@dataclass
class Inputs:
    """What is found among the files and folders that a user gives.

    Attributes:
      images: in order.
      faults: images that lack a channel.
      passed_over: sentences about files that are not images by their names.
    """

    images: list[InputImage] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)


def find_images(given: Sequence[Path], naming: RunNaming | None = None) -> Inputs:
    """Return the images among files and folders.

    Of a folder these are the image files in it, in natural order and not deeper. Where a run's names follow patterns,
    the files that these describe below the folder come with them, channels are joined, and files that are named like
    labels are passed over. Of files that are given one by one only channels are joined.

    Args:
      given: files and folders.
      naming: how the images of the run's data set are called.

    Raises:
      DataError: an input does not exist, a folder has no image, or two images would get one name. The same file
        given twice counts once.
    """
    inputs = Inputs()
    placed: list[tuple[int, InputImage]] = []
    files: dict[Path, tuple[int, Path]] = {}
    for number, path in enumerate(given):
        if _is_passed_over(path):
            continue
        if path.is_dir() and not is_zarr(path):
            placed += [(number, image) for image in _of_folder(path, naming, inputs)]
        elif path.exists():
            files.setdefault(_location(path), (number, path))
        else:
            raise DataError(f"{path} {missing(path)}. Give an image or a folder of images.")
    joined = {_location(file) for _, image in placed if len(image.files) > 1 for file in image.files}
    alone = [each for place, each in files.items() if place not in joined]
    placed += _of_files(alone, naming, inputs.faults)
    placed.sort(key=lambda each: each[0])
    inputs.images = _distinct([image for _, image in placed], naming)
    inputs.faults = list({str(fault): fault for fault in inputs.faults}.values())
    return inputs


def _is_passed_over(path: Path) -> bool:
    """Say whether an input is what a shell's * gives beside images, such as @eaDir and Thumbs.db."""
    if path.name == ".." or not is_clutter(path.name):
        return False
    return path.is_dir() or suffix(path) not in IMAGE_SUFFIXES or path.name.startswith(("._", "~$"))


def _location(path: Path) -> Path:
    """Return where a file lies, links to folders followed; a link to the file is a file of its own."""
    return real(path.parent) / path.name


def _of_folder(folder: Path, naming: RunNaming | None, inputs: Inputs) -> list[InputImage]:
    """Return the images of a folder; what else is found is added to the inputs."""
    here = [each for each in listed(folder) if suffix(each) in IMAGE_SUFFIXES or is_zarr(each)]
    here.sort(key=lambda each: natural_key(each.name))
    faults, passed = list[Fault](), list[str]()
    if naming is None:
        images = [InputImage.alone(file) for file in here]
    else:
        images, passed = _named(folder, naming, here, faults)
    inputs.faults += faults
    inputs.passed_over += passed
    if not images and not faults and here:
        raise DataError(
            f"{folder} holds only files that are not images by their names ({'; '.join(passed)}). Give the folder of "
            "the images or, if these are the images, the files one by one."
        )
    if not images and not faults:
        inner = next((each.name for each in listed(folder) if each.is_dir()), "")
        hint = f" It has a folder {inner}; give {folder / inner}." if inner else ""
        kinds = ", ".join((*IMAGE_SUFFIXES, ".zarr"))
        names = f", or images called {naming.text} below it" if naming else ""
        raise DataError(f"{folder} has no image: expected files of {kinds}{names}.{hint}")
    return images


def _named(
    folder: Path, naming: RunNaming, here: Sequence[Path], faults: list[Fault]
) -> tuple[list[InputImage], list[str]]:
    """Return the images below a folder that patterns describe, and others beside them; and what is passed over."""
    own, found, passed = list(here), list[NamedInput](), dict[str, list[NamedFile]]()
    for tail in naming.tails:
        try:
            listing, files, passed = tail.below(folder)
        except Fault:  # the name of a folder is unclear: it is not one of theirs
            continue
        if any(files):
            found = tail.join(files, faults)
            folders = {file.path.parent for each in files for file in each} - {folder}
            unnamed = (Path(fault.file) for fault in listing.faults)
            own += [file for file in unnamed if file.parent in folders and file.is_file()]
            break
    else:
        files = []
    known = {file.path for each in (*files, *passed.values()) for file in each}
    sentences = []
    for text, others in passed.items():
        number = len(others)
        what = f"labels ({text})" if text == naming.labels.text else f"{text}, which training ignored"
        sentences.append(f"passed over: {number} file{'s' * (number > 1)} named like {what}")
    images = [_input(each, folder, naming) for each in found]
    images += [InputImage(own_name(file, folder), (file,), _hint(naming)) for file in own if file not in known]
    return sorted(images, key=lambda image: natural_key(str(image.path))), sentences


def _of_files(
    given: Iterable[tuple[int, Path]], naming: RunNaming | None, faults: list[Fault]
) -> Iterator[tuple[int, InputImage]]:
    """Yield the images of files that are given one by one, under the number of the first file of each."""
    lots: dict[tuple[Path, Patterns], list[list[NamedFile]]] = {}
    numbers: dict[Path, int] = {}
    for number, file in given:
        path = Path(os.path.abspath(file))  # noqa: PTH100 (resolve would follow links)
        tails = naming.tails if naming else ()
        tail, place = next(((tail, place) for tail in tails if (place := tail.place(path))), (None, None))
        if tail is None or place is None:
            yield number, InputImage(stem(file), (file,), _hint(naming))
            continue
        lot = lots.setdefault((path.parents[tail.depth], tail), [[] for _ in tail.images])
        lot[place[0]].append(NamedFile(file, place[1].values, place[1].folders))
        numbers[file] = number
    for (folder, tail), files in lots.items():
        for found in tail.join(files, faults):
            assert naming is not None
            yield min(numbers[file] for file in found.files), _input(found, folder, naming)


def _input(found: NamedInput, folder: Path, naming: RunNaming) -> InputImage:
    """Return an image that a pattern describes; one without a name of its own has that of its folder."""
    hint = _hint(naming)
    first, zero = found.files[0], "0" * naming.digits
    if zero and len(found.files) == 1 and naming.channels > 1 and stem(first).endswith(zero):
        hint = f" There is no {stem(first).removesuffix(zero)}{1:0{naming.digits}d}{first.suffix}.{hint}"
    return InputImage(found.name or real(folder).name, found.files, hint)


def _hint(naming: RunNaming | None) -> str:
    if naming is None or not naming.joins:
        return ""
    return (
        f" In training each channel of an image was a file of its own, called {naming.text}: give all of them under "
        "such names, or one file with all channels."
    )


def _distinct(images: Sequence[InputImage], naming: RunNaming | None) -> list[InputImage]:
    """Return the images, each once.

    Raises:
      DataError: two have the same name, or the name of one cannot be that of results.
    """
    names: dict[str, InputImage] = {}
    places: set[tuple[Path, ...]] = set()
    for image in images:
        if any(part in ("", ".", "..") for part in image.name.split("/")):
            raise DataError(f"{image.path} has no name that its results could have. Rename it.")
        place = tuple(map(_location, image.files))
        if place in places:
            continue
        places.add(place)
        other = names.setdefault(image.name, image)
        if other is not image and [*map(real, other.files)] != [*map(real, image.files)]:
            above = " Or give the folder above them, so that their folders tell them apart." if naming else ""
            raise DataError(
                f"{other.path} and {image.path} have the same name, so one result would overwrite the other. Segment "
                f"them into different folders.{above if naming and naming.has_folders else ''}"
            )
    return list(names.values())
