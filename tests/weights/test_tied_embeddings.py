"""Adapters of embeddings merged into a tied base: what peft computes, the result computes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError
from salsa_cli.runs.events import Event, Note, silent
from tests.support import tiny

peft = pytest.importorskip("peft", reason="peft is not installed")

IDS = torch.tensor([[4, 6, 9, 11, 5]])


def adapter(folder: Path, base: Path, seed: int, **settings: Any) -> Path:
    torch.manual_seed(seed)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, **settings)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
            assert "original" not in name or not parameter.requires_grad
    model.save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_merged_model_computes_what_the_adapter_does(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    base = tiny.save_language_model(tmp_path / "base", seed=1, tie_word_embeddings=True)
    one = adapter(tmp_path / "a", base, 3, **settings)
    config = SoupConfig(models=(str(one), str(one)), merge_into=str(base), output=tmp_path / "ref")
    soup.run(config, silent)
    told = json.loads((tmp_path / "ref" / "config.json").read_text())
    assert told["tie_word_embeddings"] is False
    by_peft = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), one)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "ref")
    assert not torch.allclose(logits(merged), logits(AutoModelForCausalLM.from_pretrained(base)))
    # Float32 sums of another order: errors of 1e-6 of values up to 30.
    assert torch.allclose(logits(merged), logits(by_peft), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "equal"),
    [
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, True),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
        ({"target_modules": ["embed_tokens", "q_proj"]}, True),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_adapters_that_peft_keeps_tied(
    tmp_path: Path, settings: dict[str, Any], equal: bool
) -> None:
    base = tiny.save_language_model(tmp_path / "base", seed=1, tie_word_embeddings=True)
    one = adapter(tmp_path / "a", base, 3, ensure_weight_tying=True, **settings)
    saved = load_file(one / "adapter_model.safetensors")
    copies = [name for name in saved if name.endswith(("lm_head.weight", "embed_tokens.weight"))]
    if not equal:
        saved[next(name for name in copies if "lm_head" in name)] *= 2
        save_file(saved, one / "adapter_model.safetensors")
    config = SoupConfig(models=(str(one), str(one)), merge_into=str(base), output=tmp_path / "ref")
    soup.run(config, silent)
    told = json.loads((tmp_path / "ref" / "config.json").read_text())
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "ref")
    if "modules_to_save" in settings:
        assert told["tie_word_embeddings"] is equal
        embedding, head = merged.model.embed_tokens.weight, merged.lm_head.weight
        assert torch.equal(head, embedding * (1 if equal else 2))
    if equal:
        by_peft = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), one)
        assert torch.allclose(logits(merged), logits(by_peft), rtol=1e-4, atol=1e-4)


def test_adapters_of_other_modules_leave_the_base_tied(tmp_path: Path) -> None:
    base = tiny.save_language_model(tmp_path / "base", seed=1, tie_word_embeddings=True)
    one = adapter(tmp_path / "a", base, 3, target_modules=["q_proj"])
    config = SoupConfig(models=(str(one), str(one)), merge_into=str(base), output=tmp_path / "ref")
    soup.run(config, silent)
    assert (tmp_path / "ref" / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_an_architecture_that_cannot_be_untied_is_refused(tmp_path: Path) -> None:
    base = tiny.save_language_model(tmp_path / "base", seed=1, tie_word_embeddings=True)
    one = adapter(tmp_path / "a", base, 3, target_modules=["embed_tokens"])
    path = base / "config.json"
    told = json.loads(path.read_text())
    told["architectures"] = ["LlamaForConditionalGeneration"]
    path.write_text(json.dumps(told))
    config = SoupConfig(models=(str(one), str(one)), merge_into=str(base), output=tmp_path / "ref")
    with pytest.raises(SalsaError, match="without --merge-into, or untie the base first"):
        soup.run(config, silent)


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64},
    "gpt_neox": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "bloom": {"n_layer": 1, "n_head": 2},
    "gemma": {"head_dim": 8},
    "mamba2": {"state_size": 8, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
}
SMALL: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def save_member(folder: Path, family: str, seed: int, kind: str) -> Path:
    """A tied model, an untied one whose head `equals` the embedding, or one with its `own` head."""
    torch.manual_seed(seed)
    settings = {**SMALL, **FAMILIES[family], "tie_word_embeddings": kind == "tied"}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**settings))
    if kind == "equal":
        with torch.no_grad():
            model.get_output_embeddings().weight.copy_(model.get_input_embeddings().weight)
    model.save_pretrained(folder)
    return folder


def average_of_functions(*folders: Path) -> Any:
    """The mean of the models' weights in a model that is untied, whatever they are."""
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    settings = AutoConfig.from_pretrained(folders[0])
    settings.tie_word_embeddings = False
    mean = AutoModelForCausalLM.from_config(settings)
    states = [model.state_dict() for model in models]
    mean.load_state_dict({k: (v + states[1][k]) / 2 for k, v in states[0].items()})
    return mean


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["equal", "own"])
@pytest.mark.parametrize("tied_first", [True, False])
def test_tied_and_untied_models_are_averaged_as_functions(
    tmp_path: Path, family: str, head: str, tied_first: bool
) -> None:
    kinds = ("tied", head) if tied_first else (head, "tied")
    pair = [save_member(tmp_path / k, family, seed, k) for seed, k in enumerate(kinds, start=1)]
    events: list[Event] = []
    config = SoupConfig(models=tuple(map(str, pair)), output=tmp_path / "ref", verify=True)
    soup.run(config, events.append)
    found, told = AutoModelForCausalLM.from_pretrained(tmp_path / "ref", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert torch.equal(logits(found), logits(average_of_functions(*pair)))
    written = json.loads((tmp_path / "ref" / "config.json").read_text())["tie_word_embeddings"]
    assert written is (tied_first and head == "equal")
    notes = [event.text for event in events if isinstance(event, Note)]
    expected = (
        "is left out: it equals"
        if tied_first and head == "equal"
        else "the result stores a"
        if tied_first
        else f"the input embedding of {tmp_path / 'tied'} is also used as its"
    )
    assert any(expected in one for one in notes), notes


def test_three_models_of_three_kinds(tmp_path: Path) -> None:
    kinds = ("tied", "equal", "own")
    folders = [save_member(tmp_path / k, "llama", seed, k) for seed, k in enumerate(kinds)]
    weights = (0.5, 0.25, 0.25)
    config = SoupConfig(models=tuple(map(str, folders)), weights=weights, output=tmp_path / "ref")
    soup.run(config, silent)
    tensors = [load_file(folder / "model.safetensors") for folder in folders]
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    found = load_file(tmp_path / "ref" / "model.safetensors")
    heads = [one.get(head, one[embedding]).double() for one in tensors]
    mean = sum(w * one for w, one in zip(weights, heads, strict=True))
    assert torch.equal(found[head], torch.as_tensor(mean).float())
    assert not torch.equal(found[head], found[embedding])


@pytest.mark.parametrize("other", ["tied", "own"])
def test_a_tied_model_with_another_head_is_ambiguous(tmp_path: Path, other: str) -> None:
    """transformers 4 ties it and transformers 5 does not."""
    first = save_member(tmp_path / "first", "llama", 1, other)
    odd = save_member(tmp_path / "odd", "llama", 2, "own")
    told = json.loads((odd / "config.json").read_text()) | {"tie_word_embeddings": True}
    (odd / "config.json").write_text(json.dumps(told))
    for pair in ((first, odd), (odd, first)):
        config = SoupConfig(models=tuple(map(str, pair)), output=tmp_path / "ref")
        with pytest.raises(SalsaError, match=r"transformers 5 uses it.*: false there if it counts"):
            soup.run(config, silent)
    # Both ways out that the message names.
    told["tie_word_embeddings"] = False
    (odd / "config.json").write_text(json.dumps(told))
    soup.run(SoupConfig(models=(str(first), str(odd)), output=tmp_path / "counts"), silent)
    told["tie_word_embeddings"] = True
    (odd / "config.json").write_text(json.dumps(told))
    tensors = load_file(odd / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, odd / "model.safetensors", {"format": "pt"})
    soup.run(SoupConfig(models=(str(first), str(odd)), output=tmp_path / "does-not"), silent)


def test_an_untied_model_without_a_head_is_not_guessed(tmp_path: Path) -> None:
    tied = save_member(tmp_path / "tied", "llama", 1, "tied")
    broken = save_member(tmp_path / "broken", "llama", 2, "tied")
    told = json.loads((broken / "config.json").read_text()) | {"tie_word_embeddings": False}
    (broken / "config.json").write_text(json.dumps(told))
    config = SoupConfig(models=(str(tied), str(broken)), output=tmp_path / "ref")
    with pytest.raises(SalsaError, match=r"broken has no lm_head\.weight") as caught:
        soup.run(config, silent)
    assert "--allow-different" not in str(caught.value)


def test_reward_models_have_nothing_to_tie(tmp_path: Path) -> None:
    pair = [
        tiny.save_reward_model(tmp_path / name, seed=seed, tie_word_embeddings=name == "a")
        for seed, name in enumerate("ab")
    ]
    soup.run(SoupConfig(models=tuple(map(str, pair)), output=tmp_path / "ref"), silent)
