"""The files below a folder that patterns describe, each with what its name says; no file is opened."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

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


_Place = tuple[int, Mapping[str, str], tuple[str, ...]]
"""In a folder: the number of a pattern whose files can lie there, what its braces hold, and the folders' names."""


class _Known(NamedTuple):
    patterns: Sequence[Pattern]
    roles: Sequence[Role]
    strict: bool
    images_first: bool


def list_named(
    root: Path,
    roles: Sequence[Role],
    ignored: Sequence[Pattern] = (),
    *,
    strict: bool = False,
    beside: tuple[str, ...] = (),
    images_first: bool = False,
    is_file: Callable[[Path], bool] = lambda folder: False,
) -> Listing:
    """List the files below a folder that patterns describe.

    A file that two patterns describe belongs to that with more fixed characters: ``x_masks.tif`` to ``{}_masks.tif``
    rather than to ``{}.tif``.

    Args:
      root: the folder.
      roles: a pattern each, and which files it is for.
      ignored: patterns of files that are none of these; in every folder, if they name none.
      strict: whether folders, and files of other types, are faults.
      beside: suffixes of files that may lie there all the same.
      images_first: whether a file that an image pattern describes as well as another one is an image, not a fault.
      is_file: says which folders count as a file, such as OME-Zarr.

    Raises:
      DataError: a folder cannot be listed.
    """
    tree = _Tree(is_file)
    every = [*(role.pattern for role in roles), *ignored]
    known = _Known(every, roles, strict, images_first)
    places: dict[Path, list[_Place]] = {}
    everywhere: list[_Place] = [(number, {}, ()) for number, each in enumerate(ignored, len(roles)) if not each.folders]
    for number, pattern in enumerate(every):
        for folder, values, names in _folders(tree, root, pattern, 0, {}, ()):
            places.setdefault(folder, []).append((number, values, names))
    listing = Listing([[] for _ in roles])
    wanted = {folder for folder, found in places.items() if any(number < len(roles) for number, _, _ in found)}
    for folder in sorted(wanted, key=lambda each: natural_key(str(each))):
        for name, is_folder in tree.entries(folder):
            if not is_folder and not (beside and name.lower().endswith(beside)):
                _place(listing, folder / name, [*places[folder], *everywhere], known)
            elif is_folder and strict:
                foreign = Fault("foreign-file", folder / name, "is a folder.", "Move it out of the folder.")
                listing.faults.append(foreign)
    return listing


def _place(listing: Listing, file: Path, places: Sequence[_Place], known: _Known) -> None:
    """Add a file to the role whose pattern fits best, to the others, or to the faults."""
    if not is_text(file.name):
        found = f"holds a file whose name is not text in UTF-8: {file.name!r}."
        listing.faults.append(Fault("file-name", file.parent, found, "Rename it."))
        return
    try:
        best = _best(file, places, known)
    except Fault as fault:
        listing.faults.append(fault)
        return
    ending = suffix(file)
    number, named = best or (places[0][0], None)
    suffixes = known.roles[number].suffixes if number < len(known.roles) else ()
    if best is None and ending in (suffixes if known.strict else IMAGE_SUFFIXES):
        texts = ", ".join(repr(role.pattern.text) for role in known.roles)
        found = f"is neither an image nor a label by its name, which fits none of {texts}."
        remedy = "Move it elsewhere, change the patterns in [files], or name such files in ignore."
        remedy = "Rename it, or move it elsewhere." if known.strict else remedy
        listing.faults.append(Fault("unnamed-file", file, found, remedy))
        return
    if named and ending in suffixes:
        listing.files[number].append(named)
    elif (named and suffixes and ending in IMAGE_SUFFIXES) or known.strict:
        lossy = ending in IMAGE_SUFFIXES
        reason = "; JPEG compression changes the values of labels" if lossy else ""
        reason += "; its name ends with a space" if file.name != file.name.rstrip() else ""
        found = f"is not one of the files that can be used here ({', '.join(suffixes)}){reason}."
        kind = "label-jpeg" if lossy else "foreign-file"
        listing.faults.append(Fault(kind, file, found, "Convert it, or move it out of the folder."))
    else:
        listing.others.append(file)


def _best(file: Path, places: Sequence[_Place], known: _Known) -> tuple[int, NamedFile] | None:
    """Return the number of the pattern that describes a file, of several the one with most fixed characters.

    Raises:
      Fault: two fit equally well, or one in more than one way.
    """
    patterns, roles = known.patterns, known.roles
    plain, ending = composed(stem(file)), suffix(file)
    fitting, unclear = [], []
    for number, values, names in places:
        try:
            inner = patterns[number].match_stem(plain, ending)
        except AmbiguousNameError:
            unclear.append(number)
            continue
        if inner is not None and all(values.get(key, value) == value for key, value in inner.items()):
            fitting.append((patterns[number].literal, number, NamedFile(file, {**values, **inner}, names)))
    most = max((literal for literal, *_ in fitting), default=-1)
    if doubtful := [number for number in unclear if patterns[number].literal >= most]:
        found = f"fits {patterns[doubtful[0]].text!r} in more than one way."
        raise Fault("file-name", file, found, _UNAMBIGUOUS)
    best = [(number, named) for literal, number, named in fitting if literal == most]
    if known.images_first:
        best = [each for each in best if each[0] < len(roles) and not roles[each[0]].is_label] or best[:1]
    if len({number for number, _ in best}) > 1:
        texts = " and ".join(repr(patterns[number].text) for number, _ in best)
        raise Fault("file-name", file, f"fits {texts} equally well.", "Make one of them more specific.")
    return best[0] if best else None


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
        if not component.plain.isascii():  # macOS writes "ä" as two characters
            spelled = (name for name, _ in tree.entries(folder) if is_text(name) and composed(name) == component.plain)
            inner = folder / next(spelled, component.plain)
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

    def __init__(self, is_file: Callable[[Path], bool]) -> None:
        self._is_file = is_file
        self._listed: dict[Path, list[tuple[str, bool]]] = {}

    def entries(self, folder: Path) -> list[tuple[str, bool]]:
        """Return name and whether it is a folder, of all but what systems have put there."""
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    kept = [each for each in entries if not is_clutter(each.name)]
                    found = [(each.name, each.is_dir() and not self._is_file(Path(each.path))) for each in kept]
            except OSError as error:
                raise DataError(f"{folder} {missing(folder) if not folder.is_dir() else error.strerror}.") from error
            self._listed[folder] = sorted(found, key=lambda each: natural_key(each[0]))
        return self._listed[folder]


def shown(paths: Sequence[Path]) -> str:
    """Return the names of files in a list, the first of many."""
    names = [path.name for path in paths[:_SHOWN]]
    more = len(paths) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def way_on(others: Sequence[Path]) -> str:
    """Return what to do about labels in files that are not read: how the tool that wrote them exports them."""
    names = [path.name for path in others]
    if npy := next((name for name in names if name.endswith("_seg.npy")), ""):
        return (
            f"{npy} and its like are of Cellpose, and they are not read: they are pickled, and to unpickle a file can "
            "run a program. Save the masks as images: in Cellpose with File > Save masks as PNG/TIF, or with "
            "cellpose --save_png (--save_tif)."
        )
    if hdf := next((name for name in names if suffix(Path(name)) in (".h5", ".hdf5", ".ilp")), ""):
        return f"{hdf} is HDF5, as ilastik writes it, and is not read: export the labels as TIFF or PNG."
    return ""
