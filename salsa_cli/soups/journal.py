"""The journal of a soup: which blocks are finished, so that an interrupted run can continue.

The first line identifies inputs and settings. Then there is one line per finished block, in block
order, with the digest of the file up to the end of the block and the digests of the input tensors
that end in it. A block may not have reached the disk, so a resumed run reads it back and compares.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from salsa_cli.errors import SalsaError, StorageError, os_errors
from salsa_cli.formatting import counted
from salsa_cli.records import JSON, to_json, write_text

NAME = "journal.jsonl"


@dataclass(frozen=True)
class Entry:
    """A finished block.

    `file` is the digest of the block's file from its start to the end of the block; `tensors`
    holds, for each input, the digests of the tensors that end in the block.
    """

    file: str
    tensors: tuple[Mapping[str, str], ...]


def progress(folder: Path) -> str | None:
    """The progress of a draft in words; None if no block is finished."""
    path = folder / NAME
    if not path.is_file():
        return None
    identity, entries = _parse(path.read_bytes())
    if identity is None or not entries:
        return None
    return counted(len(entries), "finished block")


def read(folder: Path, identity: Mapping[str, JSON], inputs: int) -> list[Entry]:
    """The finished blocks of an interrupted soup of so many `inputs`; empty if there is none.

    Raises:
        SalsaError: it had other inputs or settings; the message names them.
    """
    path = folder / NAME
    if not path.is_file():
        return []
    with os_errors(path, "read"):
        before, entries = _parse(path.read_bytes())
    if before is None:
        return []
    now = json.loads(to_json(identity))
    if differing := [
        f"{name}: {_short(before.get(name))} then, {_short(now.get(name))} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]:
        listed = "\n".join(f"  - {line}" for line in differing)
        raise SalsaError(
            f"{folder} contains the partial result of a different soup; resume with the same "
            f"settings and inputs, or start again without --resume:\n{listed}"
        )
    return list(takewhile(lambda entry: len(entry.tensors) == inputs, entries))


class Journal:
    """The journal of a running soup: `earlier` entries and those added."""

    def __init__(
        self, folder: Path, identity: Mapping[str, JSON], earlier: Sequence[Entry]
    ) -> None:
        self.entries = tuple(earlier)
        self._identity = identity
        self._path = folder / NAME
        self._file = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if isinstance(error, SalsaError) and not isinstance(error, StorageError):
            self._path.unlink()  # the inputs cannot be averaged: there is nothing to resume

    def add(self, entry: Entry) -> None:
        """Record a finished block.

        Raises:
            StorageError: the disk is full.
        """
        with os_errors(self._path, "write"):
            self._file.write(_line(asdict(entry)))
            self._file.flush()

    def keep(self, count: int) -> None:
        """Keep only the first `count` entries, whose blocks were verified."""
        self.entries = self.entries[:count]
        self._file.close()
        self._file = self._open()

    def _open(self) -> IO[str]:
        with os_errors(self._path, "write"):
            write_text(
                self._path, "".join(map(_line, [self._identity, *map(asdict, self.entries)]))
            )
            return self._path.open("a", encoding="utf-8")


def _parse(raw: bytes) -> tuple[dict[str, JSON] | None, list[Entry]]:
    """The identity and the entries up to the first line that is damaged.

    The last line may be cut short; after a power cut blocks of zeros may stand in place of lines.
    """
    first, *lines = raw.split(b"\n")[:-1] or [b""]
    identity = _object(first)
    if identity is not None and identity.keys() == {"file", "tensors"}:
        identity = None  # the first line is gone
    entries = []
    for line in lines if identity is not None else ():
        found = _object(line) or {}
        file, tensors = found.get("file"), found.get("tensors")
        if not isinstance(file, str) or not isinstance(tensors, list):
            break
        if not all(_are_digests(one) for one in tensors):
            break
        entries.append(Entry(file, tuple(tensors)))
    return identity, entries


def _are_digests(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # no UTF-8 is a ValueError too
        return None
    return found if isinstance(found, dict) else None


def _line(content: Mapping[str, object]) -> str:
    return to_json(content) + "\n"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."
