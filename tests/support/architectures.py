"""Tiny random models of many architectures, made on the spot."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)

from tests.support import tiny

SIZES: dict[str, Any] = {
    "vocab_size": len(tiny.SPECIAL) + len(tiny.WORDS),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    # Depth and width, by the names that configurations have for them.
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 16),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_ff"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    "num_key_value_heads": 1,
    "head_dim": 8,
    "sliding_window": 5,
    # Mixtures of experts, and latent attention.
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("first_k_dense_replace", "n_group", "topk_group", "n_shared_experts"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "v_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 4),
    "state_size": 4,
    # Dropout, which has to be off whatever a configuration says.
    **dict.fromkeys(("dropout", "attention_dropout", "hidden_dropout", "activation_dropout"), 0.1),
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.1),
}


def config(kind: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a model type, in the sizes of `SIZES` as far as it knows them."""
    default = AutoConfig.for_model(kind)
    known = {*default.to_dict(), *default.attribute_map}
    sizes = {name: value for name, value in SIZES.items() if name in known}
    if "kv_lora_rank" in known:  # keys of latent attention are made for every head
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
        if kind == "deepseek_v3":  # of the part that is rotated
            sizes["head_dim"] = sizes["qk_rope_head_dim"]
    return AutoConfig.for_model(kind, **{**sizes, **changes})


def save(folder: Path, kind: str, seed: int, *, head: bool = False, **changes: Any) -> Path:
    """A random model of a type with the tokenizer of `tiny`; with a score head, if it has one.

    Raises:
        ValueError: transformers has no sequence classifier of this type.
    """
    torch.manual_seed(seed)
    maker = AutoModelForSequenceClassification if head else AutoModelForCausalLM
    model = maker.from_config(config(kind, **({"num_labels": 1} if head else {}), **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)  # far from uniform, so that a wrong mask or position shows
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder
