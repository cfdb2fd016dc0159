"""Arrays in memory: images and labels that a Python program passes, walked as the files of a folder are.

`Dataset.from_arrays` describes the arguments. The index of an array stands in messages where a file's name would:
``labels[3]``.
"""

import operator
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fbunet_jax.data.faults import Fault
from fbunet_jax.data.layouts.description import IGNORE, Description, class_faults
from fbunet_jax.data.layouts.sources import Reading, Source, Unit, check_pair
from fbunet_jax.data.readers.pixels import check_count, intensities, label_values
from fbunet_jax.errors import DataError

_MOST_PIXELS = 2**31  # one part of a fold must have fewer, see `pipeline.store`

Arrays = ArrayLike | Sequence[ArrayLike]
"""One array whose first axis counts the items, or an array for each item."""

REMEDIES = {
    "damaged-file": "Leave the image and its label out.",
    "file-size": "Cut it into smaller images.",
    "pair-size": "Both must agree: an image is [H, W] or, with the channels last, [H, W, C], and its label [H, W].",
    "no-data": (
        "Replace the value, and pass 255 in the label where the image holds nothing; if it is a measurement, pass "
        'no_data="keep".'
    ),
    "not-finite": "Replace them before training, for example with np.nan_to_num.",
    "image-type": (
        "Convert it: whole numbers with .astype(np.uint8) or .astype(np.uint16), whichever holds them, others with "
        ".astype(np.float32)."
    ),
    "label-colours": "Pass the class index of each pixel, [H, W]; of one-hot labels, that is label.argmax(axis=-1).",
    "label-type": "If the values are class indices, convert it with .astype(np.uint8).",
    "label-values": (
        "Map every value to a class index, 0 to K-1 in the order of the K class names, or to 255 where the pixel is to "
        "be ignored."
    ),
    "label-mask": (
        "These look like 0/255 masks, but a label holds class indices, and 255 means ignored. For two classes pass "
        "label // 255, or label > 127 where the edges are smoothed."
    ),
    "label-instances": (
        "So many values look like one number an object. The network learns classes: give every object the index of its "
        "class; for background and one class pass label > 0."
    ),
    "class-absent": "Take the class out of class_names, or pass labels that hold its index.",
    "classes": "Give each class a name of its own, from 2 to 255 of them, in the order of the class indices.",
}
"""What to do about a kind of fault, where the usual remedy makes sense for files only."""

_FORMS = {"images": ("[H, W] or [H, W, C]", "[N, H, W] or [N, H, W, C]"), "labels": ("[H, W]", "[N, H, W]")}
"""What an item may be, and an array of all."""
_WORD = "text that can be printed, or a whole number"
_SHOWN_NAMES = 8


def open_arrays(
    images: Arrays,
    labels: Arrays,
    class_names: Sequence[str],
    groups: Sequence[str | int] | None,
    names: Sequence[str | int] | None,
) -> Source:
    """Pair images and labels; no pixel is looked at. See `fbunet_jax.data.datasets.Dataset.from_arrays`.

    Raises:
      DataError: the arguments are no arrays, there is no image, or the numbers of images and labels differ.
    """
    pairs = _paired(images, labels)
    count = len(pairs)
    digits = max(3, len(str(count - 1)))
    numbered = [f"{index:0{digits}d}" for index in range(count)]
    item_names, name_faults = (numbered, []) if names is None else _words("names", names, count)
    item_groups, group_faults = (item_names, []) if groups is None else _words("groups", groups, count)
    places: dict[str, int] = {}
    for place, name in enumerate(item_names):
        # what is no name is a fault already
        if name and places.setdefault(name, place) != place:
            found = f"is {name!r}, as names[{places[name]}] is."
            name_faults.append(Fault("same-name", f"names[{place}]", found, "Give every image a name of its own."))
    classes, table, faults = _classes(class_names)
    units = tuple(
        # where a name is at fault, its number stands in for it
        Unit(name or number, group or number, (Path(f"images[{place}]"), Path(f"labels[{place}]")))
        for place, (number, name, group) in enumerate(
            zip(numbered, item_names or numbered, item_groups or numbered, strict=True)
        )
    )
    items = dict(zip(units, pairs, strict=True))

    def read(unit: Unit) -> Reading:
        image_place, label_place = unit.files
        image, label = items[unit]
        pixels = intensities(image_place, _with_channels(image_place, image))[None]
        values = label_values(label_place, _with_channels(label_place, label)[None])
        if values.min() >= 0 and values.max() <= IGNORE:
            # 8 bits are counted without sorting, and NumPy makes 64 by default
            values = values.astype(np.uint8, copy=False)
        check_pair(image_place, pixels, label_place, values)
        return Reading(pixels, values)

    return Source(
        units,
        read,
        classes,
        IGNORE,
        labels="labels",
        faults=(*faults, *name_faults, *group_faults),
        table=table,
        remedies=REMEDIES,
    )


def _paired(images: Arrays, labels: Arrays) -> list[tuple[Any, Any]]:
    """Return image and label of each item, as they were given.

    Raises:
      DataError: see `open_arrays`.
    """
    first, second = _split("images", images), _split("labels", labels)
    if len(first) != len(second):
        hint = ""
        if getattr(images, "ndim", 0) == 3:
            hint = " The first axis of an array counts the images: a single image [H, W, C] is passed as images[None]."
        raise DataError(
            f"There {'is' if len(first) == 1 else 'are'} {_counted(len(first), 'image')}, but "
            f"{_counted(len(second), 'label')}. Pass one label for each image, in the same order.{hint}"
        )
    if not first:
        raise DataError("images and labels are empty. Pass at least one image and its label.")
    return list(zip(first, second, strict=True))


def _split(what: str, given: Arrays) -> list[Any]:
    """Return the items of one array or of a sequence; raises a DataError if it is neither."""
    one, many = _FORMS[what]
    if not _is_series(given):
        raise DataError(
            f"{what} is of type {type(given).__name__}: expected one array {many}, or a list of arrays {one}. "
            "Files are read by load_dataset."
        )
    if not hasattr(given, "__array__"):
        return list(cast(Iterable[Any], given))
    whole = _as_numpy(Path(what), given)
    if whole.dtype == object and whole.ndim == 1:
        return list(whole)
    if whole.ndim not in (3, 4):
        single = f" If it is a single one, pass {what}[None]." if whole.ndim == 2 else ""
        raise DataError(
            f"{what} has the shape {whole.shape}: expected {many}, where N counts the items, or a list of arrays {one}."
            f"{single}"
        )
    return list(whole)


def _with_channels(place: Path, item: Any) -> NDArray:
    """Return an item as `[H, W, C]`, C = 1 if it has two axes; a view where it is a NumPy array of native numbers."""
    array = _as_numpy(place, item)
    form = _FORMS[place.name.partition("[")[0]][0]
    if array.dtype.kind in "OSUMm":
        kind = f"an array of type {array.dtype}" if array.ndim else f"of type {type(item).__name__}"
        found = f"is {kind}: expected numbers, {form}."
        raise Fault("array", place, found, "Pass a NumPy or JAX array; files are read by load_dataset.")
    if array.ndim not in (2, 3):
        found = f"has the shape {array.shape}: expected {form}."
        raise Fault("array", place, found, "Pass an array for each image and for each label, without other axes.")
    size = f"has the size {' x '.join(map(str, array.shape))}"
    check_count(place, array.shape, size)
    if array.shape[0] * array.shape[1] > _MOST_PIXELS:
        raise Fault("file-size", place, f"{size}, more than {_MOST_PIXELS} pixels.", "")
    return array if array.ndim == 3 else array[..., None]


def _as_numpy(place: Path, item: Any) -> NDArray:
    """Return a NumPy array in the machine's byte order, without a copy where that is possible."""
    if isinstance(item, np.ma.MaskedArray):
        found = "is a masked array: it is not known what to do with the pixels under the mask."
        raise Fault("array", place, found, "Pass its method filled(value); in labels, 255 marks ignored pixels.")
    try:
        array = np.asarray(item)
    except Exception as error:  # whatever another library's array raises
        detail = str(error).strip().rstrip(".") or type(error).__name__
        found = f"cannot be made a NumPy array ({detail})."
        raise Fault("array", place, found, "Pass a NumPy or JAX array of numbers.") from error
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _words(what: str, given: Iterable[Any], count: int) -> tuple[list[str], list[Fault]]:
    """Return names or groups as text, empty where one is at fault; none if their number is not that of the images."""
    remedy = f"Pass {what} as a list of text or whole numbers, one for each image."
    if not _is_series(given):
        found = f"is of type {type(given).__name__}: expected a list."
        return [], [Fault("item-name", what, found, remedy)]
    values = _listed(given)
    if len(values) != count:
        entries = "entry" if len(values) == 1 else "entries"
        found = f"has {len(values)} {entries} for {_counted(count, 'image')}."
        return [], [Fault("item-name", what, found, remedy)]
    words = [_word(value) for value in values]
    return words, [
        Fault("item-name", f"{what}[{place}]", f"is {reprlib.repr(value)}: expected {_WORD}.", remedy)
        for place, (word, value) in enumerate(zip(words, values, strict=True))
        if not word
    ]


def _word(value: Any) -> str:
    """Return a text or a whole number as text; empty for anything else, and for what cannot be printed."""
    if isinstance(value, bool):
        return ""
    try:
        text = str(value) if isinstance(value, str) else str(operator.index(value))
    except TypeError:
        return ""
    return text if text.strip() and text.isprintable() else ""


def _classes(given: Iterable[Any]) -> tuple[dict[str, int], str, list[Fault]]:
    """Return the index of each class, none if there are faults; how messages show the names; and the faults."""
    # the remedy is that of `REMEDIES`
    if not _is_series(given):
        found = f"is of type {type(given).__name__}: expected a list of names."
        return {}, "", [Fault("classes", "class_names", found, "")]
    names = _listed(given)
    more = f", … {len(names) - _SHOWN_NAMES} more" if names[_SHOWN_NAMES:] else ""
    table = f"class_names = [{', '.join(map(reprlib.repr, names[:_SHOWN_NAMES]))}{more}]"
    faults = [
        Fault("classes", f"class_names[{place}]", f"is {reprlib.repr(name)}: expected text.", "")
        for place, name in enumerate(names)
        if not isinstance(name, str)
    ]
    if faults:
        return {}, table, faults
    repeated = [name for name, number in Counter(names).items() if number > 1]
    if repeated:
        return {}, table, [Fault("classes", "", f"{table}: {repeated[0]!r} is the name of more than one class.", "")]
    classes = {str(name): index for index, name in enumerate(names)}
    faults = class_faults(Description(classes), table)
    return ({} if faults else classes), table, faults


def _is_series(given: object) -> bool:
    """Return whether it has entries in an order; a text is a single thing here."""
    return isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping | Set)


def _listed(given: Iterable[Any]) -> list[Any]:
    """Return the entries of a sequence; those of an array as Python's own types."""
    return np.asarray(given).tolist() if hasattr(given, "__array__") else list(given)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
