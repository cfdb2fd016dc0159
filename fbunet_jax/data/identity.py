"""What a run remembers of its data set, and whether one that a program passes can be used."""

import hashlib
import json
from typing import Any

import numpy as np

from fbunet_jax.config import FilesConfig
from fbunet_jax.data.datasets import Dataset
from fbunet_jax.data.layouts.description import IGNORE
from fbunet_jax.errors import DataError
from fbunet_jax.toml_tables import to_table


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return what a run remembers of its data set; the fingerprint covers names, pixels and labels."""
    digest = hashlib.blake2b(digest_size=16)
    for name, image, label in zip(dataset.names, dataset.images, dataset.labels, strict=True):
        digest.update(json.dumps([name, image.shape, image.dtype.str]).encode())
        digest.update(np.ascontiguousarray(image).data)
        digest.update(np.ascontiguousarray(label).data)
    described = {
        "class_names": list(dataset.class_names),
        "channels": int(dataset.images[0].shape[-1]),
        "fingerprint": digest.hexdigest(),
    }
    if dataset.label_values:
        described["label_values"] = list(dataset.label_values)
    if dataset.files != FilesConfig():
        described["files"] = to_table(dataset.files)
    if dataset.channel_numbers:
        described["channel_numbers"] = list(dataset.channel_numbers)
    return described


def passed_fingerprint(dataset: Dataset) -> str:
    """Return the fingerprint of a data set that a program passes: of all that it holds, groups included."""
    percentiles = None if dataset.percentiles is None else [each.tolist() for each in dataset.percentiles]
    parts = json.dumps([describe(dataset), dataset.groups, percentiles]).encode()
    return hashlib.blake2b(parts, digest_size=16).hexdigest()


def check_passed_dataset(dataset: object) -> None:
    """Raise a DataError unless what a program passes is a data set whose parts fit each other."""
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"dataset is of type {type(dataset).__name__}: expected a Dataset, such as "
            "Dataset.from_arrays(images, labels, class_names=[...]) or load_dataset(config) returns."
        )
    parts = {name: getattr(dataset, name) for name in ("images", "labels", "names", "groups")}
    if len({len(part) for part in parts.values()}) > 1:
        counts = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
        raise DataError(f"dataset has {counts}; expected as many of each. Dataset.from_arrays checks what it is given.")
    for place, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
        if image.ndim != 3 or image.shape[:2] != label.shape or label.dtype != np.uint8:
            raise DataError(
                f"dataset.images[{place}] has the shape {image.shape} and dataset.labels[{place}] the shape "
                f"{label.shape} and the type {label.dtype}; expected [H, W, C], and [H, W] uint8. Dataset.from_arrays "
                "makes them of other arrays."
            )
        if ((label >= len(dataset.class_names)) & (label != IGNORE)).any():
            raise DataError(
                f"dataset.labels[{place}] holds {label[label != IGNORE].max()}; expected a class index below "
                f"{len(dataset.class_names)}, or 255 where a pixel is ignored."
            )
    if not all(isinstance(each, str) for each in (*dataset.names, *dataset.groups)):
        raise DataError("dataset has names or groups that are not text. Dataset.from_arrays takes numbers too.")
