"""The raw folder of nnU-Net, read as it is: imagesTr/, labelsTr/ and dataset.json, of 2D PNG or TIFF files.

A case is one label ``labelsTr/CASE.ext`` and one image file a channel, ``imagesTr/CASE_0000.ext`` and so on. Both
forms of dataset.json are read: that of version 2 (``channel_names``, ``labels`` as name to value, ``file_ending``)
and that of version 1 (``modality``, ``labels`` as value to name).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import DataConfig
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.layouts.description import FILE_NAME, Description, class_faults, describe
from fbunet_jax.data.layouts.folder import check_text, grouped, list_files
from fbunet_jax.data.layouts.sources import Source, Unit, check_pair
from fbunet_jax.data.readers.image_files import LABEL_SUFFIXES, read_image, read_label
from fbunet_jax.errors import DataError
from fbunet_jax.user_files import listed, read_text, suffix

DESCRIPTION = "dataset.json"
_CHANNEL = re.compile(r"(.+)_([0-9]{4})")


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
    image_files, faults = list_files(root / "imagesTr", (ending.lower(),), (".json",))
    labels, label_faults = list_files(root / "labelsTr", (ending.lower(),), (".json",))
    faults += label_faults
    cases = _cases(image_files)
    complete: dict[str, tuple[Path, ...]] = {}
    for case, files in cases.items():
        if case not in labels:
            found = f"is an image, and there is no label {case}{ending} in {root / 'labelsTr'}."
            faults.append(Fault("missing-label", next(iter(files.values())), found, "Add it, or move the case away."))
        elif set(files) not in ({0}, set(range(channels))):
            found = f"has the channels {sorted(files)}, but dataset.json names {channels}."
            faults.append(Fault("missing-channel", files[min(files)], found, "Add the missing files."))
        else:
            complete[case] = (*(files[i] for i in sorted(files)), labels[case])
    faults += [
        Fault("missing-image", file, f"is a label, and there is no image {case}_0000{ending}.", "Add the image.")
        for case, file in labels.items()
        if case not in cases
    ]
    try:
        description = describe(config, written, root / DESCRIPTION)
    except Fault as fault:
        faults.append(fault)
        description = Description(**written)
    faults += class_faults(description)
    units, group_faults = grouped(complete, description.group_pattern)

    def read(unit: Unit) -> tuple[NDArray, NDArray]:
        return _read_case(unit, description.axes, channels, config)

    return Source(
        units,
        read,
        description.classes,
        description.ignore_value,
        description.axes,
        root / "labelsTr",
        (*faults, *group_faults),
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


def _cases(files: Mapping[str, Path]) -> dict[str, dict[int, Path]]:
    """Return the files of each case by channel."""
    cases: dict[str, dict[int, Path]] = {}
    for stem, file in files.items():
        match = _CHANNEL.fullmatch(stem)
        if match is None:
            raise DataError(f"{file}: expected a name that ends in the channel's number, such as {stem}_0000.")
        cases.setdefault(match[1], {})[int(match[2])] = file
    return cases


def _read_case(unit: Unit, axes: str, channels: int, config: DataConfig) -> tuple[NDArray, NDArray]:
    *image_files, label_file = unit.files
    parts = [read_image(file, axes, config.alpha, config.no_data) for file in image_files]
    for file, part in zip(image_files, parts, strict=True):
        if part.shape[:3] != parts[0].shape[:3] or part.dtype != parts[0].dtype:
            raise Fault(
                "channel-size",
                file,
                f"has {' x '.join(map(str, part.shape[:3]))} pixels of {part.dtype}, but {image_files[0]} has "
                f"{' x '.join(map(str, parts[0].shape[:3]))} of {parts[0].dtype}.",
                "Export the channels of a case from the same image.",
            )
    image = np.concatenate(parts, axis=-1)
    if image.shape[-1] != channels:
        found = f"and its other channel files hold {image.shape[-1]} channels, but dataset.json names {channels}."
        raise Fault("missing-channel", image_files[0], found, "Fix channel_names, or add the missing files.")
    label = read_label(label_file, axes)
    check_pair(image_files[0], image, label_file, label)
    return image, label
