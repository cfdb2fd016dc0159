"""How the files of a run's data set are called, laid over the files and folders that are to be segmented."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fbunet_jax.config import FilesConfig
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.layouts.listing import Listing, NamedFile, Role, list_named
from fbunet_jax.data.layouts.nnunet import NAMES
from fbunet_jax.data.layouts.pairing import ImageNaming, Naming, image_name, join_channels
from fbunet_jax.data.layouts.patterns import CHANNEL, AmbiguousNameError, Pattern, whole
from fbunet_jax.data.readers.image_files import IMAGE_SUFFIXES
from fbunet_jax.errors import ConfigError, DataError, RunError
from fbunet_jax.inference.zarr_input import is_zarr
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.files import RESTORE
from fbunet_jax.toml_tables import from_table
from fbunet_jax.user_files import stem

_SUFFIXES = (*IMAGE_SUFFIXES, ".zarr")
_NNUNET_DIGITS = 4


@dataclass(frozen=True)
class NamedInput:
    """An image that patterns describe: its name, empty if its file does not say one, and its files, one a channel."""

    name: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Patterns:
    """Patterns without some of their first folders.

    Attributes:
      images: one for each channel file, or one for all.
      others: of files that are not images: what is left of the patterns of labels and of what is ignored.
      whole: the text of each of these as it was in training.
      channels: how many channel files an image needs; 0: as many as any image has.
      digits: of the number of a channel; 0: any.
      numbers: of the channels in training, if their names said them.
    """

    images: tuple[Pattern, ...]
    others: tuple[Pattern, ...]
    whole: tuple[str, ...]
    channels: int
    digits: int
    numbers: tuple[int, ...] = ()

    @property
    def depth(self) -> int:
        """The number of folders of the images."""
        return len(self.images[0].folders)

    @cached_property
    def naming(self) -> ImageNaming:
        """How channels are joined."""
        named = f", and the network was trained with {self.channels} channels" if self.channels else ""
        if self.numbers:
            named = f", and the network was trained with the channels {', '.join(map(str, self.numbers))}"
        return ImageNaming(self.images, channels=self.channels, numbers=self.numbers, named=named)

    @cached_property
    def _of_images(self) -> tuple[tuple[int, Pattern], ...]:
        return tuple(_of_any_type(self.images))

    def below(self, folder: Path) -> tuple[Listing, list[list[NamedFile]], dict[str, list[NamedFile]]]:
        """Return what lies below a folder: all of it, the files of each image pattern, and of each other one by text.

        A file is of another type than those of training only if no pattern describes it with its own.

        Raises:
          DataError: a folder cannot be listed, or the name of one fits a pattern in more than one way.
        """
        every = _of_any_type(self.others)
        others = [(number, each) for number, each in every if each is self.others[number] or _tells(each)]
        roles = [Role(pattern, _SUFFIXES) for _, pattern in self._of_images]
        roles += [Role(pattern, _SUFFIXES, is_label=True) for _, pattern in others]
        listing = list_named(folder, roles, images_first=True, is_file=is_zarr)
        images: list[list[NamedFile]] = [[] for _ in self.images]
        passed: dict[str, list[NamedFile]] = {}
        for (number, _), files in zip(self._of_images, listing.files, strict=False):
            images[number] += files
        for (number, _), files in zip(others, listing.files[len(self._of_images) :], strict=True):
            passed.setdefault(self.whole[number], []).extend(files)
        return listing, images, {text: files for text, files in passed.items() if files}

    def place(self, path: Path) -> tuple[int, NamedFile] | None:
        """Return the number of the image pattern that describes a path best, and the file, or None."""
        found: list[tuple[int, int, NamedFile]] = []
        for number, pattern in self._of_images:
            try:
                values = pattern.match(path)
            except AmbiguousNameError:
                return None
            folders = path.parts[-1 - len(pattern.folders) : -1]
            if values is not None:
                found.append((pattern.literal, number, NamedFile(path, values, folders)))
        most = max((literal for literal, *_ in found), default=0)
        best = [(number, file) for literal, number, file in found if literal == most]
        return best[0] if len({number for number, _ in best}) == 1 else None

    def join(self, listed: Sequence[Sequence[NamedFile]], faults: list[Fault]) -> list[NamedInput]:
        """Return the images of files of each image pattern; those that lack a channel are added to the faults."""
        first = self.images[0]
        if len(self.images) > 1 or CHANNEL in first.fields:
            channels, others = self._numbered(listed)
            joined = [NamedInput(each.name, each.files) for each in join_channels(self.naming, channels, faults)]
            return joined + [NamedInput(first.name(each.folders, stem(each.path)), (each.path,)) for each in others]
        if first.file.plain and not any(folder.fields for folder in first.folders):
            return [NamedInput("", (file.path,)) for file in listed[0]]
        return [NamedInput(image_name(self.images, file), (file.path,)) for file in listed[0]]

    def _numbered(self, listed: Sequence[Sequence[NamedFile]]) -> tuple[Sequence[Sequence[NamedFile]], list[NamedFile]]:
        """Return the channel files, and those whose number is not that of a channel, such as ``frame_0012.tif``."""
        count = self.channels or len(self.numbers)
        if not count:
            return listed, []
        fields = sorted(self.images[0].identity)
        numbers = self.numbers or range(self.channels)
        known = {f"{number:0{self.digits or 1}d}" for number in numbers}

        def is_known(digits: str) -> bool:
            return (digits if self.digits else str(whole(digits))) in known

        have = {self.images[0].key(file.values, fields) for file in listed[0] if is_known(file.values[CHANNEL])}
        channels, others = list[NamedFile](), list[NamedFile]()
        for file in listed[0]:
            # with one channel, a further number can only be that of an image
            is_one = is_known(file.values[CHANNEL]) or count > 1
            is_channel = is_one and self.images[0].key(file.values, fields) in have
            (channels if is_channel else others).append(file)
        return [channels], others


@dataclass(frozen=True)
class RunNaming:
    """How the images of a run's data set are called.

    Attributes:
      images: a pattern for each channel file, or one for all.
      labels: the pattern of the label files.
      ignored: patterns of files that are neither.
      channels: how many channel files an image needs, where they are numbered from 0; 0: not known.
      digits: of the number of a channel; 0: any.
      numbers: of the channels in training, if their names said them.
    """

    images: tuple[Pattern, ...]
    labels: Pattern
    ignored: tuple[Pattern, ...] = ()
    channels: int = 0
    digits: int = 0
    numbers: tuple[int, ...] = ()

    @property
    def joins(self) -> bool:
        """Whether the channels of an image lie in files of their own."""
        return (len(self.images) > 1 or CHANNEL in self.images[0].fields) and self.channels != 1

    @property
    def has_folders(self) -> bool:
        """Whether folders are a part of the names of images."""
        return any(folder.fields for folder in self.images[0].folders)

    @property
    def text(self) -> str:
        """The patterns of the images in words."""
        return " and ".join(pattern.text for pattern in self.images)

    @cached_property
    def tails(self) -> tuple[Patterns, ...]:
        """The whole patterns, then without their first folder, and so on."""
        depth = min(len(pattern.folders) for pattern in self.images)
        return tuple(tail for cut in range(depth + 1) for tail in self._without(cut))

    def _without(self, cut: int) -> Iterator[Patterns]:
        images = tuple(pattern.tail(len(pattern.folders) - cut) for pattern in self.images)
        try:
            ImageNaming(images)
        except DataError:  # what is left of them does not have the same braces
            return
        kept = [(pattern.text, tail) for pattern in (self.labels, *self.ignored) for tail in self._beside(pattern, cut)]
        others, texts = tuple(tail for _, tail in kept), tuple(text for text, _ in kept)
        yield Patterns(images, others, texts, self.channels, self.digits, self.numbers)

    def _beside(self, pattern: Pattern, cut: int) -> Iterator[Pattern]:
        """Yield what is left of the pattern of other files, if that can tell them from images."""
        image = self.images[0]
        shared = [each.text for each in pattern.folders[:cut]] == [each.text for each in image.folders[:cut]]
        if shared and len(pattern.folders) >= cut:
            yield pattern.tail(len(pattern.folders) - cut)
        elif cut == len(image.folders) and _tells(pattern):
            yield pattern.tail(0)


def naming_of(run: Run) -> RunNaming | None:
    """Return how the images of a run's data set are called; None where no pattern says it.

    Raises:
      RunError: the run cannot be read, or is damaged.
    """
    config = run.read_config().data
    if not run.has(run.dataset):  # whoever reads the weights says so
        return None
    dataset = run.read_dataset()
    try:
        files = from_table(FilesConfig, dataset.get("files", {}), "files", "files.")
        # versions before 0.2 did not store it
        files = NAMES if config.layout == "nnunet" else files
        if not files.images:
            return None
        images = tuple(Pattern(each) for each in files.image_patterns)
        naming = Naming(images, Pattern(files.labels, "files.labels"))
        ignored = tuple(Pattern(each, "files.ignore") for each in files.ignore)
    except (ConfigError, DataError) as error:
        raise RunError(f"{run.dataset} is damaged: {error} {RESTORE}") from error
    if files == NAMES:
        return RunNaming(images, naming.labels, channels=dataset["channels"], digits=_NNUNET_DIGITS)
    return RunNaming(images, naming.labels, ignored, numbers=tuple(dataset.get("channel_numbers", ())))


def _of_any_type(patterns: Sequence[Pattern]) -> Iterator[tuple[int, Pattern]]:
    """Yield each pattern under its number, and again for files of any type."""
    for number, pattern in enumerate(patterns):
        yield number, pattern
        if pattern.suffix:
            yield number, pattern.of_any_type()


def _tells(pattern: Pattern) -> bool:
    """Say whether the name of a file alone, without its folder and type, can fit a pattern or not."""
    name = pattern.tail(0)
    return name.literal > len(name.suffix)


def own_name(file: Path, folder: Path) -> str:
    """Return the name of a file that no pattern describes, below the folder that was given."""
    return "/".join((*file.relative_to(folder).parts[:-1], stem(file)))
