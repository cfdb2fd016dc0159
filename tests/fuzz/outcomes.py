"""What becomes of a file, besides a documented error and a right answer."""


class WrongAnswerError(Exception):
    """A file was read, and what came out is not what it holds."""


class NotComparedError(Exception):
    """A file was read, and no second decoder reads it."""


class FoundError(Exception):
    """The check lists faults, each with its sentence."""
