"""Write safetensors: distribute tensors over shards, cut shards into blocks, write the index.

A block is what one thread computes and writes at a time: a range of whole disk blocks in one file.
So memory depends on the block size and not on the size of a tensor.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from salsa_cli.errors import SalsaError
from salsa_cli.formatting import counted
from salsa_cli.records import write_text
from salsa_cli.weights.disk import ALIGNMENT, Bytes, OutputFile, Way, aligned, round_up
from salsa_cli.weights.layout import BITS, METADATA, NewTensor, encode_header
from salsa_cli.weights.weight_files import INDEX, WEIGHTS


@dataclass(frozen=True)
class Span:
    """Elements `[begin, begin + count)` of a tensor, `place` bytes after the start of a block."""

    tensor: NewTensor
    begin: int
    count: int
    place: int


@dataclass(frozen=True)
class Block:
    """`nbytes` bytes from `offset` of a shard's file, and the tensor elements they hold."""

    shard: int
    offset: int
    nbytes: int
    spans: tuple[Span, ...]


Shards = tuple[tuple[NewTensor, ...], ...]
"""The tensors of each file in storage order."""


def plan_shards(specs: Sequence[NewTensor], max_shard_size: int) -> Shards:
    """Distribute tensors over files of at most `max_shard_size` bytes of data, in order.

    A larger tensor gets its own file. There is at least one file. See `arrange` for the order.

    Raises:
        ValueError: a name occurs twice or is reserved, or a size is impossible.
    """
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
    return arrange(shards)


def arrange(groups: Iterable[Sequence[NewTensor]]) -> Shards:
    """Make one file of each group of tensors.

    Within a file wider dtypes come first: the format has no padding, and torch can only load
    elements that are aligned to their width.

    Raises:
        ValueError: a name occurs twice or is reserved.
    """
    shards = tuple(
        tuple(sorted(group, key=lambda spec: BITS[spec.dtype], reverse=True)) for group in groups
    )
    names = Counter([METADATA, *(spec.name for shard in shards for spec in shard)])
    if names.total() != len(names):
        raise ValueError(f"{names.most_common(1)[0][0]} is not the name of one tensor")
    return shards


def cut_blocks(shard: Sequence[NewTensor], number: int, start: int, size: int) -> Iterator[Block]:
    """Cut the data of a shard, which starts at byte `start` of its file, into blocks.

    `size` in bytes is a multiple of the disk's block size and so of every element's width. Since
    wide dtypes come first, no element is split.
    """
    spans: list[Span] = []
    filled, offset = 0, start
    for tensor in shard:
        width = BITS[tensor.dtype] // 8
        elements = math.prod(tensor.shape)
        begin = 0
        while begin < elements:
            count = min((size - filled) // width, elements - begin)
            spans.append(Span(tensor, begin, count, filled))
            begin, filled = begin + count, filled + count * width
            if filled == size:
                yield Block(number, offset, filled, tuple(spans))
                spans, filled, offset = [], 0, offset + size
    if spans:
        yield Block(number, offset, filled, tuple(spans))


def write_file(path: Path, tensors: Mapping[NewTensor, Bytes]) -> None:
    """Write a few small tensors, given as bytes, as one safetensors file."""
    (shard,) = arrange([list(tensors)])
    with path.open("wb") as file:
        file.write(encode_header(shard))
        for spec in shard:
            file.write(tensors[spec].data)


class ShardWriter:
    """Writes shards into a folder, as one file or as numbered files and an index.

    `write` every one of `blocks`, in any order and from any thread; `keep` marks those that an
    earlier writer of the same shards has finished. Leaving the `with` block finishes the files;
    after an exception they stay incomplete.
    """

    def __init__(
        self, folder: Path, shards: Shards, block_size: int, weights: str = WEIGHTS
    ) -> None:
        """Plan only. `block_size` in bytes; `weights` is the name of a single file."""
        self._folder = folder
        self._weights = weights
        self._shards = shards
        self._headers = [encode_header(shard, ALIGNMENT) for shard in self._shards]
        self.blocks = tuple(
            block
            for number, shard in enumerate(self._shards)
            for block in cut_blocks(shard, number, len(self._headers[number]), block_size)
        )
        self.names = tuple(self._name(number) for number in range(len(self._shards)))
        self._files: list[OutputFile] = []
        self._missing = {(block.shard, block.offset) for block in self.blocks}

    @property
    def way(self) -> Way:
        """Whether the files are written directly or through the page cache."""
        return self._files[0].way

    @property
    def headers(self) -> tuple[bytes, ...]:
        """The header of each file."""
        return tuple(self._headers)

    def __enter__(self) -> Self:
        """Create the files, or open those of an earlier writer, and write their headers.

        Raises:
            SalsaError: the folder already holds other weights, or cannot be written to.
        """
        if {path.name for path in self._folder.glob("*.safetensors*")} - {*self.names, INDEX}:
            raise SalsaError(f"{self._folder} already contains weights; choose an empty folder")
        try:
            for name, shard, header in zip(self.names, self._shards, self._headers, strict=True):
                size = len(header) + sum(tensor.nbytes for tensor in shard)
                self._files.append(OutputFile(self._folder / name, size))
                memory = aligned(len(header))
                memory[: len(header)] = np.frombuffer(header, np.uint8)
                self._files[-1].write(0, memory)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._close()

    def path(self, block: Block) -> Path:
        """The file that holds the block."""
        return self._folder / self.names[block.shard]

    def keep(self, block: Block) -> None:
        """Mark a block as written: the file holds it already."""
        self._missing.discard((block.shard, block.offset))

    def write(self, block: Block, memory: Bytes) -> None:
        """Write a block from the start of `aligned` memory.

        Raises:
            SalsaError: writing fails, for example because the disk is full.
        """
        self._files[block.shard].write(block.offset, memory[: round_up(block.nbytes)])
        self._missing.discard((block.shard, block.offset))

    def _finish(self) -> None:
        if self._missing:
            raise ValueError(f"{counted(len(self._missing), 'block')} never written")
        for file in self._files:
            file.finish()
        if len(self._shards) > 1:
            write_text(self._folder / INDEX, self._index())

    def _close(self) -> None:
        for file in self._files:
            file.close()

    def _name(self, number: int) -> str:
        if len(self._shards) == 1:
            return self._weights
        return f"model-{number + 1:05d}-of-{len(self._shards):05d}.safetensors"

    def _index(self) -> str:
        tensors = [tensor for shard in self._shards for tensor in shard]
        metadata = {
            "total_parameters": sum(math.prod(tensor.shape) for tensor in tensors),
            "total_size": sum(tensor.nbytes for tensor in tensors),
        }
        weight_map = {
            tensor.name: self._name(number)
            for number, shard in enumerate(self._shards)
            for tensor in shard
        }
        content = {"metadata": metadata, "weight_map": weight_map}
        return json.dumps(content, indent=2, sort_keys=True) + "\n"
