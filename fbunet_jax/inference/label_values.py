"""The values that the label files of a segmentation hold: those of the data set's own label files, or class indices."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbunet_jax.data.datasets import described_classes
from fbunet_jax.errors import DataError
from fbunet_jax.runs.directory import Run

LABEL_FORMAT = 2
"""Version of a label file's metadata; without a version, its values are class indices."""

SHOWN = 8

_TYPES = (np.uint8, np.uint16, np.int16, np.uint32, np.int32)


@dataclass(frozen=True)
class ClassValues:
    """What label files hold for each class.

    Attributes:
      names: of the classes, in class order.
      label_values: of the classes in the data set's own label files, in class order; empty if they are not known.
      as_indices: whether class indices are written although the values are known.
    """

    names: tuple[str, ...]
    label_values: tuple[int, ...] = ()
    as_indices: bool = False

    @property
    def written(self) -> dict[str, int]:
        """Return the value that is written for each class."""
        known = bool(self.label_values) and not self.as_indices
        return dict(zip(self.names, self.label_values if known else range(len(self.names)), strict=True))

    @property
    def dtype(self) -> np.dtype:
        """Return the smallest integer type that holds the values."""
        values = self.written.values()
        fitting = (each for each in _TYPES if np.iinfo(each).min <= min(values) and max(values) <= np.iinfo(each).max)
        return np.dtype(next(fitting, np.int64))

    def of(self, indices: NDArray[np.uint8]) -> NDArray[np.integer]:
        """Return what is written for class indices of any shape."""
        return np.array(list(self.written.values()), self.dtype)[indices]

    @property
    def legend(self) -> str:
        """Return the values in words, such as "background = 0, nucleus = 255"; at most `SHOWN` classes."""
        listed = [f"{name} = {value}" for name, value in self.written.items()]
        return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if listed[SHOWN:] else "")

    def metadata(self) -> dict[str, Any]:
        """Return the class table of a label file: a class's value in it, its index, and its value in the data set."""
        table: dict[str, Any] = {"format": LABEL_FORMAT, "classes": self.written}
        table["class_indices"] = {name: index for index, name in enumerate(self.names)}
        if self.label_values:
            table["label_values"] = dict(zip(self.names, self.label_values, strict=True))
        return table


def known_label_values(run: Run) -> tuple[tuple[int, ...], str]:
    """Return the value of each class in the label files that a run was trained with, in class order.

    A run stores them; for a run of an earlier version, the settings or the data folder say them.

    Returns:
      The values, and nothing; or no values, and a sentence that says why they are not known.

    Raises:
      RunError: the run cannot be read.
    """
    dataset, data = run.read_dataset(), run.read_config().data
    if "label_values" in dataset:
        return tuple(dataset["label_values"]), ""
    names = dataset["class_names"]
    try:
        classes = described_classes(data)
        reason = f"{data.root} describes the classes {', '.join(classes) or '(none)'}."
    except DataError as error:
        classes, reason = {}, str(error)
    if list(classes) == names and len({*classes.values()}) == len(names):
        return tuple(classes.values()), ""
    return (), (
        f"{run.path} was written by a version before 0.2, which did not store the label values of the classes, and its "
        f"data folder does not give them either: {reason} The label files hold class indices. To have the values, put "
        "the description of the data set back into its folder."
    )
