"""One model, stored in several ways: copies of shared tensors, with and without a prefix."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GPT2Config, T5Config

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError
from salsa_cli.runs.events import silent
from salsa_cli.weights.shared_tensors import common_tensors
from salsa_cli.weights.weight_files import open_weight_files

COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")


def t5(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0
    )
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    return folder


def gpt2(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def average(output: Path, *models: Path) -> dict[str, torch.Tensor]:
    soup.run(SoupConfig(models=tuple(map(str, models)), output=output), silent)
    return load_file(output / "model.safetensors")


def test_stored_copies_of_shared_tensors(tmp_path: Path) -> None:
    a, b = (t5(tmp_path / name, seed) for seed, name in enumerate("ab"))
    plain = average(tmp_path / "plain", a, b)
    tensors = load_file(b / "model.safetensors")
    copied = {name: tensors["shared.weight"].clone() for name in COPIES}
    save_file({**tensors, **copied}, b / "model.safetensors", {"format": "pt"})
    for number, pair in enumerate([(a, b), (b, a)]):
        found = average(tmp_path / f"ref{number}", *pair)
        assert found.keys() == plain.keys()
        assert all(torch.equal(found[name], plain[name]) for name in plain)
    copied[COPIES[0]][0, 0] += 1
    save_file({**tensors, **copied}, b / "model.safetensors", {"format": "pt"})
    with pytest.raises(SalsaError, match=rf"{COPIES[0]}: only in"):
        average(tmp_path / "no", a, b)


@pytest.mark.parametrize("bare", ["a", "b"])
def test_gpt2_without_its_prefix(tmp_path: Path, bare: str) -> None:
    a, b = (gpt2(tmp_path / name, seed) for seed, name in enumerate("ab"))
    average(tmp_path / "plain", a, b)
    path = tmp_path / bare / "model.safetensors"
    stored = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
    stored["h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
    save_file(stored, path, {"format": "pt"})
    average(tmp_path / "ref", a, b)
    ours, theirs = (AutoModelForCausalLM.from_pretrained(tmp_path / n) for n in ("plain", "ref"))
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_a_tensor_that_the_index_lacks(tmp_path: Path) -> None:
    a, b = (gpt2(tmp_path / name, seed) for seed, name in enumerate("ab"))
    plain = average(tmp_path / "plain", a, b)
    (b / "model.safetensors").rename(b / "model-00001-of-00001.safetensors")
    named = {"transformer.wte.weight": "model-00001-of-00001.safetensors"}
    (b / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    found = average(tmp_path / "ref", a, b)
    assert all(torch.equal(found[name], plain[name]) for name in plain)


GEMMA = {
    "language_model.model.layers.0.mlp.weight": "model.language_model.layers.0.mlp.weight",
    "language_model.lm_head.weight": "lm_head.weight",
    "vision_tower.patch.weight": "model.vision_tower.patch.weight",
    "multi_modal_projector.linear.weight": "model.multi_modal_projector.linear.weight",
}
QWEN = {
    "model.layers.0.mlp.weight": "model.language_model.layers.0.mlp.weight",
    "lm_head.weight": "lm_head.weight",
    "visual.patch.weight": "model.visual.patch.weight",
}


@pytest.mark.parametrize("layout", [GEMMA, QWEN])
def test_models_of_several_parts_before_and_since_4_52(
    tmp_path: Path, layout: dict[str, str]
) -> None:
    values = {old: torch.full((2,), float(n)) for n, old in enumerate(layout)}
    new = {layout[old]: one + 10 for old, one in values.items()}
    for folder, tensors in (("old", values), ("new", new), ("odd", {**new, "more": torch.ones(1)})):
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "model.safetensors", {"format": "pt"})
    models = {name: open_weight_files(tmp_path / name) for name in ("old", "new", "odd")}
    for first, other in (("old", "new"), ("new", "old")):
        (ours, theirs), notes = common_tensors([models[first], models[other]])
        assert ours.tensors.keys() == theirs.tensors.keys() == models[first].tensors.keys()
        back = layout if first == "new" else {new: old for old, new in layout.items()}
        for name, spec in models[other].tensors.items():
            assert theirs.tensors[back[name]].start == spec.start
        assert not notes
    (_, odd), _ = common_tensors([models["old"], models["odd"]])
    assert "more" in odd.tensors  # so that it is refused
