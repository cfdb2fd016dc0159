"""``fbunet init``: describe a folder of images and labels, for the user to confirm."""

import dataclasses
import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fbunet_jax.cli.check import SETTINGS_FILE, crop_and_batch, describe, progress_bar, with_directory
from fbunet_jax.cli.init_names import called, found_naming, searches, shown_by_labels
from fbunet_jax.cli.options import spelled
from fbunet_jax.config import Config, DataConfig, load_config
from fbunet_jax.data.layouts.description import as_toml
from fbunet_jax.errors import ConfigError, DataError
from fbunet_jax.user_files import expand, real

if TYPE_CHECKING:
    from fbunet_jax.check.checks import Check
    from fbunet_jax.check.divisions import Contents
    from fbunet_jax.check.initial import Facts
    from fbunet_jax.check.naming import Reading


_LAYOUTS = {
    "nnunet": "nnU-Net: imagesTr/, labelsTr/ and dataset.json",
    "drosophila-vnc": "the published Drosophila set",
}
_BEFORE_A_DESCRIPTION = ("classes-undescribed", "folds")
"""Kinds of faults that every folder without a description has."""


@dataclass(frozen=True)
class Arguments:
    """Write dataset.toml and fbunet.toml for a folder of images and labels, from what is found there."""

    directory: Annotated[str, tyro.conf.Positional]
    """Folder of the images and labels. Their names are as they are: how they pair is found out."""
    images: tuple[str, ...] = ()
    """Pattern of the image files, such as "{}_raw.tif" (docs/data.md#names-as-they-are), one for each channel file;
    with --labels, in place of a search."""
    labels: str = ""
    """Pattern of the label files, whose braces hold what those of the images hold."""
    ignore: tuple[str, ...] = ()
    """Patterns of files that are neither, such as "*_flows.tif"."""
    first_page: int = 0
    """Number of the first page in the names of label files with {page}."""
    out: str = ""
    """Folder for fbunet.toml, which then holds the description too; the folder of the images by default. For images
    that lie where nothing can be written."""
    debug: bool = False
    """Show the traceback of an error."""


def command(options: Sequence[str], prog: str) -> int:
    """Write the description and the settings of a folder; existing ones are never overwritten."""
    arguments = tyro.cli(Arguments, args=options, prog=prog)
    from fbunet_jax.check.initial import config_toml, dataset_toml
    from fbunet_jax.check.naming_words import recognised
    from fbunet_jax.data.layouts.description import FILE_NAME

    root = expand(arguments.directory)
    config = with_directory(load_config("quickstart"), str(root))
    # the published and the nnU-Net layout describe themselves
    names = (FILE_NAME, SETTINGS_FILE) if config.data.layout == "folder" and not arguments.out else (SETTINGS_FILE,)
    target = _target(root, arguments.out)
    for name in names:
        if (target / name).exists():
            raise ConfigError(f"{target / name} exists and is not overwritten. Move it away to start again.")
    naming = found_naming(root, arguments, prog) if searches(config, arguments) else None
    for line in recognised(naming) if naming else [f"Recognised: {_LAYOUTS.get(config.data.layout, FILE_NAME)}"]:
        print(line)
    facts, check = _examined(config, naming, prog)
    train = f"{spelled('train', prog)} --config {shlex.quote(str(target / SETTINGS_FILE))} --fold 0"
    elsewhere = bool(arguments.out)
    # what a dataset.toml says already is not said again
    describes = elsewhere and config.data.layout == "folder" and not (root / FILE_NAME).exists()
    settings = config_toml(facts, train, elsewhere=elsewhere, describes=describes)
    texts = {FILE_NAME: dataset_toml(facts), SETTINGS_FILE: settings}
    for name in names:
        with (target / name).open("x", encoding="utf-8") as file:
            file.write(texts[name])
    _print(facts, check)
    confirm = " Confirm what is marked PROPOSED." if FILE_NAME in names or describes else ""
    print(f"Written: {', '.join(str(target / name) for name in names)}.{confirm}")
    place = f"--config {shlex.quote(str(target / SETTINGS_FILE))}" if arguments.out else shlex.quote(str(root))
    print(f"Next: {spelled('check', prog)} {place}, then {train}")
    return 0


def _examined(config: Config, naming: "Reading | None", prog: str) -> "tuple[Facts, Check]":
    """Read the data set, again where axes, objects or pages without labels are found, and return what is known.

    Raises:
      DataError: no image could be read together with its label.
    """
    from fbunet_jax.check.checks import check_dataset

    axes, unknown, objects, stored = "", "", "", ""
    if naming:
        config = called(config, naming.files, has_parts=naming.has_parts)
    check = check_dataset(config.data, progress_bar)
    if unread := next((each for each in check.faults if each.kind == "axes-unknown"), None):
        unknown = f"{Path(unread.file).name} {unread.found}"
        if axes := _axes(config):
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, axes=axes))
            check = check_dataset(config.data, progress_bar)
    if naming and check.images:
        files, objects = shown_by_labels(config, check, naming)
        stored = _values(check)
        if files != naming.files:
            naming = dataclasses.replace(naming, files=files)
            config = called(config, files, has_parts=naming.has_parts)
            check = check_dataset(config.data, progress_bar)
    if not check.images:
        faults = [each for each in check.faults if each.kind not in _BEFORE_A_DESCRIPTION]
        root, files = config.data.root, config.data.files
        patterns = ["--data.files.images", *files.image_patterns, "--data.files.labels", files.labels]
        command = f"{spelled('check', prog)} {shlex.join([root, *(patterns if files.images else [])])}"
        raise DataError(
            f"No image of {root} could be read together with its label, so there is nothing to describe yet. The first "
            f"of {len(faults)} faults: {faults[0].file} {faults[0].found} {faults[0].remedy} Fix them, then call "
            f"init again; {command} lists all."
        )
    facts = dataclasses.replace(_facts(config, check, axes, unknown, naming), naming=naming, objects=objects)
    return dataclasses.replace(facts, values=f"{stored}: they number objects") if objects else facts, check


def _print(facts: "Facts", check: "Check") -> None:
    """Print what was found and what is proposed."""
    from fbunet_jax.check.initial import feedback_mode
    from fbunet_jax.check.naming_words import groups_in_names, proposed
    from fbunet_jax.check.proposals import group_patterns

    grouped = f", group_pattern = {as_toml(facts.group_pattern)}" if facts.group_pattern else ""
    print(f"Found: {facts.summary}")
    if facts.layout == "folder":
        print(f"Values in the labels: {facts.values or 'none could be read'}")
    if facts.classes.classes and facts.layout == "folder" and not check.classes:
        print(f"Proposed classes: {as_toml(facts.classes.classes)} ({facts.classes.reason}) Feedback: ", end="")
        print(feedback_mode(facts.channels, len(facts.classes.classes)))
    elif facts.layout == "folder" and not check.classes:
        remedy = "Correct the labels, or write the classes into the file named below."
        print(f"No classes are proposed: {facts.classes.reason} {remedy}")
    if facts.naming and (shown := proposed(facts.naming)):
        print(f"Proposed in [files]: {shown}")
    said = facts.group_pattern or (facts.naming and (facts.naming.has_parts or groups_in_names(facts.naming.files)))
    if not said and (beginning := next(group_patterns(facts.stems), None)):
        print(
            f"Not in force: group_pattern = {as_toml(beginning[0])}. The files have {beginning[1]} beginnings. Set it "
            "if files of one beginning show one animal, slide or place, which must not be in training and test at once."
        )
    if facts.division:
        print(f"Proposed folds: {facts.folds}{grouped}. {facts.division}")
    others = [each for each in check.faults if each.kind not in _BEFORE_A_DESCRIPTION]
    if others:
        print(f"{len(others)} fault{'s' if len(others) != 1 else ''} in the files, which the check explains.")


def _target(root: Path, out: str) -> Path:
    """Return the folder to write into.

    Raises:
      ConfigError: it cannot be written, which is said before the images are read.
    """
    target = expand(out) if out else root
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            return target
    except OSError as error:
        hint = "Choose another (--out)." if out else "Give another folder for the settings with --out."
        raise ConfigError(f"{target} cannot be written: {error.strerror}. {hint}") from error


def _axes(config: Config) -> str:
    """Return the axes in which the first image and its label agree, if only one order does."""
    from fbunet_jax.check.proposals import propose_axes
    from fbunet_jax.data.datasets import open_source

    unit = next(iter(open_source(config.data).units), None)
    simple = unit is not None and len(unit.label_files) == 1 and not unit.label_pages
    return propose_axes(unit.image_files[0], unit.label_files[0]) if unit and simple else ""


def _facts(config: Config, check: "Check", axes: str, unknown: str, naming: "Reading | None") -> "Facts":
    """Gather what the two files say of the folder."""
    from fbunet_jax.check.divisions import contents
    from fbunet_jax.check.initial import Facts
    from fbunet_jax.check.naming_words import class_proposal
    from fbunet_jax.check.proposals import ClassProposal, palette_names, propose_classes
    from fbunet_jax.data.datasets import open_source

    images, values = check.images, check.values
    if check.classes:
        proposal = ClassProposal(dict.fromkeys(check.classes, 0), None, "The data set describes its classes.")
    else:
        # the first label that has one: a damaged file says nothing of the others
        labels = [file for unit in open_source(config.data).units for file in unit.label_files]
        palette = next(filter(None, map(palette_names, labels)), None)
        proposal = propose_classes(values, palette if values else None, check.spread)
        if naming:
            proposal = class_proposal(naming, values, proposal)
    crop, batch = crop_and_batch(config, check, chosen=False)
    found = check.contents if check.classes else contents(check.units, proposal.classes, check.contents.alike)
    folds, pattern, division = _division(found, config.data)
    return Facts(
        root=real(Path(config.data.root)),
        layout=config.data.layout,
        summary=dict(describe(config, check, chosen=False)).get("Images", "no image could be read"),
        values=_values(check),
        stems=tuple(dict.fromkeys(re.sub(r"/z[0-9]{3}$", "", image.name) for image in images)),
        channels=images[0].size[2] if images else 0,
        classes=proposal,
        axes=axes,
        axes_unknown="" if axes else unknown,
        crop=crop,
        batch=batch,
        folds=folds,
        group_pattern=pattern,
        division=division,
    )


def _values(check: "Check") -> str:
    """Return the label values and their pixels, the first of many."""
    shown = ", ".join(f"{value} ({count} pixels)" for value, count in list(check.values.items())[:20])
    return shown + (f" and {len(check.values) - 20} more" if len(check.values) > 20 else "")


def _division(found: "Contents", data: DataConfig) -> tuple[int, str, str]:
    """Return a number of folds, the group_pattern that it takes, if any, and what there is to say about them."""
    from fbunet_jax.check.divisions import class_finding, complete_division
    from fbunet_jax.check.naming_words import groups_in_names
    from fbunet_jax.data.folds import configured_folds

    groups = len(set(found.groups))
    if data.fold_scheme == "split":
        return 1, "", ""
    said = groups_in_names(data.files)
    data = dataclasses.replace(data, folds=min(5, groups) if groups >= 2 else 5)
    try:
        missing = class_finding(found, data, configured_folds(found.groups, data))
    except DataError:  # too few groups, which the check explains
        return data.folds, "", ""
    if not missing:
        return data.folds, "", ""
    proposal = complete_division(found, data)
    if proposal and not (said and proposal.group_pattern):
        return proposal.folds, proposal.group_pattern, "So every class occurs in every part of every fold."
    return data.folds, "", missing[0].remedy
