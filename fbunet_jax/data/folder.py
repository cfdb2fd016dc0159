"""The folder layout: a user's own images/ and labels/, paired by file name.

What the label values mean stands in the settings or in dataset.toml beside the two folders.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from fbunet_jax.config import DataConfig, from_table, read_toml
from fbunet_jax.data.folds import natural_key
from fbunet_jax.data.readers import IMAGE_SUFFIXES, LABEL_SUFFIXES, read_image, read_label
from fbunet_jax.errors import ConfigError, DataError

IGNORE = 255
"""Index of pixels without a class."""

Item = tuple[str, str, np.ndarray, np.ndarray]
"""Name, group, image [H, W, C] and label [H, W] uint8."""

_CLUTTER = ("thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Description:
    """What the files of a folder mean; the keys of dataset.toml."""

    classes: dict[str, int] = field(default_factory=dict)
    ignore_value: int | None = None
    axes: str = ""
    group_pattern: str = ""


def read_folder(config: DataConfig) -> tuple[list[Item], tuple[str, ...]]:
    """Read every pair of an image and a label.

    A file of several pages gives one item a page, all in the file's group. Class index k is the k-th entry of the
    classes table; the ignore value becomes 255.

    Args:
      config: the settings; root holds images/ and labels/.

    Returns:
      The items in natural name order, and the class names.

    Raises:
      DataError: the folders, the description, a pair, or a file cannot be used; it names what and the remedy.
    """
    root = Path(config.root)
    pairs = _pairs(root) if config.root else {}
    if not pairs:
        raise DataError("data.root is not set: expected the folder that holds images/ and labels/.")
    description = _describe(config, root)
    first_label = next(iter(pairs.values()))[1]
    _check_classes(description, first_label)
    items: list[Item] = []
    values: Counter[int] = Counter()
    first_image = None
    for stem, (image_file, label_file) in pairs.items():
        images, labels = _read_pair(image_file, label_file, description.axes)
        if first_image is None:
            first_image = (image_file, images)
        _check_alike(*first_image, image_file, images)
        found, counts = np.unique(labels, return_counts=True)
        values.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        group = _group(stem, description.group_pattern)
        indices = _class_indices(labels, description)
        for page, (image, label) in enumerate(zip(images, indices, strict=True)):
            items.append((stem if len(images) == 1 else f"{stem}/z{page:03d}", group, image, label))
    _check_values(values, description, root / "labels")
    return items, tuple(description.classes)


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of a folder by stem ("07" for 07.tif and 07.ome.tif), in natural order."""
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist: expected a folder with images/ and labels/, paired by file name.")
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir(), key=lambda each: natural_key(each.name)):
        if file.name.startswith(".") or file.name.lower() in _CLUTTER:
            continue
        if file.is_dir() or file.suffix.lower() not in suffixes:
            raise DataError(
                f"{file} is not one of the files that can be used here ({', '.join(suffixes)}). "
                "Convert it, or move it out of the folder."
            )
        stem = file.stem.removesuffix(".ome")
        if stem in files:
            raise DataError(f"{files[stem]} and {file} have the same name. Keep one of them.")
        files[stem] = file
    if not files:
        raise DataError(f"{folder} is empty: expected files of the types {', '.join(suffixes)}.")
    return files


def _pairs(root: Path) -> dict[str, tuple[Path, Path]]:
    images = _files(root / "images", IMAGE_SUFFIXES)
    labels = _files(root / "labels", LABEL_SUFFIXES)
    faults = []
    for have, lack, what in ((images, labels, "label"), (labels, images, "image")):
        alone = [file.name for stem, file in have.items() if stem not in lack]
        if alone:
            shown = ", ".join(alone[:5]) + (f" and {len(alone) - 5} more" if alone[5:] else "")
            faults.append(f"no {what} for {shown}")
    if faults:
        raise DataError(
            f"{root}: {'; '.join(faults)}. An image and its label have the same file name up to the suffix; "
            "move unlabelled images elsewhere."
        )
    return {stem: (images[stem], labels[stem]) for stem in images}


def _describe(config: DataConfig, root: Path) -> Description:
    """Return the description from the settings and dataset.toml, which may not contradict each other."""
    file = root / "dataset.toml"
    written: dict = {}
    if file.exists():
        try:
            written = read_toml(file)
            from_table(Description, written, str(file))
        except ConfigError as error:
            raise DataError(str(error)) from error
    default = Description()
    values, differences = {}, []
    for key in (each.name for each in fields(Description)):
        given = getattr(config, key)
        set_here = given != getattr(default, key)
        values[key] = given if set_here else written.get(key, given)
        # the order of the classes counts: it is the order of their indices
        if set_here and key in written and _comparable(given) != _comparable(written[key]):
            differences.append(f"{key} is {_toml(given)} in the settings and {_toml(written[key])} in the file")
    if differences:
        raise DataError(f"{file} contradicts the settings: {'; '.join(differences)}. Remove one of the two.")
    return Description(**values)


def _comparable(value: object) -> object:
    return list(value.items()) if isinstance(value, dict) else value


def _toml(value: object) -> str:
    """Return a value as it is written in TOML."""
    if isinstance(value, dict):
        bare = re.compile(r"[A-Za-z0-9_-]+")
        names = ((name if bare.fullmatch(name) else json.dumps(name, ensure_ascii=False)) for name in value)
        return "{" + ", ".join(f"{name} = {each}" for name, each in zip(names, value.values(), strict=True)) + "}"
    return json.dumps(value, ensure_ascii=False)


def _check_classes(description: Description, first_label: Path) -> None:
    classes = description.classes
    if not classes:
        found = np.unique(read_label(first_label, description.axes)).tolist()
        shown = ", ".join(map(str, found[:12])) + (" …" if found[12:] else "")
        raise DataError(
            f"The classes are not described; {first_label} holds the values {shown}. Say what they mean in "
            "dataset.toml beside images/ and labels/, or in data.classes: classes = {background = 0, nucleus = 1}."
        )
    if len(classes) < 2 or len(classes) > IGNORE:
        raise DataError(f"classes = {_toml(classes)}: expected from 2 to {IGNORE} classes.")
    repeated = [value for value, count in Counter(classes.values()).items() if count > 1]
    if repeated:
        raise DataError(f"classes = {_toml(classes)}: the value {repeated[0]} stands for more than one class.")
    if description.ignore_value in classes.values():
        raise DataError(f"ignore_value = {description.ignore_value} is also the value of a class. Remove one.")


def _read_pair(image_file: Path, label_file: Path, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the image [pages, H, W, C] and the label [pages, H, W] as stored."""
    images, labels = read_image(image_file, axes), read_label(label_file, axes)
    if images.shape[:3] != labels.shape:
        sizes = [" x ".join(map(str, shape)) for shape in (images.shape[:3], labels.shape)]
        raise DataError(
            f"{image_file} has {sizes[0]} pixels (pages x height x width), but its label {label_file} has {sizes[1]}. "
            "Both must agree."
        )
    return images, labels


def _check_alike(first_file: Path, first: np.ndarray, file: Path, images: np.ndarray) -> None:
    if images.shape[-1] != first.shape[-1] or images.dtype != first.dtype:
        kinds = [f"{array.shape[-1]} channel(s) of {array.dtype}" for array in (first, images)]
        raise DataError(
            f"{first_file} has {kinds[0]}, but {file} has {kinds[1]}. All images of a data set need the same number "
            "of channels and the same type; convert one kind into the other."
        )


def _group(stem: str, pattern: str) -> str:
    if not pattern:
        return stem
    try:
        match = re.search(pattern, stem)
    except re.error as error:
        raise DataError(f"group_pattern = {pattern!r} is no regular expression: {error}.") from error
    captured = [part for part in (match.groups() or (match.group(),)) if part] if match else []
    if not captured:
        raise DataError(
            f"group_pattern = {pattern!r} captures nothing in the file name {stem!r}. It must name the group of "
            "every file, such as '^(mouse[0-9]+)_'."
        )
    return "-".join(captured)


def _class_indices(labels: np.ndarray, description: Description) -> np.ndarray:
    """Return the class index of every pixel, uint8; unknown values become 255 and are refused afterwards."""
    indices = np.full(labels.shape, IGNORE, dtype=np.uint8)
    for index, value in enumerate(description.classes.values()):
        indices[labels == value] = index
    return indices


def _check_values(values: Counter[int], description: Description, folder: Path) -> None:
    """Refuse label values that are neither a class nor ignored."""
    classes = description.classes
    known = {*classes.values(), description.ignore_value}
    unknown = sorted(set(values) - known)
    absent = [name for name, value in classes.items() if value not in values]
    if not unknown and absent:
        raise DataError(
            f"The files in {folder} hold the values {sorted(values)}, so nothing could be learnt about "
            f"{', '.join(absent)} of classes = {_toml(classes)} (ignore_value = {description.ignore_value}). Mend the "
            "values in classes, or take out what is not in the images."
        )
    if not unknown:
        return
    shown = ", ".join(f"{value} ({values[value]} pixels)" for value in unknown[:12])
    shown += f" and {len(unknown) - 12} more" if unknown[12:] else ""
    if set(values) == {0, 255} and list(classes.values()) == list(range(len(classes))):
        proposal = dict(zip(list(classes)[:2], (0, 255), strict=True))
        remedy = f"The files are 0/255 masks, as Fiji writes them. Set classes = {_toml(proposal)}."
    else:
        hint = " 255 often marks unlabelled pixels." if unknown == [255] else ""
        remedy = f"Add each to classes, or set ignore_value for pixels without a class.{hint}"
    raise DataError(
        f"The files in {folder} hold values that classes = {_toml(classes)} does not know: {shown}. {remedy}"
    )
