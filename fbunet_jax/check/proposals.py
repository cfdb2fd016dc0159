"""What a data set probably is: classes, groups, crop and batch. Proposals for the user to confirm, never applied."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import ImageColor

from fbunet_jax.check.findings import Finding
from fbunet_jax.data.layouts.description import as_toml
from fbunet_jax.data.layouts.sources import Source
from fbunet_jax.data.readers.image_files import read_colours, read_image, read_label
from fbunet_jax.data.readers.png import open_png
from fbunet_jax.errors import DataError
from fbunet_jax.user_files import suffix

_MOST_CLASSES = 20
_COLOUR_FILES = 20
_CROP = 256
_BATCH_PIXELS = 16 * 256**2

Colour = tuple[int, ...]


@dataclass(frozen=True)
class ClassProposal:
    """What label values may mean.

    Attributes:
      classes: name and value of each; empty if the values say nothing.
      ignore_value: of unlabelled pixels, if one value looks like it.
      reason: one sentence.
    """

    classes: dict[str, int]
    ignore_value: int | None
    reason: str


def propose_classes(
    values: Mapping[int, int], palette: Mapping[int, str] | None = None, spread: Mapping[int, float] | None = None
) -> ClassProposal:
    """Return what stored label values may mean.

    Args:
      values: each value and its pixels, over all label files.
      palette: names of the values' colours, if the label files have a palette.
      spread: the share of the label files in which each value occurs, 0 to 1. Where there are too many values for
        classes, those of at least half of the files are proposed: a damaged file does not hide the meaning of the rest.
    """
    usual = {value: pixels for value, pixels in values.items() if (spread or {}).get(value, 0) >= 0.5}
    if len(values) > _MOST_CLASSES and 2 <= len(usual) <= _MOST_CLASSES:
        proposal = propose_classes(usual, palette)
        strays = f"{len(values) - len(usual)} further values stand in less than half of the files: no classes here."
        return replace(proposal, reason=f"{proposal.reason} {strays}")
    total = sum(values.values())
    others = [value for value in values if value not in (0, 255)]
    masked = values.get(0, 0) + values.get(255, 0)
    if {0, 255} <= set(values) and (not others or (len(others) >= 3 and masked > 0.8 * total)):
        stray = f", but for {total - masked} stray pixels of smoothed edges, which must go" if others else ""
        return ClassProposal({"background": 0, "foreground": 255}, None, f"The labels are 0/255 masks{stray}.")
    if len(values) < 2:
        return ClassProposal({}, None, "The labels hold one value only.")
    if len(values) > _MOST_CLASSES:
        return ClassProposal(
            {}, None, f"{len(values)} values look like one number an object, or like smoothed edges, not like classes."
        )
    ignore = 255 if 255 in values and len(others) >= 1 and max(others) < 200 and not palette else None
    names = palette or {}
    classes = {}
    for value in sorted(set(values) - {ignore}):
        name = names.get(value, "background" if value == 0 else f"class_{value}")
        classes[f"{name}_{value}" if name in classes else name] = value
    reason = "The names are those of the palette's colours." if palette else "The names are made up: change them."
    if may_be_objects(classes.values(), spread):
        reason += (
            " If the values number objects (1, 2, 3, … in each image), these are not classes: set objects = "
            '"numbered" in [files] and classes = {background = 0, object = 1}.'
        )
    return ClassProposal(classes, ignore, reason)


def may_be_objects(values: Collection[int], spread: Mapping[int, float] | None) -> bool:
    """Say whether values look like numbers of objects: from 0 on without a gap, the higher ones in fewer files."""
    shares = [(spread or {}).get(value, 0) for value in sorted(values)]
    consecutive = sorted(values) == list(range(len(values)))
    return consecutive and len(shares) > 3 and shares[-1] < shares[1] and shares == sorted(shares, reverse=True)


def palette_names(file: Path) -> dict[int, str] | None:
    """Return the colour name of each index of a palette PNG, or None for another file, also a damaged one."""
    if suffix(file) != ".png":
        return None
    try:
        colours = open_png(file).colours()
    except (OSError, DataError):
        return None
    if not colours:
        return None
    # a grey ramp is only grey values again
    if all(len(set(colour)) == 1 for colour in colours):
        return None
    return {index: colour_name(colour) for index, colour in enumerate(colours)}


def colour_name(colour: Colour) -> str:
    """Return the name of a colour in CSS, such as "red", or "colour_ff0080"."""
    # not the table's own values, which Pillow replaces by numbers as it uses them
    name = next((each for each in ImageColor.colormap if ImageColor.getrgb(each) == tuple(colour[:3])), "")
    return name or "colour_" + "".join(f"{part:02x}" for part in colour[:3])


def label_proposal(
    findings: Sequence[Finding], source: Source, values: Mapping[int, int], spread: Mapping[int, float]
) -> list[Finding]:
    """Return the findings, those of labels without a meaning followed by a proposed table; see `propose_classes`."""
    improved = list(findings)
    coloured = [place for place, each in enumerate(findings) if each.kind == "label-colours"]
    if coloured:
        table = _colour_table([Path(findings[place].file) for place in coloured[:_COLOUR_FILES]])
        for place in coloured:
            improved[place] = replace(findings[place], remedy=f"{findings[place].remedy} {table}")
    for place, each in enumerate(findings):
        if each.kind == "classes-undescribed" and values:
            palette = next(filter(None, (palette_names(unit.files[-1]) for unit in source.units if unit.files)), None)
            proposal = propose_classes(values, palette, spread)
            shown = f" Proposed: classes = {as_toml(proposal.classes)}" if proposal.classes else ""
            shown += f", ignore_value = {proposal.ignore_value}" if proposal.ignore_value is not None else ""
            improved[place] = replace(each, remedy=f"{each.remedy} {proposal.reason}{shown}{'.' if shown else ''}")
    return improved


def _colour_table(files: Sequence[Path]) -> str:
    """Return the colours of label files and a value for each, in a sentence."""
    colours: Counter[Colour] = Counter()
    for file in files:
        try:
            array = read_colours(file)
        except DataError:
            continue
        found, counts = np.unique(array.reshape(-1, array.shape[-1]), axis=0, return_counts=True)
        colours.update(dict(zip(map(tuple, found.tolist()), counts.tolist(), strict=True)))
    ordered = [colour for colour, _ in colours.most_common(_MOST_CLASSES)]
    if any(len(colour) != 3 for colour in ordered) or not ordered:
        return "Its channels are not red, green and blue; docs/checking.md shows a conversion."
    # black is background by custom
    ordered.sort(key=lambda colour: (colour != (0, 0, 0), -colours[colour]))
    table = ", ".join(f"{colour_name(colour)} {colour} = {value}" for value, colour in enumerate(ordered))
    more = len(colours) - len(ordered)
    smooth = f" There are {more} more colours: smoothed edges, which must go first." if more else ""
    classes = {colour_name(colour): value for value, colour in enumerate(ordered)}
    return (
        f"Proposed values: {table}; then classes = {as_toml(classes)}.{smooth} docs/checking.md shows the conversion."
    )


def group_patterns(stems: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield each group_pattern that joins files with the same beginning, and its number of groups; shortest first."""
    for parts in (1, 2, 3):
        pattern = "^(" + "[_-]".join(["[^_-]+"] * parts) + ")[_-]"
        matches = [re.search(pattern, stem) for stem in stems]
        groups = {match[1] for match in matches if match}
        if all(matches) and 3 <= len(groups) < len(stems):
            yield pattern, len(groups)


def propose_crop(sizes: Sequence[tuple[int, int]], unit: int = 16) -> int:
    """Return a crop side: 256, or the largest multiple of ``unit`` that the middle image holds."""
    if not sizes:
        return _CROP
    middle = int(np.median([min(size) for size in sizes]))
    return min(_CROP, max(unit, middle // unit * unit))


def propose_batch(crop: int, sizes: Sequence[tuple[int, int]]) -> int:
    """Return a batch size: 16 crops as in the paper, fewer of larger ones, and at least 4 steps an epoch."""
    crops = sum(max(1, round(height * width / crop**2)) for height, width in sizes)
    most = min(_BATCH_PIXELS / crop**2, crops / 4)
    return next((size for size in (16, 8, 4, 2) if size <= most), 1)


def propose_axes(image_file: Path, label_file: Path) -> str:
    """Return the only order of axes in which an image and its label have the same size; empty if none or several.

    Orders that read both alike, because metadata say the order of one of them, are one: the shortest.
    """
    found, first = "", None
    for axes in ("YXC", "CYX", "ZYX", "ZYXC", "ZCYX", "CZYX", "TZYX"):
        try:
            images, labels = read_image(image_file, axes, no_data="keep"), read_label(label_file, axes)
        except DataError:
            continue
        if images.shape[:3] != labels.shape:
            continue
        if first is None:
            found, first = axes, (images, labels)
        elif not (np.array_equal(first[0], images) and np.array_equal(first[1], labels)):
            return ""
    return found
