"""The folder layout: a user's own images/ and labels/ (or raw/ and label/), paired by file name.

What the label values mean stands in the settings or in dataset.toml beside the two folders.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import DataConfig
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.folds import natural_key
from fbunet_jax.data.layouts.description import (
    FILE_NAME,
    Description,
    class_faults,
    describe,
    group_of,
    read_description,
)
from fbunet_jax.data.layouts.sources import Source, Unit, check_pair
from fbunet_jax.data.readers.image_files import IMAGE_SUFFIXES, LABEL_SUFFIXES, read_image, read_label
from fbunet_jax.errors import DataError
from fbunet_jax.user_files import composed, is_text, listed, missing, same_name, stem, suffix

IMAGE_FOLDERS = ("images", "raw")
LABEL_FOLDERS = ("labels", "label")


def open_folder(config: DataConfig) -> Source:
    """Pair the images and labels of a folder; no pixel is read.

    A file of several pages gives one item a page, all in the file's group.

    Args:
      config: the settings; root holds images/ and labels/, or raw/ and label/.

    Raises:
      DataError: there is no such folder, or it holds no image or no label.
    """
    if not config.root:
        raise DataError("data.root is not set: expected the folder that holds images/ and labels/.")
    root = Path(config.root)
    check_text(root)
    image_folder, label_folder = _one_of(root, IMAGE_FOLDERS), _one_of(root, LABEL_FOLDERS)
    images, image_faults = list_files(image_folder, IMAGE_SUFFIXES)
    labels, label_faults = list_files(label_folder, LABEL_SUFFIXES)
    faults = image_faults + label_faults
    remedy = "An image and its label have the same file name up to the suffix; move unlabelled images elsewhere."
    faults += [
        Fault("missing-label", file, f"is an image, and there is no label for {file.name} in {label_folder}.", remedy)
        for name, file in images.items()
        if name not in labels
    ]
    faults += [
        Fault("missing-image", file, f"is a label, and there is no image for {file.name} in {image_folder}.", remedy)
        for name, file in labels.items()
        if name not in images
    ]
    try:
        description = describe(config, read_description(root), root / FILE_NAME)
        faults += described(description, next(iter(labels.values())))
    except Fault as fault:
        # what the settings say is still worth comparing with the files
        faults.append(fault)
        description = Description(config.classes, config.ignore_value, config.axes, config.group_pattern)
    pairs: dict[str, tuple[Path, ...]] = {name: (images[name], labels[name]) for name in images if name in labels}
    units, group_faults = grouped(pairs, description.group_pattern)

    def read(unit: Unit) -> tuple[NDArray, NDArray]:
        image_file, label_file = unit.files
        images = read_image(image_file, description.axes, config.alpha, config.no_data)
        labels = read_label(label_file, description.axes)
        check_pair(image_file, images, label_file, labels)
        return images, labels

    return Source(
        units,
        read,
        description.classes,
        description.ignore_value,
        description.axes,
        label_folder,
        (*faults, *group_faults),
    )


def list_files(
    folder: Path, suffixes: tuple[str, ...], passed_over: tuple[str, ...] = ()
) -> tuple[dict[str, Path], list[Fault]]:
    """Return the files of a folder by stem ("07" for 07.tif and 07.ome.tif), in natural order, and foreign files.

    Args:
      folder: where to look; folders in it are foreign.
      suffixes: of the files that can be read.
      passed_over: suffixes of files that belong there, but are not read.

    Raises:
      Fault: the folder is not there, or holds none of these files.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} {missing(folder)}: expected a folder with images/ and labels/, paired by file name."
            f"{_what_is_there(folder.parent)}"
        )
    files: dict[str, Path] = {}
    names: dict[str, Path] = {}
    faults = []
    for file in sorted(listed(folder), key=lambda each: natural_key(each.name)):
        if suffix(file) in passed_over:
            continue
        if not is_text(file.name):
            found = f"holds a file whose name is not text in UTF-8: {file.name!r}."
            faults.append(Fault("file-name", folder, found, "Rename it."))
            continue
        if file.is_dir():
            faults.append(Fault("foreign-file", file, "is a folder.", "Move it out of the folder."))
        elif suffix(file) not in suffixes:
            lossy = suffix(file) in IMAGE_SUFFIXES
            reason = "; JPEG compression changes the values of labels" if lossy else ""
            reason += "; its name ends with a space" if file.name != file.name.rstrip() else ""
            found = f"is not one of the files that can be used here ({', '.join(suffixes)}){reason}."
            kind = "label-jpeg" if lossy else "foreign-file"
            faults.append(Fault(kind, file, found, "Convert it, or move it out of the folder."))
        elif (other := names.setdefault(same_name(stem(file)), file)) != file:
            faults.append(Fault("same-name", file, f"and {other} have the same name.", "Keep one of them."))
        else:
            files[composed(stem(file))] = file
    if not files:
        more = f" {faults[0]}" if faults else ""
        raise DataError(f"{folder} is empty: expected files of the types {', '.join(suffixes)}.{more}")
    return files, faults


def check_text(root: Path) -> None:
    """Raise a DataError for a folder whose name cannot be written down."""
    if not is_text(str(root)):
        raise DataError(
            f"data.root = {str(root)!r} is not text in UTF-8, so no page and no run could name it. Rename it."
        )


def _what_is_there(folder: Path) -> str:
    """Return the folders in a folder in a sentence, for a user whose folders have other names."""
    inner = [each.name for each in listed(folder) if each.is_dir()] if folder.is_dir() else []
    if not inner:
        return ""
    return f" There {'is' if len(inner) == 1 else 'are'} {', '.join(inner[:6])}: rename what holds images and labels."


def described(description: Description, first_label: Path) -> list[Fault]:
    """Return the faults of a description; without classes, one that shows the values of the first label."""
    if description.classes:
        return class_faults(description)
    try:
        found = np.unique(read_label(first_label, description.axes)).tolist()
    except DataError:
        return [Fault("classes-undescribed", "", "The classes are not described.", UNDESCRIBED)]
    shown = ", ".join(map(str, found[:12])) + (" …" if found[12:] else "")
    sentence = f"The classes are not described; {first_label} holds the values {shown}."
    return [Fault("classes-undescribed", "", sentence, UNDESCRIBED)]


UNDESCRIBED = (
    "Say what they mean in dataset.toml beside images/ and labels/, or in data.classes: "
    "classes = {background = 0, nucleus = 1}. The command fbunet init writes a proposal."
)


def grouped(pairs: dict[str, tuple[Path, ...]], pattern: str) -> tuple[tuple[Unit, ...], list[Fault]]:
    """Return a unit for each stem and its files, and the stems in which the pattern finds no group."""
    units: list[Unit] = []
    faults: dict[str, Fault] = {}
    for name, files in pairs.items():
        group = name
        try:
            group = group_of(name, pattern)
        except Fault as fault:
            faults.setdefault(str(fault), fault)
        units.append(Unit(name, group, files))
    return tuple(units), list(faults.values())


def _one_of(root: Path, names: tuple[str, ...]) -> Path:
    """Return the folder of one of these names, or of the first if there is none."""
    there = [root / name for name in names if (root / name).is_dir()]
    if len(there) > 1:
        raise DataError(f"{root} holds both {names[0]}/ and {names[1]}/. Move one of them elsewhere.")
    return there[0] if there else root / names[0]
