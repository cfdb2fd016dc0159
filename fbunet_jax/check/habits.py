"""The habits of people and tools by which a naming is recognised, and those that need more than the names of a pair."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from fbunet_jax.check.filenames import PAGE_WORDS, FileName, escaped, is_part, tokens
from fbunet_jax.config import FilesConfig
from fbunet_jax.data.layouts.patterns import part_of
from fbunet_jax.data.readers.tiff import PAGE_AXES, checked_tiff
from fbunet_jax.errors import DataError
from fbunet_jax.user_files import suffix

OBJECT_TOOLS = ("Cellpose", "StarDist")
"""Tools whose labels number objects."""

FEWEST_GROUPS = 3
"""Of which folds can be made: one to train, one to validate, one to test."""
_TILE = re.compile(r"(.+) \[((?:\w+=[0-9.]+,)+\w+=[0-9.]+)\](.*)")
_FOLDER_TOOLS = {("raw", "label"): "BiaPy", ("x", "y"): "BiaPy"}
_MOST_OPENED = 200
_Pages = dict[tuple[tuple[str, ...], str, str], dict[str, list[tuple[int, FileName]]]]


def tool_of(files: FilesConfig) -> str:
    """Return the tool or the habit that names files like this."""
    images, labels = files.image_patterns, files.labels
    first, name = images[0], labels.casefold()
    if re.search(r"_cp_masks?\b|\}_masks\.", name):
        return "Cellpose"
    if re.search(r"_labels\b|_simple segmentation\b", name) and re.search("_Labels|_Simple", labels):
        return "ilastik"
    if " [{}]" in labels:
        return "QuPath"
    if files.objects == "files":
        return "Data Science Bowl"
    if "{page}" in labels:
        return "a label file for each page"
    if "{channel}" in first:
        return "a file for each channel"
    if len(images) > 1:
        shared = len({each.rpartition("/")[0] for each in images}) == 1
        return "a file for each channel" if shared else "a folder for each channel"
    folders = [each.rpartition("/")[0].rpartition("/")[2].casefold() for each in (first, labels)]
    if first.rpartition("/")[0] == labels.rpartition("/")[0]:
        same = Path(first).stem == Path(labels).stem
        return "one name and two types of files" if same else "names that differ in a word"
    if tool := _FOLDER_TOOLS.get((folders[0], folders[1])):
        return tool
    tiffs = all(each.casefold().endswith((".tif", ".tiff")) for each in (first, labels))
    if tuple(folders) == ("images", "masks") and tiffs:
        return "StarDist"
    return "a folder of images and one of labels"


def object_files(files: Sequence[FileName]) -> Iterator[FilesConfig]:
    """Yield the naming of the Data Science Bowl: a folder an image, in which every object has a mask of its own."""
    images: dict[tuple[tuple[str, ...], str], list[FileName]] = defaultdict(list)
    masks: dict[tuple[tuple[str, ...], str], list[FileName]] = defaultdict(list)
    for file in files:
        if len(file.parts) >= 3:
            *before, image, kind, _ = file.parts
            found = {"images": images, "image": images, "masks": masks, "mask": masks}.get(kind.casefold())
            if found is not None:
                found[(tuple(before), image)].append(file)
    both = [key for key in masks if len(images[key]) == 1]
    if not both or not any(len(masks[key]) > 1 for key in both):
        return
    starts = Counter(before for before, _ in both)
    parts = {before[-1] if before else "" for before in starts}
    start = "/".join((*map(escaped, starts.most_common(1)[0][0]), ""))
    if len(starts) > 1 and all(map(is_part, parts)) and {"train", "test"} <= set(map(part_of, parts)):
        start = "/".join((*map(escaped, next(iter(starts))[:-1]), "{split}", ""))
    elif start == "/":
        start = ""
    named = all(images[key][0].parts[-1] == key[1] for key in both)
    folders = [{found[key][0].parts[-2] for key in both} for found in (images, masks)]
    endings = [{file.ending for key in both for file in found[key]} for found in (images, masks)]
    ends = [next(iter(each)) if len(each) == 1 else "" for each in endings]
    if all(len(each) == 1 for each in folders):
        image, mask = (next(iter(each)) for each in folders)
        name = "{id}" if named else "*"
        yield FilesConfig(f"{start}{{id}}/{image}/{name}{ends[0]}", f"{start}{{id}}/{mask}/*{ends[1]}", objects="files")


def page_labels(root: Path, files: Sequence[FileName]) -> Iterator[FilesConfig]:
    """Yield the namings in which every page of a stack has a label file of its own, named by stack and page."""
    tiffs = {file.parts[-1]: file for file in files if file.ending.lower() in (".tif", ".tiff")}
    together: _Pages = defaultdict(dict)
    for file in files:
        words = tokens(file.parts[-1])
        for cut in range(len(words) - 2, 0, -1) if words[-1].isdecimal() and len(words[-1]) < 7 else ():
            stack, between = "".join(words[:cut]), "".join(words[cut:-1])
            if stack in tiffs and PAGE_WORDS.fullmatch(between):
                pages = together[file.parts[:-1], between, file.ending].setdefault(stack, [])
                pages.append((int(words[-1]), file))
                break
    yield from _page_namings(root, tiffs, together)


def _page_namings(root: Path, stacks: dict[str, FileName], together: _Pages) -> Iterator[FilesConfig]:
    for (folders, between, ending), found in together.items():
        counts = {name: page_count(root / stacks[name].shown) for name in list(found)[:_MOST_OPENED]}
        places = {stacks[name].parts[:-1] for name in found}
        example = next(iter(found.values()))[0][1]
        if len(places) > 1 or max(counts.values()) < 2 or page_count(root / example.shown) > 1:
            continue
        numbers = {name: [number for number, _ in found[name]] for name in counts}
        sparse = any(len(numbers[name]) < count for name, count in counts.items())
        images = "/".join((*map(escaped, next(iter(places))), "{}" + stacks[next(iter(found))].ending))
        labels = "/".join((*map(escaped, folders), f"{{}}{escaped(between)}{{page}}{ending}"))
        least = min(map(min, numbers.values()))
        beyond = any(max(numbers[name]) >= count for name, count in counts.items())
        for first in [0] if least == 0 else [1] if beyond else [0, 1]:
            yield FilesConfig(images, labels, sparse=sparse, first_page=first)


def page_count(path: Path) -> int:
    """Return the number of pages of a TIFF; 1 if it is not known."""
    if suffix(path) not in (".tif", ".tiff"):
        return 1
    for axes in ("", "ZYX"):
        try:
            with checked_tiff(path, axes, "image") as (series, order):
                return math.prod(size for size, axis in zip(series.shape, order, strict=True) if axis in PAGE_AXES)
        except (DataError, OSError):
            continue
    return 1


def tiles(images: str, labels: str, names: Sequence[str]) -> tuple[str, str] | None:
    """Return the patterns of tiles that QuPath exported, with the slide as group if there are enough, or None."""
    found = [_TILE.fullmatch(name) for name in names]
    slides = Counter(each[1] for each in found if each)
    if not all(found) or not found or images.count("{}") != 1 or labels.count("{}") != 1:
        return None
    hole = "{group} [{}]" if FEWEST_GROUPS <= len(slides) < len(found) else "{} [{}]"
    return images.replace("{}", hole), labels.replace("{}", hole)
