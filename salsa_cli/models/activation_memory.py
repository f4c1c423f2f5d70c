"""Estimates of the memory of one forward pass, from the shape of its model.

They count the layers of Llama as Transformers computes them; other architectures differ by some
tenths. `width` is always the bytes of a number that is multiplied by weights: 2 under autocast.
"""

from dataclasses import dataclass, replace
from typing import Self

from salsa_cli.devices.runtime import Runtime
from salsa_cli.maths.chunked_logprobs import CHUNK_BYTES
from salsa_cli.models.shapes import Shape

HEADROOM = {"cpu": 0.6, "cuda": 0.9}
"""The allocators keep freed pieces that fit nothing else. That of the C library keeps many where
passes differ in length: 1.5 times the estimate was measured (tests/benchmarks/memory_plan.py), and
0.95 of it with pieces that go back at once (MALLOC_MMAP_THRESHOLD_), which took more time."""


@dataclass(frozen=True)
class Machine:
    """What the estimates need to know of a device.

    The residual stream and the norms stay in float32. Where products are narrower, a pass holds its
    trained weights a second time, in the type of the products.

    Attributes:
        frozen: bytes of a weight that is not trained.
        product: bytes of a number that is multiplied by weights in a pass.
        sampling: bytes a row and vocabulary entry while a token is drawn: the logits as they are
            and in float32, divided by the temperature, and the probabilities.
        chunk: bytes of logits that a pass has at once.
        pass_tokens: tokens that a pass with a gradient has at most, where a row has no more.
        headroom: share of what is left of its memory that a micro-batch is picked to fill.
        is_host: whether this is the CPU, so that models are converted in this memory to be saved.
            The C library's allocator keeps what activations leave in pieces, of which the next pass
            can use little; that of CUDA reuses them.
        processes: that share the answers of a batch.
        spread: processes over which what learns is spread; 1 where each holds all of it.
        offloads: whether the shards of what learns are in another memory, that of the CPU.
    """

    frozen: int
    product: int
    sampling: int
    chunk: int
    pass_tokens: int
    headroom: float
    is_host: bool = True
    processes: int = 1
    spread: int = 1
    offloads: bool = False

    @classmethod
    def of(cls, runtime: Runtime) -> Self:
        """That of a runtime."""
        kind = runtime.device.type
        width = runtime.frozen_dtype.itemsize
        return cls(
            frozen=width,
            product=width,
            sampling=12 if kind == "cpu" else 12 + width,
            chunk=CHUNK_BYTES[kind],
            pass_tokens=runtime.pass_tokens,
            headroom=HEADROOM[kind],
            is_host=kind == "cpu",
            processes=runtime.processes,
            spread=1 if runtime.sharding is None else runtime.processes,
            offloads=kind != "cpu" and runtime.sharding is not None and runtime.sharding.offload,
        )

    @property
    def copy(self) -> int:
        """Bytes of a float32 weight's copy in a pass."""
        return self.product if self.product < 4 else 0

    def rows(self, most: int, tokens: int, given: int, share: int = 1) -> int:
        """Rows in a pass of one process.

        Args:
            most: rows of a pass at most, of which there may be `share` times as many.
            tokens: of a row.
            given: rows of all processes together.
        """
        own = -(-given // self.processes)
        return min(own, share * most, max(1, share * self.pass_tokens // tokens))


def kept_activations(shape: Shape, rows: int, tokens: int, width: int) -> int:
    """Bytes that a pass over `rows` sequences of `tokens` tokens keeps for its gradient.

    A token and layer keep, of a gated layer as Llama's (counted as Korthikanti et al., "Reducing
    Activation Recomputation in Large Transformer Models", 2022, count GPT's): for each of two norms
    its input and the normalised input in float32 and what it gives to the matrices; queries, keys,
    values and the attention's output; gate, activated gate, up and their product. With as many keys
    as queries that is, in float32, 10 hidden widths and 4 intermediate ones. One more norm comes
    last.
    """
    norm = (2 * 4 + width) * shape.hidden
    attention = width * (2 * shape.heads + 2 * shape.keys)
    layer = 2 * norm + attention + 4 * width * shape.inner
    return rows * tokens * (shape.layers * layer + norm)


def layer_inputs(shape: Shape, rows: int, tokens: int) -> int:
    """Bytes that the pass keeps where layers compute theirs again, one layer at a time.

    (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.)
    """
    return 4 * shape.hidden * shape.layers * rows * tokens


def checkpointed_activations(
    shape: Shape, rows: int, tokens: int, width: int, layers: int | None = None
) -> int:
    """Bytes that a pass keeps under gradient checkpointing.

    Args:
        layers: how many recompute, the first; by default all.

    The inputs of the layers that recompute, and all of the others. The backward pass frees the
    latter, which come first, before a layer recomputes; where all do, one whole layer counts.
    """
    again = shape.layers if layers is None else min(layers, shape.layers)
    kept = replace(shape, layers=max(shape.layers - again, min(again, 1)))
    inputs = layer_inputs(replace(shape, layers=again), rows, tokens)
    return inputs + kept_activations(kept, rows, tokens, width)


def passing_activations(shape: Shape, rows: int, tokens: int, width: int) -> int:
    """Bytes of a pass without a gradient at its widest: stream, norm, three of the inner width."""
    return rows * tokens * (12 * shape.hidden + 3 * width * shape.inner)


def cache(shape: Shape, rows: int, tokens: int, width: int) -> int:
    """Bytes of keys and values: layers x key-value width x tokens, twice."""
    return 2 * shape.layers * shape.keys * rows * tokens * width
