"""Which process speaks, and how many are started; `test_parallel.py` runs them."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from salsa_cli.devices import processes, runtime, sharding
from salsa_cli.devices.runtime import _buckets, start_runtime
from salsa_cli.errors import Elsewhere, SalsaError, UsageError
from salsa_cli.models.activation_memory import Machine
from salsa_cli.rl import memory, preflight
from salsa_cli.runs.events import silent
from tests.support.ppo_runs import configure
from tests.support.worlds import World


def place(monkeypatch: pytest.MonkeyPatch, rank: int, count: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(count))


def test_processes_are_started_where_none_are_and_the_command_knows_how() -> None:
    assert processes.to_start(3) == 3
    assert processes.to_start(1) == 0
    assert processes.to_start(None) == 0


def test_a_launcher_and_the_option_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, 1, 2)
    assert processes.to_start(1) == processes.to_start(2) == 0
    with pytest.raises(UsageError, match="--processes 3: a launcher already started 2 processes"):
        processes.to_start(3)
    with pytest.raises(UsageError, match="runs in one process, but was started in 2"):
        processes.to_start(None)


LAUNCHERS = "Start the command with --processes N on one machine, and with torchrun --nnodes on sev"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK is not set; expected a rank from 0 to WOR"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "WORLD_SIZE is 2 and RANK is 2; expected a rank from"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE is two and RANK is 0; expected a rank"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "WORLD_SIZE is 2 and RANK is -1; expected a rank"),
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "10.0.0.1"},
            "accelerate launch is configured for several processes and has started this one alone",
        ),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE is 4 and WORLD_SIZE is not set: MPI"),
        ({"PMI_SIZE": "4"}, "PMI_SIZE is 4 and WORLD_SIZE is not set: MPI has started several"),
    ],
)
@pytest.mark.parametrize("wanted", [None, 1, 2])
def test_processes_that_do_not_know_of_one_another_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str, wanted: int | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        processes.to_start(wanted)
    assert str(caught.value).startswith(words) and LAUNCHERS in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "x", "ACCELERATE_MIXED_PRECISION": "no"},
        {"MASTER_ADDR": "10.0.0.1"},  # of a cluster's environment
        {"ACCELERATE_MIXED_PRECISION": "no"},  # accelerate launch with one process
        {"OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_a_process_that_is_meant_to_be_alone_runs(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes.to_start(1) == 0


def test_the_main_process_speaks_at_once_and_the_others_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    place(monkeypatch, 0, 2)
    assert processes.reports(SalsaError("x")) and processes.reports(Elsewhere("x"))
    assert slept == []
    place(monkeypatch, 1, 2)
    assert processes.reports(SalsaError("x")) and slept == [processes.TURN]
    assert not processes.reports(Elsewhere("x"))

    def ended(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", ended)
    assert not processes.reports(SalsaError("x"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "configured for deepspeed.*--shard"),
        ({"ACCELERATE_USE_FSDP": "true"}, "with fsdp_version: 1; expected fsdp_version: 2"),
        (
            {
                "ACCELERATE_USE_FSDP": "true",
                "FSDP_VERSION": "2",
                "FSDP_ACTIVATION_CHECKPOINTING": "true",
            },
            "with fsdp_activation_checkpointing: true; expected.*--gradient-checkpointing",
        ),
    ],
)
def test_what_accelerate_is_configured_for_and_salsa_does_not_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], said: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SalsaError, match=said):
        start_runtime("cpu")


def test_sharding_needs_several_processes() -> None:
    with pytest.raises(UsageError, match="--shard has no effect with one process"):
        start_runtime("cpu", shard=True)


def test_rows_come_back_to_their_places_with_every_value_as_it_was() -> None:
    cpu = start_runtime("cpu")
    values = torch.tensor([[1.0, float("nan")], [float("inf"), 2.0], [-0.5, 3.0]])
    whole = cpu.whole(values, torch.tensor([2, 0, 1]), 3)
    torch.testing.assert_close(whole, values[[1, 2, 0]], rtol=0, atol=0, equal_nan=True)
    flags = cpu.whole(torch.tensor([True, False]), torch.tensor([1, 0]), 2)
    assert flags.tolist() == [False, True]


def test_gradients_are_summed_in_buckets_of_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "BUCKET", 5)
    sizes = [(2, torch.float32), (3, torch.float32), (1, torch.float32), (9, torch.float32)]
    given = [torch.zeros(size, dtype=dtype) for size, dtype in [*sizes, (1, torch.bfloat16)]]
    found = [[len(one) for one in bucket] for bucket in _buckets(given)]
    assert found == [[2, 3], [1], [9], [1]]


def test_what_is_not_kept_of_a_state_takes_no_memory() -> None:
    state = {"model": {"w": torch.ones(3)}, "groups": [{"lr": 0.1}], "step": 4}
    assert sharding.gathered(state, keep=True)["model"]["w"].tolist() == [1, 1, 1]
    assert sharding.gathered(state, keep=False)["model"]["w"].numel() == 0
    assert sharding.gathered(state, keep=False)["step"] == 4


def test_what_is_spread_leaves_its_share_and_a_plain_model_to_each_process(world: World) -> None:
    """Of 4 bytes each for weight and gradient and 8 for the moments, a quarter; and the copy."""
    config = configure(world, Path("policy"), critic="policy")
    plan = preflight.prepare(config, silent)
    alone = Machine(2, 2, 52, 1000, 16384, 0.9)
    whole = memory.plan_memory(plan, config, alone).models["policy"]
    quarter = memory.plan_memory(plan, config, replace(alone, processes=4, spread=4)).models[
        "policy"
    ]
    weights = whole.weights // 4
    assert (whole.gradients, whole.optimiser) == (4 * weights, 8 * weights)
    assert quarter.gradients == pytest.approx(weights, abs=4)
    assert quarter.optimiser == pytest.approx(2 * weights, abs=8)
    assert quarter.weights == pytest.approx((2 + 1) * weights, abs=4)
