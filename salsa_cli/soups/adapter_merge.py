"""One block of a base model with the weighted sum of LoRA adapters merged into it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from salsa_cli.maths import averaging
from salsa_cli.soups.tensor_source import TensorSource
from salsa_cli.weights.adapter_sums import Floats, average_tensors, read_rows, store_values
from salsa_cli.weights.adapters import Adapter, Factors
from salsa_cli.weights.disk import Bytes
from salsa_cli.weights.layout import BITS, Array, TensorSpec
from salsa_cli.weights.shards import Block, Span
from salsa_cli.weights.weight_files import TensorReader

_PIECE = 1 << 18  # elements of an update that are in memory as float64


@dataclass(frozen=True)
class MergedAdapters:
    """The tensors of a base model: W + sum_i w_i s_i B_i A_i for modules with updates.

    `modules` maps tensors of the base to modules of the adapters, `wholes` maps tensors of the base
    to the full tensors with which the adapters replace them.
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
        """Compute a block from the base's block; the base is the only source.

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
                    store_values(values, at, output, self.allow_nonfinite)

    def _values(self, spec: TensorSpec, piece: Array, begin: int, reader: TensorReader) -> Floats:
        if spec.name in self.wholes:
            specs = [one.others[self.wholes[spec.name]] for one in self.adapters]
            values = average_tensors(specs, self.mixing, begin, piece.size, reader)
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
    """Elements `[begin, begin + count)` of B A in the layout of the weight `spec`, in float64."""
    columns = prod(spec.shape[1:])
    first, last = begin // columns, -(-(begin + count) // columns)
    if factors.transposed:
        left, right = _matrix(factors.a, reader)[:, first:last].T, _matrix(factors.b, reader).T
    else:
        left, right = read_rows(factors.b, first, last, reader), _matrix(factors.a, reader)
    product = (left @ right).reshape(-1)
    return product[begin - first * columns :][:count]


def _matrix(spec: TensorSpec, reader: TensorReader) -> Floats:
    return read_rows(spec, 0, spec.shape[0], reader)
