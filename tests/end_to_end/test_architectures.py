"""The first update of PPO on tiny random models of many architectures.

The witness is transformers alone: one answer at a time, whole, without padding or cache. Every
architecture also learns with `--gradient-checkpointing`, which must change nothing. What salsa does
not drive is refused in the dry run, in words of its own.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

from salsa_cli import ppo
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError
from salsa_cli.generation.rollouts import Rollout
from salsa_cli.models import assembly
from salsa_cli.records import read_rows
from salsa_cli.rl import experience
from salsa_cli.runs.events import silent
from tests.support import architectures
from tests.support.worlds import World

TEMPERATURE = 0.7

# One of each kind of attention, position, normalisation and cache.
VARIED = """llama mistral gemma2 gpt2 gpt_neox bloom cohere granite phi opt falcon qwen3 olmo2
    mixtral qwen2_moe gpt_oss lfm2 deepseek_v2""".split()
OTHERS = """afmoe apertus arcee biogpt bitnet cohere2 cwm doge dots1 ernie4_5 ernie4_5_moe exaone4
    flex_olmo gemma gemma3_text glm glm4 glm4_moe gpt_bigcode granitemoe granite_swa helium hrm_text
    hunyuan_v1_dense hunyuan_v1_moe hyperclovax jais2 minicpm3 minimax minimax_m2 ministral mpt
    nanochat nemotron olmo olmo3 olmo_hybrid olmoe persimmon phi3 phimoe qwen2 qwen3_moe seed_oss
    smollm3 stablelm starcoder2 vaultgemma xglm deepseek_v3 llama4_text
    modernbert-decoder""".split()
# Models without layers that can compute their activations again.
NOT_AGAIN = ["ctrl", "gpt_neox_japanese", "jetmoe", "openai-gpt"]
# Layers of several widths.
WIDTHS = ["gemma4_unified_text", "gemma4_text"]
# Recurrent models have no cache from which rows can leave, and no shape of a transformer.
NOT_DRIVEN = ["falcon_mamba", "mamba", "rwkv", *WIDTHS]


def kinds(names: list[str], *marks: pytest.MarkDecorator) -> list[Any]:
    def known(name: str) -> list[pytest.MarkDecorator]:
        missing = pytest.mark.skip(reason=f"this transformers has no {name}")
        return [*marks] if name in KNOWN else [*marks, missing]

    return [pytest.param(name, marks=known(name)) for name in names]


# Latent attention: log-probabilities of several nats are some 1e-5 apart in float32.
LATENT = ["minicpm3", "deepseek_v2"]


@dataclass(frozen=True)
class Made:
    """Folders of a policy, a reference and a critic of one architecture."""

    policy: Path
    reference: Path
    critic: Path


def make(kind: str, folder: Path, world: World, **changes: Any) -> Made:
    policy, reference = (
        architectures.save(folder / name, kind, seed, **changes)
        for name, seed in (("policy", 1), ("ref", 2))
    )
    try:
        critic = architectures.save(folder / "critic", kind, 3, head=True)
    except ValueError:  # transformers has no such classifier: a Llama is the critic
        critic = world.rm
    if not assembly.has_score_head(critic):  # its head is of another kind
        critic = world.rm
    return Made(policy, reference, critic)


def configure(made: Made, world: World, output: Path, **changes: Any) -> PPOConfig:
    return PPOConfig(
        ref=(str(made.reference),),
        reward=(str(world.rm),),
        policy=str(made.policy),
        critic=str(made.critic),
        prompts=str(world.prompts),
        output=output,
        updates=1,
        batch_size=6,
        response_length=6,
        epochs=1,
        minibatches=1,
        temperature=TEMPERATURE,
        device="cpu",
        **changes,
    )


def run(config: PPOConfig) -> tuple[Rollout, dict[str, Any]]:
    """The answers of the one update, and its row."""
    rollouts: list[Rollout] = []
    compute: Callable[..., Rollout] = experience.compute_rollout
    ppo.run(replace(config, dry_run=True), silent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            experience,
            "compute_rollout",
            lambda *given: rollouts.append(compute(*given)) or rollouts[-1],
        )
        ppo.run(config, silent)
    (row,) = read_rows(config.output / "metrics.jsonl")
    return rollouts[0], row


def alone(kind: str, folder: Path, classifier: bool = False) -> tuple[Any, float]:
    """A model as transformers loads it, and the rounding of its log-probabilities.

    Ours are computed in float32.
    """
    maker = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    # Experts are multiplied in float32 at most, and XGLM masks by a number that float64 lacks.
    narrow = kind == "xglm" or "experts" in repr(architectures.config(kind))
    dtype = torch.float32 if narrow else torch.float64
    return maker.from_pretrained(folder, dtype=dtype).eval(), 1e-5 if kind in LATENT else 1e-6


@torch.no_grad()
def assert_those_of_transformers(
    kind: str, folder: Path, rollout: Rollout, found: torch.Tensor
) -> None:
    """Log-probabilities `[B, R]` are those of a model that reads each answer alone."""
    model, rounding = alone(kind, folder)
    for prompt, answer, ours in answers(rollout, found):
        logits = model(torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1]
        theirs = torch.log_softmax(logits.double() / TEMPERATURE, -1)
        theirs = theirs.gather(-1, answer[:, None])[:, 0]
        torch.testing.assert_close(ours.double(), theirs, rtol=rounding, atol=rounding)


@torch.no_grad()
def assert_values_of_transformers(kind: str, folder: Path, rollout: Rollout) -> None:
    """Values are the head's outputs at the tokens before those of the answer."""
    model, _ = alone(kind, folder, classifier=True)
    body = getattr(model, model.base_model_prefix)
    for prompt, answer, ours in answers(rollout, rollout.values):
        states = body(torch.cat([prompt, answer])[None]).last_hidden_state[0]
        theirs = model.score(states)[len(prompt) - 1 : -1, 0]
        # Values are not bounded as probabilities are: those of wide heads reach tens.
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-5)


def answers(
    rollout: Rollout, found: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Prompt, answer and figures of each row, without padding."""
    prompts, responses = rollout.sampled.prompts, rollout.sampled.responses
    return [
        (
            prompts.ids[row][prompts.mask[row]],
            responses.ids[row][responses.mask[row]],
            found[row][responses.mask[row]],
        )
        for row in range(len(found))
    ]


@pytest.mark.parametrize("kind", [*kinds(VARIED), *kinds(OTHERS, pytest.mark.slow)])
def test_the_first_update_is_that_of_transformers(kind: str, world: World, tmp_path: Path) -> None:
    made = make(kind, tmp_path, world)
    rollout, row = run(configure(made, world, tmp_path / "plain"))
    assert_those_of_transformers(kind, made.policy, rollout, rollout.logprobs)
    assert_those_of_transformers(kind, made.reference, rollout, rollout.ref_logprobs[0])
    assert_values_of_transformers(
        "llama" if made.critic == world.rm else kind, made.critic, rollout
    )
    apart = (rollout.logprobs - rollout.ref_logprobs[0]).double() * rollout.mask
    assert row["kl"] == pytest.approx(float(apart.sum(1).mean()), abs=1e-5)
    # Nothing has moved before the only step, so the ratio is one but for rounding.
    assert row["ratio_error"] < 1e-5

    again = configure(made, world, tmp_path / "again", gradient_checkpointing=True)
    _, other = run(again)
    assert other["ratio_error"] < 1e-5
    for name in ("kl", "policy_loss", "value_loss", "policy_grad_norm", "critic_grad_norm"):
        assert other[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("kind", kinds(NOT_AGAIN, pytest.mark.slow))
def test_what_cannot_compute_activations_again_says_so_in_the_dry_run(
    kind: str, world: World, tmp_path: Path
) -> None:
    made = make(kind, tmp_path, world)
    rollout, _ = run(configure(made, world, tmp_path / "plain"))
    assert_those_of_transformers(kind, made.policy, rollout, rollout.logprobs)
    again = configure(made, world, tmp_path / "again", gradient_checkpointing=True, dry_run=True)
    with pytest.raises(SalsaError, match="gradient-checkpointing"):
        ppo.run(again, silent)


@pytest.mark.parametrize("kind", kinds(NOT_DRIVEN))
def test_what_ppo_cannot_drive_is_refused_in_the_dry_run(
    kind: str, world: World, tmp_path: Path
) -> None:
    made = make(kind, tmp_path, world)
    words = "several widths" if kind in WIDTHS else "cannot be a (policy|language model)"
    with pytest.raises(SalsaError, match=words):
        ppo.run(configure(made, world, tmp_path / "out", dry_run=True), silent)


@pytest.mark.parametrize("kind", kinds(["mixtral", "qwen2_moe"]))
def test_a_config_that_asks_for_router_logits_trains_and_keeps_the_flag(
    kind: str, world: World, tmp_path: Path
) -> None:
    """Trainers leave the flag in config.json; rollouts of prompts of several lengths failed."""
    made = make(kind, tmp_path, world, output_router_logits=True)
    rollout, _ = run(configure(made, world, tmp_path / "out"))
    assert len(set(rollout.sampled.prompts.mask.sum(1).tolist())) > 1
    assert_those_of_transformers(kind, made.policy, rollout, rollout.logprobs)
    before, after = (
        json.loads((at / "config.json").read_text()) for at in (made.policy, tmp_path / "out")
    )
    assert before["output_router_logits"] is after["output_router_logits"] is True
    assert after == before
