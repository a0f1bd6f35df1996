"""Errors a user can cause: each message says what was found, what was expected, how to mend it."""

from __future__ import annotations


class ScgptError(Exception):
    """Base of every error that the command line reports in one line, without a traceback."""


class ConfigError(ScgptError, ValueError):
    """A configuration file or a parameter is wrong."""


class ContractError(ScgptError, ValueError):
    """A file between two steps does not have the schema its name promises."""


class DataError(ScgptError, ValueError):
    """Input data cannot be used for what was asked."""


class CheckpointError(ScgptError, ValueError):
    """Model weights do not fit the model, are damaged, or carry more than tensors."""


class DownloadError(ScgptError, OSError):
    """A file could not be fetched, or what arrived is not the file."""


class MetricUndefined(ScgptError, ValueError):
    """A metric has no value on these data; the message is the note in the table."""
