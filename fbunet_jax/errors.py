"""The errors that a user can mend: each is one or more whole sentences, printed without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A user's mistake: says what was found, where, what was expected, and what to do."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, or out of range."""


class DataError(UserError):
    """An image, a label or a description of a data set that cannot be used as it is."""


class RunError(UserError):
    """A run directory that is missing, incomplete, in use, or belongs to other settings."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest of the known words, or an empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""
