"""A data set as a list of units that are read one after the other, by training and by the check alike.

Training raises the first fault; the check collects all of them. Because both walk the same way, what the check finds
no fault in can be loaded.
"""

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import FilesConfig, NoDataRule
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.layouts.description import IGNORE, as_toml
from fbunet_jax.data.no_data import no_data_fault
from fbunet_jax.data.readers.png import declared_pixels
from fbunet_jax.errors import DataError
from fbunet_jax.user_files import suffix

_EDGE_SHARE = 0.2
_EDGE_VALUES = 3
_MASK_SHARE = 0.3
_INSTANCE_VALUES = 20
_READERS = 4
_READ_AHEAD_BYTES, _READ_AHEAD_PIXELS = 2**20, 2**21
_PIXELS_A_BYTE = 32
"""Of files whose header is not looked at, where their compression is good."""
_TIFFS = threading.Lock()


@dataclass(frozen=True)
class Unit:
    """What is read at once: an image of one or more pages, and its label.

    Attributes:
      name: unique.
      group: stays in one part of a fold.
      files: the image's files, and then those of its labels; none for what the program makes itself.
      label_count: how many of them are labels.
      label_pages: the page that each label file is of, where every page has its own.
    """

    name: str
    group: str
    files: tuple[Path, ...] = ()
    label_count: int = 1
    label_pages: tuple[int, ...] = ()

    @property
    def image_files(self) -> tuple[Path, ...]:
        """The files of the image: one, or one a channel."""
        return self.files[: len(self.files) - self.label_count]

    @property
    def label_files(self) -> tuple[Path, ...]:
        """The files of the labels: mostly one."""
        return self.files[len(self.files) - self.label_count :]


class Reading(NamedTuple):
    """What was read of a unit.

    Attributes:
      images: `[pages, H, W, C]`.
      labels: the stored values, `[pages, H, W]`.
      labelled: the numbers of the pages that have a label; None: all.
    """

    images: NDArray
    labels: NDArray
    labelled: Sequence[int] | None = None


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
      units: in natural order of their names.
      read: returns the image and the stored label values of a unit, or raises a DataError.
      classes: name and stored value of each class, in class order; empty: not described, which is one of the faults.
      ignore_value: stored value of pixels without a class.
      axes: the letters given for files with more than two dimensions.
      labels: the folder of the label files, for messages.
      faults: what is wrong before any unit is read.
      table: how messages show the classes; empty: in TOML.
      remedies: by kind of fault, what replaces a remedy that makes sense for files only.
      no_data: what becomes of an image with a value that stands for no data.
      naming: how the names of the files pair, in a sentence; empty where a folder for each says it.
      files: the names of the files, for predictions of such images.
      channel_numbers: those of ``{channel}`` in the names, in order.
    """

    units: tuple[Unit, ...]
    read: Callable[[Unit], Reading]
    classes: Mapping[str, int]
    ignore_value: int | None = None
    axes: str = ""
    labels: Path | str = ""
    faults: tuple[Fault, ...] = ()
    table: str = ""
    remedies: Mapping[str, str] = field(default_factory=dict)
    no_data: NoDataRule = "refuse"
    naming: str = ""
    files: FilesConfig = field(default_factory=FilesConfig)
    channel_numbers: tuple[int, ...] = ()

    def reworded(self, error: DataError) -> DataError:
        """Return a fault with this source's own remedy for its kind, if there is one."""
        if not isinstance(error, Fault) or error.kind not in self.remedies:
            return error
        return Fault(error.kind, error.file, error.found, self.remedies[error.kind])


class Labelled(NamedTuple):
    """The labelled pages of a unit.

    Attributes:
      unit: what they are of.
      names: of the pages.
      images: `[pages, H, W, C]`.
      stored: the labels as stored, `[pages, H, W]`.
      indices: the labels as class indices, where 255 is ignored.
      left_out: how many pages without a label the unit has besides.
    """

    unit: Unit
    names: list[str]
    images: NDArray
    stored: NDArray
    indices: NDArray[np.uint8]
    left_out: int = 0


def page_names(name: str, pages: int) -> list[str]:
    """Return the item names of a unit: its own, or one a page."""
    return [name] if pages == 1 else [f"{name}/z{page:03d}" for page in range(pages)]


def read_units(
    source: Source,
    report: Callable[[DataError], None],
    progress: Callable[[Iterable[Unit]], Iterable[Unit]] = iter,
) -> Iterator[Labelled]:
    """Read every unit once, and report every fault: those of a unit at once, those of the whole at the end.

    Args:
      source: the data set.
      report: called with each fault; may raise it.
      progress: wraps the units, for a progress bar.

    Yields:
      The labelled pages of each unit. A value that is no class is reported at the end.
    """
    for fault in source.faults:
        report(source.reworded(fault))
    kinds: dict[Unit, str] = {}
    values: Counter[int] = Counter()
    files: dict[str, Counter[int]] = {}
    known = {*source.classes.values(), source.ignore_value}
    for unit, reading in zip(progress(source.units), read_ahead(source), strict=True):
        try:
            images, labels, labelled = reading()
        except DataError as error:
            report(source.reworded(error))
            continue
        if source.no_data == "refuse" and (missing := no_data_fault(_place(unit), images)):
            report(source.reworded(missing))
            continue
        names, left_out = page_names(unit.name, len(images)), 0
        if labelled is not None and len(labelled) < len(images):
            if not labelled:
                continue
            left_out = len(images) - len(labelled)
            names = [names[page] for page in labelled]
            images, labels = images[list(labelled)], labels[list(labelled)]
        kinds[unit] = f"{images.shape[-1]} channel(s) of {images.dtype}"
        here = value_counts(labels)
        values.update(here)
        if source.classes and here.keys() - known:
            files[str(unit.files[-1])] = here
        yield Labelled(unit, names, images, labels, class_indices(labels, source.classes), left_out)
    for fault in (*_kind_faults(kinds), *_value_faults(source, values, files)):
        report(source.reworded(fault))


def read_ahead(source: Source) -> Iterator[Callable[[], Reading]]:
    """Yield, for each unit in order, what returns its arrays, or raises: small files are read ahead in threads.

    At most `_READERS` + 1 small units are in memory; one with files of more than `_READ_AHEAD_BYTES`, or more than
    `_READ_AHEAD_PIXELS` when decoded, waits for its turn.
    """
    waiting: deque[Callable[[], Reading]] = deque()
    pool = ThreadPoolExecutor(_READERS, "reading")
    try:
        for unit in source.units:
            if _is_small(unit):
                future: Future[Reading] = pool.submit(_read, source, unit)
                waiting.append(future.result)
            else:
                waiting.append(partial(_read, source, unit))
            if len(waiting) > _READERS:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(source: Source, unit: Unit) -> Reading:
    """Read a unit; TIFFs one at a time, because what tifffile complains about does not say of which file."""
    with _TIFFS if any(suffix(file) in (".tif", ".tiff") for file in unit.files) else contextlib.nullcontext():
        return source.read(unit)


def _place(unit: Unit) -> Path | str:
    return unit.files[0] if unit.files else unit.name


def _is_small(unit: Unit) -> bool:
    try:
        sizes = [file.stat().st_size for file in unit.files]
        if not sizes or sum(sizes) > _READ_AHEAD_BYTES:
            return False
        pixels = [
            declared_pixels(file) if suffix(file) == ".png" else _PIXELS_A_BYTE * size
            for file, size in zip(unit.files, sizes, strict=True)
        ]
        return sum(pixels) <= _READ_AHEAD_PIXELS
    except OSError:  # which reading reports; arrays have no files
        return False


def value_counts(labels: NDArray) -> Counter[int]:
    """Return each value of an integer array and how often it occurs."""
    if labels.dtype in (np.uint8, np.uint16):
        counts = np.bincount(labels.ravel())  # without sorting
        found = np.flatnonzero(counts)
        counts = counts[found]
    else:
        found, counts = np.unique(labels, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def class_indices(labels: NDArray, classes: Mapping[str, int]) -> NDArray[np.uint8]:
    """Return the class index of every stored value; values of no class become 255, and so do classes above 254."""
    values = list(classes.values())[:IGNORE]  # more of them are a fault that is reported elsewhere
    if labels.dtype in (np.uint8, np.uint16):
        # one look-up a pixel, however many classes there are
        table = np.full(np.iinfo(labels.dtype).max + 1, IGNORE, dtype=np.uint8)
        for index, value in enumerate(values):
            if 0 <= value < len(table):
                table[value] = index
        return table[labels]
    indices = np.full(labels.shape, IGNORE, dtype=np.uint8)
    for index, value in enumerate(values):
        indices[labels == value] = index
    return indices


def check_pair(image_file: Path, images: NDArray, label_file: Path, labels: NDArray) -> None:
    """Raise a Fault unless an image `[pages, H, W, C]` and its label `[pages, H, W]` have the same size."""
    if images.shape[:3] != labels.shape:
        # a single page needs no word
        first, axes = (1, "height x width") if len(images) == len(labels) == 1 else (0, "pages x height x width")
        sizes = [" x ".join(map(str, shape[first:])) for shape in (images.shape[:3], labels.shape)]
        raise Fault(
            "pair-size",
            image_file,
            f"has {sizes[0]} pixels ({axes}), but its label {label_file} has {sizes[1]}.",
            "Both must agree.",
        )


def _kind_faults(kinds: Mapping[Unit, str]) -> Iterator[Fault]:
    """Report each image whose channels or type differ from those of most."""
    if not kinds:
        return
    usual = Counter(kinds.values()).most_common(1)[0][0]
    example = next(unit for unit, kind in kinds.items() if kind == usual)
    for unit, kind in kinds.items():
        if kind != usual:
            yield Fault(
                "images-differ",
                unit.files[0],
                f"has {kind}, but {example.files[0]} has {usual}.",
                "All images of a data set need the same number of channels and the same type; convert one kind into "
                "the other.",
            )


def _value_faults(source: Source, values: Counter[int], files: Mapping[str, Counter[int]]) -> Iterator[Fault]:
    """Report label values that are neither a class nor ignored, and classes that no label holds."""
    classes = source.classes
    if not classes or not values:
        return
    table = source.table or f"classes = {as_toml(classes)}"
    unknown = Counter({v: n for v, n in values.items() if v not in {*classes.values(), source.ignore_value}})
    absent = [name for name, value in classes.items() if value not in values]
    if not unknown and not _all_masks(classes, values):
        if absent:
            setting = "" if source.table else f" (ignore_value = {source.ignore_value})"
            yield Fault(
                "class-absent",
                source.labels,
                f"holds the values {sorted(values)}, so nothing could be learnt about {', '.join(absent)} of {table}"
                f"{setting}.",
                "Fix the values in classes, or take out what is not in the images.",
            )
        return
    affected: Counter[int] = Counter()
    for counts in files.values():
        affected.update(counts)
    kind, remedy = _explain(classes, values, unknown, affected)
    if not unknown:
        yield Fault(kind, source.labels, "holds only the values 0 and 255, and 255 is ignored.", remedy)
        return
    where = next(iter(files)) if len(files) == 1 else source.labels
    listed = list(files)
    shown = "" if len(files) == 1 else f" ({len(files)} labels: {', '.join(Path(each).name for each in listed[:4])}"
    shown += f" and {len(listed) - 4} more)" if listed[4:] else ")" if shown else ""
    yield Fault(kind, where, f"holds values that {table} does not know{shown}: {counted(unknown)}.", remedy)


def _explain(
    classes: Mapping[str, int], values: Counter[int], unknown: Counter[int], affected: Counter[int]
) -> tuple[str, str]:
    """Return the kind of a fault and its remedy, by what the values look like: all, the unknown, and their files'."""
    if _all_masks(classes, values):
        proposal = dict(zip(list(classes)[:2], (0, 255), strict=True))
        ignored = "" if unknown else " without ignore_value"
        return "label-mask", (
            f"The files are 0/255 masks, as Fiji writes them. Set classes = {as_toml(proposal)}{ignored}."
        )
    if _some_masks(classes, unknown, affected):
        edges = affected.total() - affected[0] - affected[255]
        smoothed = f", with {edges} pixels of smoothed edges" if edges else ""
        return "label-mask", (
            f"That looks like a 0/255 mask{smoothed} among labels with other values. Export it again with the values "
            "of the classes, without interpolation."
        )
    stray = unknown.total()
    low, high = min(classes.values()), max(classes.values())
    if len(unknown) >= _EDGE_VALUES and stray < _EDGE_SHARE * values.total() and all(low < v < high for v in unknown):
        return "label-edges", (
            f"{stray} stray pixels ({100 * stray / values.total():.2g} %) of {len(unknown)} values between those of "
            "the classes: smoothed edges, as scaling, rotating or anti-aliased drawing leave them. Export the labels "
            "again without interpolation (nearest neighbour), or set a threshold."
        )
    if len(unknown) > _INSTANCE_VALUES and len(classes) <= len(unknown):
        return "label-instances", (
            'So many values look like one number an object. Set files.objects = "numbered" and classes = '
            "{background = 0, object = 1}: training then distinguishes objects from background, and does not separate "
            "objects that touch."
        )
    hint = " 255 often marks unlabelled pixels." if set(unknown) == {255} else ""
    return "label-values", f"Add each to classes, or set ignore_value for pixels without a class.{hint}"


def _all_masks(classes: Mapping[str, int], values: Counter[int]) -> bool:
    """Return whether all labels are 0/255 masks, though the classes are numbered from 0."""
    return set(values) == {0, 255} and list(classes.values()) == list(range(len(classes)))


def _some_masks(classes: Mapping[str, int], unknown: Counter[int], affected: Counter[int]) -> bool:
    """Return whether the labels with unknown values are 0/255 masks, though 255 is unknown or ignored."""
    objects = affected.total() - affected[0]
    # a label of numbered objects may hold 255 too, but no object has so large a share of them
    if 255 in classes.values() or affected[255] <= _MASK_SHARE * objects:
        return False
    # ignored pixels are a mask's if its smoothed edges are there, and hardly a pixel of any class
    shown = sum(affected[value] for value in classes.values() if value)
    return unknown[255] > 0 or (len(unknown) >= _EDGE_VALUES and shown < _EDGE_SHARE * objects)


def counted(values: Counter[int]) -> str:
    """Return values with their pixels, such as "7 (12 pixels), 8 (1 pixels)"; at most 12."""
    ordered = sorted(values)
    shown = ", ".join(f"{value} ({values[value]} pixels)" for value in ordered[:12])
    return shown + (f" and {len(ordered) - 12} more" if ordered[12:] else "")
