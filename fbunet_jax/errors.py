"""The errors that a user can fix: each is one or more whole sentences, printed without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A user's mistake: says what was found, where, what was expected, and what to do. A ValueError.

    Example:
      >>> from fbunet_jax import UserError, build_method
      >>> try:
      ...     build_method("unet", classes=4, channels=1, rounds=2)
      ... except UserError as error:
      ...     print(error)
      Method 'unet' has one round, and rounds = 2 was given. Leave it out, or use a feedback method.

    Attributes:
      argument: of the library, which the message names last, in brackets, as in "Choose another (out)."; a command
        writes its option there.
    """

    def __init__(self, message: str = "", *, argument: str = "") -> None:
        super().__init__(message)
        self.argument = argument


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, or out of range."""


class ModelError(UserError):
    """A network that cannot be built or trained as it is described.

    Attributes:
      field: the field of the network that is wrong, empty if it is none of them.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class DataError(UserError):
    """An image, a label or a description of a data set that cannot be used as it is."""


class RunError(UserError):
    """A run directory that is missing, incomplete, in use, or belongs to other settings."""


class DeviceError(UserError):
    """A device that has too little memory, that failed, or that this installation cannot use.

    Attributes:
      kind: ``"memory"``, ``"driver"``, ``"library"``, ``"busy"``, ``"missing"``, ``"limit"`` or ``"lost"``.
    """

    def __init__(self, message: str, kind: str, *, argument: str = "") -> None:
        super().__init__(message, argument=argument)
        self.kind = kind


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest of the known words, or an empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""
