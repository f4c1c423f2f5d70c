"""Adapters of embeddings merged into a tied base: what peft computes, the result computes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError
from salsa_cli.runs.events import silent
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
