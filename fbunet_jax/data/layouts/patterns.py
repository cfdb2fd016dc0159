"""The one way from the name of a file to what it is: its image, and its group, part, page and channel.

A pattern is a path below a folder, such as ``"{group}/scan_{}_raw.png"``. ``{}`` is text within one name, ``{:d}`` a
whole number, ``*`` text that does not matter; ``{name}`` and ``{name:d}`` pair by name instead of by order. Four names
have a meaning: ``{group}`` stays together in a fold, ``{split}`` is train, validation or test, ``{page}`` is the page
of a stack and ``{channel}`` the number of a channel. ``{{`` and ``}}`` are braces.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb
from pathlib import Path

from fbunet_jax.data.readers.image_files import IMAGE_SUFFIXES
from fbunet_jax.errors import DataError
from fbunet_jax.user_files import composed, stem, suffix

GROUP, SPLIT, PAGE, CHANNEL = "group", "split", "page", "channel"

_SPLITS = {
    "train": ("train", "training", "tr"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "ts"),
}
_PART_OF = {word: part for part, words in _SPLITS.items() for word in words}
SPLIT_WORDS = tuple(_PART_OF)
"""What folders and names call the parts of a fold."""

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|\*|[{}]|[^{}*]+")
_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9_]*)?(:0?[0-9]*d)?")
_UNKNOWN_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}")
_DIGITS = re.compile(r"[0-9]+")
_MOST_DIGITS = 4000
_MOST_READINGS = 100_000
_HELP = "docs/data.md#names-as-they-are describes patterns."

Values = Mapping[str, str]
"""What the braces of a pattern hold in the name of a file, as it is written there."""


class AmbiguousNameError(Exception):
    """A pattern can be laid over a name in more than one way."""


def part_of(word: str) -> str:
    """Return "train", "validation" or "test" for one of `SPLIT_WORDS`."""
    return _PART_OF[word.casefold()]


@dataclass(frozen=True)
class _Component:
    """One folder or file name of a pattern.

    Attributes:
      text: as it was written.
      plain: the name itself, if nothing in it can vary; else empty.
      longest, shortest: two regular expressions that prefer long and short fields: where they agree there is only one
        way to read a name.
      filled: a format string for the fields.
      between: what is fixed before, between and after the texts that can vary.
    """

    text: str
    plain: str
    longest: re.Pattern[str]
    shortest: re.Pattern[str]
    fields: tuple[str, ...]
    filled: str
    between: tuple[str, ...] = ()

    def match(self, name: str) -> dict[str, str] | None:
        """Return what the fields hold, or None.

        Raises:
          AmbiguousNameError: there is more than one way.
        """
        if len(self.between) > 1 and not (name.startswith(self.between[0]) and name.endswith(self.between[-1])):
            return None
        if self._is_endless(name):
            raise AmbiguousNameError(name)
        found = self.longest.fullmatch(name)
        if found is None:
            return None
        other = self.shortest.fullmatch(name)
        if other is None or found.groups() != other.groups():
            raise AmbiguousNameError(name)
        return found.groupdict()

    def _is_endless(self, name: str) -> bool:
        """Say whether what separates the texts is in a name so often that to try all places would take minutes."""
        if len(self.between) < 5:
            return False
        inner = self.between[1:-1]
        places = max(name.count(each) if each else len(_DIGITS.findall(name)) for each in inner)
        return comb(places, len(inner)) > _MOST_READINGS


class Pattern:
    """Where files lie and how they are called.

    Attributes:
      text: as the user wrote it.
      fields: names of the braces, in order of their first occurrence; unnamed ones are "_1", "_2", …
      numbers: those that are whole numbers.
      folders: the components of the folders.
      file: the component of the file's name, without suffix.
      suffix: of the files in small letters, or "" for any that can be read.
      literal: how many characters are fixed: of two patterns that fit a name, the one with more of them describes it.
    """

    def __init__(self, text: str, setting: str = "files.images") -> None:
        """Read a pattern.

        Raises:
          DataError: it cannot be used; names the setting.
        """
        self.text, self._setting = text, setting
        parts = text.split("/")
        if not text or any(part in ("", ".", "..") for part in parts) or "\\" in text or Path(text).is_absolute():
            raise self.error("expected a path below the folder of the data set, with / between folders and files")
        *folders, file = parts
        ending = "" if file.endswith(".*") else suffix(Path(file))
        if ending not in IMAGE_SUFFIXES and _UNKNOWN_SUFFIX.fullmatch(ending):
            raise self.error(f"files of the type {ending!r} cannot be read, only {', '.join(IMAGE_SUFFIXES)}")
        self.suffix = ending if ending in IMAGE_SUFFIXES else ""
        name = file.removesuffix(".*")
        self._counter, self._numbers = 0, dict[str, bool]()
        self.folders = tuple(self._component(each) for each in folders)
        self.file = self._component(stem(Path(name)) if self.suffix else name)
        components = (*self.folders, self.file)
        self.fields = tuple(self._numbers)
        self.numbers = frozenset(name for name, is_number in self._numbers.items() if is_number)
        self.literal = sum(len(re.sub(r"\{[^{}]*\}|\*", "", each.text)) for each in components) + len(self.suffix)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    @cached_property
    def identity(self) -> frozenset[str]:
        """The fields that tell one image from another: all but the channel."""
        return frozenset(self.fields) - {CHANNEL}

    def match_file(self, name: str) -> dict[str, str] | None:
        """Return what the fields of the last component hold for a file's name, or None.

        Raises:
          AmbiguousNameError: there is more than one way.
        """
        path = Path(name)
        return self.match_stem(composed(stem(path)), suffix(path))

    def match_stem(self, name: str, ending: str) -> dict[str, str] | None:
        """Return the same of a name in two parts: composed and without suffix, and the suffix in small letters."""
        return self.file.match(name) if self.suffix in ("", ending) else None

    def match_folder(self, depth: int, name: str) -> dict[str, str] | None:
        """Return what the fields of a folder of the pattern hold; see `match_file`."""
        return self.folders[depth].match(composed(name))

    def key(self, values: Values, fields: Sequence[str]) -> tuple[str, ...]:
        """Return what pairs: the values of these fields, numbers without their zeros."""
        return tuple(_number(values[field]) if field in self.numbers else values[field] for field in fields)

    def fill(self, values: Values) -> str:
        """Return the path that these values give, with the pattern's text where one is missing."""
        shown = {field: values.get(field, "…") for field in self.fields}
        path = "/".join(each.filled.format(**shown) for each in (*self.folders, self.file))
        return path + self.suffix

    def name(self, folders: Sequence[str], file: str) -> str:
        """Return the name of an image from that of its file, without suffix, and the folders before it that vary.

        A folder of the file's own name is not repeated.
        """
        varying = [name for name, each in zip(folders, self.folders, strict=True) if each.fields]
        parts = [composed(each) for each in (*varying, file)]
        return "/".join(part for part, before in zip(parts, ["", *parts], strict=False) if part not in ("", before))

    def match(self, path: Path) -> dict[str, str] | None:
        """Return what the fields hold for the last folders and the name of a path, or None.

        Raises:
          AmbiguousNameError: there is more than one way.
        """
        *folders, name = path.parts[-len(self.folders) - 1 :]
        if len(folders) < len(self.folders):
            return None
        values: dict[str, str] = {}
        for depth in range(len(folders) + 1):
            found = self.match_file(name) if depth == len(folders) else self.match_folder(depth, folders[depth])
            if found is None or any(values.get(key, value) != value for key, value in found.items()):
                return None
            values |= found
        return values

    def tail(self, depth: int) -> "Pattern":
        """Return the pattern of the last ``depth`` folders and the file."""
        parts = self.text.split("/")
        return Pattern("/".join(parts[len(parts) - 1 - depth :]), self._setting)

    def of_any_type(self) -> "Pattern":
        """Return the pattern of files of the same names and any type that can be read."""
        *folders, file = self.text.split("/")
        return Pattern("/".join((*folders, f"{stem(Path(file))}.*")), self._setting) if self.suffix else self

    def _component(self, text: str) -> _Component:
        longest, shortest, filled, plain, fields = "", "", "", "", dict[str, bool]()
        varies, before, between, numbered_start = False, "", [""], False
        for token in _TOKEN.finditer(text):
            word = token[0]
            is_hole = word == "*" or (word.startswith("{") and token[1] is not None)
            if is_hole and before and not any(self._is_number(each) for each in (before, word)):
                raise self.error("two braces or stars stand side by side, so nobody could say where one ends")
            before = word if is_hole else ""
            if is_hole and not self._is_number(word):
                between.append("")
            elif is_hole and len(between) > 1:  # of what stands on both sides of a number, one is enough
                between[-1] = ""
            between[-1] += "" if is_hole or numbered_start else _unescaped(word)
            numbered_start = len(between) == 1 and (numbered_start or is_hole)
            if word == "*":
                varies, longest, shortest, filled = True, f"{longest}.*", f"{shortest}.*?", f"{filled}*"
                continue
            if is_hole:
                name, one, other = self._field(token[1], fields)
                varies, longest, shortest = True, longest + one, shortest + other
                filled += f"{{{name}}}"
                continue
            if word in ("{", "}"):
                raise self.error(f"{word} has no counterpart; {{{{ and }}}} are braces in a name")
            word = _unescaped(word)
            plain, longest, shortest = plain + word, longest + re.escape(word), shortest + re.escape(word)
            filled += word.replace("{", "{{").replace("}", "}}")
        if fields and text.count("*") > 1:  # with one, the longest and the shortest way to read a name tell of others
            raise self.error("more than one * stands beside braces in one name, so nobody could say what these hold")
        return _Component(
            text,
            "" if varies else plain,
            re.compile(longest, re.DOTALL),
            re.compile(shortest, re.DOTALL),
            tuple(fields),
            filled,
            tuple(between),
        )

    @staticmethod
    def _is_number(hole: str) -> bool:
        return hole.endswith("d}") and ":" in hole

    def _field(self, text: str, here: dict[str, bool]) -> tuple[str, str, str]:
        """Return the name of a brace and its two regular expressions."""
        spec = _FIELD.fullmatch(text)
        if spec is None:
            raise self.error(f"{{{text}}} is not understood: expected {{}}, {{:d}}, {{name}} or {{name:d}}")
        name, is_number = spec[1] or "", bool(spec[2])
        if not name:
            self._counter += 1
            name = f"_{self._counter}"
        is_number = is_number or name in (PAGE, CHANNEL)
        if name == SPLIT and is_number:
            raise self.error("{split} is a word, not a number")
        if self._numbers.setdefault(name, is_number) != is_number:
            raise self.error(f"{{{name}}} is text in one place and a number in another")
        if name in here:
            return name, f"(?P={name})", f"(?P={name})"
        here[name] = True
        if name == SPLIT:
            words = "|".join(sorted(SPLIT_WORDS, key=len, reverse=True))
            return name, f"(?P<{name}>(?i:{words}))", f"(?P<{name}>(?i:{words}))"
        if is_number:  # all digits that stand together
            return name, rf"(?P<{name}>(?<![0-9])[0-9]+(?![0-9]))", rf"(?P<{name}>(?<![0-9])[0-9]+(?![0-9]))"
        return name, f"(?P<{name}>.+)", f"(?P<{name}>.+?)"

    def error(self, found: str) -> DataError:
        """Return the error of a pattern that cannot be used."""
        return DataError(f"{self._setting} = {self.text!r}: {found}. {_HELP}")


def _unescaped(word: str) -> str:
    return composed(word.replace("{{", "{").replace("}}", "}"))


def whole(digits: str) -> int:
    """Return the number of a page or channel; of thousands of digits, which int() refuses, the last."""
    return int(digits[-_MOST_DIGITS:])


def _number(text: str) -> str:
    """Return digits in a form in which equal numbers are equal, however long."""
    return text.lstrip("0").rjust(1, "0")
