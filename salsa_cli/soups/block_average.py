"""One block of a soup: the weighted average of the same tensors of several models."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from salsa_cli.errors import SalsaError
from salsa_cli.maths import averaging
from salsa_cli.soups.tensor_source import TensorSource
from salsa_cli.weights.disk import Bytes
from salsa_cli.weights.layout import BITS, Array, NewTensor
from salsa_cli.weights.shards import Block


@dataclass(frozen=True)
class WeightedAverage:
    """Averages the tensors of `models` with the weights `mixing`.

    Integer tensors must be equal in all models unless `integers_too` is set; then they are averaged
    and rounded. 8-bit float tensors must be equal if the result keeps their dtype.
    """

    models: tuple[str, ...]
    mixing: tuple[float, ...]
    allow_nonfinite: bool
    integers_too: bool

    def fill(
        self,
        block: Block,
        sources: Sequence[TensorSource],
        gathered: Sequence[Bytes],
        output: Bytes,
    ) -> None:
        """Compute a block of the result from the blocks of the sources, one per model.

        Raises:
            SalsaError: NaN or Inf in a model, or integers that differ; it names the tensor.
        """
        parts = [source.parts(block, one) for source, one in zip(sources, gathered, strict=True)]
        for found in zip(*parts, strict=True):
            span = found[0][0]
            dtypes = [spec.dtype for _, spec, _ in found]
            values = [part for _, _, part in found]
            width = BITS[span.tensor.dtype] // 8
            target = output[span.place : span.place + span.count * width]
            self._average(span.tensor, values, dtypes, target)

    def _average(
        self, tensor: NewTensor, values: Sequence[Array], dtypes: Sequence[str], target: Bytes
    ) -> None:
        if tensor.dtype in averaging.FLOATS:
            result = target.view(averaging.STORAGE[tensor.dtype])
            averaging.average_into(result, values, dtypes, self.mixing, tensor.dtype)
            # A non-finite input makes the result non-finite unless its weight is 0, so checking the
            # result usually saves checking every model.
            if self.allow_nonfinite:
                return
            beyond = averaging.count_nonfinite(result, tensor.dtype)
            if beyond or 0 in self.mixing:
                self._check_finite(tensor, values, dtypes)
            if beyond:
                raise SalsaError(
                    f"{tensor.name}: {beyond} averages are too large for {tensor.dtype}; "
                    "choose a wider --dtype"
                )
        elif all(np.array_equal(part, values[0]) for part in values[1:]):
            target[:] = values[0].view(np.uint8)
        elif self.integers_too and tensor.dtype in averaging.INTEGERS:
            found = averaging.average_integers(values, tensor.dtype, self.mixing)
            target[:] = found.view(np.uint8)
        else:
            self._refuse(tensor, values)

    def _check_finite(
        self, tensor: NewTensor, values: Sequence[Array], dtypes: Sequence[str]
    ) -> None:
        for part, dtype, model in zip(values, dtypes, self.models, strict=True):
            if bad := averaging.count_nonfinite(part, dtype):
                raise SalsaError(
                    f"{tensor.name} of {model} contains {bad} NaN or Inf values; --allow-nonfinite "
                    "averages them anyway"
                )

    def _refuse(self, tensor: NewTensor, values: Sequence[Array]) -> None:
        other = next(
            model
            for part, model in zip(values, self.models, strict=True)
            if not np.array_equal(part, values[0])
        )
        raise SalsaError(
            f"{tensor.name} is of type {tensor.dtype}, which is not averaged, and differs between "
            f"{self.models[0]} and {other}; --dtype bfloat16 (or another) averages it anyway"
        )
