"""Blocks gathered from checkpoints that are laid out like the result, and otherwise."""

from pathlib import Path

import numpy as np
import pytest

from salsa_cli.soups.tensor_source import TensorSource, workspaces
from salsa_cli.weights.disk import ALIGNMENT
from salsa_cli.weights.layout import Array, NewTensor
from salsa_cli.weights.shards import cut_blocks, plan_shards
from salsa_cli.weights.weight_files import combined_digest, open_weight_files, weights_digest
from tests.support.files import read_all, write

RNG = np.random.default_rng(0)
ARRAYS: dict[str, tuple[str, Array]] = {
    "a": ("F32", RNG.standard_normal(1500).astype(np.float32)),
    "empty": ("F32", np.zeros(0, np.float32)),
    "b": ("F32", RNG.standard_normal((3, 5)).astype(np.float32)),
    "c": ("F32", RNG.standard_normal(1).astype(np.float32)),
    "d": ("BF16", RNG.integers(0, 65536, 3001).astype(np.uint16)),
}


@pytest.mark.parametrize(
    ("order", "shard_size"),
    [("a empty b c d", 10**9), ("d c b empty a", 10**9), ("c d a empty b", 1)],
)
@pytest.mark.parametrize("width", ["F32", "BF16"])
def test_what_is_gathered_is_what_lies_there(
    tmp_path: Path, order: str, shard_size: int, width: str
) -> None:
    """The result has its own order, and types of another width; the source has its own files."""
    write(tmp_path / "m", {name: ARRAYS[name] for name in order.split()}, shard_size)
    checkpoint = open_weight_files(tmp_path / "m")
    specs = [NewTensor(name, width, array.shape) for name, (_, array) in ARRAYS.items()]
    (shard,) = plan_shards(specs, 10**9)
    blocks = list(cut_blocks(shard, 0, ALIGNMENT, ALIGNMENT))
    assert len(blocks) > 2
    found: dict[str, list[Array]] = {name: [] for name in ARRAYS}
    with TensorSource(checkpoint) as source:
        (memory,) = workspaces([source], blocks, ALIGNMENT, 1)
        for block in blocks:
            gathered = source.gather(block, memory.inputs[0], memory.bounce)
            assert gathered.size == source.block_bytes(block)
            for span, spec, part in source.parts(block, gathered):
                assert part.size == span.count and spec.name == span.tensor.name
                found[spec.name].append(part.copy())
            source.digest(block, gathered)
        digest = combined_digest(checkpoint, source.all_digests())
    expected = read_all(checkpoint)
    for name, parts in found.items():
        whole = np.concatenate(parts) if parts else np.zeros(0, expected[name].dtype)
        assert np.array_equal(whole, expected[name].reshape(-1)), name
    assert digest == weights_digest(checkpoint)


def test_a_checkpoint_in_the_results_layout_needs_no_second_memory(tmp_path: Path) -> None:
    write(tmp_path / "m", ARRAYS, 10**9)
    specs = [NewTensor(name, dtype, array.shape) for name, (dtype, array) in ARRAYS.items()]
    (shard,) = plan_shards(specs, 10**9)
    blocks = list(cut_blocks(shard, 0, ALIGNMENT, ALIGNMENT))
    with TensorSource(open_weight_files(tmp_path / "m")) as source:
        for memory in workspaces([source], blocks, ALIGNMENT, 3):
            assert memory.bounce.size == 0
            assert memory.inputs[0].size == 3 * ALIGNMENT
