"""The errors a user is meant to read: what was found, what was expected, what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SalsaError(Exception):
    """The command cannot do what was asked; the message is complete as it stands."""

    exit_code = 1


class UsageError(SalsaError):
    """The command line or the configuration file is wrong."""

    exit_code = 2


class StorageError(SalsaError):
    """The file system does not read or write; what it has of a result may be continued later."""


class Elsewhere(SalsaError):
    """Another process of this run has failed, and says why."""


@contextmanager
def os_errors(path: Path, verb: str) -> Iterator[None]:
    """Turn what the file system says of `path` into a `StorageError`: cannot read, cannot write."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot {verb} it: {error.strerror or error}") from error


@contextmanager
def during(what: str) -> Iterator[None]:
    """Let a `SalsaError` of the block say in what it arose."""
    try:
        yield
    except SalsaError as error:
        raise type(error)(f"{what}: {error}") from error


def one_line(text: str) -> str:
    """Foreign text, fit for one line of a message."""
    cut = text[:200]
    shown = cut if cut.isprintable() and cut else ascii(cut)
    return shown if len(text) <= 200 else f"{shown}..."
