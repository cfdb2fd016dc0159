"""TOML files <-> nested tables <-> dataclasses; every key and type is checked."""

import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from fbunet_jax.errors import ConfigError, did_you_mean
from fbunet_jax.user_files import odd_characters, read_text


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file, or say where it is broken."""
    try:
        text = read_text(file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    try:
        table = tomllib.loads(text)
        _check_whole_numbers(table)
        return table
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not a valid TOML file: {error}.{_hint(text, str(error))}") from error


def _hint(text: str, error: str) -> str:
    """Return what the line of a TOML error shows that people often write."""
    place = re.search(r"at line ([0-9]+)", error)
    lines = text.split("\n")
    line = lines[int(place[1]) - 1] if place else lines[-1]
    if odd := odd_characters(line):
        return odd
    return " Write paths with / or in single quotes: in double quotes \\ begins an escape." if "\\" in text else ""


def _check_whole_numbers(value: Any) -> None:
    """Raise a ValueError for a whole number of more than 64 bits, which TOML does not know."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check_whole_numbers(each)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number has more than 64 bits")


def to_table(config: Any) -> Any:
    """Return a dataclass as nested plain values; fields that are None are left out (TOML has no null)."""
    if dataclasses.is_dataclass(config):
        pairs = ((f.name, to_table(getattr(config, f.name))) for f in dataclasses.fields(config))
        return {key: value for key, value in pairs if value is not None}
    return list(config) if isinstance(config, tuple) else config


def from_table(cls: type, table: Mapping[str, Any], where: str, prefix: str = "") -> Any:
    """Build a dataclass from nested plain values, checking every key and type.

    Raises:
      ConfigError: names ``where`` and the dotted key.
    """
    hints = typing.get_type_hints(cls)
    known = [prefix + name for name in hints]
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise ConfigError(f"{where}: unknown key {prefix + key!r}.{did_you_mean(prefix + key, known)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {prefix + key} = {value!r}: expected a table [{prefix + key}].")
            values[key] = from_table(typing.cast(type, hint), value, where, f"{prefix}{key}.")
        else:
            values[key] = _checked(value, hint, f"{where}: {prefix}{key}")
    try:
        return cls(**values)
    except ConfigError as error:
        if str(error).startswith(where):
            raise
        raise ConfigError(f"{where}: {error}") from None


def _checked(value: Any, hint: Any, where: str) -> Any:
    if isinstance(value, list | tuple):
        value = tuple(_plain(part) for part in value)
    value = _plain(value)
    try:
        return msgspec.convert(value, hint)
    except (msgspec.ValidationError, UnicodeEncodeError):
        options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
        words = [word for option in options for word in typing.get_args(option) if isinstance(word, str)]
        hint_text = did_you_mean(value, words) if isinstance(value, str) else ""
        raise ConfigError(f"{where} = {value!r}: expected {_in_words(options)}.{hint_text}") from None


def _plain(value: Any) -> Any:
    """Return what a program gives in place of what a TOML file holds: a path as text, a NumPy float as Python's."""
    return str(value) if isinstance(value, Path) else float(value) if isinstance(value, float) else value


def _in_words(options: tuple[Any, ...]) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    names |= {tuple[int, ...]: "a list of whole numbers", tuple[float, ...]: "a list of numbers"}
    names |= {tuple[str, ...]: "a list of texts", dict[str, int]: "a table of names and whole numbers"}
    words = []
    for option in options:
        if typing.get_origin(option) is Literal:
            words += [repr(choice) for choice in typing.get_args(option)]
        elif option is not type(None):
            words.append(names[option])
    return " or ".join(words)


def merge(table: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set a value in nested tables, under the keys that lead to it; tables are merged, and None removes.

    Raises:
      ConfigError: a key on the way is a value, not a table.
    """
    for key in keys[:-1]:
        if not isinstance(table.setdefault(key, {}), dict):
            raise ConfigError(f"{'.'.join(keys)}: {key} = {table[key]!r} is a value, not a table of settings.")
        table = table[key]
    if isinstance(value, Mapping) and isinstance(table.get(keys[-1]), dict):
        for key, inner in value.items():
            merge(table[keys[-1]], [key], inner)
    elif value is None:
        table.pop(keys[-1], None)
    else:
        table[keys[-1]] = value
