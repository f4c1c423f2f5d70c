"""The stored tensors of one model, gathered into the blocks of the result."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from salsa_cli.errors import SalsaError, one_line
from salsa_cli.weights.disk import ALIGNMENT, Bytes, InputFile, Way, aligned
from salsa_cli.weights.layout import BITS, Array, TensorSpec, storage_dtype
from salsa_cli.weights.shards import Block, Span
from salsa_cli.weights.weight_files import PIECE, TensorReader, WeightFiles, tensor_hash


@dataclass(frozen=True)
class ByteRange:
    """`nbytes` contiguous bytes of a file, from offset `start`."""

    spec: TensorSpec
    start: int
    nbytes: int


class TensorSource:
    """The weight files of one model, open for reading from several threads."""

    def __init__(self, weights: WeightFiles) -> None:
        self.weights = weights
        self._stack = ExitStack()
        self._files: dict[object, InputFile] = {}
        self._hashes: dict[str, str] = {}
        self._open_hash = tensor_hash()

    def __enter__(self) -> Self:
        try:
            for path in self.weights.files:
                self._files[path] = self._stack.enter_context(InputFile(path))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def way(self) -> Way:
        """How the bytes are read from the disk."""
        return next(iter(self._files.values())).way

    def block_bytes(self, block: Block) -> int:
        """Bytes that the block's elements occupy in this model."""
        return sum(_nbytes(self._spec(span), span) for span in block.spans)

    def gather(self, block: Block, memory: Bytes, bounce: Bytes) -> Bytes:
        """The block's elements in this model's own dtypes, back to back.

        `memory` and `bounce` are `aligned` and hold two disk blocks more than `block_bytes`. If the
        model is laid out like the result, which is the usual case, this takes one read.

        Raises:
            SalsaError: a file cannot be read, or ends too early.
        """
        ranges = list(self.ranges(block))
        if len(ranges) == 1:
            return self._read(ranges[0], memory)
        filled = 0
        for current in ranges:
            memory[filled : filled + current.nbytes] = self._read(current, bounce)
            filled += current.nbytes
        return memory[:filled]

    def parts(self, block: Block, gathered: Bytes) -> Iterator[tuple[Span, TensorSpec, Array]]:
        """The gathered bytes by tensor: span, stored tensor, storage elements."""
        begin = 0
        for span in block.spans:
            spec = self._spec(span)
            end = begin + _nbytes(spec, span)
            dtype = storage_dtype(spec.dtype)
            assert dtype is not None  # refused when the plan was made
            yield span, spec, gathered[begin:end].view(dtype)
            begin = end

    def digest(self, block: Block, gathered: Bytes) -> dict[str, str]:
        """Update the digests of the block's tensors; blocks must come in order.

        Returns the digests of the tensors that end in this block.
        """
        ended = {}
        for span, spec, part in self.parts(block, gathered):
            if span.begin == 0:
                self._open_hash = tensor_hash()
            self._open_hash.update(part.data)
            if span.begin + span.count == spec.elements:
                ended[spec.name] = self._open_hash.hexdigest()
        self._hashes |= ended
        return ended

    def resume_digests(self, digests: Mapping[str, str], following: Span | None) -> None:
        """Continue the digests of an interrupted pass.

        `digests` are those of finished tensors. `following` is the next span to process, if any;
        the part of its tensor before it is read again.
        """
        self._hashes |= digests
        if following is None:
            return
        self._open_hash = tensor_hash()
        spec = self._spec(following)
        with TensorReader() as reader:
            for begin in range(0, following.begin, PIECE):
                count = min(PIECE, following.begin - begin)
                self._open_hash.update(reader.read(spec, begin, count).data)

    def all_digests(self) -> dict[str, str]:
        """Digests by tensor name once all blocks were processed, empty tensors included."""
        empty = tensor_hash().hexdigest()
        return {name: self._hashes.get(name, empty) for name in self.weights.tensors}

    def _spec(self, span: Span) -> TensorSpec:
        return self.weights.tensors[span.tensor.name]

    def ranges(self, block: Block) -> Iterator[ByteRange]:
        """The block's bytes as as few contiguous ranges as possible."""
        current: ByteRange | None = None
        for span in block.spans:
            spec = self._spec(span)
            start = spec.start + span.begin * BITS[spec.dtype] // 8
            nbytes = _nbytes(spec, span)
            if (
                current is not None
                and current.spec.file == spec.file
                and current.start + current.nbytes == start
            ):
                current = ByteRange(current.spec, current.start, current.nbytes + nbytes)
                continue
            if current is not None:
                yield current
            current = ByteRange(spec, start, nbytes)
        if current is not None:
            yield current

    def _read(self, current: ByteRange, memory: Bytes) -> Bytes:
        try:
            return self._files[current.spec.file].read(current.start, current.nbytes, memory)
        except SalsaError as error:
            raise type(error)(f"{error} (at tensor {one_line(current.spec.name)})") from error


@dataclass(frozen=True)
class Workspace:
    """Buffers of one thread: a block of each source and of the result; `gathered` are views."""

    inputs: tuple[Bytes, ...]
    bounce: Bytes
    output: Bytes
    gathered: list[Bytes]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(memory.nbytes for memory in (*self.inputs, self.bounce, self.output))


def workspaces(
    sources: Sequence[TensorSource], blocks: Sequence[Block], block_size: int, count: int
) -> list[Workspace]:
    """Buffers for `count` threads; `bounce` is empty if every model is laid out like the result."""
    sizes = [
        max((source.block_bytes(block) for block in blocks), default=0) + 2 * ALIGNMENT
        for source in sources
    ]
    scattered = any(len(list(source.ranges(block))) > 1 for source in sources for block in blocks)
    return [
        Workspace(
            inputs=tuple(aligned(size) for size in sizes),
            bounce=aligned(max(sizes, default=0)) if scattered else np.empty(0, np.uint8),
            output=aligned(block_size),
            gathered=[],
        )
        for _ in range(count)
    ]


def _nbytes(spec: TensorSpec, span: Span) -> int:
    return span.count * BITS[spec.dtype] // 8
