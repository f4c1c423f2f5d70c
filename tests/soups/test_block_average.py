"""One block of a soup: averages by the definition, and what is not averaged."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from salsa_cli.errors import SalsaError
from salsa_cli.soups.block_average import WeightedAverage
from salsa_cli.soups.tensor_source import TensorSource, workspaces
from salsa_cli.weights.disk import ALIGNMENT, aligned
from salsa_cli.weights.layout import Array, NewTensor, storage_dtype
from salsa_cli.weights.shards import cut_blocks, plan_shards
from salsa_cli.weights.weight_files import open_weight_files
from tests.support.files import write


def average(
    folder: Path,
    given: Sequence[Array],
    dtype: str,
    mixing: Sequence[float],
    *,
    stored: str | None = None,
    allow_nonfinite: bool = False,
    integers_too: bool = False,
) -> Array:
    """The tensor `w` of a soup in `dtype`, made of one model a tensor in `stored`."""
    names = [str(folder / f"m{number}") for number in range(len(given))]
    for name, array in zip(names, given, strict=True):
        write(Path(name), {"w": (stored or dtype, array)}, 10**9)
    fill = WeightedAverage(tuple(names), tuple(mixing), allow_nonfinite, integers_too).fill
    spec = NewTensor("w", dtype, given[0].shape)
    (shard,) = plan_shards([spec], 10**9)
    (block,) = cut_blocks(shard, 0, ALIGNMENT, ALIGNMENT)
    output = aligned(block.nbytes)
    sources = [TensorSource(open_weight_files(Path(name))) for name in names]
    for source in sources:
        source.__enter__()
    (memory,) = workspaces(sources, [block], ALIGNMENT, 1)
    gathered = [
        source.gather(block, inputs, memory.bounce)
        for source, inputs in zip(sources, memory.inputs, strict=True)
    ]
    fill(block, sources, gathered, output)
    for source in sources:
        source.__exit__(None, None, None)
    kind = storage_dtype(dtype)
    assert kind is not None
    (span,) = block.spans
    return output[span.place : span.place + given[0].size * kind.itemsize].view(kind)


def test_the_average_is_rounded_once(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    given = [generator.standard_normal(50).astype(np.float32) for _ in range(3)]
    found = average(tmp_path, given, "F32", (0.5, 0.3, 0.2))
    exact = sum(w * one.astype(float) for w, one in zip((0.5, 0.3, 0.2), given, strict=True))
    assert np.array_equal(found, np.asarray(exact).astype(np.float32))


def test_a_model_of_weight_zero_adds_nothing(tmp_path: Path) -> None:
    given = [np.array([1.5, -2.0], np.float32), np.array([9.0, 9.0], np.float32)]
    assert average(tmp_path, given, "F32", (1.0, 0.0)).tolist() == [1.5, -2.0]


@pytest.mark.parametrize("mixing", [(0.5, 0.5), (1.0, 0.0)])
def test_what_is_not_finite_is_named_with_its_model_whatever_its_weight(
    tmp_path: Path, mixing: tuple[float, float]
) -> None:
    given = [np.ones(3, np.float32), np.array([1, np.nan, np.inf], np.float32)]
    with pytest.raises(SalsaError, match=r"w of .*m1 contains 2 NaN or Inf values; --allow"):
        average(tmp_path, given, "F32", mixing)


def test_what_is_not_finite_is_averaged_if_that_is_asked_for(tmp_path: Path) -> None:
    given = [np.ones(2, np.float32), np.array([1, np.inf], np.float32)]
    found = average(tmp_path, given, "F32", (0.5, 0.5), allow_nonfinite=True)
    assert found.tolist() == [1.0, np.inf]


def test_averages_too_large_for_the_type_of_the_result(tmp_path: Path) -> None:
    given = [np.full(2, 1e6, np.float32)] * 2
    with pytest.raises(SalsaError, match=r"w: 2 averages are too large for F16; choose a wider"):
        average(tmp_path, given, "F16", (0.5, 0.5), stored="F32")


def test_integers_must_be_equal(tmp_path: Path) -> None:
    equal = [np.array([1, 2], np.int64)] * 2
    assert average(tmp_path, equal, "I64", (0.5, 0.5)).tolist() == [1, 2]
    given = [equal[0], np.array([1, 5], np.int64)]
    (tmp_path / "other").mkdir()
    with pytest.raises(SalsaError, match=r"w is of type I64, which is not averaged, and differs"):
        average(tmp_path / "other", given, "I64", (0.5, 0.5))


def test_integers_are_averaged_and_rounded_if_that_is_asked_for(tmp_path: Path) -> None:
    given = [np.array([1, 2, -4], np.int64), np.array([2, 8, -5], np.int64)]
    found = average(tmp_path, given, "I64", (0.25, 0.75), integers_too=True)
    # 1.75, 6.5 and -4.75, halves to even.
    assert found.view(np.int64).tolist() == [2, 6, -5]
