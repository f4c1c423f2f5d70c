"""The weighted sum of LoRA adapters in low-rank form: concatenated factors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from salsa_cli.errors import SalsaError
from salsa_cli.maths import averaging
from salsa_cli.weights.adapters import Adapter, FactorSum
from salsa_cli.weights.disk import Bytes
from salsa_cli.weights.layout import Array, NewTensor, TensorSpec, storage_dtype
from salsa_cli.weights.shards import Block, Span
from salsa_cli.weights.weight_files import TensorReader

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SummedAdapters:
    """Computes the tensors of the sum of `adapters`, weighted by `mixing`."""

    adapters: tuple[Adapter, ...]
    mixing: tuple[float, ...]
    factors: Mapping[str, FactorSum]
    allow_nonfinite: bool

    def fill(
        self,
        block: Block,
        sources: Sequence[object],
        gathered: Sequence[Bytes],
        output: Bytes,
    ) -> None:
        """Compute a block; the adapters' tensors are small and read on demand.

        Raises:
            SalsaError: a file cannot be read, or the result holds NaN or Inf.
        """
        with TensorReader() as reader:
            for span in block.spans:
                factor = self.factors.get(span.tensor.name)
                if factor is None:
                    specs = [one.others[span.tensor.name] for one in self.adapters]
                    values = average_tensors(specs, self.mixing, span.begin, span.count, reader)
                elif factor.side == "A":
                    values = _stacked(factor, span, reader)
                else:
                    values = _side_by_side(factor, span, reader)
                store_values(values, span, output, self.allow_nonfinite)


def whole_tensor(filler: SummedAdapters, tensor: NewTensor) -> Array:
    """All storage elements of one tensor of a sum."""
    output = np.empty(tensor.nbytes, np.uint8)
    span = Span(tensor, 0, tensor.elements, 0)
    filler.fill(Block(0, 0, tensor.nbytes, (span,)), (), (), output)
    dtype = storage_dtype(tensor.dtype)
    assert dtype is not None  # factors are floats
    return output.view(dtype)


def _stacked(factor: FactorSum, span: Span, reader: TensorReader) -> Floats:
    """Elements of A: the rows of all adapters, concatenated."""
    found, passed = [], 0
    for spec, _ in factor.parts:
        begin = max(span.begin - passed, 0)
        end = min(span.begin + span.count - passed, spec.elements)
        if begin < end:
            found.append(averaging.widen(reader.read(spec, begin, end - begin), spec.dtype))
        passed += spec.elements
    return np.concatenate(found)


def _side_by_side(factor: FactorSum, span: Span, reader: TensorReader) -> Floats:
    """Elements of B: the scaled columns of all adapters, concatenated."""
    columns = prod(span.tensor.shape[1:])
    first, last = span.begin // columns, -(-(span.begin + span.count) // columns)
    rows = np.hstack([scale * read_rows(spec, first, last, reader) for spec, scale in factor.parts])
    return rows.reshape(-1)[span.begin - first * columns :][: span.count]


def average_tensors(
    specs: Sequence[TensorSpec],
    mixing: Sequence[float],
    begin: int,
    count: int,
    reader: TensorReader,
) -> Floats:
    """The weighted average of a tensor that the adapters store in full, in float64."""
    parts = [reader.read(spec, begin, count).copy() for spec in specs]
    return averaging.average(
        [averaging.widen(part, spec.dtype) for part, spec in zip(parts, specs, strict=True)],
        ["F64"] * len(specs),
        mixing,
        "F64",
    )


def store_values(values: Floats, span: Span, output: Bytes, allow_nonfinite: bool) -> None:
    """Round `values` to the dtype of the span's tensor and store them in `output`.

    Raises:
        SalsaError: a value is NaN or Inf there and `allow_nonfinite` is not set.
    """
    result = averaging.narrow(np.ascontiguousarray(values), span.tensor.dtype)
    bad = averaging.count_nonfinite(result, span.tensor.dtype)
    if bad and not allow_nonfinite:
        raise SalsaError(
            f"{span.tensor.name} would have {bad} NaN or Inf values: an input contains them, or "
            "the result overflows its dtype. Choose a wider --dtype, or pass --allow-nonfinite"
        )
    output[span.place : span.place + result.nbytes] = result.view(np.uint8)


def read_rows(spec: TensorSpec, first: int, last: int, reader: TensorReader) -> Floats:
    """Rows `first` to `last` of a stored matrix, as float64 `[last - first, columns]`."""
    columns = prod(spec.shape[1:])
    bits = reader.read(spec, first * columns, (last - first) * columns)
    return averaging.widen(bits, spec.dtype).reshape(last - first, columns)
