"""The first dataset.toml and fbunet.toml of a user's folder, with comments; what is a guess is marked as PROPOSED."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from fbunet_jax.check.naming import Reading
from fbunet_jax.check.naming_words import files_table, groups_in_names
from fbunet_jax.check.proposals import ClassProposal, group_patterns
from fbunet_jax.data.layouts.description import as_toml
from fbunet_jax.models.methods import fits_replace
from fbunet_jax.user_files import real


@dataclass(frozen=True)
class Facts:
    """What was found in a folder.

    Attributes:
      root: the folder.
      layout: as in `DataConfig`.
      summary: one line on the images.
      values: the label values and their pixels, in words; empty if no label could be read.
      stems: names of the files without suffix.
      channels: C; 0 if no image could be read.
      classes: what the values may mean.
      axes: proposed axes; empty if none is needed or none could be told.
      axes_unknown: what a file with unknown axes could be, in a sentence; empty if there is none.
      crop: proposed side of crops, pixels.
      batch: proposed batch size.
      folds: proposed number of folds.
      group_pattern: that they take; empty if every file can be a group.
      division: what there is to say about the folds, in a sentence; empty if every class is in every part.
      naming: how the files are called; None if the layout says it.
      objects: why the labels are proposed to number objects; empty if they are not.
    """

    root: Path
    layout: str
    summary: str
    values: str
    stems: tuple[str, ...]
    channels: int
    classes: ClassProposal
    axes: str
    axes_unknown: str
    crop: int
    batch: int
    folds: int
    group_pattern: str
    division: str
    naming: Reading | None = None
    objects: str = ""


def plain_name(root: Path) -> str:
    """Return a folder's name with nothing in it that a configuration's name may not have."""
    return re.sub(r"[^\w. -]+", "-", real(root).name).strip("-. ") or "data"


def feedback_mode(channels: int, classes: int) -> str:
    """Return the feedback that takes images of this many channels: the paper's, or "concat"."""
    return "replace" if not channels or not classes or fits_replace(channels, classes) else "concat"


def dataset_toml(facts: Facts) -> str:
    """Return a dataset.toml with comments."""
    lines = [
        "# What the files beside this one mean. Written by fbunet init from what it found; lines marked PROPOSED are",
        "# guesses: confirm or change them. fbunet check says whether the files agree with this description.",
        "#",
        *_description(facts, "files"),
    ]
    return "\n".join(lines) + "\n"


def _description(facts: Facts, files: str) -> list[str]:
    """Return the lines of a description, with comments; the names of the files in a table of this name."""
    proposal = facts.classes
    mark = "PROPOSED" if proposal.classes else "To be set"
    lines = [
        f"# Found: {facts.summary}",
        f"# Values in the labels: {facts.values or 'no label could be read; fbunet check says why'}",
        "",
        "# Name = value in the label files, in class order.",
        *textwrap.wrap(f"# {mark}: {proposal.reason}", 118, subsequent_indent="# "),
    ]
    if proposal.classes:
        lines.append(f"classes = {as_toml(proposal.classes)}")
    else:
        lines.append("# classes = {background = 0, nucleus = 1}")
    lines += ["", "# Value of pixels without a class, which count neither in the loss nor in any metric."]
    if proposal.ignore_value is None:
        lines.append("# ignore_value = 255")
    else:
        far = f"{proposal.ignore_value} is far from the other values: perhaps unlabelled pixels."
        lines.append(f"# PROPOSED: {far if proposal.ignore_value else '0 is what was not drawn on.'}")
        lines.append(f"ignore_value = {proposal.ignore_value}")
    lines += ["", "# Order of the axes of files with more than two dimensions, such as YXC or ZYX."]
    if facts.axes:
        lines += ["# PROPOSED: the only order in which an image and its label agree.", f'axes = "{facts.axes}"']
    elif facts.axes_unknown:
        lines += [f"# To be set: {facts.axes_unknown}", '# axes = "ZYX"']
    else:
        lines += ["# Not needed: the files have two dimensions, or name their axes.", '# axes = "ZYX"']
    lines += ["", *_groups(facts), "", *_feedback_comment(facts)]
    return [*lines, *(files_table(facts.naming, files, facts.objects) if facts.naming else [])]


def _groups(facts: Facts) -> list[str]:
    """Return the lines on the groups of the images."""
    if facts.naming and (said := groups_in_names(facts.naming.files)):
        where = "the pages of a stack" if said == "{page}" else f"what has the same {said}, see [files]"
        return ["# Images of one group (animal, slide, place) stay in one part of a fold.", f"# Here: {where}."]
    lines = [
        "# Images of one group (animal, slide, place) stay in one part of a fold; what the brackets capture in a",
        "# file's name is its group. Without it every file is a group of its own.",
    ]
    groups = next(group_patterns(facts.stems), None)
    if facts.group_pattern:
        lines.append(f"# PROPOSED, for {facts.folds} folds: {facts.division}")
        lines.append(f"group_pattern = {as_toml(facts.group_pattern)}")
    elif groups:
        lines.append(f"# PROPOSED, not in force: {groups[1]} groups of files with the same beginning.")
        lines.append(f"# group_pattern = {as_toml(groups[0])}")
    else:
        lines.append('# group_pattern = "^(mouse[0-9]+)_"')
    return lines


def _feedback_comment(facts: Facts) -> list[str]:
    count = len(facts.classes.classes)
    if not facts.channels or not count:
        return ["# The network's feedback mode depends on the channels and classes; see model.feedback."]
    mode = feedback_mode(facts.channels, count)
    what = f"# Images of {facts.channels} channel{'' if facts.channels == 1 else 's'} and {count} classes: "
    if mode == "replace":
        return [f"{what}the default feedback, replace, fits."]
    return [
        f"{what}the default feedback, replace, needs 1 or {count}",
        '# channels. fbunet.toml therefore sets feedback = "concat"; without it: --model.feedback concat.',
    ]


def config_toml(facts: Facts, train: str, *, elsewhere: bool = False, describes: bool = False) -> str:
    """Return a configuration for training on this folder, with comments.

    Args:
      facts: what was found.
      train: how the user calls training.
      elsewhere: whether it lies in another folder than the images.
      describes: whether it also says what the files mean, in the place of a dataset.toml beside the images.
    """
    mode = feedback_mode(facts.channels, len(facts.classes.classes))
    folds = f"folds = {facts.folds}    # cross-validation"
    if facts.naming and facts.naming.has_parts:
        folds = 'fold_scheme = "split"    # one fold, whose parts are those of {split} in the names\nfolds = 1'
    root = f"root = {as_toml(str(facts.root))}" if elsewhere else 'root = "."    # the folder of this file'
    described = "\n".join(["", *_description(facts, "data.files"), ""]) if describes else ""
    if facts.group_pattern and facts.layout != "folder":  # the others have a dataset.toml
        folds += f"\ngroup_pattern = {as_toml(facts.group_pattern)}"
    if facts.division:
        folds = f"# {facts.division}\n{folds}"
    feedback = '# feedback = "concat"    # for images of several channels'
    if mode == "concat":
        feedback = 'feedback = "concat"    # the images have several channels; take this line out for --method unet'
    return f"""\
# Settings for training on this folder; written by fbunet init. Every number is a proposal: docs/training.md.
#   {train}
name = {as_toml(plain_name(facts.root))}
method = "feedback-convlstm"

[data]
layout = "{facts.layout}"
{root}
crop = {facts.crop}    # side of training crops, pixels
{folds}
# normalisation = "percentile"    # for fluorescence whose brightness differs from image to image
{described}
[model]
widths = [8, 16, 32, 64]    # add 128 for the paper's network
batch_norm_momentum = 0.9    # 0.99 for more than some thousands of steps
{feedback}

[training]
epochs = 200
batch_size = {facts.batch}
learning_rate = 1e-2
schedule = "one-cycle"
class_weights = "sqrt-median-frequency"
augmentation = "dihedral"    # random rotations and flips
validate_every = 5
"""
