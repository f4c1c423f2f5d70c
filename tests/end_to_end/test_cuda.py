"""What only a GPU shows; skipped where there is none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification

from salsa_cli import ppo, train_rm
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.generation import cuda_graphs, loop
from salsa_cli.models.forward import Module
from salsa_cli.models.loading import LanguageModel
from salsa_cli.runs.events import silent
from tests.support import tiny
from tests.support.kinds import (
    PROMPTS,
    grouped,
    learned_positions,
    llama,
    naive,
    numbers,
    policy,
    told,
)

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device is available here"
)


def on_cuda(make: Callable[[], Module]) -> LanguageModel:
    given = policy(make)
    given.model.cuda()
    return given


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
@pytest.mark.parametrize("make", [llama, grouped, learned_positions])
@pytest.mark.parametrize("generate", [loop.generate, cuda_graphs.generate])
def test_answers_are_those_of_a_loop_without_cache_or_batch(
    generate: Any, make: Callable[[], Module], temperature: float
) -> None:
    """In float32, whose rounding moves no draw of these."""
    model, uniforms = on_cuda(make), numbers(len(PROMPTS))
    with torch.no_grad():
        assert cuda_graphs.suits(model.model)
        answers = told(generate(model, PROMPTS, uniforms.cuda(), temperature))
        assert answers == naive(policy(make).model, PROMPTS, uniforms, temperature)


def test_a_step_that_asks_the_device_is_not_captured() -> None:
    """Positions that grow with the longest row: the model looks at the device's numbers."""
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = policy(lambda: _llama(rope_parameters=scaling))
    model.model.cuda()
    with torch.no_grad():
        assert not cuda_graphs.suits(model.model)
    # Nothing is left of the attempt.
    other, uniforms = on_cuda(llama), numbers(len(PROMPTS))
    with torch.no_grad():
        answers = told(cuda_graphs.generate(other, PROMPTS, uniforms.cuda(), 0.7))
        assert answers == naive(policy(llama).model, PROMPTS, uniforms, 0.7)


def _llama(**changes: Any) -> Module:
    return transformers.LlamaForCausalLM(tiny.config(**changes))


class World:
    """Models and prompts in a folder."""

    def __init__(self, root: Path) -> None:
        self.a = tiny.save_language_model(root / "a", seed=0)
        self.ref = tiny.save_language_model(root / "ref", seed=3, scale=0.02)
        self.rm = tiny.save_reward_model(root / "rm")
        self.prompts = tiny.prompts(root / "prompts.jsonl")

    def configure(self, output: Path, **changes: Any) -> PPOConfig:
        settings: dict[str, Any] = {
            "ref": (str(self.ref),),
            "reward": (str(self.rm),),
            "policy": str(self.a),
            "prompts": str(self.prompts),
            "output": output,
            "updates": 3,
            "batch_size": 8,
            "response_length": 12,
            "learning_rate": 1e-3,
            "device": "cuda",
        }
        return PPOConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("generator", ["auto", "loop"])
def test_the_first_ratio_of_every_update_is_one(
    world: World, tmp_path: Path, generator: Any
) -> None:
    ppo.run(world.configure(tmp_path / "out", generator=generator), silent)
    found = rows(tmp_path / "out")
    assert len(found) == 3
    assert [row["ratio_error"] for row in found] == [0.0] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"offload": ("ref", "reward")},
        {"gradient_checkpointing": True},
        {"lora_rank": 4, "gradient_checkpointing": True},
    ],
)
def test_memory_is_saved_and_nothing_else_changes(
    world: World, tmp_path: Path, changes: dict[str, Any]
) -> None:
    if "lora_rank" in changes:
        pytest.importorskip("peft")
    rank = {"lora_rank": changes["lora_rank"]} if "lora_rank" in changes else {}
    ppo.run(world.configure(tmp_path / "plain", **rank), silent)
    ppo.run(world.configure(tmp_path / "saved", **changes), silent)
    for plain, saved in zip(rows(tmp_path / "plain"), rows(tmp_path / "saved"), strict=True):
        for name in ("reward", "kl", "policy_loss", "value_loss"):
            assert saved[name] == pytest.approx(plain[name], abs=2e-2, rel=2e-2), name


def test_a_reward_model_learns_and_loads(tmp_path: Path) -> None:
    base = tiny.save_language_model(tmp_path / "base", seed=0)
    pairs = tiny.preferences(tmp_path / "pairs.jsonl")
    result = train_rm.run(
        TrainRMConfig(
            model=str(base),
            data=str(pairs),
            eval_data=str(pairs),
            output=tmp_path / "rm",
            epochs=20,
            learning_rate=3e-3,
            device="cuda",
        ),
        silent,
    )
    assert result.eval_accuracy > 0.9
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    assert loaded.config.num_labels == 1
