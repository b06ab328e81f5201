"""Errors a user can cause and mend.

Each carries one sentence: what was got, what was wanted, what to do. The command line prints that
sentence and exits with 2; Python callers can catch `InputError`, which is a `ValueError`.
"""


class InputError(ValueError):
    """The input or the call was wrong; the message says what to do about it."""


class ImageError(InputError):
    """A picture cannot be read, or is not a picture."""


class TextError(InputError):
    """A text is empty, too long, or not a string."""


class ModelError(InputError):
    """A model name, bundle or checkpoint cannot be used."""


class DataError(InputError):
    """A folder, shard or index does not hold what was expected."""


class OutputError(InputError):
    """A result cannot be written where it was asked for."""
