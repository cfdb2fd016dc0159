"""Every fault of a data set at once, warnings apart, and what it consists of.

One large file, or a few small ones, are in memory at a time, see `fbunet_jax.data.layouts.sources.read_ahead`.
"""

import itertools
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.check.divisions import Contents, UnitRecord, class_finding, contents, neighbour_finding
from fbunet_jax.check.findings import Finding, as_finding, warning
from fbunet_jax.check.proposals import label_proposal
from fbunet_jax.check.resemblance import (
    MOST_PAIRS,
    Progress,
    alike_neighbours,
    equal_images,
    fingerprint,
    near_duplicates,
    small_picture,
)
from fbunet_jax.check.thumbnails import THUMBNAILS, Thumbnail, thumbnail
from fbunet_jax.config import DataConfig
from fbunet_jax.data.cutting import cut_fault
from fbunet_jax.data.datasets import open_source
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.folds import Fold, configured_folds
from fbunet_jax.data.layouts.sources import Labelled, Source, read_units, value_counts
from fbunet_jax.data.readers.notes import noted
from fbunet_jax.errors import DataError

SATURATED_SHARE = 0.01
_CAMERA_MAXIMA = [2**bits - 1 for bits in (8, 10, 12, 14, 16)]
_SHOWN_PAIRS = 50


@dataclass(frozen=True)
class ImageRecord:
    """What is kept of one image: no pixels but a small picture for the comparison.

    Attributes:
      name: of the item.
      group: it stays in one part of a fold.
      file: that it came from; its name where the program made it.
      size: height, width, channels.
      dtype: of the intensities.
      counts: `[K]` int64, pixels of each class.
      fingerprint: of the pixels.
      picture: see `small_picture`.
    """

    name: str
    group: str
    file: str
    size: tuple[int, int, int]
    dtype: str
    counts: NDArray[np.int64]
    fingerprint: bytes
    picture: NDArray[np.float32] | None = field(repr=False)


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
      settings: with which the data set was read.
      findings: faults first, then warnings.
      images: of every image that could be read.
      units: of every unit that could be read.
      classes: names in class order.
      contents: what the folds must spread; without classes where these are not described.
      pixels: `[K]` int64, of each class over all images.
      ignored: number of pixels without a class.
      values: the stored label values and their pixels.
      spread: the share of the label files in which each value occurs, 0 to 1.
      folds: as the settings make them; none where they cannot.
      thumbnails: of at most some dozens of images.
      naming: how the names of the files pair, in a sentence; empty where a folder for each says it.
      left_out: how many pages without a label are left out.
    """

    settings: DataConfig
    findings: tuple[Finding, ...]
    images: tuple[ImageRecord, ...]
    units: tuple[UnitRecord, ...]
    classes: tuple[str, ...]
    contents: Contents
    pixels: NDArray[np.int64]
    ignored: int
    values: dict[int, int]
    spread: dict[int, float]
    folds: tuple[Fold, ...]
    thumbnails: tuple[Thumbnail, ...]
    naming: str = ""
    left_out: int = 0

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings for which training would stop."""
        return tuple(each for each in self.findings if each.severity == "fault")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings with which training works."""
        return tuple(each for each in self.findings if each.severity == "warning")


def check_dataset(config: DataConfig, progress: Progress = lambda steps, what: steps) -> Check:
    """Read every image and label of a data set once, and list all that is wrong or worth a look.

    Where it finds no fault, `fbunet_jax.data.datasets.load_dataset` reads the same settings without an error.

    Args:
      config: the settings, as for training.
      progress: wraps what takes long, for a progress bar: the units that are read, the tables of the comparison.

    Raises:
      DataError: there is nothing to read: no folder, no image, or no label.
    """
    source = open_source(config)
    errors: list[DataError] = []
    survey = _Survey(config, source)
    with noted() as notes:
        for labelled in read_units(source, errors.append, lambda units: progress(units, "Reading")):
            survey.add(labelled)
    findings = [as_finding(error) for error in errors] + survey.faults
    findings = label_proposal(findings, source, survey.values, survey.spread)
    folds: tuple[Fold, ...] = ()
    if survey.images:
        try:
            folds = configured_folds([unit.group for unit in source.units], config)
        except DataError as error:
            findings.append(as_finding(error, "folds"))
    if not findings:
        findings += _part_faults(survey.images, folds, config.views)
    findings += [
        warning("description-of-others", note.path, note.found, "Save it anew if its metadata are needed.")
        for note in sorted(set(notes), key=lambda note: str(note.path))  # several threads read
    ]
    findings += survey.warnings + _repeated(survey.images, progress)
    alike = alike_neighbours([each.picture for each in survey.images], [each.group for each in survey.images])
    found = contents(survey.units, source.classes, alike)
    if not any(each.severity == "fault" for each in findings):
        findings += class_finding(found, config, folds) + neighbour_finding(found, config, folds)
    return Check(
        settings=config,
        findings=tuple(findings),
        images=tuple(survey.images),
        units=tuple(survey.units),
        classes=tuple(source.classes),
        contents=found,
        pixels=sum((image.counts for image in survey.images), np.zeros(len(source.classes), np.int64)),
        ignored=survey.ignored,
        values=dict(sorted(survey.values.items())),
        spread=survey.spread,
        folds=folds,
        thumbnails=tuple(survey.thumbnails),
        naming=source.naming,
        left_out=survey.left_out,
    )


class _Survey:
    """Takes note of every image that is read, and keeps no pixels."""

    def __init__(self, config: DataConfig, source: Source) -> None:
        self.images: list[ImageRecord] = []
        self.faults: list[Finding] = []
        self.warnings: list[Finding] = []
        self.thumbnails: list[Thumbnail] = []
        self.values: Counter[int] = Counter()
        self.units: list[UnitRecord] = []
        self.ignored = self.left_out = 0
        self._config, self._classes = config, len(source.classes)
        spread = np.linspace(0, len(source.units) - 1, min(THUMBNAILS, len(source.units)))
        self._shown = {source.units[int(place)].name for place in spread}
        self._more = THUMBNAILS // 2

    @property
    def spread(self) -> dict[int, float]:
        """The share of the label files in which each value occurs, 0 to 1."""
        found = Counter(value for unit in self.units for value in unit.values)
        return {value: count / len(self.units) for value, count in found.items()}

    def add(self, found: Labelled) -> None:
        """Note the labelled pages of a unit."""
        unit, names, images, stored, indices, left_out = found
        self.left_out += left_out
        here = value_counts(stored)
        self.values.update(here)
        self.units.append(UnitRecord(unit.name, unit.group, frozenset(here)))
        file = str(unit.files[0]) if unit.files else unit.name
        height, width, channels = images.shape[1:]
        if fault := cut_fault(unit.name, height, width, self._config.cut):
            self.faults.append(as_finding(fault))
        before = len(self.warnings)
        for name, image, label in zip(names, images, indices, strict=True):
            counts = np.bincount(label.ravel(), minlength=max(256, self._classes))[: self._classes]
            self.ignored += label.size - int(counts.sum()) if self._classes else 0
            page = "" if name == unit.name else f"page {name.rpartition('/')[2]} "
            self.warnings += _look(image, file, page)
            size = (height, width, channels)
            self.images.append(
                ImageRecord(
                    name, unit.group, file, size, str(image.dtype), counts, fingerprint(image), small_picture(image)
                )
            )
        suspicious = len(self.warnings) > before and self._more > 0
        if unit.name in self._shown or suspicious:
            self._more -= unit.name not in self._shown
            middle = len(images) // 2
            label = indices[middle] if self._classes else stored[middle]
            self.thumbnails.append(thumbnail(unit.name, images[middle], label, described=bool(self._classes)))


def _look(image: NDArray, file: str, page: str) -> list[Finding]:
    """Return what is suspicious about the intensities of one image `[H, W, C]`."""
    highest = image.max()
    if image.min() == highest:
        return [
            warning(
                "constant-image", file, f"{page}has the value {highest} everywhere.", "Export it again, or take it out."
            )
        ]
    # the largest value of a camera of 8 to 16 bits; fewer bits are no photographs
    if image.dtype.kind not in "iu" or int(highest) not in _CAMERA_MAXIMA:
        return []
    share = float((image == highest).mean())
    if share < SATURATED_SHARE:
        return []
    found = f"{page}has {100 * share:.1f} % of its intensities at {highest}: detail is lost there."
    return [warning("saturated", file, found, "Use the original export, or record with a shorter exposure.")]


def _repeated(images: list[ImageRecord], progress: Progress) -> list[Finding]:
    """Return a warning for each image that is there twice, as it is or nearly."""
    prints = [image.fingerprint for image in images]
    findings = []
    for members in equal_images(prints):
        first, *others = (images[i] for i in members)
        for other in others:
            apart = "in another group, so it can be in training and test at once" if other.group != first.group else ""
            findings.append(
                warning(
                    "duplicate",
                    other.file,
                    f"has the same pixels as {first.file if first.file != other.file else first.name}"
                    f"{', ' + apart if apart else ''}.",
                    "Keep one of them.",
                )
            )
    groups = [image.group for image in images]
    found_pairs = near_duplicates([image.picture for image in images], groups, prints, progress)
    pairs = list(itertools.islice(found_pairs, MOST_PAIRS + 1))
    for one, twin, correlation in pairs[:_SHOWN_PAIRS]:
        findings.append(
            warning(
                "near-duplicate",
                images[twin].file,
                f"looks like {images[one].file} (correlation {correlation:.3f}), which is in another group: together "
                "in training and test, they make the score better than it is.",
                "Keep one of them, or put both into one group with data.group_pattern.",
            )
        )
    if len(pairs) > _SHOWN_PAIRS:
        least = "More than " if len(pairs) > MOST_PAIRS else ""
        found = f"{least}{min(len(pairs), MOST_PAIRS) - _SHOWN_PAIRS} more pairs of images look alike."
        findings.append(warning("near-duplicate", "", found, "Put images of the same place into one group."))
    return findings


def _part_faults(images: list[ImageRecord], folds: tuple[Fold, ...], views: str) -> list[Finding]:
    """Return why a fold could not be trained: a part without labelled pixels, or with too many."""
    faults = []
    labelled = {image.group for image in images if image.counts.any()}
    areas: Counter[str] = Counter()
    for image in images:
        areas[image.group] += image.size[0] * image.size[1] * (8 if views == "dihedral" else 1)
    for index, fold in enumerate(folds):
        for name, groups in (("training", fold.train), ("validation", fold.validation)):
            if labelled.isdisjoint(groups):
                found = f"The {name} part of fold {index} has no labelled pixel: all of them are ignored."
                faults.append(as_finding(Fault("unlabelled-part", "", found, "Label some, or use fewer folds.")))
            area = sum(areas[group] for group in groups)
            if area >= 2**31:
                found = f"The {name} part of fold {index} has {area:,} pixels; fewer than {2**31:,} fit."
                remedy = "Use fewer or smaller images, or more folds."
                faults.append(as_finding(Fault("part-size", "", found, remedy)))
    return faults
