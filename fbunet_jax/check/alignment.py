"""Names of labels and of other files laid side by side: what they share is what pairs, and the rest is the pattern.

What is found here is only a suggestion: `fbunet_jax.check.naming` has every pattern read by the layout itself.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from fbunet_jax.check.filenames import IMAGE_WORDS, FileName, plain_numbers, tokens
from fbunet_jax.data.layouts.pairing import common_start

Key = tuple[str, ...]
Shape = tuple[tuple[str, ...], ...]
"""For each part of a path the text before, between and after what varies; a single text does not vary."""

SEPARATORS = "_. -"
"""What people write between the words of a name."""

_MOST_REMOVED = 6
_MOST_CLASSES = 40
_MOST_SHAPES = 3
_MOST_MISSES = 2000


@dataclass
class Keyed:
    """Files that are called alike.

    Attributes:
      shape: what their names share.
      files: under what varies, with numbers without their zeros.
      exact: what varies as it is written.
      repeated: files under a key that another one has.
      by_number: whether all that varies is numbers.
    """

    shape: Shape
    files: dict[Key, FileName] = field(default_factory=dict)
    exact: dict[Key, Key] = field(default_factory=dict)
    repeated: list[tuple[FileName, Key]] = field(default_factory=list)
    by_number: bool = False

    def add(self, file: FileName, exact: Key) -> None:
        """Add a file under what varies in its name."""
        key = tuple(map(plain_numbers, exact))
        if key in self.files:
            self.repeated.append((file, exact))
        else:
            self.files[key], self.exact[key] = file, exact

    def by_ending(self) -> "list[Keyed]":
        """Return files of one name and several types apart."""
        if not self.repeated:
            return [self]
        kinds: dict[str, Keyed] = {}
        for file, exact in (*((self.files[key], self.exact[key]) for key in self.files), *self.repeated):
            kinds.setdefault(file.ending.lower(), Keyed(self.shape, by_number=self.by_number)).add(file, exact)
        return list(kinds.values())

    @property
    def every(self) -> list[FileName]:
        """All the files."""
        return [*self.files.values(), *(file for file, _ in self.repeated)]

    @property
    def text(self) -> str:
        """All that the names share, for a search of words."""
        return "/".join(" ".join(part) for part in self.shape)


def keyed_labels(files: Sequence[FileName], words: re.Pattern[str], *, strip: bool) -> list[Keyed]:
    """Return files under what varies in their names, apart from the words that make them labels; most files first.

    Args:
      files: with the words.
      words: that make them labels.
      strip: whether all that the names begin and end with is shared text, and not only the words.
    """
    depth = Counter(len(file.parts) for file in files).most_common(1)[0][0]
    files = [file for file in files if len(file.parts) == depth]
    values = [sorted({file.parts[place] for file in files}) for place in range(depth)]
    varying = [len(found) > 1 for found in values]
    if not any(varying):
        varying[-1] = True
    cuts = [
        _cuts(found, words, strip=strip) if varies else {found[0]: ((found[0],), ())}
        for found, varies in zip(values, varying, strict=True)
    ]
    shapes: dict[Shape, Keyed] = {}
    for file in files:
        pieces = [each[part] for each, part in zip(cuts, file.parts, strict=True)]
        shape = tuple(piece[0] for piece in pieces)
        shapes.setdefault(shape, Keyed(shape)).add(file, tuple(itertools.chain(*(piece[1] for piece in pieces))))
    found = [each for each in shapes.values() if all(all(key) for key in each.files) and any(each.files)]
    return sorted(found, key=lambda each: len(each.files), reverse=True)[:_MOST_SHAPES]


def _cuts(values: Sequence[str], words: re.Pattern[str], *, strip: bool) -> dict[str, tuple[tuple[str, ...], Key]]:
    """Return what is shared and what varies of each of these names."""
    start, end = "", ""
    if strip and len(values) > 1:
        split = [tokens(value) for value in values]
        start = "".join(common_start(split))
        end = "".join(reversed(common_start([each[::-1] for each in split])))
        if any(len(value) <= len(start) + len(end) for value in values):
            end = ""
        if any(len(value) <= len(start) for value in values):
            start = ""
    found = {}
    for value in values:
        shared, varying = _without(value[len(start) : len(value) - len(end)], words)
        found[value] = ((start + shared[0], *shared[1:-1], shared[-1] + end) if varying else (value,), varying)
    return found


def _without(value: str, words: re.Pattern[str]) -> tuple[tuple[str, ...], Key]:
    """Cut the last of some words out of a name, with the separators beside it."""
    found = list(words.finditer(value))
    if not found:
        return ("", ""), (value,)
    match = found[-1]
    head, tail = value[: match.start()], value[match.end() :]
    before, after = head.rstrip(SEPARATORS), tail.lstrip(SEPARATORS)
    if before and after:
        return ("", value[len(before) : len(value) - len(after)], ""), (before, after)
    if before:
        return ("", value[len(before) :]), (before,)
    if after:
        return (value[: len(value) - len(after)], ""), (after,)
    return (value,), ()


def aligned(labels: Keyed, files: Sequence[FileName]) -> list[Keyed]:
    """Return the files whose names hold what varies in those of the labels, files that are called alike together."""
    folders = [part for part in labels.shape[:-1] if len(part) > 1]
    if any(len(part) > 2 for part in folders):
        return []
    find = _Finder(labels)
    misses: Counter[int] = Counter()
    for file in files:
        depth = len(file.parts)
        if find.known(file) or misses[depth] > _MOST_MISSES or len(find.classes[depth]) > _MOST_CLASSES:
            continue
        for shape, exact in _decompositions(file, len(folders), len(labels.shape[-1]) - 1):
            if find.add(file, shape, exact):
                break
        else:
            misses[depth] += 1
    return [each for found in find.classes.values() for each in found.values()]


class _Finder:
    """Sorts files by what their names share, if what varies is the key of a label."""

    def __init__(self, labels: Keyed) -> None:
        self.classes: dict[int, dict[Shape, Keyed]] = defaultdict(dict)
        self._ordered: dict[int, list[Shape]] = defaultdict(list)
        self._normal: Callable[[str], str] = str if labels.repeated else plain_numbers
        self._keys = set(labels.exact.values()) if labels.repeated else set(labels.files)

    def known(self, file: FileName) -> bool:
        """Add a file to a class that is there, the one with the least shared text first."""
        for shape in self._ordered[len(file.parts)]:
            exact = extract(shape, file)
            if exact is not None and self.add(file, shape, exact):
                return True
        return False

    def add(self, file: FileName, shape: Shape, exact: Key) -> bool:
        """Add a file, if a label has this key, and say whether one has."""
        if tuple(map(self._normal, exact)) not in self._keys:
            return False
        depth = len(file.parts)
        if shape not in self.classes[depth]:
            self.classes[depth][shape] = Keyed(shape)
            self._ordered[depth].append(shape)
            self._ordered[depth].sort(key=lambda each: sum(len(text) for part in each for text in part))
        self.classes[depth][shape].add(file, exact)
        return True


def extract(shape: Shape, file: FileName) -> Key | None:
    """Return what varies in a name of this shape, or None if it has another."""
    found: list[str] = []
    for texts, part in zip(shape, file.parts, strict=True):
        if len(texts) == 1:
            if part != texts[0]:
                return None
            continue
        first, *middle, last = texts
        if len(part) <= len(first) + len(last) or not part.startswith(first) or not part.endswith(last):
            return None
        inner = part[len(first) : len(part) - len(last)]
        for text in middle:
            before, there, inner = inner.partition(text)
            if not there or not before or not inner:
                return None
            found.append(before)
        found.append(inner)
    return tuple(found)


def _decompositions(file: FileName, folders: int, fields: int) -> Iterator[tuple[Shape, Key]]:
    """Yield the ways to read a name, those with the least shared text first.

    Args:
      file: the name.
      folders: how many of its folders vary.
      fields: how many texts vary in the file's own name.
    """
    *before, name = file.parts
    places = list(itertools.combinations(range(len(before)), folders))
    for texts, varying in _readings(name, fields):
        for chosen in places:
            options = []
            for place, part in enumerate(before):
                options.append(_folder_readings(part) if place in chosen else [((part,), ())])
            for way in itertools.product(*options):
                yield (*(each[0] for each in way), texts), (*itertools.chain(*(each[1] for each in way)), *varying)


def _folder_readings(name: str) -> list[tuple[tuple[str, ...], Key]]:
    """Return the ways to see a text in the name of a folder: all of it, or what is left without a word for images."""
    cut = _without(name, IMAGE_WORDS)
    return [(("", ""), (name,)), *([cut] if len(cut[1]) == 1 and cut[1] != (name,) else [])]


def _readings(name: str, fields: int) -> Iterator[tuple[tuple[str, ...], Key]]:
    """Yield the ways to see this number of texts in a name, those with the least other text first."""
    if not fields:
        yield (name,), ()
        return
    words = tokens(name)
    count = len(words)
    for removed in range(min(_MOST_REMOVED, count - 1) + 1):
        for start in range(removed + 1):
            end = count - (removed - start)
            first, last = "".join(words[:start]), "".join(words[end:])
            if fields == 1:
                yield (first, last), ("".join(words[start:end]),)
            elif fields == 2:
                for middle in range(1, min(4, end - start - 1)):
                    for place in range(start + 1, end - middle):
                        text = "".join(words[place : place + middle])
                        yield (
                            (first, text, last),
                            ("".join(words[start:place]), "".join(words[place + middle : end])),
                        )


def numbered(files: Sequence[FileName]) -> list[Keyed]:
    """Return the files whose names differ in numbers only, under the numbers that are not the same in all of them."""
    classes: dict[tuple[str, ...], list[tuple[FileName, list[str]]]] = defaultdict(list)
    for file in files:
        pieces = re.split(r"([0-9]+)", "/".join(file.parts))
        classes[tuple(pieces[::2])].append((file, pieces[1::2]))
    found = []
    for texts, members in classes.items():
        columns = list(zip(*(numbers for _, numbers in members), strict=True))
        varying = [place for place, column in enumerate(columns) if len(set(column)) > 1]
        if not varying:
            continue
        path, shape = texts[0], [[""]]
        for place, text in enumerate(texts):
            if place:
                path = text
                if place - 1 in varying:
                    shape[-1].append("")
                else:
                    path = columns[place - 1][0] + text
            first, *others = path.split("/")
            shape[-1][-1] += first
            shape += [[other] for other in others]
        keyed = Keyed(tuple(map(tuple, shape)), by_number=True)
        for file, numbers in members:
            keyed.add(file, tuple(numbers[place] for place in varying))
        found.append(keyed)
    return found
