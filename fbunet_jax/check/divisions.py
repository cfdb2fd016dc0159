"""What the folds of a data set lack, a class in some part or distance between training and test, and better ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.check.findings import Finding, warning
from fbunet_jax.check.proposals import group_patterns
from fbunet_jax.config import DataConfig
from fbunet_jax.data.folds import PARTS, Fold, beside_test, configured_folds, missing_classes
from fbunet_jax.data.layouts.description import as_toml, group_of
from fbunet_jax.errors import DataError

_TRIED = range(2, 11)
_LISTED = 8


@dataclass(frozen=True)
class UnitRecord:
    """What is kept of one unit, which no division takes apart: name, group, and the values in its label."""

    name: str
    group: str
    values: frozenset[int]


@dataclass(frozen=True)
class Contents:
    """What a division must spread over the parts of its folds.

    Attributes:
      names: of the units, in natural order.
      groups: of the units.
      classes: names of the K classes.
      present: `[N, K]`, whether a unit has pixels of a class.
      alike: median correlation of neighbouring groups and of distant ones, see `alike_neighbours`; None if they are
        not alike.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    present: NDArray[np.bool_]
    alike: tuple[float, float] | None


def contents(
    units: Sequence[UnitRecord], classes: Mapping[str, int], alike: tuple[float, float] | None = None
) -> Contents:
    """Return the contents of a data set, whose classes have these values in its labels."""
    return Contents(
        names=tuple(unit.name for unit in units),
        groups=tuple(unit.group for unit in units),
        classes=tuple(classes),
        present=np.array([[value in unit.values for value in classes.values()] for unit in units], bool),
        alike=alike,
    )


def propose_division(found: Contents, config: DataConfig, *, complete: bool, apart: bool) -> DataConfig | None:
    """Return the first settings tried whose folds are as they should be, or None.

    Tried are "grouped" folds with validation groups on both sides: as many as are set, then fewer, then more, up to
    10; if they must be apart, more before fewer. Each number is tried with the groups as they are and, where every
    unit is one, with those whose names begin alike in one.

    Args:
      found: in the data set.
      config: the settings.
      complete: every class occurs in every part of every fold.
      apart: no training group stands beside a test group in name order.
    """
    for changed, groups, folds in _candidates(found, config, more_first=apart):
        if complete and _lacking(found, groups, folds):
            continue
        if not apart or not beside_test(folds):
            return changed
    return None


def complete_division(found: Contents, config: DataConfig) -> DataConfig | None:
    """Return settings that give every part every class, if any do; and distance, where that matters and can be had."""
    both = propose_division(found, config, complete=True, apart=True) if found.alike else None
    return both or propose_division(found, config, complete=True, apart=False)


def unplaced_classes(found: Contents, config: DataConfig) -> tuple[str, ...]:
    """Return the classes that no division tried gives to every part of every fold, wherever the others are."""
    left = set(found.classes)
    for _, groups, folds in _candidates(found, config, more_first=False):
        left &= _lacking(found, groups, folds).keys()
    return tuple(name for name in found.classes if name in left)


def changed_settings(proposal: DataConfig, config: DataConfig) -> str:
    """Return what a proposal changes, as it is written: "data.folds = 4 and data.group_pattern = …"."""
    return " and ".join(
        f"data.{each.name} = {as_toml(getattr(proposal, each.name))}"
        for each in fields(DataConfig)
        if getattr(proposal, each.name) != getattr(config, each.name)
    )


def class_finding(found: Contents, config: DataConfig, folds: Sequence[Fold]) -> list[Finding]:
    """Return one warning for all classes that some part of a fold has to do without, if there are any."""
    lacking = _lacking(found, found.groups, folds)
    if not lacking:
        return []
    held = {
        name: len({group for group, has in zip(found.groups, found.present[:, index], strict=True) if has})
        for index, name in enumerate(found.classes)
    }
    lines = []
    for name, parts in lacking.items():
        where = [f"the {_word(part)} part of {_listing(parts[part])}" for part in PARTS if part in parts]
        known = f"which is in {held[name]} of {len(set(found.groups))} groups"
        lines.append(f"{name!r}, {known}, has no pixel in {' and '.join(where)}")
    more = [f"{len(lines) - _LISTED} more classes are missing from some part"] if lines[_LISTED:] else []
    text = (
        f"{'; '.join(lines[:_LISTED] + more)}. Without training pixels a class is not learnt; without validation "
        "pixels the best checkpoint is chosen without it; without test pixels it has no IoU there."
    )
    return [warning("part-without-class", "", text, _class_remedy(found, config))]


def neighbour_finding(found: Contents, config: DataConfig, folds: Sequence[Fold]) -> list[Finding]:
    """Return a warning where neighbouring groups are alike, and folds train on one and test the other."""
    numbers = beside_test(folds)
    if not found.alike or not numbers or config.fold_scheme == "split":  # the order of whose names means nothing
        return []
    text = (
        f"Neighbours in name order are alike, as sections of a stack are (correlation {found.alike[0]:.2f}; "
        f"{found.alike[1]:.2f} half the data set apart), and a training group is the neighbour of a test group in "
        f"{_listing(numbers)}: the scores of such a fold are better than those of new images will be."
    )
    proposal = propose_division(found, config, complete=True, apart=True)
    proposal = proposal or propose_division(found, config, complete=False, apart=True)
    if proposal:
        remedy = f"Set {changed_settings(proposal, config)}: validation groups then lie between them."
    else:
        remedy = "Label more images: with 8 groups that are not tested, validation groups lie on both sides."
    return [warning("neighbours-alike", "", text, remedy)]


def neighbour_fact(found: Contents, folds: Sequence[Fold]) -> str:
    """Return what the folds do about neighbouring groups that are alike, in a sentence; empty if they are not."""
    if not found.alike:
        return ""
    numbers = beside_test(folds)
    done = (
        f"{_listing(numbers)} train on the neighbour of a test group"
        if numbers
        else "validation groups lie between training and test groups in every fold"
    )
    return f"neighbours in name order are alike (correlation {found.alike[0]:.2f}), as sections are; {done}"


def _candidates(
    found: Contents, config: DataConfig, *, more_first: bool
) -> Iterator[tuple[DataConfig, tuple[str, ...], tuple[Fold, ...]]]:
    """Yield settings, the group of every unit, and folds; see `propose_division`."""
    if config.fold_scheme == "split":  # the names divide
        return
    base = replace(config, fold_scheme="grouped", validation_groups="both-sides")
    groupings = [(config.group_pattern, found.groups)]
    if config.layout in ("folder", "nnunet") and found.groups == found.names:
        for pattern, _ in group_patterns(found.names):
            groupings.append((pattern, tuple(group_of(name, pattern) for name in found.names)))
    most = config.folds
    numbers = sorted({most, *_TRIED}, key=lambda each: ((each < most) == more_first and each != most, abs(each - most)))
    for number in numbers:
        for pattern, groups in groupings:
            changed = replace(base, folds=number, group_pattern=pattern)
            try:
                yield changed, groups, configured_folds(groups, changed)
            except DataError:  # too many folds for the groups
                continue


def _lacking(found: Contents, groups: Sequence[str], folds: Sequence[Fold]) -> dict[str, dict[str, list[int]]]:
    """Return the parts that lack a class, with the numbers of the folds, for every class that some part lacks."""
    names, rows = np.unique(np.array(groups), return_inverse=True)
    present = np.zeros((len(names), len(found.classes)), bool)
    np.logical_or.at(present, rows, found.present)
    lacking: dict[str, dict[str, list[int]]] = {}
    places = {name: place for place, name in enumerate(names.tolist())}
    for number, fold in enumerate(folds):
        items = {part: np.array([places[name] for name in getattr(fold, part)], np.intp) for part in PARTS}
        missing = missing_classes(items, present, found.classes)
        for part in PARTS:
            for name in missing[part]:
                lacking.setdefault(name, {}).setdefault(part, []).append(number)
    return lacking


def _class_remedy(found: Contents, config: DataConfig) -> str:
    if config.fold_scheme == "split":
        return (
            "Label images of this part that show it; or write {} in the place of {split} in [files], and set "
            'data.fold_scheme = "grouped", to divide all images anew.'
        )
    if proposal := complete_division(found, config):
        return f"Set {changed_settings(proposal, config)}: every class then occurs in every part of every fold."
    if unplaced := unplaced_classes(found, config):
        shown = ", ".join(map(repr, unplaced[:_LISTED])) + (" …" if unplaced[_LISTED:] else "")
        return (
            f"No number of folds and no grouping by file names that was tried puts {shown} in every part: label "
            "more images that show it, or join it with another class."
        )
    return (
        "Each class alone could be in every part of every fold, but not all at once: label more images, or join two "
        "classes."
    )


def _word(part: str) -> str:
    return "training" if part == "train" else part


def _listing(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - _LISTED} more" if numbers[_LISTED:] else ""
    return f"fold{'s' if numbers[1:] else ''} {', '.join(map(str, numbers[:_LISTED]))}{more}"
