"""Writing safetensors: tensors distributed over shards, streamed, synced and indexed."""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from salsa_cli.checkpoints import INDEX, WEIGHTS
from salsa_cli.errors import SalsaError, os_errors
from salsa_cli.layout import BITS, METADATA, Array, NewTensor, encode_header, storage_dtype


@dataclass(frozen=True)
class WeightFile:
    """A file that was written: its name, its bytes, and their sha256 in hex."""

    name: str
    nbytes: int
    sha256: str


def plan_shards(
    specs: Sequence[NewTensor], max_shard_size: int
) -> tuple[tuple[NewTensor, ...], ...]:
    """Distribute tensors over files of at most `max_shard_size` bytes of data, in order.

    A larger tensor gets a file of its own. Within a file wider elements go first: the format has
    no padding, and torch cannot load an element that does not begin at a multiple of its width.
    There is at least one file.

    Raises:
        ValueError: a name occurs twice or is reserved, or a size is impossible.
    """
    names = Counter([METADATA, *(spec.name for spec in specs)])
    if len(names) <= len(specs):
        raise ValueError(f"{names.most_common(1)[0][0]} is not the name of one tensor")
    if max_shard_size < 1:
        raise ValueError(f"a shard cannot have {max_shard_size} bytes")
    shards: list[list[NewTensor]] = [[]]
    room = max_shard_size
    for spec in specs:
        if spec.nbytes > room and shards[-1]:
            shards.append([])
            room = max_shard_size
        shards[-1].append(spec)
        room -= spec.nbytes
    return tuple(
        tuple(sorted(shard, key=lambda spec: BITS[spec.dtype], reverse=True)) for shard in shards
    )


class ShardWriter:
    """Writes tensors into a folder as `model.safetensors`, or as numbered shards and an index.

    Go through `plan`, and for each tensor hand its elements to `write`, in as many pieces as you
    like. The end of a `with` block finishes the files; an exception in it removes them.

        with ShardWriter(folder, specs, max_shard_size) as writer:
            for spec in writer.plan:
                writer.write(elements of spec)
        writer.files
    """

    def __init__(self, folder: Path, specs: Sequence[NewTensor], max_shard_size: int) -> None:
        """Plan only. `max_shard_size` in bytes; see `plan_shards` for its errors."""
        self._folder = folder
        self._shards = plan_shards(specs, max_shard_size)
        self._finished: list[WeightFile] = []
        self._begun: list[Path] = []
        self._pending: Iterator[NewTensor] = iter(())
        self._current: NewTensor | None = None
        self._left = 0
        self._handle: FileIO | None = None
        self._hash = hashlib.sha256()

    @property
    def plan(self) -> tuple[NewTensor, ...]:
        """The tensors in the order in which they must be written."""
        return tuple(spec for shard in self._shards for spec in shard)

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """The weight files that are complete, in order."""
        return tuple(self._finished)

    def __enter__(self) -> Self:
        """Begin the first file.

        Raises:
            SalsaError: the folder has weights already, or cannot be written to.
        """
        if any(self._folder.glob("*.safetensors*")):
            raise SalsaError(f"{self._folder} holds weights already; choose an empty folder")
        try:
            self._advance()
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            try:
                self.finish()
            except BaseException:
                self._abandon()
                raise
        else:
            self._abandon()

    def write(self, piece: Array) -> None:
        """Append a piece, of any shape, to the tensor whose turn it is.

        A tensor without elements needs no piece, and may have an empty one.

        Raises:
            SalsaError: the disk does not take it.
            ValueError: it is not of the tensor's storage dtype, or more than the tensor lacks.
        """
        if not piece.size:
            return
        if self._current is None:
            raise ValueError("every tensor is complete")
        name, dtype = self._current.name, self._current.dtype
        if piece.dtype != storage_dtype(dtype) or piece.nbytes > self._left:
            raise ValueError(
                f"{name} lacks {self._left} bytes of {dtype}, not {piece.nbytes} of {piece.dtype}"
            )
        self._append(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
        self._left -= piece.nbytes
        if not self._left:
            self._advance()

    def finish(self) -> None:
        """Complete the files on the disk; the index last. The `with` block does it by itself.

        Raises:
            SalsaError: the disk does not take them.
            ValueError: a tensor is not complete.
        """
        if len(self._finished) < len(self._shards):
            name = self._current.name if self._current else "everything"
            raise ValueError(f"not complete: {name} lacks {self._left} bytes")
        index = self._folder / INDEX
        if len(self._shards) > 1 and index not in self._begun:
            self._begun.append(index)
            with os_errors(index, "write"), FileIO(index, "xb") as handle:
                _write_all(handle, memoryview(self._index()))
                os.fsync(handle.fileno())

    def _advance(self) -> None:
        """Go on to the next tensor that has bytes, through the ends of files."""
        while not self._left:
            self._current = next(self._pending, None)
            if self._current is not None:
                self._left = self._current.nbytes
                continue
            self._end_shard()
            if len(self._finished) == len(self._shards):
                return
            self._begin_shard(self._shards[len(self._finished)])

    def _begin_shard(self, shard: tuple[NewTensor, ...]) -> None:
        path = self._folder / self._name(len(self._finished))
        with os_errors(path, "write"):
            self._handle = FileIO(path, "xb")
        self._begun.append(path)
        self._hash = hashlib.sha256()
        self._pending = iter(shard)
        self._append(memoryview(encode_header(shard)))

    def _end_shard(self) -> None:
        if self._handle is None:
            return
        path = self._begun[-1]
        with os_errors(path, "write"), self._handle:
            os.fsync(self._handle.fileno())
            nbytes = self._handle.tell()
        self._handle = None
        self._finished.append(WeightFile(path.name, nbytes, self._hash.hexdigest()))

    def _append(self, data: memoryview) -> None:
        assert self._handle is not None
        with os_errors(self._begun[-1], "write"):
            _write_all(self._handle, data)
        self._hash.update(data)

    def _abandon(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None
        for path in self._begun:
            path.unlink(missing_ok=True)
        self._finished.clear()

    def _name(self, number: int) -> str:
        if len(self._shards) == 1:
            return WEIGHTS
        return f"model-{number + 1:05d}-of-{len(self._shards):05d}.safetensors"

    def _index(self) -> bytes:
        metadata = {
            "total_parameters": sum(math.prod(spec.shape) for spec in self.plan),
            "total_size": sum(spec.nbytes for spec in self.plan),
        }
        weight_map = {
            spec.name: self._name(number)
            for number, shard in enumerate(self._shards)
            for spec in shard
        }
        content = {"metadata": metadata, "weight_map": weight_map}
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _write_all(handle: FileIO, data: memoryview) -> None:
    while data:
        data = data[handle.write(data) :]
