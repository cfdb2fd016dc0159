"""The files below a folder that patterns describe, each with what its name says; no file is opened."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.folds import natural_key
from fbunet_jax.data.layouts.patterns import AmbiguousNameError, Pattern
from fbunet_jax.data.readers.image_files import IMAGE_SUFFIXES
from fbunet_jax.errors import DataError
from fbunet_jax.user_files import composed, is_clutter, is_text, missing, stem, suffix

_SHOWN = 6
_UNAMBIGUOUS = "Write numbers as {:d}, or name what lies between the braces in the pattern."


@dataclass(frozen=True)
class Role:
    """What the files of one pattern are.

    Attributes:
      pattern: of their paths.
      suffixes: that such files can have.
      is_label: whether they are labels.
    """

    pattern: Pattern
    suffixes: tuple[str, ...]
    is_label: bool = False


@dataclass(frozen=True)
class NamedFile:
    """A file that a pattern describes.

    Attributes:
      path: of the file.
      values: what the braces hold.
      folders: the names of the pattern's folders.
    """

    path: Path
    values: Mapping[str, str]
    folders: tuple[str, ...]


@dataclass
class Listing:
    """What lies below a folder.

    Attributes:
      files: of each role, in natural order.
      others: files of other types, and those to be ignored, which are passed over.
      faults: of names: files that no pattern describes, or more than one.
    """

    files: list[list[NamedFile]]
    others: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def list_named(
    root: Path,
    roles: Sequence[Role],
    ignored: Sequence[Pattern] = (),
    *,
    strict: bool = False,
    beside: tuple[str, ...] = (),
) -> Listing:
    """List the files below a folder that patterns describe.

    A file that two patterns describe belongs to that with more fixed characters: ``x_masks.tif`` to ``{}_masks.tif``
    rather than to ``{}.tif``.

    Args:
      root: the folder.
      roles: a pattern each, and which files it is for.
      ignored: patterns of files that are none of these.
      strict: whether folders, and files of other types, are faults.
      beside: suffixes of files that may lie there all the same.

    Raises:
      DataError: a folder cannot be listed.
    """
    tree = _Tree()
    every = [*(role.pattern for role in roles), *ignored]
    places: dict[Path, list[tuple[int, Mapping[str, str], tuple[str, ...]]]] = {}
    for number, pattern in enumerate(every):
        for folder, values, names in _folders(tree, root, pattern, 0, {}, ()):
            places.setdefault(folder, []).append((number, values, names))
    listing = Listing([[] for _ in roles])
    wanted = {folder for folder, found in places.items() if any(number < len(roles) for number, _, _ in found)}
    for folder in sorted(wanted, key=lambda each: natural_key(str(each))):
        for name, is_folder in tree.entries(folder):
            if not is_folder and not (beside and name.lower().endswith(beside)):
                _place(listing, folder, name, places[folder], (every, roles, strict))
            elif is_folder and strict:
                listing.faults.append(
                    Fault("foreign-file", folder / name, "is a folder.", "Move it out of the folder.")
                )
    return listing


def _place(
    listing: Listing,
    folder: Path,
    name: str,
    places: Sequence[tuple[int, Mapping[str, str], tuple[str, ...]]],
    known: tuple[Sequence[Pattern], Sequence[Role], bool],
) -> None:
    """Add a file of a folder to the role whose pattern fits best, to the others, or to the faults."""
    every, roles, strict = known
    if not is_text(name):
        found = f"holds a file whose name is not text in UTF-8: {name!r}."
        listing.faults.append(Fault("file-name", folder, found, "Rename it."))
        return
    file = folder / name
    plain, ending = composed(stem(file)), suffix(file)
    fitting, unclear = [], []
    for number, values, names in places:
        try:
            inner = every[number].match_stem(plain, ending)
        except AmbiguousNameError:
            unclear.append(number)
            continue
        if inner is not None and all(values.get(key, value) == value for key, value in inner.items()):
            fitting.append((every[number].literal, number, {**values, **inner}, names))
    most = max((literal for literal, *_ in fitting), default=-1)
    if doubtful := [number for number in unclear if every[number].literal >= most]:
        found = f"fits {every[doubtful[0]].text!r} in more than one way."
        listing.faults.append(Fault("file-name", file, found, _UNAMBIGUOUS))
        return
    best = [(number, values, names) for literal, number, values, names in fitting if literal == most]
    if len({number for number, _, _ in best}) > 1:
        shown = " and ".join(repr(every[number].text) for number, _, _ in best)
        listing.faults.append(
            Fault("file-name", file, f"fits {shown} equally well.", "Make one of them more specific.")
        )
    elif best and best[0][0] < len(roles):
        number, values, names = best[0]
        suffixes = roles[number].suffixes
        lossy = ending in IMAGE_SUFFIXES
        if ending in suffixes:
            listing.files[number].append(NamedFile(file, values, names))
        elif lossy or strict:
            reason = "; JPEG compression changes the values of labels" if lossy else ""
            reason += "; its name ends with a space" if name != name.rstrip() else ""
            found = f"is not one of the files that can be used here ({', '.join(suffixes)}){reason}."
            kind = "label-jpeg" if lossy else "foreign-file"
            listing.faults.append(Fault(kind, file, found, "Convert it, or move it out of the folder."))
        else:
            listing.others.append(file)
    elif strict and not best:
        kinds = ", ".join(dict.fromkeys(each for number, *_ in places for each in roles[number].suffixes))
        found = f"is not one of the files that can be used here ({kinds})."
        listing.faults.append(Fault("foreign-file", file, found, "Convert it, or move it out of the folder."))
    elif best or ending not in IMAGE_SUFFIXES:
        listing.others.append(file)
    else:
        found = "is neither an image nor a label by its name."
        remedy = "Move it elsewhere, change the patterns in [files], or name such files in ignore."
        listing.faults.append(Fault("unnamed-file", file, found, remedy))


def _folders(
    tree: "_Tree", folder: Path, pattern: Pattern, depth: int, values: Mapping[str, str], names: tuple[str, ...]
) -> Iterator[tuple[Path, Mapping[str, str], tuple[str, ...]]]:
    """Yield the folders in which files of a pattern lie, what its braces hold there, and the names that led there."""
    if depth == len(pattern.folders):
        yield folder, values, names
        return
    component = pattern.folders[depth]
    if component.plain:
        inner = folder / component.plain
        if inner.is_dir():
            yield from _folders(tree, inner, pattern, depth + 1, values, (*names, component.plain))
        return
    for name, is_folder in tree.entries(folder):
        if not is_folder or not is_text(name):
            continue
        try:
            found = pattern.match_folder(depth, name)
        except AmbiguousNameError:
            raise Fault(
                "file-name", folder / name, f"fits {component.text!r} in more than one way.", _UNAMBIGUOUS
            ) from None
        if found is not None and all(values.get(key, value) == value for key, value in found.items()):
            yield from _folders(tree, folder / name, pattern, depth + 1, {**values, **found}, (*names, name))


class _Tree:
    """The names in folders, each of which is listed once."""

    def __init__(self) -> None:
        self._listed: dict[Path, list[tuple[str, bool]]] = {}

    def entries(self, folder: Path) -> list[tuple[str, bool]]:
        """Return name and whether it is a folder, of all but what systems have put there."""
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    found = [(each.name, each.is_dir()) for each in entries if not is_clutter(each.name)]
            except OSError as error:
                raise DataError(f"{folder} {missing(folder) if not folder.is_dir() else error.strerror}.") from error
            self._listed[folder] = sorted(found, key=lambda each: natural_key(each[0]))
        return self._listed[folder]


def shown(paths: Sequence[Path]) -> str:
    """Return the names of files in a list, the first of many."""
    names = [path.name for path in paths[:_SHOWN]]
    more = len(paths) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
