"""A block of a sum of LoRA adapters, or of their base model with the sum merged into it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from salsa_cli.errors import SalsaError
from salsa_cli.maths import averaging
from salsa_cli.soups.sources import TensorSource
from salsa_cli.weights.adapters import Adapter, Factors, FactorSum
from salsa_cli.weights.disk import Bytes
from salsa_cli.weights.layout import BITS, Array, NewTensor, TensorSpec, storage_dtype
from salsa_cli.weights.shards import Block, Span
from salsa_cli.weights.weight_files import TensorReader

Floats = npt.NDArray[np.float64]

_PIECE = 1 << 18  # elements of an update that are in memory as float64


@dataclass(frozen=True)
class SummedAdapters:
    """The tensors of an adapter that is the sum of `adapters`, weighted by `mixing`."""

    adapters: tuple[Adapter, ...]
    mixing: tuple[float, ...]
    factors: Mapping[str, FactorSum]
    allow_nonfinite: bool

    def fill(
        self,
        block: Block,
        sources: Sequence[TensorSource],
        gathered: Sequence[Bytes],
        output: Bytes,
    ) -> None:
        """Compute a block; the adapters' tensors are small and read as they are needed.

        Raises:
            SalsaError: a file cannot be read, or the result holds NaN or Inf.
        """
        with TensorReader() as reader:
            for span in block.spans:
                factor = self.factors.get(span.tensor.name)
                if factor is None:
                    specs = [one.others[span.tensor.name] for one in self.adapters]
                    values = _average(specs, self.mixing, span.begin, span.count, reader)
                elif factor.side == "A":
                    values = _stacked(factor, span, reader)
                else:
                    values = _side_by_side(factor, span, reader)
                _store(values, span, output, self.allow_nonfinite)


def whole(filler: SummedAdapters, tensor: NewTensor) -> Array:
    """All storage elements of one tensor of a sum."""
    output = np.empty(tensor.nbytes, np.uint8)
    span = Span(tensor, 0, tensor.elements, 0)
    filler.fill(Block(0, 0, tensor.nbytes, (span,)), (), (), output)
    dtype = storage_dtype(tensor.dtype)
    assert dtype is not None  # factors are floats
    return output.view(dtype)


@dataclass(frozen=True)
class MergedAdapters:
    """The tensors of a base model, W + sum_i w_i s_i B_i A_i where a module has updates.

    `modules` maps the base's tensors to the adapters' modules, `wholes` its tensors to those that
    the adapters hold in place of them.
    """

    adapters: tuple[Adapter, ...]
    mixing: tuple[float, ...]
    modules: Mapping[str, str]
    wholes: Mapping[str, str]
    allow_nonfinite: bool

    def fill(
        self,
        block: Block,
        sources: Sequence[TensorSource],
        gathered: Sequence[Bytes],
        output: Bytes,
    ) -> None:
        """Compute a block from that of the base, the one source.

        Raises:
            SalsaError: a file cannot be read, or the result holds NaN or Inf.
        """
        with TensorReader() as reader:
            for span, spec, part in sources[0].parts(block, gathered[0]):
                if span.tensor.dtype not in averaging.FLOATS:
                    output[span.place : span.place + part.nbytes] = part.view(np.uint8)
                    continue
                for begin in range(0, span.count, _PIECE):
                    piece = part[begin : begin + _PIECE]
                    values = self._values(spec, piece, span.begin + begin, reader)
                    width = BITS[span.tensor.dtype] // 8
                    at = Span(span.tensor, 0, piece.size, span.place + begin * width)
                    _store(values, at, output, self.allow_nonfinite)

    def _values(self, spec: TensorSpec, piece: Array, begin: int, reader: TensorReader) -> Floats:
        if spec.name in self.wholes:
            specs = [one.others[self.wholes[spec.name]] for one in self.adapters]
            values = _average(specs, self.mixing, begin, piece.size, reader)
        else:
            values = averaging.widen(piece, spec.dtype)
        for factors, weight in self._updates(spec.name):
            update = _update(factors, spec, begin, piece.size, reader)
            values += weight * factors.scale * update
        return values

    def _updates(self, name: str) -> Iterator[tuple[Factors, float]]:
        module = self.modules.get(name)
        for adapter, weight in zip(self.adapters, self.mixing, strict=True):
            if module is not None and module in adapter.factors and weight:
                yield adapter.factors[module], weight


def _update(
    factors: Factors, spec: TensorSpec, begin: int, count: int, reader: TensorReader
) -> Floats:
    """Elements `[begin, begin + count)` of B A, as they lie in the weight `spec`, in float64."""
    columns = prod(spec.shape[1:])
    first, last = begin // columns, -(-(begin + count) // columns)
    if factors.transposed:
        left, right = _matrix(factors.a, reader)[:, first:last].T, _matrix(factors.b, reader).T
    else:
        left, right = _rows(factors.b, first, last, reader), _matrix(factors.a, reader)
    product = (left @ right).reshape(-1)
    return product[begin - first * columns :][:count]


def _matrix(spec: TensorSpec, reader: TensorReader) -> Floats:
    return _rows(spec, 0, spec.shape[0], reader)


def _rows(spec: TensorSpec, first: int, last: int, reader: TensorReader) -> Floats:
    columns = prod(spec.shape[1:])
    bits = reader.read(spec, first * columns, (last - first) * columns)
    return averaging.widen(bits, spec.dtype).reshape(last - first, columns)


def _stacked(factor: FactorSum, span: Span, reader: TensorReader) -> Floats:
    """Elements of A: those of the adapters one behind the other."""
    found, passed = [], 0
    for spec, _ in factor.parts:
        begin = max(span.begin - passed, 0)
        end = min(span.begin + span.count - passed, spec.elements)
        if begin < end:
            found.append(averaging.widen(reader.read(spec, begin, end - begin), spec.dtype))
        passed += spec.elements
    return np.concatenate(found)


def _side_by_side(factor: FactorSum, span: Span, reader: TensorReader) -> Floats:
    """Elements of B: in each row those of the adapters one behind the other."""
    columns = prod(span.tensor.shape[1:])
    first, last = span.begin // columns, -(-(span.begin + span.count) // columns)
    rows = np.hstack([scale * _rows(spec, first, last, reader) for spec, scale in factor.parts])
    return rows.reshape(-1)[span.begin - first * columns :][: span.count]


def _average(
    specs: Sequence[TensorSpec],
    mixing: Sequence[float],
    begin: int,
    count: int,
    reader: TensorReader,
) -> Floats:
    """A tensor that adapters hold as a whole: its weighted average, to be rounded."""
    parts = [reader.read(spec, begin, count).copy() for spec in specs]
    return averaging.average(
        [averaging.widen(part, spec.dtype) for part, spec in zip(parts, specs, strict=True)],
        ["F64"] * len(specs),
        mixing,
        "F64",
    )


def _store(values: Floats, span: Span, output: Bytes, allow_nonfinite: bool) -> None:
    result = averaging.narrow(np.ascontiguousarray(values), span.tensor.dtype)
    bad = averaging.count_nonfinite(result, span.tensor.dtype)
    if bad and not allow_nonfinite:
        raise SalsaError(
            f"{span.tensor.name} becomes NaN or Inf in {bad} places: an input holds such values, "
            "or they are too large for its type; choose a wider --dtype, or --allow-nonfinite"
        )
    output[span.place : span.place + result.nbytes] = result.view(np.uint8)
