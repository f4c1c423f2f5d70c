"""Direct I/O: read and write large files without the page cache where the file system allows it.

Streaming tens of gigabytes through the page cache takes longer than the disk itself, because the
kernel spends its time on allocating and evicting pages. So files are opened with O_DIRECT, which
requires offset, length and memory to be multiples of a block. Where it is not supported (tmpfs,
many network mounts, systems other than Linux) the same calls use the cache, and the pages are
dropped with posix_fadvise.
"""

import mmap
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from salsa_cli.errors import SalsaError, os_errors

Bytes = npt.NDArray[np.uint8]
Way = Literal["direct", "buffered"]

ALIGNMENT = 4096
"""Alignment of offsets, lengths and addresses; no file system requires more."""

_DIRECT = getattr(os, "O_DIRECT", 0)


def aligned(nbytes: int) -> Bytes:
    """New page-aligned memory of at least `nbytes`, in whole blocks."""
    size = max(round_up(nbytes), ALIGNMENT)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def round_up(nbytes: int) -> int:
    """The next multiple of a block."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class _File:
    """An open file. Thread-safe: every call passes its own offset."""

    def __init__(self, path: Path, flags: int, verb: str) -> None:
        self.path = path
        self._verb = verb
        self._flags = flags
        with os_errors(path, verb):
            self._buffered = os.open(path, flags, 0o666)
        try:
            self._direct = os.open(path, flags | _DIRECT) if _DIRECT else -1
        except OSError:
            self._direct = -1

    @property
    def way(self) -> Way:
        """Whether the file is read and written directly or through the page cache."""
        return "buffered" if self._direct < 0 else "direct"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing it twice is allowed."""
        for descriptor in {self._direct, self._buffered} - {-1}:
            os.close(descriptor)
        self._direct = self._buffered = -1

    def _transfer(self, call: Any, view: memoryview, offset: int) -> int:
        """One system call, direct if possible; falls back to buffered I/O on EINVAL."""
        if self._direct >= 0:
            try:
                return int(call(self._direct, [view], offset))
            except OSError as refused:
                if refused.errno != 22:  # EINVAL: the file system opens directly but does not read
                    raise
                self._direct = -1
        count = int(call(self._buffered, [view], offset))
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._buffered, offset, count, os.POSIX_FADV_DONTNEED)
        return count


class InputFile(_File):
    """A file opened for reading."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_RDONLY, "read")

    def read(self, offset: int, nbytes: int, memory: Bytes) -> Bytes:
        """The bytes `[offset, offset + nbytes)`, as a view into `memory`.

        `memory` is `aligned` and two disk blocks larger than `nbytes`, since whole blocks are read.

        Raises:
            SalsaError: the file ends early or cannot be read.
        """
        start = offset // ALIGNMENT * ALIGNMENT
        wanted = round_up(offset + nbytes) - start
        needed = offset + nbytes - start
        view = memory[:wanted].data
        reached = 0
        with os_errors(self.path, "read"):
            while reached < needed:
                begin = reached // ALIGNMENT * ALIGNMENT
                count = self._transfer(os.preadv, view[begin:], start + begin)
                if begin + count <= reached:
                    raise SalsaError(
                        f"{self.path}: {needed - reached} bytes are missing at its end; it changed "
                        "after it was opened, or the disk is failing"
                    )
                reached = begin + count
        return memory[offset - start : offset - start + nbytes]


class OutputFile(_File):
    """A file of known size, written in any order."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path, os.O_RDWR | os.O_CREAT, "write")
        self._size = size
        with os_errors(path, "write"):
            os.ftruncate(self._buffered, size)

    def write(self, offset: int, data: Bytes) -> None:
        """Write whole blocks of `aligned` memory at a multiple of a block.

        The last block may extend past the end of the file; `finish` truncates it.

        Raises:
            SalsaError: writing fails, for example because the disk is full.
        """
        view = data.data
        done = 0
        with os_errors(self.path, "write"):
            while done < len(view):
                done += self._transfer(os.pwritev, view[done:], offset + done)

    def finish(self) -> None:
        """Truncate the file to its size and flush it to the disk."""
        with os_errors(self.path, "write"):
            os.ftruncate(self._buffered, self._size)
            os.fsync(self._buffered)
        self.close()
