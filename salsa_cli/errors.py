"""Errors for users: what was found, what was expected, what to do."""

import errno
from collections.abc import Iterator, Mapping
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


class Halted(SalsaError):
    """A rule of the user has stopped a run whose state is saved.

    Attributes:
        resume_with: settings, by the name of their field, with which the run can be resumed.
    """

    def __init__(self, message: str, resume_with: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.resume_with = dict(resume_with or {})


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


def explained(error: Exception) -> str:
    """The message for any error."""
    if isinstance(error, SalsaError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'file system'}: {error.strerror}"
    if out_of_memory(error):
        return f"out of memory ({error}); try a smaller --batch-size or a shorter length"
    return (
        f"{type(error).__name__}: {error}\n"
        "This is a bug in salsa. Set SALSA_DEBUG=1 to see the traceback."
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the device or of the machine was too small."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def out_of_disk(error: BaseException) -> bool:
    """Whether a disk or a quota is full; looks at what caused the error, too."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__
    return False
