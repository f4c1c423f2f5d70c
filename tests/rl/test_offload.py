"""Models that rest in the CPU's memory: where they are, and that nothing else changes.

No GPU is needed: a stub of the way to the device makes copies and counts them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from salsa_cli import ppo
from salsa_cli.errors import UsageError
from salsa_cli.generation import rollouts
from salsa_cli.models import loading
from salsa_cli.models.backbones import Placement
from salsa_cli.rl import offload
from salsa_cli.rl.offload import Parked
from salsa_cli.runs.events import silent
from tests.support import tiny
from tests.support.ppo_runs import configure_anchored as configure
from tests.support.ppo_runs import rows_without_time
from tests.support.worlds import World

CPU = torch.device("cpu")


class Device:
    """Stands for a device: what comes to it is a copy, which is lost when the block ends."""

    def __init__(self) -> None:
        self.brought: list[int] = []

    def __call__(self, home: torch.Tensor, device: torch.device) -> torch.Tensor:
        self.brought.append(home.data_ptr())
        return home.clone()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    stub = Device()
    monkeypatch.setattr(offload, "brought", stub)
    monkeypatch.setattr(offload, "check", lambda *given: None)
    return stub


def places(model: Any) -> list[int]:
    return [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]


def test_a_model_comes_for_a_block_and_goes_home(world: World, device: Device) -> None:
    model = loading.load_language_model(world.a, Placement(torch.float32, CPU)).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parked = Parked(model, CPU)
    home = places(model)
    for _ in range(2):
        with parked.present():
            assert not set(places(model)) & set(home)
            assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
        assert places(model) == home
    assert device.brought == 2 * home  # buffers, too; weights that are shared come once


def test_it_goes_home_when_the_block_fails(world: World, device: Device) -> None:
    model = loading.load_language_model(world.a, Placement(torch.float32, CPU)).model
    parked = Parked(model, CPU)
    home = places(model)
    with pytest.raises(ValueError), parked.present():
        raise ValueError
    assert places(model) == home


def test_shared_weights_come_once_and_stay_shared(tmp_path: Path, device: Device) -> None:
    folder = tiny.save_language_model(tmp_path / "tied", seed=1, tie_word_embeddings=True)
    model = loading.load_language_model(folder, Placement(torch.float32, CPU)).model
    with Parked(model, CPU).present():
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert len(device.brought) == len(set(device.brought))


def test_a_run_that_offloads_is_the_same_run(
    world: World, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a reference that moves, too: it moves at home."""
    settings: dict[str, Any] = {
        "ref_update": "ema",
        "ref_rate": 0.3,
        "normalize_reward": True,
        "watch_reward": (str(world.rm),),
        "anchor_every": 2,
    }
    plain = configure(world, tmp_path / "plain", **settings)
    ppo.run(plain, silent)
    assert device.brought == []
    there: list[int] = []
    sample = rollouts.sample

    def sampling(*args: Any, **options: Any) -> rollouts.Sampled:
        there.append(len(device.brought))
        return sample(*args, **options)

    monkeypatch.setattr(rollouts, "sample", sampling)
    parked = replace(plain, output=tmp_path / "parked", offload=("ref,reward", "watch"))
    ppo.run(parked, silent)
    assert rows_without_time(parked.output) == rows_without_time(plain.output)
    files = [folder / "model.safetensors" for folder in (plain.output, parked.output)]
    assert files[0].read_bytes() == files[1].read_bytes()
    # The reward's scale is measured on 32 batches before the first update, and brings the reward.
    # An update brings reference, reward and watched reward; where the anchors are measured, it
    # brings the reference again.
    tensors = len(set(device.brought)) / 3
    assert [count / tensors for count in there[31:]] == [0, 1, 5, 8]


def test_on_a_cpu_it_is_refused(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", offload=("ref,reward",))
    with pytest.raises(UsageError, match="--offload ref,reward has no effect on a CPU"):
        ppo.run(config, silent)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu_it_rests_in_pinned_memory(world: World) -> None:
    gpu = torch.device("cuda")
    model = loading.load_language_model(world.a, Placement(torch.bfloat16, gpu)).model
    before = torch.cuda.memory_allocated()
    parked = Parked(model, gpu)
    assert torch.cuda.memory_allocated() < before
    assert all(weight.is_pinned() for weight in model.parameters())
    with parked.present():
        assert all(weight.is_cuda for weight in model.parameters())
