"""A stderr that outlives its reader: a closed terminal or pipe costs lines, not the run."""

import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Lossy(io.FileIO):
    """A file descriptor; what cannot be written to it is dropped."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError:  # EIO of a closed terminal, EPIPE of a pipe without a reader
            return memoryview(data).nbytes


def outlive_reader() -> None:
    """Drop what cannot be written to stderr, instead of raising in the middle of a step.

    A stream that a caller has put in the place of stderr is left as it is.
    """
    given = sys.__stderr__
    if given is None or sys.stderr is not given:
        return
    raw = _Lossy(given.fileno(), "w", closefd=False)
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(raw), given.encoding, "backslashreplace", line_buffering=True
    )
