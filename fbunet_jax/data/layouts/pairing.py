"""Named files become images and labels: the channels of an image together, with its label, group and part."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.layouts.listing import Listing, NamedFile
from fbunet_jax.data.layouts.patterns import CHANNEL, GROUP, PAGE, SPLIT, Pattern, part_of, whole
from fbunet_jax.user_files import same_name, stem

Key = tuple[str, ...]

_CHANNEL_WORD = re.compile(rf"[_\-. ]*[A-Za-z]*\{{{CHANNEL}\}}")
_PIECE = re.compile(r"\{\w+\}|[^\W_]+|.", re.DOTALL)


@dataclass(frozen=True)
class ImageNaming:
    """How images are called.

    Attributes:
      images: a pattern for each channel file, or one for all.
      channels: how many channel files an image needs; 0: as many as any image has.
      numbers: those of the channels that an image needs, if they are known; else those that any image has.
      named: what says how many channels there are, for messages, such as ", of which dataset.json names 2".
    """

    images: tuple[Pattern, ...]
    channels: int = field(default=0, kw_only=True)
    numbers: tuple[int, ...] = field(default=(), kw_only=True)
    named: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        first = self.images[0]
        for pattern in self.images:
            if CHANNEL in pattern.fields and len(self.images) > 1:
                raise pattern.error("{channel} and one pattern for each channel exclude each other")
            if pattern.identity != first.identity or pattern.numbers - {CHANNEL} != first.numbers - {CHANNEL}:
                raise pattern.error(f"expected the same braces as in {first.text!r}")


@dataclass(frozen=True)
class Naming(ImageNaming):
    """How images and labels are called.

    Attributes:
      labels: of the label files.
      joins: whether an image can have several label files.
      sparse: whether images without a label are left out.
      unlabelled: what to do about an image without a label.
    """

    labels: Pattern
    joins: bool = False
    sparse: bool = False
    unlabelled: str = "Add it, or move unlabelled images elsewhere."

    def __post_init__(self) -> None:
        super().__post_init__()
        first, labels = self.images[0], self.labels
        if not first.identity - {SPLIT}:
            raise first.error("expected at least one {}, which distinguishes the images")
        if CHANNEL in labels.fields:
            raise labels.error("a label has no channels, so it has no {channel} either")
        if labels.identity - {PAGE} != first.identity - {PAGE} or (PAGE in first.fields and PAGE not in labels.fields):
            raise labels.error(f"expected the same braces as in {first.text!r}: they pair images and labels")
        if self.joins and self.pages_in_labels:
            raise labels.error("expected no {page} where every object has a file of its own")
        if (labels.numbers ^ first.numbers) - {CHANNEL, PAGE}:
            raise labels.error(f"expected numbers (:d) in the same places as in {first.text!r}")

    @property
    def pages_in_labels(self) -> bool:
        """Whether every page of an image has a label file of its own."""
        return PAGE in self.labels.fields and PAGE not in self.images[0].fields

    @property
    def has_parts(self) -> bool:
        """Whether names say what is for training, validation and test."""
        return SPLIT in self.images[0].fields


@dataclass(frozen=True)
class NamedImage:
    """The files of one image, and what their names say.

    Attributes:
      name: of the image: that of its file, after the folders that vary.
      group: ``{group}``, or the stack of a ``{page}``, after the part if there is one; else the name.
      has_group: whether the names say the group.
      has_part: whether they say the part: the group then begins with it and a slash.
      files: one, or one a channel.
      key: what the braces hold, but for the channel.
      values: the same, as it is written in the first file.
    """

    name: str
    group: str
    has_group: bool
    has_part: bool
    files: tuple[Path, ...]
    key: Key
    values: Mapping[str, str]

    @property
    def own_name(self) -> str:
        """The name without the part, if it begins with one."""
        return self.name.removeprefix(f"{self.values.get(SPLIT, '')}/")


@dataclass
class Pairs:
    """What pairs and what does not.

    Attributes:
      images: those with a label, in natural order of their files.
      labels: the label files of each.
      faults: images without a label, labels without an image, and whatever else does not pair.
      unlabelled: images without a label that are left out.
    """

    images: list[NamedImage] = field(default_factory=list)
    labels: list[list[NamedFile]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unlabelled: list[NamedImage] = field(default_factory=list)


def pair(naming: Naming, listing: Listing) -> Pairs:
    """Pair images and labels by what the braces of their patterns hold.

    Args:
      naming: the patterns.
      listing: the files of each image pattern, and last those of the labels.
    """
    pairs = Pairs()
    *images, labels = listing.files
    first, fields = naming.images[0], sorted(naming.images[0].identity)
    labelled = _by_key(naming, labels, fields, pairs.faults)
    known = {first.key(file.values, fields) for files in images for file in files}
    for image in join_channels(naming, images, pairs.faults):
        if files := labelled.get(image.key):
            pairs.images.append(image)
            pairs.labels.append(files)
        elif naming.sparse:
            pairs.unlabelled.append(image)
        else:
            found = f"is an image, and there is no label {naming.labels.fill(image.values)}."
            pairs.faults.append(Fault("missing-label", image.files[0], found, naming.unlabelled))
    for key, files in labelled.items():
        if key not in known:
            found = f"is a label, and there is no image {first.fill(files[0].values)}."
            pairs.faults.append(Fault("missing-image", files[0].path, found, "Add the image, or move the label away."))
    return pairs


def join_channels(naming: ImageNaming, listed: Sequence[Sequence[NamedFile]], faults: list[Fault]) -> list[NamedImage]:
    """Return the images whose channels are all there, in natural order; others are faults.

    One file numbered 0 may hold all the channels that are needed.

    Args:
      naming: the patterns of the images.
      listed: the files of each.
      faults: to which what does not fit is added.
    """
    fields = sorted(naming.images[0].identity)
    numbered = CHANNEL in naming.images[0].fields
    channels: dict[Key, dict[int, NamedFile]] = {}
    alike: dict[tuple[str, int], NamedFile] = {}
    for number, (pattern, files) in enumerate(zip(naming.images, listed, strict=True)):
        for file in files:
            key = pattern.key(file.values, fields)
            channel = whole(file.values[CHANNEL]) if numbered else number
            if (other := alike.setdefault((same_name("/".join(key)), channel), file)) is not file:
                found = f"and {other.path} have the same name."
                faults.append(Fault("same-name", file.path, found, "Keep one of them."))
            else:
                channels.setdefault(key, {})[channel] = file
    wanted = set(range(naming.channels or len(naming.images)))
    if naming.numbers:
        wanted = set(naming.numbers)
    elif numbered and not naming.channels:
        wanted = {channel for found in channels.values() for channel in found}
    images: list[NamedImage] = []
    names: dict[str, NamedImage] = {}
    for key, here in channels.items():
        first = here[min(here)]
        alone = numbered and naming.channels and set(here) == {0}
        lacking, extra = sorted(wanted - set(here)), sorted(set(here) - wanted)
        if lacking and not alone:
            pattern = naming.images[0 if numbered else lacking[0]]
            digits = len(first.values.get(CHANNEL, ""))
            missing = pattern.fill({**first.values, CHANNEL: f"{lacking[0]:0{digits}d}"})
            missing += "" if pattern.suffix else first.path.suffix
            found = f"is a channel of an image, and there is no {missing}{naming.named}."
            faults.append(Fault("missing-channel", first.path, found, "Add the missing file."))
        elif extra:
            found = f"is channel {extra[0]}{naming.named}."
            faults.append(Fault("missing-channel", here[extra[0]].path, found, "Move it elsewhere."))
        else:
            paths = tuple(here[channel].path for channel in sorted(here))
            image = _image(naming.images, first, paths, key)
            if (twin := names.setdefault(same_name(image.name), image)) is image:
                images.append(image)
            else:
                found = f"and {twin.files[0]} would both be called {twin.name!r}."
                faults.append(Fault("same-name", first.path, found, "Rename one of them."))
    return images


def channel_numbers(naming: ImageNaming, listed: Sequence[Sequence[NamedFile]]) -> tuple[int, ...]:
    """Return the numbers that the names of image files say, in order; none where no name says one."""
    if CHANNEL not in naming.images[0].fields:
        return ()
    return tuple(sorted({whole(file.values[CHANNEL]) for files in listed for file in files}))


def _by_key(
    naming: Naming, labels: Sequence[NamedFile], fields: Sequence[str], faults: list[Fault]
) -> dict[Key, list[NamedFile]]:
    """Return the label files of each image; a second one is a fault where only one can be."""
    found: dict[Key, list[NamedFile]] = {}
    alike: dict[Key, NamedFile] = {}
    own = [*fields, PAGE] if naming.pages_in_labels else fields
    for file in labels:
        key = naming.labels.key(file.values, fields)
        alone = (same_name("/".join(naming.labels.key(file.values, own))),)
        if not naming.joins and (other := alike.setdefault(alone, file)) is not file:
            faults.append(Fault("same-name", file.path, f"and {other.path} have the same name.", "Keep one of them."))
        else:
            found.setdefault(key, []).append(file)
    return found


def _image(patterns: Sequence[Pattern], file: NamedFile, files: tuple[Path, ...], key: Key) -> NamedImage:
    name = image_name(patterns, file)
    values = file.values
    spelled = values.get(SPLIT, "")
    # numbers without their zeros, as in pairs
    of_group = [GROUP] if GROUP in values else [each for each in values if each not in (PAGE, CHANNEL, SPLIT)]
    group = "_".join(patterns[0].key(values, of_group)) if GROUP in values or PAGE in values else ""
    group = group or ("stack" if PAGE in values else "")
    has_group = bool(group)
    if spelled:
        group = f"{part_of(spelled)}/{group or name.removeprefix(f'{spelled}/')}"
    return NamedImage(name, group or name, has_group, bool(spelled), files, key, values)


def image_name(patterns: Sequence[Pattern], file: NamedFile) -> str:
    """Return the name of an image: that of its file, or what the files of its channels share."""
    first = patterns[0]
    if len(patterns) == 1 and CHANNEL not in first.file.fields:
        return first.name(file.folders, stem(file.path))
    forms = [_PIECE.findall(_CHANNEL_WORD.sub("", pattern.file.filled)) for pattern in patterns]
    start = common_start(forms)
    end = common_start([form[len(start) :][::-1] for form in forms])[::-1]
    if start and end and {start[-1], end[0]} <= set("_-. "):  # of the word that differed
        del end[0]
    form = "".join(start + end).strip("_-. ")
    if any(f"{{{each}}}" not in form for each in first.file.fields if each != CHANNEL) or "{" not in form:
        form = "_".join(f"{{{each}}}" for each in first.file.fields if each != CHANNEL) or form
    return first.name(file.folders, form.format(**file.values).strip("_-. "))


def common_start(lists: Sequence[Sequence[str]]) -> list[str]:
    """Return what all lists begin with."""
    return [each[0] for each in takewhile(lambda each: len(set(each)) == 1, zip(*lists, strict=False))]
