"""What settings of an earlier format meant, and which settings come to the same; on nested plain values."""

from collections.abc import Mapping
from typing import Any, Literal

from fbunet_jax.errors import ConfigError

FORMAT = 2
"""Version of the configuration format; a newer one is refused."""

BEFORE_FORMAT_2: dict[str, Any] = {
    "data.percentiles_of": "tile",
    "data.validation_groups": "after",
    "training.norm_batches": 0,
    "training.validation_tiles": "separate",
    "training.crop_border": False,
    "training.elastic_probability": 1.0,
}
"""The settings that format 1 did not have, and the values that say what it did."""

DEFAULT_TILE = 512
"""Side of the tiles in which whole images are segmented, pixels; docs/prediction.md has the measurements behind it."""


def in_this_format(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return nested settings without their ``format``, with what an older format meant written out.

    Raises:
      ConfigError: the format is missing or newer than this version; names ``where``.
    """
    rest: dict[str, Any] = {**table}
    version = rest.pop("format", None)
    if version not in (1, FORMAT) or isinstance(version, bool):
        raise ConfigError(
            f"{where} has format {version!r}; this version reads formats 1 and {FORMAT}. Use the version that wrote it."
        )
    return with_missing(rest, BEFORE_FORMAT_2) if version == 1 else rest


def with_missing(table: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested settings in which those that are missing have values, given under dotted names."""
    result = {**table}
    for name, value in values.items():
        *rooms, key = name.split(".")
        inner = result
        for room in rooms:
            found = inner.get(room, {})
            if not isinstance(found, Mapping):  # which is reported where the settings are read
                break
            inner[room] = {**found}
            inner = inner[room]
        else:
            inner.setdefault(key, value)
    return result


def comparable(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings, none of them missing, in which those that come to the same are the same."""
    training, data = {**table["training"]}, {**table["data"]}
    if not data["cut"] or data["normalisation"] != "percentile":
        data["percentiles_of"] = BEFORE_FORMAT_2["data.percentiles_of"]
    training["norm_batches"] = norm_batch_count(training["norm_batches"], training["weight_average"])
    if not training["elastic_augmentation"]:
        training["elastic_probability"] = BEFORE_FORMAT_2["training.elastic_probability"]
    if 0 < data["cut"] <= data["crop"]:  # there is one place for a crop
        training["crop_border"] = BEFORE_FORMAT_2["training.crop_border"]
    if items_are_tiles(table):
        training["validation_tiles"] = BEFORE_FORMAT_2["training.validation_tiles"]
    if data["fold_scheme"] != "grouped":
        data["validation_groups"] = BEFORE_FORMAT_2["data.validation_groups"]
    return {**table, "data": data, "training": training}


def items_are_tiles(table: Mapping[str, Any]) -> bool:
    """Say whether items are segmented as they are, one tile each, in every format: nested settings, none missing."""
    cut, levels = table["data"]["cut"], len(table["model"]["widths"])
    return cut == table["data"]["crop"] and 0 < cut <= DEFAULT_TILE and cut % 2 ** (levels - 1) == 0


def norm_batch_count(norm_batches: int | Literal["auto"], weight_average: float) -> int:
    """Return `TrainingConfig.norm_batches` as a number."""
    if norm_batches == "auto":
        return 24 if weight_average else 0
    return norm_batches
