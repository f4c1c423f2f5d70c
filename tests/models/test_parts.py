"""Which models can play which part, before a weight is loaded; a critic of every causal model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from salsa_cli import ppo
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError
from salsa_cli.models import assembly, forward, loading, parts
from salsa_cli.models.backbones import Placement
from salsa_cli.models.sequences import Sequences
from salsa_cli.models.tokenization import pad_left, pad_right
from salsa_cli.runs.events import Event, Note, silent
from tests.support import architectures, tiny
from tests.support.families import ANSWERS, PROMPTS, SMALL
from tests.support.ppo_runs import configure
from tests.support.worlds import World

CPU = torch.device("cpu")
BASE: dict[str, Any] = {"vocab_size": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
NARROW = {**BASE, "hidden_size": 16, "num_hidden_layers": 2}
STATE = {**NARROW, "state_size": 4}
MAMBA_2 = {**STATE, "num_heads": 4, "head_dim": 8, "n_groups": 2, "chunk_size": 4}
RWKV = {**NARROW, "attention_hidden_size": 16, "intermediate_size": 32, "context_length": 64}
HEADS = {**BASE, "num_layers": 2, "d_model": 16, "max_position_embeddings": 64}
ENCODER = {**NARROW, "intermediate_size": 32, "num_attention_heads": 2}
LAYERS = ["sliding_attention", "full_attention"]
GEMMA_3N = {
    **{name: value for name, value in SMALL.items() if name != "intermediate_size"},
    "vocab_size_per_layer_input": 24,
    "hidden_size_per_layer_input": 4,
    "num_kv_shared_layers": 0,
    "layer_types": LAYERS,
    "laurel_rank": 4,
    "altup_num_inputs": 2,
    "activation_sparsity_pattern": [0.0, 0.0],
    "intermediate_size": [32, 32],
}
# Of these, transformers has no sequence classifier, or one with a head of another name.
WITHOUT_CLASSIFIER: dict[str, tuple[str, dict[str, Any]]] = {
    "Granite": ("Granite", {**SMALL}),
    "Cohere 2": ("Cohere2", {**SMALL, "sliding_window": 4, "layer_types": LAYERS}),
    "CodeGen": (
        "CodeGen",
        {**BASE, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 4, "rotary_dim": 2},
    ),
    "XGLM": ("XGLM", {**HEADS, "ffn_dim": 32, "attention_heads": 2}),
    "CTRL": ("CTRL", {**BASE, "n_embd": 16, "dff": 32, "n_layer": 2, "n_head": 2}),
    "Llama 4": ("Llama4Text", {**SMALL, "num_local_experts": 2, "attention_chunk_size": 8}),
    "LFM 2": ("Lfm2", {**SMALL, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3}),
    "ModernBERT decoder": ("ModernBertDecoder", {**SMALL, "local_attention": 8}),
}


def save(folder: Path, name: str, settings: dict[str, Any], auto: str = "CausalLM") -> Path:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    getattr(transformers, f"AutoModelFor{auto}").from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def refused(config: PPOConfig) -> str:
    """The message; no weight may have been loaded for it."""
    with pytest.raises(SalsaError) as caught, pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "load", lambda *a, **k: pytest.fail("a weight was loaded"))
        ppo.run(config, silent)
    return str(caught.value)


@pytest.mark.parametrize("family", WITHOUT_CLASSIFIER)
def test_a_critic_of_a_model_without_a_classifier_reads_its_hidden_states(
    tmp_path: Path, family: str
) -> None:
    folder = save(tmp_path / "m", *WITHOUT_CLASSIFIER[family])
    critic = loading.load_critic(folder, Placement(torch.float32, CPU))
    given = Sequences.of(pad_left(PROMPTS, 0), pad_right(ANSWERS, 0))
    assert forward.answer_values(critic, given).abs().max() == 0
    torch.manual_seed(1)
    head = torch.randn_like(critic.score.weight)
    critic.score.weight.data.copy_(head)
    values = forward.answer_values(critic, given)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    body = getattr(model, model.base_model_prefix, None) or model.model
    for prompt, answer, ours in zip(PROMPTS, ANSWERS, values, strict=True):
        with torch.no_grad():
            hidden = body(torch.tensor([prompt + answer]), use_cache=False).last_hidden_state
        theirs = (hidden[0] @ head.T).squeeze(-1)[len(prompt) - 1 : -1]
        # float32, other shapes of the same matrix products
        torch.testing.assert_close(ours[: len(answer)], theirs, rtol=1e-4, atol=1e-5)
    trained = loading.trainable(critic)
    forward.answer_values(critic, given).sum().backward()
    assert any(one.grad is not None for one in trained if one is not critic.score.weight)


def test_a_policy_without_a_classifier_learns_with_a_critic_of_its_own(
    world: World, tmp_path: Path
) -> None:
    folder = save(tmp_path / "granite", *WITHOUT_CLASSIFIER["Granite"])
    for rank in (None, 2):
        config = configure(
            world,
            tmp_path / f"ppo-{rank}",
            ref=(str(folder),),
            critic="policy",
            updates=2,
            learning_rate=1e-2,
            lora_rank=rank,
        )
        rows = ppo.run(config, silent).record()
        assert rows["updates"] == 2
        assert (tmp_path / f"ppo-{rank}" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("Mamba", STATE, "a mamba model has no attention heads"),
        ("Mamba2", MAMBA_2, "a mamba2 model has no attention heads"),
        ("FalconMamba", STATE, "a falcon_mamba model has no attention heads"),
        ("Rwkv", RWKV, "a rwkv model has no attention heads"),
        ("xLSTM", {**NARROW, "num_heads": 2}, "a xlstm model has no attention heads"),
        ("Gemma3nText", GEMMA_3N, "or layers of several widths"),
        ("Bert", ENCODER, "a bert encoder reads in both directions"),
        ("Roberta", ENCODER, "a roberta encoder reads in both directions"),
    ],
)
def test_what_ppo_cannot_drive_is_refused_in_the_dry_run(
    world: World, tmp_path: Path, name: str, settings: dict[str, Any], words: str
) -> None:
    folder = save(tmp_path / "m", name, settings)
    config = configure(world, tmp_path / "ppo", ref=(str(folder),), dry_run=True, critic="policy")
    message = refused(config)
    assert f"{folder} cannot be " in message and words in message
    assert "Expected a causal language model made of attention layers" in message


def test_an_encoder_decoder_is_no_policy(tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    transformers.T5Config(vocab_size=24, d_model=16).save_pretrained(folder)
    with pytest.raises(SalsaError, match="transformers has no causal t5 model"):
        parts.check_language_model(folder)


def rewarding(world: World, tmp_path: Path, kind: str) -> tuple[Path, str]:
    """A model that cannot be a reward, and the reason."""
    folder = tmp_path / "rm"
    if kind == "two labels":
        save(
            folder, "Llama", {**tiny.config().to_dict(), "num_labels": 2}, "SequenceClassification"
        )
        return folder, "it gives 2 scores per text (score.weight has 2 rows)"
    if kind == "encoder":
        save(folder, "Bert", {**ENCODER, "num_labels": 1}, "SequenceClassification")
        return folder, "its head is classifier."
    if kind == "value head":
        shutil.copytree(world.a, folder)
        tensors = load_file(folder / "model.safetensors")
        tensors["v_head.summary.weight"] = torch.zeros(1, 16)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder, "its head is v_head.summary.weight"
    if kind == "family without classifier":
        save(folder, *WITHOUT_CLASSIFIER["Granite"])
        tensors = load_file(folder / "model.safetensors")
        tensors["score.weight"] = torch.zeros(1, 16)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder, "transformers has no sequence classifier of a granite model"
    shutil.copytree(world.a, folder)
    return folder, "it has no trained score head"


@pytest.mark.parametrize(
    "kind", ["two labels", "encoder", "value head", "family without classifier", "policy"]
)
def test_what_cannot_be_a_reward_is_told_why_and_what_it_can_be(
    world: World, tmp_path: Path, kind: str
) -> None:
    folder, words = rewarding(world, tmp_path, kind)
    message = refused(configure(world, tmp_path / "ppo", reward=(str(folder),), dry_run=True))
    assert f"{folder} cannot be used as a reward model: " in message and words in message
    assert "`salsa train-rm` trains one from a causal language model" in message
    causal = kind in ("value head", "policy", "family without classifier")
    assert ("It can be used as: policy, reference, critic" in message) == causal
    assert ("salsa ppo cannot use it." in message) != causal


@pytest.mark.parametrize("architectures", [["LlamaForCausalLM"], ["OurRewardModel"], None])
def test_a_score_head_makes_a_reward_and_a_critic_whatever_the_class_is_called(
    world: World, tmp_path: Path, architectures: list[str] | None
) -> None:
    folder = Path(shutil.copytree(world.rm, tmp_path / "rm"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
    parts.check_reward_model(folder)
    reward = loading.load_reward_model(folder, Placement(torch.float32, CPU))
    critic = loading.load_critic(folder, Placement(torch.float32, CPU))
    rows = [[4, 6, 9, 2], [5, 2]]
    found = forward.last_scores(critic, pad_right(rows, 0))
    torch.testing.assert_close(found, reward.score_ids(rows), rtol=0, atol=1e-6)
    assert found.abs().min() > 0


def test_the_dry_run_says_which_parts_the_models_can_play(world: World, tmp_path: Path) -> None:
    notes: list[Event] = []
    ppo.run(configure(world, tmp_path / "ppo", dry_run=True), notes.append)
    said = [one.text for one in notes if isinstance(one, Note)]
    assert f"{world.a} can be used as: policy, reference, critic" in said
    assert f"{world.rm} can be used as: critic, reward" in said


def test_checkpointing_that_a_model_does_not_know_is_refused(world: World, tmp_path: Path) -> None:
    folder = save(tmp_path / "ctrl", *WITHOUT_CLASSIFIER["CTRL"])
    config = configure(
        world,
        tmp_path / "ppo",
        ref=(str(folder),),
        critic="policy",
        gradient_checkpointing=True,
        dry_run=True,
    )
    assert "a ctrl model does not support gradient checkpointing" in refused(config)


@pytest.mark.parametrize("kind", ["ctrl", "modernbert-decoder"])
def test_a_classifier_with_a_head_of_another_kind_is_no_critic(
    kind: str, world: World, tmp_path: Path
) -> None:
    """Known in the dry run: its files hold neither score.weight nor an output embedding."""
    folder = architectures.save(tmp_path / "classifier", kind, 1, head=True)
    config = configure(world, tmp_path / "out", critic=str(folder), dry_run=True)
    words = "cannot be a critic: it is not a reward model, .* hold a classifier without an output"
    with pytest.raises(SalsaError, match=words):
        ppo.run(config, silent)
