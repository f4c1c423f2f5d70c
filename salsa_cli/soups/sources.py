"""The tensors of a checkpoint as blocks need them: gathered, in order, from wherever they lie."""

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
class Run:
    """`nbytes` bytes that lie one behind the other, from `start` of a file."""

    spec: TensorSpec
    start: int
    nbytes: int


class TensorSource:
    """One checkpoint, open for reading by several threads."""

    def __init__(self, checkpoint: WeightFiles) -> None:
        self.checkpoint = checkpoint
        self._stack = ExitStack()
        self._files: dict[object, InputFile] = {}
        self._hashes: dict[str, str] = {}
        self._open_hash = tensor_hash()

    def __enter__(self) -> Self:
        try:
            for path in self.checkpoint.files:
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
        """How the bytes come from the disk."""
        return next(iter(self._files.values())).way

    def block_bytes(self, block: Block) -> int:
        """Bytes that the block's elements take in this checkpoint."""
        return sum(_nbytes(self._spec(span), span) for span in block.spans)

    def gather(self, block: Block, memory: Bytes, bounce: Bytes) -> Bytes:
        """The block's elements in this checkpoint's own types, one behind the other.

        Both memories are `aligned` and hold two blocks more than `block_bytes`. In the usual case,
        where the checkpoint is laid out as the result is, one read brings them all.

        Raises:
            SalsaError: a file cannot be read, or ends too early.
        """
        runs = list(self._runs(block))
        if len(runs) == 1:
            return self._read(runs[0], memory)
        filled = 0
        for run in runs:
            memory[filled : filled + run.nbytes] = self._read(run, bounce)
            filled += run.nbytes
        return memory[:filled]

    def parts(self, block: Block, gathered: Bytes) -> Iterator[tuple[Span, TensorSpec, Array]]:
        """The gathered bytes tensor by tensor: span, where it came from, its storage elements."""
        begin = 0
        for span in block.spans:
            spec = self._spec(span)
            end = begin + _nbytes(spec, span)
            dtype = storage_dtype(spec.dtype)
            assert dtype is not None  # refused when the plan was made
            yield span, spec, gathered[begin:end].view(dtype)
            begin = end

    def digest(self, block: Block, gathered: Bytes) -> dict[str, str]:
        """Take the block into the digests of its tensors; blocks come in their order.

        Returns the digests of the tensors that end in it.
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

    def take_up(self, digests: Mapping[str, str], following: Span | None) -> None:
        """Go on with the digests of an interrupted pass: those of ended tensors, and an open one.

        `following` is the next span to come, if any; what lies before it in its tensor is read
        again.
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
        """Digests by name, when all blocks were taken; a tensor without elements has one too."""
        empty = tensor_hash().hexdigest()
        return {name: self._hashes.get(name, empty) for name in self.checkpoint.tensors}

    def _spec(self, span: Span) -> TensorSpec:
        return self.checkpoint.tensors[span.tensor.name]

    def _runs(self, block: Block) -> Iterator[Run]:
        """The block's bytes as runs, as few as there are."""
        run: Run | None = None
        for span in block.spans:
            spec = self._spec(span)
            start = spec.start + span.begin * BITS[spec.dtype] // 8
            nbytes = _nbytes(spec, span)
            if run is not None and run.spec.file == spec.file and run.start + run.nbytes == start:
                run = Run(run.spec, run.start, run.nbytes + nbytes)
                continue
            if run is not None:
                yield run
            run = Run(spec, start, nbytes)
        if run is not None:
            yield run

    def _read(self, run: Run, memory: Bytes) -> Bytes:
        try:
            return self._files[run.spec.file].read(run.start, run.nbytes, memory)
        except SalsaError as error:
            raise type(error)(f"{error} (at tensor {one_line(run.spec.name)})") from error


@dataclass(frozen=True)
class Workspace:
    """The memory of one thread: a block of each source, and the result's; `gathered` are views."""

    inputs: tuple[Bytes, ...]
    bounce: Bytes
    output: Bytes
    gathered: list[Bytes]

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(memory.nbytes for memory in (*self.inputs, self.bounce, self.output))


def workspaces(
    sources: Sequence[TensorSource], blocks: Sequence[Block], block_size: int, count: int
) -> list[Workspace]:
    """Memory for `count` threads; `bounce` only where a checkpoint is laid out otherwise."""
    sizes = [
        max((source.block_bytes(block) for block in blocks), default=0) + 2 * ALIGNMENT
        for source in sources
    ]
    scattered = any(len(list(source._runs(block))) > 1 for source in sources for block in blocks)
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
