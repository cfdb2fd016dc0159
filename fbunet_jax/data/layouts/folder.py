"""The folder layout: images and labels of a user, paired by their names.

Without patterns they are the files of images/ and labels/ (or raw/ and label/). What the label values mean stands in
the settings or in dataset.toml.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fbunet_jax.config import DataConfig, FilesConfig
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.layouts.description import (
    FILE_NAME,
    Description,
    class_faults,
    describe,
    group_of,
    read_description,
)
from fbunet_jax.data.layouts.listing import Listing, Role, list_named, shown, way_on
from fbunet_jax.data.layouts.pairing import Naming, Pairs, channel_numbers, pair
from fbunet_jax.data.layouts.patterns import GROUP, PAGE, Pattern, whole
from fbunet_jax.data.layouts.reading import object_faults, read_unit
from fbunet_jax.data.layouts.sources import Source, Unit
from fbunet_jax.data.readers.image_files import IMAGE_SUFFIXES, LABEL_SUFFIXES, read_label
from fbunet_jax.errors import DataError
from fbunet_jax.user_files import is_text, listed, missing, suffix

IMAGE_FOLDERS = ("images", "raw")
LABEL_FOLDERS = ("labels", "label")
_UNLABELLED = (
    "Add it, move unlabelled images elsewhere, or leave them out with files.sparse = true. If it has another "
    "name, fbunet init finds out how the names pair."
)


def open_folder(config: DataConfig) -> Source:
    """Pair the images and labels of a folder; no pixel is read.

    A file of several pages gives one item a page, all in the file's group.

    Args:
      config: the settings.

    Raises:
      DataError: there is no such folder, it holds no image or no label, or a pattern cannot be used.
    """
    if not config.root:
        raise DataError("data.root is not set: expected the folder that holds images/ and labels/.")
    root = Path(config.root)
    check_text(root)
    description, faults = _description(config, root)
    try:
        naming, listing = list_pairs(root, description.files)
    except DataError:
        if faults:  # of which that may follow
            raise faults[0] from None
        raise
    pairs = pair(naming, listing)
    labels = listing.files[-1]
    if not faults:  # of which these would follow
        faults = described(description, labels[0].path)
    faults = [*listing.faults, *pairs.faults, *faults]
    units, group_faults = grouped(pairs, description.group_pattern, pages=naming.pages_in_labels)
    faults += _part_faults(naming, units, config, description.group_pattern)
    return Source(
        units,
        partial(read_unit, description=description, config=config),
        description.classes,
        description.ignore_value,
        description.axes,
        root if description.files.images else labels[0].path.parent,
        (*faults, *group_faults),
        naming=_sentence(description.files, pairs, listing),
        files=description.files,
        channel_numbers=channel_numbers(naming, listing.files[:-1]),
    )


def list_pairs(root: Path, files: FilesConfig) -> tuple[Naming, Listing]:
    """Return how the files of a folder are called, and the files.

    Raises:
      DataError: there is no image or no label, or a pattern cannot be used.
    """
    naming = naming_of(root, files)
    labels = Role(naming.labels, LABEL_SUFFIXES, is_label=True)
    roles = [*(Role(pattern, IMAGE_SUFFIXES) for pattern in naming.images), labels]
    ignored = [Pattern(each, "files.ignore") for each in files.ignore]
    by_folder = not files.images
    for role in roles if by_folder else []:
        check_folder(root / role.pattern.folders[0].plain)
    if not root.is_dir():
        raise DataError(f"{root} {missing(root)}: expected the folder of a data set.")
    listing = list_named(root, roles, ignored, strict=by_folder)
    for role, found in zip(roles, listing.files, strict=True):
        if not found:
            raise nothing_found(root, role, listing, by_folder=by_folder)
    return naming, listing


def naming_of(root: Path, files: FilesConfig) -> Naming:
    """Return how the files of a folder are called: as the patterns say, or those of a folder each."""
    images, labels = files.image_patterns, files.labels
    if not images:
        images, labels = (f"{_one_of(root, IMAGE_FOLDERS)}/{{}}",), f"{_one_of(root, LABEL_FOLDERS)}/{{}}"
    patterns = tuple(Pattern(each, "files.images") for each in images)
    joins = files.objects == "files"
    return Naming(patterns, Pattern(labels, "files.labels"), joins, files.sparse, unlabelled=_UNLABELLED)


def nothing_found(root: Path, role: Role, listing: Listing, *, by_folder: bool) -> DataError:
    """Return the error of a folder in which no file is of a role."""
    strangers = [Path(fault.file) for fault in listing.faults if fault.kind == "foreign-file"]
    way = way_on([*listing.others, *strangers]) if role.is_label else ""
    more = f" {way or listing.faults[0]}" if way or listing.faults else ""
    kinds = ", ".join(role.suffixes)
    if by_folder:
        return DataError(f"{root / role.pattern.folders[0].plain} is empty: expected files of the types {kinds}.{more}")
    setting = "files.labels" if role.is_label else "files.images"
    there = shown([each.path for files in listing.files for each in files] + listing.others)
    there = f" There are {there}.{more if way else ''}" if there else more
    return DataError(f"{root}: no file fits {setting} = {role.pattern.text!r}.{there}")


def check_folder(folder: Path) -> None:
    """Raise a DataError for a folder that is not there."""
    if not folder.is_dir():
        raise DataError(
            f"{folder} {missing(folder)}: expected a folder with images/ and labels/, paired by file name."
            f"{_what_is_there(folder.parent)}"
        )


def check_text(root: Path) -> None:
    """Raise a DataError for a folder whose name cannot be written down."""
    if not is_text(str(root)):
        raise DataError(
            f"data.root = {str(root)!r} is not text in UTF-8, so no page and no run could name it. Rename it."
        )


def _description(config: DataConfig, root: Path) -> tuple[Description, list[Fault]]:
    """Return the description of a folder, and its faults; with faults that of the settings."""
    try:
        return describe(config, read_description(root), root / FILE_NAME), []
    except Fault as fault:
        # what the settings say is still worth comparing with the files
        values = (config.classes, config.ignore_value, config.axes, config.group_pattern, config.files)
        return Description(*values), [fault]


def _what_is_there(folder: Path) -> str:
    """Return the folders in a folder in a sentence, for a user whose folders have other names."""
    if not folder.is_dir():
        return ""
    inner = [each.name for each in listed(folder) if each.is_dir()]
    names = f" There {'is' if len(inner) == 1 else 'are'} {', '.join(inner[:6])}." if inner else ""
    return f"{names} fbunet init finds out which files are images and labels, and how their names pair."


def described(description: Description, first_label: Path) -> list[Fault]:
    """Return the faults of a description; without classes, one that shows the values of the first label."""
    if description.classes:
        return class_faults(description) + object_faults(description)
    try:
        found = np.unique(read_label(first_label, description.axes)).tolist()
    except DataError:
        return [Fault("classes-undescribed", "", "The classes are not described.", UNDESCRIBED)]
    shown_values = ", ".join(map(str, found[:12])) + (" …" if found[12:] else "")
    sentence = (
        f"The classes are not described; {first_label} holds the value{'s' if len(found) > 1 else ''} {shown_values}."
    )
    return [Fault("classes-undescribed", "", sentence, UNDESCRIBED)]


UNDESCRIBED = (
    "Say what they mean in dataset.toml in the folder of the data set, or in data.classes: "
    "classes = {background = 0, nucleus = 1}. The command fbunet init writes a proposal."
)


def grouped(pairs: Pairs, pattern: str, *, pages: bool = False) -> tuple[tuple[Unit, ...], list[Fault]]:
    """Return a unit for each pair, and the names in which the pattern finds no group.

    Args:
      pairs: images and labels.
      pattern: group_pattern.
      pages: whether each label file is that of a page.
    """
    units: list[Unit] = []
    faults: dict[str, Fault] = {}
    for image, labels in zip(pairs.images, pairs.labels, strict=True):
        group = image.group
        try:
            if pattern and image.has_group:
                found = f"group_pattern = {pattern!r} is set, and the names of the files say the group too."
                raise Fault("group-pattern", "", found, "Remove it, or {group} and {page} from [files].")
            if pattern:
                part = f"{group.partition('/')[0]}/" if image.has_part else ""
                group = part + group_of(image.own_name, pattern)
        except Fault as fault:
            faults.setdefault(str(fault), fault)
        numbers = tuple(whole(each.values[PAGE]) for each in labels) if pages else ()
        files = (*image.files, *(each.path for each in labels))
        units.append(Unit(image.name, group, files, len(labels), numbers))
    return tuple(units), list(faults.values())


def _part_faults(naming: Naming, units: Sequence[Unit], config: DataConfig, group_pattern: str) -> list[Fault]:
    """Return what does not fit between {split}, the fold scheme, and the groups that names say."""
    if naming.has_parts == (config.fold_scheme == "split"):
        parts: dict[str, str] = {}
        says_group = group_pattern or GROUP in naming.labels.fields
        for unit in units if naming.has_parts and says_group else []:
            part, _, group = unit.group.partition("/")
            if (other := parts.setdefault(group, part)) != part:
                found = f"is of the group {group!r}, which is in {other} too, so the test would not be of new groups."
                remedy = "write {} in the place of {group}, if it is not a group."
                remedy = "remove group_pattern, if what it finds is not a group." if group_pattern else remedy
                return [Fault("split", unit.files[0], found, f"Move the group into one part; or {remedy}")]
        return []
    if naming.has_parts:
        found = "The names say what is for training and for test ({split}), but "
        found += f'data.fold_scheme = "{config.fold_scheme}".'
        remedy = (
            'Set data.fold_scheme = "split" and data.folds = 1 to keep the test part; write {} in the place of {split} '
            "to divide all images anew."
        )
    else:
        found = 'data.fold_scheme = "split", but the names of the files do not say what is for training and for test.'
        remedy = 'Write {split} in [files] where they do, such as images = "{split}/images/{}", or choose "grouped".'
    return [Fault("split", "", found, remedy)]


def _sentence(files: FilesConfig, pairs: Pairs, listing: Listing) -> str:
    """Return how many files pair and by what, for those that are named by patterns."""
    parts = []
    if files.images:
        patterns = " + ".join(files.image_patterns)
        parts.append(f"{len(pairs.images)} pairs of {patterns} and {files.labels}")
    if pairs.unlabelled:
        without = shown([image.files[0] for image in pairs.unlabelled])
        parts.append(f"without a label and left out: {len(pairs.unlabelled)} ({without})")
    others = [each for each in listing.others if suffix(each) != ".toml"]
    if files.images and others:
        parts.append(f"other files, not read: {len(others)} ({shown(others)})")
    return "; ".join(parts)


def _one_of(root: Path, names: Sequence[str]) -> str:
    """Return which of these folders is there, or the first if there is none."""
    there = [name for name in names if (root / name).is_dir()]
    if len(there) > 1:
        raise DataError(f"{root} holds both {names[0]}/ and {names[1]}/. Move one of them elsewhere.")
    return there[0] if there else names[0]
