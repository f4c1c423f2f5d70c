"""The soup of every architecture: the files of its first ingredient, and logits of the average."""

import difflib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.runs.events import Event, Note, silent

SMALL: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MAMBA: dict[str, Any] = {"state_size": 8, "num_heads": 4, "head_dim": 8, "n_groups": 1}
CAUSAL: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 2, "n_head": 2},
    "cohere": {},
    "falcon": {},
    "falcon_h1": {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
    },
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gpt_neox": {},
    "granite": {},
    "llama": {},
    "mamba2": {**MAMBA, "chunk_size": 8},
    "mistral": {},
    "mixtral": {"num_local_experts": 2},
    "nemotron": {},
    "olmo2": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "phi": {},
    "phi3": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
}
T5: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}

COMPANIONS = {
    "LICENSE": b"free\r\n",
    "modeling_x.py": b"raise SystemExit('this must not run')\n",
    "preprocessor_config.json": b'{"size": 1e400}',
    "processor_config.json": b"{}",
    "1_Pooling/config.json": b'{"a":1}',
}


def kind(name: str) -> Any:
    return transformers.AutoModelForSeq2SeqLM if name == "t5" else transformers.AutoModelForCausalLM


def build(name: str, folder: Path, seed: int) -> Any:
    settings = {**SMALL, **(T5 if name == "t5" else CAUSAL[name])}
    torch.manual_seed(seed)
    model = kind(name).from_config(CONFIG_MAPPING[name](**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[4, 6, 9, 11, 3]])
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        found: torch.Tensor = model.eval()(ids, **more).logits
    return found


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [*CAUSAL, "t5"])
def test_it_loads_like_its_first_ingredient(name: str, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    ours, theirs = build(name, a, 1), build(name, b, 2)
    for file, content in COMPANIONS.items():
        (a / file).parent.mkdir(exist_ok=True)
        (a / file).write_bytes(content)
    models = (str(a), str(b))
    soup.run(SoupConfig(models=models, alpha=0.25, output=tmp_path / "ref"), silent)
    assert files(tmp_path / "ref") == files(a) | {"soup.json", "README.md"}
    for file in (*COMPANIONS, "config.json"):
        assert (tmp_path / "ref" / file).read_bytes() == (a / file).read_bytes(), file
    other = theirs.state_dict()
    mixed = {
        key: (0.75 * value.double() + 0.25 * other[key].double()).to(value.dtype)
        for key, value in ours.state_dict().items()
    }
    ours.load_state_dict(mixed)
    loaded, told = kind(name).from_pretrained(tmp_path / "ref", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert torch.equal(logits(loaded), logits(ours))


@pytest.mark.parametrize("name", ["mamba2", "falcon_h1", "llama", "t5"])
def test_a_dtype_changes_one_line_of_the_configuration(name: str, tmp_path: Path) -> None:
    for seed, folder in enumerate(("a", "b")):
        build(name, tmp_path / folder, seed)
    models = (str(tmp_path / "a"), str(tmp_path / "b"))
    soup.run(SoupConfig(models=models, dtype="bfloat16", output=tmp_path / "ref"), silent)
    texts = [(tmp_path / one / "config.json").read_text().splitlines() for one in ("a", "ref")]
    changed = [one for one in difflib.ndiff(*texts) if one[0] in "+-"]
    assert changed == ['-   "dtype": "float32",', '+   "dtype": "bfloat16",']
    assert kind(name).from_pretrained(tmp_path / "ref").dtype == torch.bfloat16


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    for seed, folder in enumerate(("a", "b")):
        build("llama", tmp_path / folder, seed)
    for name in ("trainer_state.json", "model.gguf", "onnx/model.onnx", "onnx/config.json"):
        (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_text("{}")
    notes: list[Event] = []
    config = SoupConfig(models=(str(tmp_path / "a"), str(tmp_path / "b")), output=tmp_path / "ref")
    left_out = soup.run(config, notes.append).record()["left_out"]
    assert left_out == ("model.gguf", "onnx/", "trainer_state.json")
    assert Note(f"not copied from {tmp_path / 'a'}: {', '.join(left_out)}") in notes
    assert not {"model.gguf", "onnx/config.json"} & files(tmp_path / "ref")
    assert json.loads((tmp_path / "ref" / "soup.json").read_text())["result"]["left_out"]
