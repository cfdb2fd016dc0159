"""What init prints of a naming, the question where two are possible, and the table that describes one."""

import json
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from fbunet_jax.check.filenames import LISTED, label_words, listed, shortened
from fbunet_jax.check.naming import NamingProposal, Reading
from fbunet_jax.check.proposals import ClassProposal
from fbunet_jax.config import FilesConfig
from fbunet_jax.data.layouts.description import FILE_NAME
from fbunet_jax.data.layouts.listing import way_on
from fbunet_jax.data.layouts.patterns import GROUP, PAGE
from fbunet_jax.errors import DataError
from fbunet_jax.toml_tables import to_table

SEPARATES_NOT = "training distinguishes objects from background, and does not separate objects that touch."
_READINGS = 6
_OUTLINES = (".json", ".geojson", ".roi", ".zip")


def recognised(reading: Reading) -> list[str]:
    """Return the lines that say which habit was recognised, how much pairs, and what does not."""
    lines = [f"Recognised: {reading.tool}: {_example(reading)}"]
    left = [
        f"{len(files)} {what[len(files) != 1]} ({listed(files)})"
        for files, what in (
            (reading.unlabelled, ("image without a label", "images without a label")),
            (reading.unpaired, ("label without an image", "labels without an image")),
            (reading.unnamed, ("file that is neither or does not fit", "files that are neither or do not fit")),
        )
        if files
    ]
    images = f"{reading.pairs} image{'s' if reading.pairs != 1 else ''} with a label"
    lines.append(f"Pairs: {'; '.join([images, *left])}")
    lines += [f"Note: {note}" for note in reading.notes]
    return lines


def proposed(reading: Reading) -> str:
    """Return the settings of a naming besides its patterns, as they are written."""
    return ", ".join(line for key, line in _lines(reading.files).items() if key not in ("images", "labels"))


def files_table(reading: Reading, header: str, objects: str = "") -> list[str]:
    """Return the lines of a table [files], with comments; none where nothing needs to be said.

    Args:
      reading: how the files are called.
      header: of the table, such as "files".
      objects: why the labels are proposed to number objects; empty if the user or the files say so.
    """
    files = reading.files
    if files == FilesConfig():
        return []
    lines = ["", "# How images and labels are called; they pair by what the braces hold."]
    if files.images:
        lines.append(f"# Recognised: {reading.tool}. {reading.pairs} images pair with a label.")
    lines += [line for note in reading.notes for line in _comment(note)]
    lines.append(f"[{header}]")
    written = _lines(files)
    comments = {
        "ignore": "PROPOSED: neither images nor labels by their names.",
        "objects": f"PROPOSED: {objects} Then {SEPARATES_NOT}" if objects else "Each object has a file of its own.",
        "sparse": "PROPOSED: some images or pages have no label. They are left out, and do not count as background.",
        "first_page": "The number of the first page in the names of the labels.",
    }
    for key, line in written.items():
        lines += [*_comment(comments.get(key, "")), line]
    if reading.unlabelled and not files.sparse:
        lines.append(f"# {len(reading.unlabelled)} of the images have no label. To leave them out:")
        lines.append("# sparse = true")
    return lines


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent="# ", subsequent_indent="# ")


def class_proposal(reading: Reading, values: Mapping[int, int], usual: ClassProposal) -> ClassProposal:
    """Return what the values of labels mean that a tool made, or the usual proposal.

    Args:
      reading: how the files are called.
      values: each value of the labels and its pixels.
      usual: what the values alone say.
    """
    if reading.files.objects != "none":
        what = {"Cellpose": "cell", "Data Science Bowl": "nucleus"}.get(reading.tool, "object")
        return ClassProposal({"background": 0, what: 1}, None, f"The labels show objects one by one: {SEPARATES_NOT}")
    if reading.tool == "ilastik" and "label" in reading.files.labels.casefold() and len(set(values) - {0}) >= 2:
        classes = {f"class_{value}": value for value in sorted(set(values) - {0})}
        return ClassProposal(classes, 0, "In the labels of ilastik, 0 is what was not drawn on. Change the names.")
    return usual


def groups_in_names(files: FilesConfig) -> str:
    """Return what says the group of an image in its name, such as "{group}"; empty if nothing does."""
    patterns = (*files.image_patterns, files.labels)
    return next((f"{{{name}}}" for name in (GROUP, PAGE) if any(f"{{{name}" in each for each in patterns)), "")


def question(root: Path, readings: Sequence[Reading], init: str) -> DataError:
    """Return the error that shows the readings of a folder that pair equally well, and how to choose one."""
    pairs = readings[0].pairs
    same_images = len({reading.files.image_patterns for reading in readings}) == 1
    what = f"{len(readings)} ways, and {pairs} images pair with a label in each"
    lines = [f"The names in {root} can be read in {what}:"]
    for number, reading in enumerate(readings[:_READINGS], start=1):
        lines.append(f"  {number}. {_example(reading)}")
        lines += [f"       {line}" for line in _lines(reading.files).values()]
    if readings[_READINGS:]:
        lines.append(f"  … and {len(readings) - _READINGS} more")
    if same_images and len({reading.files.first_page for reading in readings}) > 1:
        lines.append("The numbers of the pages can count from 0 or from 1. Open a label and its page to see which.")
    lines.append("Choose one by giving its patterns, such as")
    lines.append(f"  {init} {shlex.quote(str(root))} {options(readings[0].files)}")
    lines.append(f"or write its lines below [files] into {root / FILE_NAME}.")
    return DataError("\n".join(lines))


def options(files: FilesConfig) -> str:
    """Return the options of init that say how files are called."""
    words = ["--images", *files.image_patterns, "--labels", files.labels]
    words += ["--ignore", *files.ignore] if files.ignore else []
    words += ["--first-page", str(files.first_page)] if "{page}" in files.labels else []
    return shlex.join(words)


def nothing_pairs(root: Path, proposal: NamingProposal, init: str) -> DataError:
    """Return the error of a folder in which no images and labels pair by their names."""
    names = proposal.names
    problems = f" {' '.join(names.problems[:LISTED])}" if names.problems else ""
    labels_in_others = way_on([Path(each) for each in names.others])
    if not names.files:
        kinds = "TIFF, PNG or JPEG"
        there = f" It holds {listed(names.others)}." if names.others else ""
        return DataError(f"{root} holds no image ({kinds}).{there}{problems}{_space(labels_in_others)}")
    shown = [file.shown for file in names.files]
    found = f"{len(shown)} image file{'s' if len(shown) != 1 else ''} ({listed(shown)})"
    if labels_in_others:
        return DataError(f"{root} holds {found}, and no labels that can be read.{problems} {labels_in_others}")
    lossy = [file for file in names.files if file.ending.lower() in (".jpg", ".jpeg")]
    if len(lossy) == len(names.files) or any(True for file in lossy for _ in label_words(file)):
        kinds = f" Labels have to be PNG or TIFF, and {len(lossy)} of these files are JPEG, which changes values."
        problems = kinds + problems
    others = f" Not read: {listed(names.others)}." if names.others else ""
    return DataError(
        f"{root} holds {found}, but their names do not say which label belongs to which image. A label is recognised "
        "by a word such as mask or label in its name or folder, and paired by numbers or a text that the image's name "
        f"also has.{problems}{others}{_outlines(names.others)} Say how they are called, with {{}} for what image and "
        f"label share, such as: {init} {shlex.quote(str(root))} --images 'scan_{{}}_raw.tif' "
        "--labels 'scan_{}_drawn.tif'. docs/data.md#names-as-they-are describes patterns."
    )


def _outlines(others: Sequence[str]) -> str:
    """Return what to do about labels that are not images, if some files can be such."""
    drawn = next((name for name in others if Path(name).suffix.lower() in _OUTLINES), "")
    if not drawn:
        return ""
    return (
        f" If {shortened(drawn)} holds the labels as outlines (COCO, LabelMe, QuPath, ROI manager of ImageJ): outlines "
        "are not read. Export them as label images, PNG or TIFF, in which a pixel has the value of its class."
    )


def _space(text: str) -> str:
    return f" {text}" if text else ""


def _lines(files: FilesConfig) -> dict[str, str]:
    """Return the settings of a naming in TOML, those that are not the default."""
    default = to_table(FilesConfig())
    table = {key: value for key, value in to_table(files).items() if value != default[key]}
    # DEL is the one character that JSON does not escape and TOML does
    texts = {key: json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for key, value in table.items()}
    return {key: f"{key} = {text}" for key, text in texts.items()}


def _example(reading: Reading) -> str:
    *images, label = map(shortened, reading.example or ("images/", "labels/"))
    return f"{' + '.join(images)} and {label}"
