"""What the files of a data set mean: classes, ignored value, axes, groups; from the settings and dataset.toml."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fbunet_jax.config import DataConfig, FilesConfig
from fbunet_jax.data.faults import Fault
from fbunet_jax.errors import ConfigError
from fbunet_jax.toml_tables import from_table, read_toml, to_table

IGNORE = 255
"""Index of pixels without a class."""

FILE_NAME = "dataset.toml"


@dataclass(frozen=True)
class Description:
    """What the files of a folder mean; the keys of dataset.toml."""

    classes: dict[str, int] = field(default_factory=dict)
    ignore_value: int | None = None
    axes: str = ""
    group_pattern: str = ""
    files: FilesConfig = field(default_factory=FilesConfig)


def read_description(root: Path) -> dict[str, Any]:
    """Return what dataset.toml beside the images says, checked; empty if there is none.

    Raises:
      Fault: the file is no TOML, has an unknown key, or a value of the wrong type.
    """
    file = root / FILE_NAME
    if not file.exists():
        return {}
    try:
        written = read_toml(file)
        checked = from_table(Description, written, str(file))
    except ConfigError as error:
        found = str(error).removeprefix(str(file)).lstrip(": ")
        raise Fault("description", file, found, "Fix the file.") from error
    return written | ({"files": checked.files} if "files" in written else {})


def describe(config: DataConfig, written: Mapping[str, Any], file: Path) -> Description:
    """Return the description from the settings and a file, which may not contradict each other.

    Args:
      config: the settings.
      written: the keys of the description that the file says.
      file: for messages.

    Raises:
      Fault: settings and file differ.
    """
    default = Description()
    values, differences = {}, []
    for key in (each.name for each in fields(Description)):
        given = getattr(config, key)
        set_here = given != getattr(default, key)
        values[key] = given if set_here else written.get(key, given)
        # the order of the classes counts: it is the order of their indices
        if set_here and key in written and _comparable(given) != _comparable(written[key]):
            differences.append(f"{key} is {as_toml(given)} in the settings and {as_toml(written[key])} in the file")
    if differences:
        raise Fault(
            "description", file, f"contradicts the settings: {'; '.join(differences)}.", "Remove one of the two."
        )
    return Description(**values)


def _comparable(value: object) -> object:
    return list(value.items()) if isinstance(value, dict) else value


def as_toml(value: object) -> str:
    """Return a value as it is written in TOML; of settings those that are not the default."""
    if isinstance(value, FilesConfig):
        default = to_table(FilesConfig())
        value = {key: each for key, each in to_table(value).items() if each != default[key]}
    if isinstance(value, Mapping):
        bare = re.compile(r"[A-Za-z0-9_-]+")
        names = ((name if bare.fullmatch(name) else json.dumps(name, ensure_ascii=False)) for name in value)
        return (
            "{" + ", ".join(f"{name} = {as_toml(each)}" for name, each in zip(names, value.values(), strict=True)) + "}"
        )
    return json.dumps(value, ensure_ascii=False)


def class_faults(description: Description, table: str = "") -> list[Fault]:
    """Return what is wrong with a table of classes that is not empty; messages show it in TOML, or as given."""
    classes, table = description.classes, table or f"classes = {as_toml(description.classes)}"
    faults = []
    if len(classes) < 2 or len(classes) > IGNORE:
        found = f"{table}: expected from 2 to {IGNORE} classes."
        faults.append(Fault("classes", "", found, "List every class with its value in the label files."))
    repeated = [value for value, count in Counter(classes.values()).items() if count > 1]
    if repeated:
        found = f"{table}: the value {repeated[0]} stands for more than one class."
        faults.append(Fault("classes", "", found, "Give each class a value of its own."))
    unreadable = [name for name in classes if not name.strip() or not name.isprintable()]
    if unreadable:
        found = f"the class name {unreadable[0]!r} is empty or holds characters that cannot be printed."
        faults.append(Fault("classes", "", found, "Give every class a name."))
    if description.ignore_value in classes.values():
        found = f"ignore_value = {description.ignore_value} is also the value of a class."
        faults.append(Fault("classes", "", found, "Remove one."))
    return faults


def group_of(stem: str, pattern: str) -> str:
    """Return the group of a file by its name without suffix; without a pattern every file is a group.

    Raises:
      Fault: the pattern is no regular expression, or captures nothing in this name.
    """
    if not pattern:
        return stem
    try:
        match = re.search(pattern, stem)
    except (re.error, OverflowError, RecursionError) as error:
        raise Fault(
            "group-pattern", "", f"group_pattern = {pattern!r} is no regular expression: {error}.", "Fix it."
        ) from error
    captured = [part for part in (match.groups() or (match.group(),)) if part] if match else []
    if not captured:
        raise Fault(
            "group-pattern",
            "",
            f"group_pattern = {pattern!r} captures nothing in the file name {stem!r}.",
            "It must name the group of every file, such as '^(mouse[0-9]+)_'.",
        )
    return "-".join(captured)
