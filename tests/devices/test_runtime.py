"""Devices and processes: who computes which rows, and how the parts become one batch."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from salsa_cli.devices import runtime as runtimes
from salsa_cli.devices.runtime import Runtime, _sharding, start_runtime
from salsa_cli.devices.sharding import Sharding
from salsa_cli.errors import Elsewhere, SalsaError, UsageError


def process(rank: int, processes: int = 3) -> Runtime:
    """One of several processes, without the others."""
    accelerator: Any = SimpleNamespace(
        num_processes=processes,
        process_index=rank,
        is_main_process=rank == 0,
        device=torch.device("cpu"),
    )
    return Runtime(accelerator)


def test_processes_that_accelerate_does_not_find_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without LOCAL_RANK it takes each of two processes for the only one."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(runtimes.rendezvous, "connect", lambda backend, timeout: None)
    monkeypatch.setattr(runtimes, "Accelerator", lambda cpu: SimpleNamespace(num_processes=1))
    with pytest.raises(SalsaError, match="WORLD_SIZE is 2, and accelerate finds 1 of the process"):
        start_runtime("cpu")


def test_parts_are_contiguous_and_differ_by_one_row_at_most() -> None:
    rows = torch.tensor([4, 9, 1, 7, 3, 8, 0])
    assert [process(rank).part(rows).tolist() for rank in range(3)] == [[4, 9, 1], [7, 3], [8, 0]]
    assert process(2, 4).part(torch.tensor([5])).tolist() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.long, torch.bool, torch.bfloat16])
def test_the_whole_is_every_row_in_its_place(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]]).to(dtype)
    order = torch.tensor([3, 0, 4, 2, 1])
    held: list[torch.Tensor] = []
    # The sum over processes, in the place of a collective: each adds what it holds.
    monkeypatch.setattr(runtimes.distributed, "all_reduce", lambda values: held.append(values))
    for rank in range(3):
        one = process(rank)
        part = one.part(order)
        one.whole(whole[part], part, 5)
    total = torch.stack(held).sum(0)
    assert torch.equal(total.to(dtype), whole)
    alone = process(0, 1)
    found = alone.whole(whole[order], order, 5)
    assert found.dtype == dtype and torch.equal(found, whole)


def test_alone_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "distributed", None)
    alone = process(0, 1)
    assert alone.most(2.5) == 2.5
    assert alone.total(torch.tensor([1.0])).tolist() == [1.0]
    assert alone.from_main(lambda: "found") == "found"
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    alone.sum_gradients([weight])
    assert weight.grad.tolist() == [1.0, 2.0]
    with pytest.raises(KeyError), alone.main_first():
        raise KeyError


def test_gradients_are_summed_in_buckets_of_one_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def doubled(values: torch.Tensor) -> None:
        sizes.append(values.numel())
        values.mul_(2)

    monkeypatch.setattr(runtimes.distributed, "all_reduce", doubled)
    monkeypatch.setattr(runtimes, "BUCKET", 5)
    shapes = [(2, 1), (3,), (1,), (6,), (2,), (1,)]
    dtypes = [torch.float32] * 5 + [torch.bfloat16]
    weights = [
        torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    for number, weight in enumerate(weights, 1):
        weight.grad = torch.full_like(weight, number)
    without = torch.nn.Parameter(torch.zeros(9))
    process(0).sum_gradients([*weights, without])
    assert sizes == [5, 1, 6, 2, 1]
    for number, weight in enumerate(weights, 1):
        assert weight.grad is not None and (weight.grad == 2 * number).all()
    assert without.grad is None


def test_a_failure_of_the_main_process_is_one_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.distributed, "all_reduce", lambda values, _: values.fill_(1))
    with pytest.raises(Elsewhere, match="the main process failed"), process(1).main_first():
        pytest.fail("the block must not run")


def test_a_lost_connection_is_named_and_other_errors_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(Elsewhere, match="has exited"), process(0).together():
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:2")
    with pytest.raises(RuntimeError, match="a defect"), process(0).together():
        raise RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="closed"), process(0, 1).together():
        raise RuntimeError("Connection closed by peer")


def test_what_the_main_process_holds_is_entered_there_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(runtimes.distributed, "all_reduce", lambda *_: None)
    with process(0).held_by_main(lambda: nullcontext("entered"), "seen") as held:
        assert held == "entered"
    with process(1).held_by_main(lambda: pytest.fail("entered"), "seen") as held:
        assert held == "seen"


def test_a_cpu_computes_in_float32() -> None:
    alone = start_runtime("cpu")
    assert (alone.processes, alone.rank, alone.main) == (1, 0, True)
    assert alone.frozen_dtype == torch.float32
    assert alone.device.type == "cpu" and alone.sharding is None
    with alone.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == torch.float32
    assert alone.memory > 0


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "configured for deepspeed"),
        ({"ACCELERATE_USE_MEGATRON_LM": "1"}, "configured for megatron_lm"),
        ({"ACCELERATE_USE_FSDP": "true"}, "with fsdp_version: 1; expected fsdp_version: 2"),
        (
            {
                "ACCELERATE_USE_FSDP": "true",
                "FSDP_VERSION": "2",
                "FSDP_ACTIVATION_CHECKPOINTING": "yes",
            },
            "with fsdp_activation_checkpointing: true; expected.*--gradient-checkpointing",
        ),
    ],
)
def test_configurations_of_accelerate_that_are_refused(
    variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SalsaError, match=words):
        start_runtime("cpu")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Sharding()),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, Sharding(offload=True)),
        (
            {"FSDP_OFFLOAD_PARAMS": "true", "FSDP_RESHARD_AFTER_FORWARD": "false"},
            Sharding(reshard=False, offload=True),
        ),
    ],
)
def test_accelerates_configuration_of_fsdp_is_obeyed(
    variables: dict[str, str], expected: Sharding, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    assert _sharding(False, False) == expected


def test_offloaded_weights_are_those_of_shards() -> None:
    assert _sharding(True, True) == Sharding(offload=True)
    with pytest.raises(UsageError, match="--offload weights needs --shard"):
        start_runtime("cpu", offload=True)


def test_sharding_needs_several_processes() -> None:
    with pytest.raises(UsageError, match="--shard has no effect with one process"):
        start_runtime("cpu", shard=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_missing_is_one_message() -> None:
    with pytest.raises(SalsaError, match="--device cuda: no CUDA device is available here"):
        start_runtime("cuda")
