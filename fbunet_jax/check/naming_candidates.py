"""Patterns that the names in a folder suggest: of files that a word, a folder or a type sets apart, and of others."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fbunet_jax.check.alignment import SEPARATORS, Keyed, aligned, keyed_labels, numbered
from fbunet_jax.check.filenames import (
    CHANNEL_WORDS,
    DERIVED_WORDS,
    IMAGE_WORDS,
    LABEL_WORDS,
    NUMBERED_CHANNEL,
    FileName,
    escaped,
    is_part,
    label_words,
    tokens,
)
from fbunet_jax.check.habits import FEWEST_GROUPS, tiles
from fbunet_jax.config import FilesConfig
from fbunet_jax.data.folds import natural_key
from fbunet_jax.data.layouts.patterns import part_of
from fbunet_jax.errors import UserError

_MOST_GROUPS, _MOST_CHANNELS = 16, 6
_NOTHING = re.compile(r"(?!)")


@dataclass(frozen=True)
class Candidate:
    """Patterns that may describe a folder.

    Attributes:
      files: `[files]` of dataset.toml.
      estimate: about how many images then pair with a label; never fewer than do.
      evidence: how many words say which files are images and which are labels; below 0 if they say the contrary.
    """

    files: FilesConfig
    estimate: int
    evidence: int


def by_words(files: Sequence[FileName]) -> Iterator[Candidate]:
    """Yield what names may mean in which words for labels stand."""
    marks: dict[FileName, list[tuple[int, str]]] = {file: list(label_words(file)) for file in files}
    counts = Counter(mark for found in marks.values() for mark in set(found))
    groups: dict[object, list[FileName]] = defaultdict(list)
    for file, found in marks.items():
        telling = [mark for mark in found if counts[mark] < len(files)]
        for mark in {(each,) for each in telling} | ({tuple(telling)} if telling else set()):
            groups[mark].append(file)
    largest = sorted(groups.values(), key=len, reverse=True)[:_MOST_GROUPS]
    yield from _of_groups(files, largest, LABEL_WORDS, fewest_words=1)


def without_words(files: Sequence[FileName]) -> Iterator[Candidate]:
    """Yield what names may mean of which no word says that they are labels: by folder, first or last word, and type."""
    groups: dict[tuple[str, ...], list[FileName]] = defaultdict(list)
    for file in files:
        words = tokens(file.parts[-1])
        beside = ((0, 1), (-1, -2)) if len(words) > 2 else ()
        ends = [(at, words[at]) for at, near in beside if words[at].isalpha() and not words[near].isalnum()]
        marks: list[tuple[str, ...]] = [("folder", *file.parts[:-1]), ("type", file.ending.lower())]
        marks += [("word", str(at), word) for at, word in ends]
        for mark in marks if ends else [*marks, ("no word",)]:
            groups[mark].append(file)
    marked = [(mark, found) for mark, found in groups.items() if len(files) / 20 <= len(found) < len(files)]
    for mark, found in sorted(marked, key=lambda each: len(each[1]), reverse=True)[:_MOST_GROUPS]:
        word = re.escape(mark[-1]) if mark[0] == "word" else r"(?!)"
        yield from _of_groups(files, [found], re.compile(word), fewest_words=0)


def _of_groups(
    files: Sequence[FileName], groups: Sequence[Sequence[FileName]], words: re.Pattern[str], *, fewest_words: int
) -> Iterator[Candidate]:
    """Yield the patterns by which groups of label files pair with the other files."""
    tried: set[FilesConfig] = set()
    for group in groups:
        endings = Counter(file.ending.lower() for file in group)
        kinds = [[file for file in group if file.ending.lower() == each] for each in endings if len(endings) > 1]
        for members in [group, *kinds]:
            for labels, classes in _alignments(members, files, words):
                for candidate in _choices(labels, classes):
                    if candidate.files not in tried and candidate.evidence >= fewest_words:
                        tried.add(candidate.files)
                        yield candidate


def _alignments(
    members: Sequence[FileName], files: Sequence[FileName], words: re.Pattern[str]
) -> Iterator[tuple[Keyed, list[Keyed]]]:
    """Yield label files and the classes of other files that hold what varies in their names."""
    for strip in (False, True):
        found = False
        for labels in keyed_labels(members, words, strip=strip):
            classes = aligned(labels, _without(files, labels.every))
            found = found or any(len(each.files) == len(labels.files) for each in classes)
            yield labels, classes
            for channel in () if strip else _channels_named(labels):
                beside = re.compile(f"{re.escape(channel)}(?:[{SEPARATORS}]+(?:{words.pattern}))?", re.IGNORECASE)
                for each in keyed_labels(members, beside, strip=False):
                    yield each, aligned(each, _without(files, each.every))
        if found:
            return
    others = _without(files, members)
    # several labels of an image, such as a_cell_mask and a_nucleus_mask
    for base in keyed_labels(others, _NOTHING, strip=False)[:1] if others else ():
        for labels in sorted(aligned(base, members), key=lambda each: -len(each.files))[:_MOST_CHANNELS]:
            yield labels, aligned(labels, _without(files, labels.every))
    by_shape = max(numbered(members), key=lambda each: len(each.files), default=None)
    if by_shape and not by_shape.repeated:
        yield by_shape, [each for each in numbered(others) if not each.repeated and _same_order(each, by_shape)]


def _channels_named(labels: Keyed) -> list[str]:
    """Return the channels that the names of all labels hold, as that of a_w1_mask holds the channel of a_w1."""
    found = [{each.casefold() for each in CHANNEL_WORDS.findall(key[-1])} for key in labels.files]
    return sorted(set.intersection(*found))


def _without(files: Sequence[FileName], members: Iterable[FileName]) -> list[FileName]:
    inside = set(members)
    return [file for file in files if file not in inside]


def _same_order(one: Keyed, other: Keyed) -> bool:
    """Say whether numbers can stand for the same: as many of them, and not x before y here and y before x there."""
    mine, theirs = (
        [text.rstrip("0123456789_-. ")[-1:].casefold() for part in each.shape for text in part[:-1]]
        for each in (one, other)
    )
    return len(mine) == len(theirs) and (mine == theirs or sorted(mine) != sorted(theirs))


def _choices(labels: Keyed, classes: Sequence[Keyed]) -> Iterator[Candidate]:
    """Yield which classes of files may be the images of labels: one, or several that are channels."""
    split = [part for each in classes for part in each.by_ending() if not _apart(part, labels)]
    cover = {id(each): sum(key in labels.files for key in each.files) for each in split}
    own = _folders(labels)
    fitting = [each for each in split if cover[id(each)]]
    # beside files without the labels' word, others with it are the labels of somebody else
    bare = [each for each in fitting if _new(LABEL_WORDS, labels, each) and not _is_other(each, labels)] or fitting
    nearest = max((len(own & _folders(each)) for each in bare), default=0)
    fitting = [each for each in fitting if len(own & _folders(each)) == nearest]
    possible = [each for each in fitting if each in bare and not _is_other(each, labels)]
    most = max((cover[id(each)] for each in possible), default=0)
    rivals = [each for each in possible if 2 * cover[id(each)] >= most]
    for chosen in _images(labels, rivals):
        texts = _pattern_texts(chosen, labels)
        if texts is None:
            continue
        images, label = texts
        if found := tiles(images[0], label, [file.parts[-1] for file in chosen[0].files.values()]):
            images, label = [found[0]], found[1]
        numbers = {NUMBERED_CHANNEL.sub("_{channel}", each) for each in images}
        if len(numbers) == 1 and "{channel}" in next(iter(numbers)):
            images = list(numbers)
        read = [*chosen, labels]
        # an image that only lacks a label is never ignored
        equals = [each for each in rivals if cover[id(each)] == cover[id(chosen[0])]]
        others = [each for each in fitting if each not in chosen and (each in equals or _is_other(each, labels))]
        ignored = {_starred(each) for each in others if _together(each, read)}
        evidence = sum(_evidence(each, labels, rivals) for each in chosen) // len(chosen)
        pairs = sum(all(key in each.files for each in chosen) for key in labels.files)
        try:
            files = FilesConfig(images[0] if len(images) == 1 else tuple(images), label, tuple(sorted(ignored)))
        except UserError:
            continue
        yield Candidate(files, pairs, evidence)


def _is_other(keyed: Keyed, labels: Keyed) -> bool:
    """Say whether files are other labels, or what a tool derived from an image."""
    return bool(_new(LABEL_WORDS, keyed, labels) or _new(DERIVED_WORDS, keyed, labels))


def _images(labels: Keyed, images: Sequence[Keyed]) -> list[list[Keyed]]:
    """Return the choices of images: known channels together; others each, and together."""
    marked = [each for each in images if _new(IMAGE_WORDS, each, labels) or _is_x(each, labels)]
    images = sorted(marked or images, key=lambda each: natural_key(each.text))
    if len(images) > 1 and _channels(images):
        return [images]
    if len(images) > _MOST_CHANNELS:  # such as the times of a film with a label for all of them
        return []
    return [*([each] for each in images), *([images] if len(images) > 1 else [])]


def _folders(keyed: Keyed) -> set[tuple[int, str]]:
    """Return the folders that do not vary, with their places."""
    return {(place, part[0]) for place, part in enumerate(keyed.shape[:-1]) if len(part) == 1}


def _apart(one: Keyed, other: Keyed) -> bool:
    """Say whether files are for different parts of a fold."""
    mine, theirs = ({word.casefold() for word in tokens(each.text) if is_part(word)} for each in (one, other))
    return bool(mine and theirs and mine != theirs)


def _new(words: re.Pattern[str], keyed: Keyed, other: Keyed) -> set[str]:
    """Return the words that stand in what some names share, and not in that of others."""
    found, there = ({each.casefold() for each in words.findall(every.text)} for every in (keyed, other))
    return found - there


def _is_x(keyed: Keyed, labels: Keyed) -> bool:
    last = [each.shape[-2][0].casefold() if len(each.shape) > 1 else "" for each in (keyed, labels)]
    return last == ["x", "y"]


def _evidence(images: Keyed, labels: Keyed, rivals: Sequence[Keyed]) -> int:
    """Return how many words say which files are images and which are labels.

    A known channel is no better an image than files beside it of which no word says anything: another stain, perhaps.
    """
    right = 2 * bool(_new(LABEL_WORDS, labels, images) or _is_x(images, labels))
    known = all(_new(CHANNEL_WORDS, each, labels) for each in rivals) and bool(_new(CHANNEL_WORDS, images, labels))
    right += bool(_new(IMAGE_WORDS, images, labels) or _is_x(images, labels) or known)
    wrong = _new(IMAGE_WORDS, labels, images) | _new(LABEL_WORDS, images, labels) | _new(DERIVED_WORDS, labels, images)
    return right - 2 * bool(wrong) - bool(_new(CHANNEL_WORDS, labels, images))


def _channels(images: Sequence[Keyed]) -> bool:
    """Say whether the names of several classes of images differ in nothing but known words for channels."""
    for words in (CHANNEL_WORDS, NUMBERED_CHANNEL):
        found = [words.search(each.text) for each in images]
        rest = {words.sub("", each.text) for each in images}
        if all(found) and len({each[0] for each in found if each}) == len(images) and len(rest) == 1:
            return True
    return False


def _together(keyed: Keyed, read: Sequence[Keyed]) -> bool:
    """Say whether files lie in a folder that is read."""
    return any(
        len(keyed.shape) == len(each.shape)
        and all(len(a) > 1 or len(b) > 1 or a == b for a, b in zip(keyed.shape[:-1], each.shape[:-1], strict=True))
        for each in read
    )


def _starred(keyed: Keyed) -> str:
    """Return the pattern of files that are to be ignored."""
    return "/".join("*".join(map(escaped, part)) for part in keyed.shape) + _ending(keyed)


def _pattern_texts(images: Sequence[Keyed], labels: Keyed) -> tuple[list[str], str] | None:
    """Return the patterns of the images and of the labels, or None where their names hold texts that differ."""
    shared = [key for key in labels.files if all(key in each.files for each in images)]
    count = len(next(iter(labels.files)))
    holes = []
    folders = sum(len(part) - 1 for part in labels.shape[:-1])
    named: set[str] = set()
    for place in range(count):
        number = images[0].by_number
        if not number and any(each.exact[key][place] != labels.exact[key][place] for key in shared for each in images):
            if not all(each.exact[key][place].isdecimal() for key in shared for each in (*images, labels)):
                return None
            number = True
        name = _field_name({key[place] for key in shared}, len(shared)) if place < folders else ""
        name = "" if name in named or (name == "split" and number) else name
        named.add(name)
        holes.append(f"{{{name}{':d' if number else ''}}}")
    return [_pattern(each, holes) for each in images], _pattern(labels, holes)


def _field_name(values: set[str], pairs: int) -> str:
    """Return what a folder that varies is: a part of a fold, a group of images, or nothing in particular."""
    if all(map(is_part, values)):
        # a fold needs both
        return "split" if {"train", "test"} <= set(map(part_of, values)) else ""
    return "group" if FEWEST_GROUPS <= len(values) < pairs else ""


def _pattern(keyed: Keyed, holes: Sequence[str]) -> str:
    left = iter(holes)
    parts = []
    for texts in keyed.shape:
        part = escaped(texts[0])
        for text in texts[1:]:
            part += next(left) + escaped(text)
        parts.append(part)
    return "/".join(parts) + _ending(keyed)


def _ending(keyed: Keyed) -> str:
    """Return the suffix that all files have; none or any where they have several."""
    endings = Counter(file.ending for file in keyed.files.values())
    if len({each.lower() for each in endings}) == 1:
        return endings.most_common(1)[0][0]
    return ".*" if "." in keyed.shape[-1][-1] else ""
