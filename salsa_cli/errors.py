"""Errors for users: what was found, what was expected, what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SalsaError(Exception):
    """The command cannot do what was asked; the message is printed as it is."""

    exit_code = 1


class UsageError(SalsaError):
    """The command line or the configuration file is wrong."""

    exit_code = 2


class StorageError(SalsaError):
    """Reading or writing failed; a partial result may be continued later."""


class Elsewhere(SalsaError):
    """Another process of this run has failed, and reports the error."""


@contextmanager
def os_errors(path: Path, verb: str) -> Iterator[None]:
    """Turn an `OSError` about `path` into a `StorageError`: cannot read it, cannot write it."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot {verb} it: {error.strerror or error}") from error


@contextmanager
def during(what: str) -> Iterator[None]:
    """Prefix a `SalsaError` of the block with what was being done."""
    try:
        yield
    except SalsaError as error:
        raise type(error)(f"{what}: {error}") from error


def one_line(text: str) -> str:
    """Untrusted text, shortened to one printable line of a message."""
    cut = text[:200]
    shown = cut if cut.isprintable() and cut else ascii(cut)
    return shown if len(text) <= 200 else f"{shown}..."
