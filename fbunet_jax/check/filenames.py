"""The names of the files in a folder, and the words in them by which people and tools tell labels from images."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from fbunet_jax.data.layouts.patterns import SPLIT_WORDS
from fbunet_jax.data.readers.image_files import IMAGE_SUFFIXES
from fbunet_jax.user_files import composed, is_clutter, is_text, stem

LISTED = 3
"""How many names of files a sentence shows."""
_DEEPEST = 5
_MOST_FILES = 200_000
_TOKEN = re.compile(r"ch[0-9]+sk[0-9]+fk[0-9]+fl[0-9]+|[0-9]+|[^\W0-9_]+|[\s_.-]+|.", re.DOTALL)
_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")


def _words(*words: str) -> re.Pattern[str]:
    """Return what finds one of these words that stand by themselves."""
    return re.compile(rf"(?<![^\W\d_])(?:{'|'.join(words)})(?![^\W\d_])", re.IGNORECASE)


LABEL_WORDS = _words(
    r"cp[ _-]?masks?",
    r"ground[ _-]?truths?",
    r"simple[ _]segmentations?",
    r"ann(?:o|os|ot|otations?|otated)?",
    r"label(?:s|led|ed|ling|ing)?",
    r"segmentation(?:class|object)",
    r"lbls?|masks?|segs?|segmentations?|segmented|gts?|targets?|truth|instances?|manual",
    r"masken?|masques?",
)
IMAGE_WORDS = _words(
    r"images?|imgs?|im|raws?|inputs?|original|originals|orig|sources?|src|data|photos?|pictures?|pics?|bild(?:er)?"
)
DERIVED_WORDS = _words(
    r"flows?|outlines?|overlays?|cp_output|cellprob|styles?|probabilit(?:y|ies)|probs?|uncertaint(?:y|ies)",
    r"pred(?:icted|ictions?)?|previews?|thumb(?:nail)?s?|screenshots?|object predictions|features?",
)
CHANNEL_WORDS = re.compile(
    r"(?<![^\W\d_])(?:dapi|e?gfp|rfp|yfp|cfp|m?cherry|tdtomato|fitc|tritc|hoechst|bf|bright[ _-]?field|phase|dic|trans"
    r"|texas[ _-]?red|sytox|draq5|red|green|blue|cy[2357]|alexa[0-9]*|w[0-9](?:dapi|e?gfp|rfp|fitc|tritc|cy[357])?"
    r"|ch(?:an(?:nel)?)?[ _-]?[0-9]{1,2}|c[0-9]{1,2}|ch[0-9]{1,2}sk[0-9]+fk[0-9]+fl[0-9]+)(?![^\W_])"
    r"|(?<![^\W_])(?:405|473|488|514|532|543|546|555|561|568|594|633|640|647)(?:nm)?(?![^\W_])",
    re.IGNORECASE,
)
NUMBERED_CHANNEL = re.compile(r"_([0-9]{4})")
"""How nnU-Net ends the name of a channel file."""
PAGE_WORDS = re.compile(
    r"[ _-]+(?:z|p|pages?|s|slices?|sections?|t|frames?)?[ _-]*|(?:z|page|slice|section|frame)[ _-]*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class FileName:
    """The name of a file below a folder.

    Attributes:
      parts: the folders, and last the name without suffix.
      ending: the suffix as it is written, such as ".TIF".
    """

    parts: tuple[str, ...]
    ending: str

    @property
    def shown(self) -> str:
        """The path below the folder."""
        return "/".join(self.parts) + self.ending


@dataclass
class FileNames:
    """What lies in a folder and its folders.

    Attributes:
      files: images and labels, by their suffixes.
      others: names of files of other types, below the folder.
      problems: what could not be looked at, in a sentence each.
    """

    files: list[FileName] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def list_names(root: Path) -> FileNames:
    """Return the names of the files in a folder, down to some folders below it; hidden ones are passed over."""
    names = FileNames()
    waiting: list[tuple[Path, tuple[str, ...]]] = [(root, ())]
    seen: set[tuple[int, int]] = set()
    for folder, parts in waiting:  # which grows
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:  # a link back
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                found = sorted((each.name, each.is_dir()) for each in entries if not is_clutter(each.name))
        except OSError as error:
            names.problems.append(f"{folder} cannot be listed: {error.strerror}.")
            continue
        for name, is_folder in found:
            if not is_text(name):
                names.problems.append(f"{folder} holds {name!r}, which is not text in UTF-8.")
            elif is_folder and len(parts) < _DEEPEST - 1:
                waiting.append((folder / name, (*parts, name)))
            elif not is_folder:
                _add(names, parts, name)
        if len(names.files) > _MOST_FILES:
            names.problems.append(f"Only the first {len(names.files)} images were looked at.")
            break
    return names


def _add(names: FileNames, parts: tuple[str, ...], name: str) -> None:
    ending = os.path.splitext(name)[1]  # noqa: PTH122 (there may be very many)
    if ending.lower() in IMAGE_SUFFIXES:
        names.files.append(FileName((*map(composed, parts), composed(stem(Path(name)))), ending))
    else:
        names.others.append("/".join((*parts, name)))


def tokens(text: str) -> list[str]:
    """Return the words, numbers and separators of a name."""
    return _TOKEN.findall(text)


def plain_numbers(text: str) -> str:
    """Return a name without the zeros before its numbers."""
    return _ZEROS.sub("", text)


def label_words(file: FileName) -> Iterator[tuple[int, str]]:
    """Yield the words for labels in a name, and in which part they stand, counted from the file's name as 0."""
    for place, part in enumerate(reversed(file.parts)):
        if place and part in ("y", "Y"):
            yield place, part
        for word in _labels_in(part):
            yield place, word


@lru_cache(maxsize=2**10)
def _labels_in(part: str) -> tuple[str, ...]:
    return tuple(found[0] for found in LABEL_WORDS.finditer(part))


def is_part(name: str) -> bool:
    """Say whether a folder is called as a part of a fold."""
    return name.casefold() in SPLIT_WORDS


def escaped(text: str) -> str:
    """Return text as it stands in a pattern."""
    return text.replace("{", "{{").replace("}", "}}").replace("\\", "*")


def listed(names: Sequence[str]) -> str:
    """Return the first of some names of files in a sentence, and how many more there are."""
    more = len(names) - LISTED
    return ", ".join(map(shortened, names[:LISTED])) + (f" and {more} more" if more > 0 else "")


def shortened(name: str) -> str:
    """Return the name of a file so that it can be printed in a line."""
    name = name if name.isprintable() else repr(name)
    return name if len(name) <= 80 else f"{name[:38]}…{name[-38:]}"
