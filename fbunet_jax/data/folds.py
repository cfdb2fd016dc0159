"""Cross-validation folds: made once, written to a file, and always read back.

A fold divides groups (sections, animals, slides), never single images, so that what belongs together stays in one
part. Neighbouring groups in name order are often neighbouring sections that show the same cells: every scheme
therefore tests contiguous blocks, and what validates beside a block keeps the training groups away from it.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import DataConfig
from fbunet_jax.errors import DataError
from fbunet_jax.user_files import read_text

FORMAT = 1
"""Version of the folds file; a newer one is refused."""

PARTS = ("train", "validation", "test")
"""The parts of a fold, in the order in which they are listed."""

PAPER_SECTIONS = 20
PAPER_SECTION_FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """The names of the groups in each part of one fold; no name is in two parts."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@lru_cache(maxsize=2**17)
def natural_key(name: str) -> tuple[tuple[int, int, str, str], ...]:
    """Return a sorting key under which "2" stands before "10", as people expect of numbered files."""
    parts = re.split(r"([0-9]+)", name)
    # digits without leading zeros, the shorter first: int() refuses thousands of them
    digits = [part.lstrip("0") if part.isdecimal() else "" for part in parts]
    return tuple(
        (0, len(number), number, part) if part.isdecimal() else (1, 0, "", part)
        for part, number in zip(parts, digits, strict=True)
        if part
    )


def configured_folds(groups: Sequence[str], config: DataConfig) -> tuple[Fold, ...]:
    """Divide the groups as the settings say; see `make_folds`."""
    return make_folds(groups, config.folds, config.fold_scheme, config.validation_groups)


def make_folds(
    groups: Sequence[str], folds: int, scheme: str, validation_groups: str = "both-sides"
) -> tuple[Fold, ...]:
    """Divide the groups into folds.

    Args:
      groups: names of the groups, in any order, repeated or not; they are divided in natural name order.
      folds: number of folds, at least 2.
      scheme: "grouped": every group is tested exactly once, in contiguous blocks whose sizes differ by at most 1;
        a fifth of the rest validates. "sections": the folds of the 20 Drosophila sections. "mouse": the paper's mouse
        protocol, in which the test sets of the folds overlap. "split": one fold; a group is for "train", "validation"
        or "test" by what its name begins with, before a slash; without validation groups, the last fifth of those for
        training validates.
      validation_groups: of the scheme "grouped". "both-sides": half of them before the test block, half (and the odd
        one) after it, in a circle. No training group then stands beside the block if two or more validate, which
        takes 8 groups that are not tested; a single one stands after the block, or before it at the end of the order.
        "after": all of them after it, in a circle, as every fold was made before format 2 of the settings.

    Raises:
      DataError: the scheme is unknown or cannot be applied to this number of groups and folds.
    """
    schemes: dict[str, Callable[[Sequence[str], int], tuple[Fold, ...]]] = {
        "grouped": partial(_grouped, both_sides=validation_groups == "both-sides"),
        "sections": _sections,
        "mouse": _mouse,
        "split": _split,
    }
    if scheme not in schemes:
        raise DataError(f"The fold scheme {scheme!r} is unknown. The schemes are: {', '.join(schemes)}.")
    names = sorted(dict.fromkeys(groups), key=natural_key)  # which mostly are in order already
    if folds < 2 and scheme != "split":
        raise DataError(f"data.folds = {folds}: cross-validation needs at least 2 folds.")
    return schemes[scheme](names, folds)


def fold_items(dataset_groups: Sequence[str], fold: Fold) -> dict[str, np.ndarray]:
    """Return the item indices of each part of a fold.

    Args:
      dataset_groups: the group of every item of the data set.
      fold: the groups of each part.

    Returns:
      For "train", "validation" and "test" the ascending indices of the part's items, ``[n]`` int64.
    """
    items = {}
    for part in PARTS:
        members = set(getattr(fold, part))
        items[part] = np.array([i for i, group in enumerate(dataset_groups) if group in members], dtype=np.int64)
    return items


def missing_classes(
    items: Mapping[str, NDArray[np.intp]], present: NDArray[np.bool_], class_names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes without a pixel in each part of a fold, in class order.

    Args:
      items: the item indices of each part, as `fold_items` returns them.
      present: `[N, K]`, whether an item has pixels of a class.
      class_names: of the K classes.
    """
    held = {part: np.any(present[items[part]], axis=0).tolist() for part in PARTS}
    return {part: tuple(n for n, here in zip(class_names, held[part], strict=True) if not here) for part in PARTS}


def beside_test(folds: Sequence[Fold]) -> list[int]:
    """Return the numbers of the folds in which a training group stands beside a tested one in natural name order."""
    names = sorted((name for part in PARTS for name in getattr(folds[0], part)), key=natural_key) if folds else []
    places = {name: place for place, name in enumerate(names)}
    numbers = []
    for number, fold in enumerate(folds):
        beside = {places[name] + step for name in fold.test for step in (-1, 1)}
        if any(places[name] in beside for name in fold.train):
            numbers.append(number)
    return numbers


def select_fold(folds: Sequence[Fold], index: int) -> Fold:
    """Return one fold; a fold outside 0 to K-1 is a DataError, never another division."""
    if not 0 <= index < len(folds):
        raise DataError(f"There is no fold {index}: this run has the folds 0 to {len(folds) - 1}.")
    return folds[index]


def check_folds(folds: Sequence[Fold], groups: Sequence[str], where: str) -> None:
    """Check that folds read back divide exactly today's groups.

    Raises:
      DataError: names ``where`` and, of the first fold that differs, the missing and unknown groups.
    """
    known = set(groups)
    for index, fold in enumerate(folds):
        listed = {name for part in PARTS for name in getattr(fold, part)}
        missing = sorted(known - listed, key=natural_key)
        unknown = sorted(listed - known, key=natural_key)
        if not missing and not unknown:
            continue
        findings = []
        if missing:
            findings.append(f"the data set has {_listing(missing)}, which the fold does not list")
        if unknown:
            findings.append(f"the fold lists {_listing(unknown)}, which the data set does not have")
        raise DataError(
            f"{where}, fold {index}: {'; '.join(findings)}. The data set is not the one the folds were made for: "
            "restore it, or start a new run."
        )


def folds_to_json(folds: Sequence[Fold], scheme: str) -> str:
    """Return the folds as the text of a folds file; `folds_from_json` of it gives equal folds."""
    table = [{part: list(getattr(fold, part)) for part in PARTS} for fold in folds]
    return json.dumps({"format": FORMAT, "scheme": scheme, "folds": table}, indent=1, ensure_ascii=False) + "\n"


def read_folds(path: Path) -> tuple[Fold, ...]:
    """Read a folds file.

    Raises:
      DataError: as `folds_from_json`.
    """
    return folds_from_json(read_text(path, DataError), str(path))


def folds_from_json(text: str | bytes, where: str) -> tuple[Fold, ...]:
    """Read the text of a folds file.

    Args:
      text: the content of the file; bytes are UTF-8.
      where: the file's name, for messages.

    Raises:
      DataError: names ``where`` and says what is wrong: no JSON, another format, or no valid division.
    """
    remedy = "Restore the file, or start a new run."
    try:
        content = json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON ({error}). {remedy}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise DataError(f"{where} is no folds file: expected a table with format, scheme and folds. {remedy}")
    if content["format"] != FORMAT:
        raise DataError(
            f"{where} has format {content['format']!r}; this version reads format {FORMAT}. Use the version of "
            "fbunet_jax that wrote it."
        )
    table = content.get("folds")
    if not isinstance(table, list) or not table:
        raise DataError(f"{where}: 'folds' is missing, empty or no list. {remedy}")
    return tuple(_read_fold(entry, f"{where}, fold {index}", remedy) for index, entry in enumerate(table))


def _read_fold(entry: Any, where: str, remedy: str) -> Fold:
    if not isinstance(entry, dict) or set(entry) != set(PARTS):
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{where}: expected the keys train, validation and test, found {found}. {remedy}")
    for part, names in entry.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise DataError(
                f"{where}: {part} = {names!r}: expected a list with the name of at least one group. {remedy}"
            )
    names = [name for part in PARTS for name in entry[part]]
    repeated = sorted((name for name, count in Counter(names).items() if count > 1), key=natural_key)
    if repeated:
        raise DataError(f"{where}: {_listing(repeated)} listed more than once; each group is in one part. {remedy}")
    return Fold(**{part: tuple(entry[part]) for part in PARTS})


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return ("group " if len(names) == 1 else "groups ") + shown + (f" and {len(names) - 8} more" if names[8:] else "")


def _fold(names: Sequence[str], test: Sequence[int], validation: Sequence[int]) -> Fold:
    """Return the fold with these indices (modulo the number of names); the remaining names train."""
    count = len(names)
    parts = {"test": {i % count for i in test}, "validation": {i % count for i in validation}}
    parts["train"] = set(range(count)) - parts["test"] - parts["validation"]
    return Fold(**{part: tuple(names[i] for i in sorted(parts[part])) for part in PARTS})


def _grouped(names: Sequence[str], folds: int, *, both_sides: bool) -> tuple[Fold, ...]:
    count = len(names)
    if count < 3:
        raise DataError(
            f"The data set has {count} group{'s' if count != 1 else ''}; a fold needs at least 3, one each for "
            "training, validation and test. Each file is a group, or all files that data.group_pattern gives one name, "
            "and the pages of a file stay together: add files, or save a stack as several files of neighbouring "
            "sections."
        )
    if folds > count:
        raise DataError(
            f"data.folds = {folds}, but the data set has only {count} groups, and each fold tests at least one. "
            f"Set data.folds to 2 … {count}."
        )
    made = []
    for block in np.array_split(np.arange(count), folds):
        rest = count - len(block)
        validating = max(1, round(0.2 * rest))
        if rest - validating < 1:
            raise DataError(
                f"{folds} folds of {count} groups leave a fold without training images: {len(block)} groups test and "
                f"{validating} validates. Set data.folds = {count}, or add images."
            )
        first, end = int(block[0]), int(block[-1]) + 1
        # a single one after the last block would stand at the other end, beside no tested group
        before = (1 if validating == 1 and end == count else validating // 2) if both_sides else 0
        beside = [*range(first - before, first), *range(end, end + validating - before)]
        made.append(_fold(names, block.tolist(), beside))
    return tuple(made)


def _sections(names: Sequence[str], folds: int) -> tuple[Fold, ...]:
    if len(names) != PAPER_SECTIONS or folds != PAPER_SECTION_FOLDS:
        raise DataError(
            f"The fold scheme 'sections' divides the {PAPER_SECTIONS} sections of the Drosophila set into "
            f"{PAPER_SECTION_FOLDS} folds; found {len(names)} groups and data.folds = {folds}. "
            "Set data.fold_scheme = 'grouped'."
        )
    # the sections on both sides of the test block validate, so that no training section touches a test section
    return tuple(
        _fold(names, range(4 * k, 4 * k + 5), (4 * k - 1, 4 * k + 5, 4 * k + 6)) for k in range(PAPER_SECTION_FOLDS)
    )


def _split(names: Sequence[str], folds: int) -> tuple[Fold, ...]:
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for name in names:
        part, slash, _ = name.partition("/")
        if not slash or part not in parts:
            raise DataError(
                f"The fold scheme 'split' needs names that say what is for training and for test; {name!r} does not. "
                "Set data.fold_scheme = 'grouped'."
            )
        parts[part].append(name)
    if not parts["validation"]:
        count = max(1, round(0.2 * len(parts["train"])))
        parts["train"], parts["validation"] = parts["train"][:-count], parts["train"][-count:]
    lacking = [part for part in PARTS if not parts[part]]
    if lacking:
        counts = ", ".join(f"{len(found)} {part}" for part, found in parts.items())
        raise DataError(
            f"The fold scheme 'split' needs groups in every part, found {counts}. Add labelled images for "
            f"{lacking[0]}, or write {{}} in the place of {{split}} in [files] and set data.fold_scheme = 'grouped'."
        )
    return (Fold(**{part: tuple(found) for part, found in parts.items()}),)


def _mouse(names: Sequence[str], folds: int) -> tuple[Fold, ...]:
    count = len(names)
    if count < 10:
        raise DataError(
            f"The fold scheme 'mouse' tests a fifth and validates a tenth of the groups, which needs at least 10; "
            f"found {count}. Set data.fold_scheme = 'grouped'."
        )
    tested, validated = count // 5, count // 10
    least = math.ceil(count / tested)
    if not least <= folds <= count:
        raise DataError(
            f"data.folds = {folds}: the fold scheme 'mouse' tests {tested} of the {count} groups in each fold, so "
            f"{least} to {count} folds are needed for every group to be tested and no two folds to be equal. "
            f"Set data.folds to {least} … {count}, or data.fold_scheme = 'grouped'."
        )
    made = []
    for k in range(folds):
        first = count * k // folds
        end = first + tested
        made.append(_fold(names, range(first, end), range(end, end + validated)))
    return tuple(made)
