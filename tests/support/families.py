"""Tiny models of many families, and prompts with answers of many lengths."""

from typing import Any

import torch
import transformers

from salsa_cli.models.sequences import Sequences
from salsa_cli.models.tokenization import pad_left, pad_right

PROMPTS = [[4, 6, 9], [5], [7, 8, 3, 3, 12], [10]]


ANSWERS = [[6, 2], [11, 5, 4, 8, 2], [3], [9, 9, 9, 2]]


SMALL: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
}


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("Llama", {}),
    "Llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "Mistral, sliding window": ("Mistral", {"sliding_window": 3}),
    "Qwen 2": ("Qwen2", {}),
    "Gemma": ("Gemma", {}),
    "Gemma 2, bounded logits": ("Gemma2", {"final_logit_softcapping": 0.5, "sliding_window": 3}),
    "Gemma 2, free logits": ("Gemma2", {"final_logit_softcapping": None, "sliding_window": 3}),
    "Cohere, multiplied logits": ("Cohere", {"logit_scale": 0.25}),
    "Granite, divided logits": ("Granite", {"logits_scaling": 3.0}),
    "Phi, biased logits": ("Phi", {}),
    "GPT-NeoX": ("GPTNeoX", {}),
    "GPT-2": (
        "GPT2",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "activation_function": "gelu"},
    ),
}


def build(family: str) -> Any:
    name, changes = FAMILIES[family]
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def read() -> Sequences:
    return Sequences.of(pad_left(PROMPTS, 0), pad_right(ANSWERS, 0))
