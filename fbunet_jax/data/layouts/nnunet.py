"""The raw folder of nnU-Net, read as it is: imagesTr/, labelsTr/ and dataset.json, of 2D PNG or TIFF files.

A case is one label ``labelsTr/CASE.ext`` and one image file a channel, ``imagesTr/CASE_0000.ext`` and so on. Both
forms of dataset.json are read: that of version 2 (``channel_names``, ``labels`` as name to value, ``file_ending``)
and that of version 1 (``modality``, ``labels`` as value to name).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fbunet_jax.config import DataConfig, FilesConfig
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.layouts.description import FILE_NAME, Description, class_faults, describe
from fbunet_jax.data.layouts.folder import check_folder, check_text, grouped, nothing_found
from fbunet_jax.data.layouts.listing import Role, list_named
from fbunet_jax.data.layouts.pairing import Naming, pair
from fbunet_jax.data.layouts.patterns import Pattern
from fbunet_jax.data.layouts.reading import read_unit
from fbunet_jax.data.layouts.sources import Reading, Source, Unit
from fbunet_jax.data.readers.image_files import LABEL_SUFFIXES
from fbunet_jax.errors import DataError
from fbunet_jax.user_files import listed, read_text, suffix

DESCRIPTION = "dataset.json"
NAMES = FilesConfig(images="imagesTr/{}_{channel}", labels="labelsTr/{}")
"""How nnU-Net calls the files of a data set."""

_OBJECTS = (
    "So many values look like one number an object. The network learns classes: give every object the value of its "
    "class, in Fiji with Process > Math > Macro, v=(v>0)."
)


def open_nnunet(config: DataConfig) -> Source:
    """Pair the cases of an nnU-Net raw folder; no pixel is read.

    Raises:
      DataError: the folder or dataset.json cannot be read, holds no cases, or NIfTI files.
    """
    if not config.root:
        raise DataError("data.root is not set: expected the folder that holds imagesTr/, labelsTr/ and dataset.json.")
    root = Path(config.root)
    check_text(root)
    table = _read_json(root / DESCRIPTION)
    written, channels = _described(table, root / DESCRIPTION)
    ending = table.get("file_ending", _ending(root))
    if ending.lower() not in LABEL_SUFFIXES:
        raise DataError(
            f"{root / DESCRIPTION}: files of the type {ending!r} cannot be read, only {', '.join(LABEL_SUFFIXES)}. "
            "Convert volumes to TIFF, for example in Fiji."
        )
    naming = Naming(
        (Pattern(NAMES.image_patterns[0]),),
        Pattern(NAMES.labels),
        channels=channels,
        named=f", of which dataset.json names {channels}",
    )
    roles = [Role(naming.images[0], (ending.lower(),)), Role(naming.labels, (ending.lower(),), is_label=True)]
    for role in roles:
        check_folder(root / role.pattern.folders[0].plain)
    listing = list_named(root, roles, strict=True, beside=(".json",))
    for role, found in zip(roles, listing.files, strict=True):
        if not found:
            raise nothing_found(root, role, listing, by_folder=True)
    pairs = pair(naming, listing)
    faults = [*listing.faults, *pairs.faults]
    try:
        description = describe(config, written, root / DESCRIPTION)
    except Fault as fault:
        faults.append(fault)
        description = Description(**written)
    faults += class_faults(description)
    units, group_faults = grouped(pairs, description.group_pattern)

    def read(unit: Unit) -> Reading:
        reading = read_unit(unit, description, config)
        if (found := reading.images.shape[-1]) != channels:
            text = f"and its other channel files hold {found} channels, but dataset.json names {channels}."
            raise Fault("missing-channel", unit.files[0], text, "Fix channel_names, or add the missing files.")
        return reading

    return Source(
        units,
        read,
        description.classes,
        description.ignore_value,
        description.axes,
        root / "labelsTr",
        (*faults, *group_faults),
        remedies={"label-instances": _OBJECTS},
        files=NAMES,
    )


def read_classes(root: Path) -> dict[str, int]:
    """Return name and label value of each class, in class order, from dataset.json.

    Raises:
      DataError: it cannot be read.
    """
    written, _ = _described(_read_json(root / DESCRIPTION), root / DESCRIPTION)
    return dict(written["classes"])


def _read_json(file: Path) -> dict[str, Any]:
    if (file.parent / FILE_NAME).exists():
        raise DataError(f"{file.parent} holds {FILE_NAME} and {file.name}. Keep one of them.")
    try:
        table = json.loads(read_text(file, DataError))
    except FileNotFoundError:
        raise DataError(f"{file} does not exist: expected imagesTr/, labelsTr/ and {DESCRIPTION} of nnU-Net.") from None
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}.") from error
    lacking = [name for name in ("labels",) if not isinstance(table, dict) or not isinstance(table.get(name), dict)]
    if lacking or not isinstance(_channel_table(table), dict):
        raise DataError(f"{file}: expected the tables labels and channel_names (modality in version 1) of nnU-Net.")
    if not isinstance(table.get("file_ending", ""), str):
        raise DataError(f"{file}: file_ending = {table['file_ending']!r}: expected text such as '.png'.")
    return table


def _channel_table(table: Mapping[str, Any]) -> Any:
    return table.get("channel_names", table.get("modality"))


def _described(table: Mapping[str, Any], file: Path) -> tuple[dict[str, Any], int]:
    """Return the description that dataset.json gives, and its number of channels."""
    classes: dict[str, int] = {}
    for key, value in table["labels"].items():
        # version 1 maps values to names, version 2 names to values
        name, number = (value, key) if isinstance(value, str) and key.isdecimal() else (key, value)
        if isinstance(number, str) and number.isdecimal():
            number = int(number)
        if isinstance(name, str) and not name.isprintable():
            raise DataError(f"{file}: labels: {name!r} holds characters that cannot be printed. Give it another name.")
        if not isinstance(name, str) or not isinstance(number, int) or isinstance(number, bool):
            raise DataError(
                f"{file}: labels: {key!r} = {value!r} is not one value. Regions (lists of values) cannot be read; "
                "give every class one value."
            )
        classes[name] = number
    ignore = classes.pop("ignore", None)
    ordered = dict(sorted(classes.items(), key=lambda item: item[1]))
    written: dict[str, Any] = {"classes": ordered}
    if ignore is not None:
        written["ignore_value"] = ignore
    return written, len(_channel_table(table))


def _ending(root: Path) -> str:
    """Return the suffix of the label files, which version 1 does not name."""
    folder = root / "labelsTr"
    names = [file.name for file in listed(folder) if suffix(file) != ".json"] if folder.is_dir() else []
    if names and names[0].endswith(".nii.gz"):
        return ".nii.gz"
    return Path(names[0]).suffix if names else ".png"
