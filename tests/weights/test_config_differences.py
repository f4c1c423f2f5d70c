"""Pairs of configurations: the same model written in two ways, and models that are not the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from salsa_cli.weights.config_differences import compare_configs, config_differences
from salsa_cli.weights.difference import ABSENT, describe_values

Config = dict[str, Any]

LLAMA: Config = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN2: Config = {
    **LLAMA,
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "use_sliding_window": False,
    "sliding_window": 32,
    "max_window_layers": 2,
}
MISTRAL: Config = {**LLAMA, "model_type": "mistral", "architectures": ["MistralForCausalLM"]}
GPT_NEOX: Config = {
    "model_type": "gpt_neox",
    "architectures": ["GPTNeoXForCausalLM"],
    "vocab_size": 24,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
}
GPT2: Config = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 24,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
}
MIXTRAL: Config = {
    **LLAMA,
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
GEMMA3: Config = {
    "model_type": "gemma3",
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {
        "model_type": "gemma3_text",
        "vocab_size": 24,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "torch_dtype": "bfloat16",
    },
    "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 16},
}
REMOTE: Config = {
    **LLAMA,
    "model_type": "made_up",
    "auto_map": {"AutoConfig": "configuration_x.XConfig"},
}
REWARD: Config = {
    **LLAMA,
    "architectures": ["LlamaForSequenceClassification"],
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
}
YARN: Config = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

LLAMA3: Config = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def without(config: Config, *keys: str) -> Config:
    return {key: value for key, value in config.items() if key not in keys}


def text(config: Config, **changes: Any) -> Config:
    return {**config, "text_config": {**config["text_config"], **changes}}


V5 = {
    **without(LLAMA, "rope_theta", "torch_dtype"),
    "dtype": "bfloat16",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}

SAME = "same"
WARN = "warn"
REFUSE = "refuse"

PAIRS: dict[str, tuple[Config, Config, str]] = {
    # One model, written in two ways.
    "transformers 4 and 5": (LLAMA, V5, SAME),
    "4 and 5, theta by default": (without(LLAMA, "rope_theta"), V5, SAME),
    "4 and 5 with yarn": (
        {**LLAMA, "rope_scaling": {"type": "yarn", **without(YARN, "rope_type")}},
        {**V5, "rope_parameters": {**YARN, "rope_theta": 10000}},
        SAME,
    ),
    "scaling by type and by rope_type": (
        {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        SAME,
    ),
    "scaling in both spellings": (
        {**V5, "rope_scaling": YARN},
        {**LLAMA, "rope_scaling": YARN},
        SAME,
    ),
    "no scaling and null": (LLAMA, {**LLAMA, "rope_scaling": None}, SAME),
    "gpt_neox 4 and 5": (
        GPT_NEOX,
        {
            **without(GPT_NEOX, "rotary_pct", "rotary_emb_base"),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000,
                "partial_rotary_factor": 0.25,
            },
        },
        SAME,
    ),
    "dtype names": (LLAMA, {**without(LLAMA, "torch_dtype"), "dtype": "float32"}, SAME),
    "a nested dtype": (GEMMA3, text(GEMMA3, torch_dtype="float32"), SAME),
    "a nested dtype that is absent": (
        GEMMA3,
        {**GEMMA3, "text_config": without(GEMMA3["text_config"], "torch_dtype")},
        SAME,
    ),
    "versions": (LLAMA, {**LLAMA, "transformers_version": "4.40.0"}, SAME),
    "unsloth": (LLAMA, {**LLAMA, "unsloth_version": "2025.1", "unsloth_fixed": True}, SAME),
    "attention chosen": (LLAMA, {**LLAMA, "_attn_implementation_autoset": True}, SAME),
    "attention dropout": (LLAMA, {**LLAMA, "attention_dropout": 0.1}, SAME),
    "dropouts of gpt2": (GPT2, {**GPT2, "resid_pdrop": 0.0, "attn_pdrop": 0.0}, SAME),
    "initialisation": (LLAMA, {**LLAMA, "initializer_range": 0.01}, SAME),
    "a default that is absent": (LLAMA, {**LLAMA, "hidden_act": "silu"}, SAME),
    "biases, absent and false": (LLAMA, {**LLAMA, "attention_bias": False}, SAME),
    "head_dim as computed": (LLAMA, {**LLAMA, "head_dim": 8}, SAME),
    "head_dim null": (LLAMA, {**LLAMA, "head_dim": None}, SAME),
    "every head its own key": (
        {**without(LLAMA, "num_key_value_heads")},
        {**LLAMA, "num_key_value_heads": 2},
        SAME,
    ),
    "a window that is not used": (QWEN2, {**QWEN2, "sliding_window": None}, SAME),
    "layers of a window that is not used": (QWEN2, {**QWEN2, "max_window_layers": 1}, SAME),
    "gpt2 by other names": (
        GPT2,
        {**without(GPT2, "n_embd", "n_layer"), "hidden_size": 16, "num_hidden_layers": 2},
        SAME,
    ),
    "losses of the router": (
        MIXTRAL,
        {**MIXTRAL, "router_aux_loss_coef": 0.0, "output_router_logits": True},
        SAME,
    ),
    "the cache": (LLAMA, {**LLAMA, "use_cache": False}, SAME),
    "padding": (LLAMA, {**LLAMA, "pad_token_id": 0}, SAME),
    "a name of sharded training": (
        QWEN2,
        {**QWEN2, "architectures": ["FSDPQwen2ForCausalLM"]},
        SAME,
    ),
    "one label told": (REWARD, {**without(REWARD, "id2label", "label2id"), "num_labels": 1}, SAME),
    "where it came from": (LLAMA, {**LLAMA, "_name_or_path": "org/base"}, SAME),
    "two names of an activation": (LLAMA, {**LLAMA, "hidden_act": "swish"}, SAME),
    "two formulas of an activation": (
        {**GPT2, "activation_function": "gelu_new"},
        {**GPT2, "activation_function": "gelu_pytorch_tanh"},
        SAME,
    ),
    "notes of training tools": (
        LLAMA,
        {
            **LLAMA,
            "trl_version": "1",
            "swift_version": "2",
            "neftune_noise_alpha": 5,
            "use_liger_kernel": True,
            "tokenizer_class": "LlamaTokenizer",
            "cache_implementation": "hybrid",
            "transformers.js_config": {"dtype": "q4"},
            "pruned_heads": {},
        },
        SAME,
    ),
    "remote code, versions": (REMOTE, {**REMOTE, "transformers_version": "4.1"}, SAME),
    "remote code, null": (REMOTE, {**REMOTE, "rope_scaling": None}, SAME),
    # What may change it.
    "end token": (
        {**LLAMA, "eos_token_id": 2},
        {**LLAMA, "eos_token_id": [2, 3]},
        WARN,
    ),
    "longest input": (LLAMA, {**LLAMA, "max_position_embeddings": 128}, WARN),
    "longest input with the rope of llama 3": (
        {**LLAMA, "rope_scaling": LLAMA3},
        {**LLAMA, "rope_scaling": LLAMA3, "max_position_embeddings": 128},
        WARN,
    ),
    "a key that the class does not know": (LLAMA, {**LLAMA, "my_tool": {"a": 1}}, WARN),
    "labels of a causal model": (
        {**LLAMA, "id2label": {"0": "a"}, "label2id": {"a": 0}},
        {**LLAMA, "num_labels": 7},
        SAME,
    ),
    "linear rope by a factor of 1": (
        LLAMA,
        {**LLAMA, "rope_scaling": {"type": "linear", "factor": 1.0}},
        SAME,
    ),
    "names of labels": (REWARD, {**REWARD, "id2label": {"0": "good"}}, WARN),
    "no architecture": (LLAMA, without(LLAMA, "architectures"), WARN),
    "code": (REMOTE, {**REMOTE, "auto_map": {"AutoConfig": "org/x--c.XConfig"}}, WARN),
    "generation with remote code": (REMOTE, {**REMOTE, "temperature": 0.6}, WARN),
    # Another function.
    "theta": (LLAMA, {**LLAMA, "rope_theta": 500000.0}, REFUSE),
    "theta, 4 and 5": (
        LLAMA,
        {**V5, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        REFUSE,
    ),
    "theta against the default": (
        without(LLAMA, "rope_theta"),
        {**LLAMA, "rope_theta": 5e5},
        REFUSE,
    ),
    "scaling": (LLAMA, {**LLAMA, "rope_scaling": YARN}, REFUSE),
    "scaling added to what transformers 5 wrote": (V5, {**V5, "rope_scaling": YARN}, REFUSE),
    "scaling that is a text": (V5, {**V5, "rope_scaling": "yarn"}, REFUSE),
    "parameters of rope that are a list": (V5, {**V5, "rope_parameters": [1]}, REFUSE),
    "factor of scaling": (
        {**LLAMA, "rope_scaling": YARN},
        {**LLAMA, "rope_scaling": {**YARN, "factor": 2.0}},
        REFUSE,
    ),
    "longest input with dynamic scaling": (
        {**LLAMA, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {
            **LLAMA,
            "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
            "max_position_embeddings": 128,
        },
        REFUSE,
    ),
    "activation": (LLAMA, {**LLAMA, "hidden_act": "gelu"}, REFUSE),
    "epsilon": (LLAMA, {**LLAMA, "rms_norm_eps": 1e-5}, REFUSE),
    "heads": (LLAMA, {**LLAMA, "num_attention_heads": 4}, REFUSE),
    "window against the default": (MISTRAL, {**MISTRAL, "sliding_window": None}, REFUSE),
    "a window that is used": (
        {**QWEN2, "use_sliding_window": True, "max_window_layers": 0},
        {**QWEN2, "use_sliding_window": True, "max_window_layers": 0, "sliding_window": 16},
        REFUSE,
    ),
    "tied embeddings": (LLAMA, {**LLAMA, "tie_word_embeddings": True}, REFUSE),
    "architecture": (LLAMA, {**LLAMA, "architectures": ["LlamaModel"]}, REFUSE),
    "family": (LLAMA, {**LLAMA, "model_type": "mistral"}, REFUSE),
    "another activation": (GPT2, {**GPT2, "activation_function": "gelu"}, REFUSE),
    "a number of labels that is none": (LLAMA, {**LLAMA, "num_labels": "two"}, REFUSE),
    "more labels than memory": (LLAMA, {**LLAMA, "num_labels": 10**12}, REFUSE),
    "more layers than memory": (QWEN2, {**QWEN2, "num_hidden_layers": 10**12}, REFUSE),
    "number of labels": (REWARD, {**REWARD, "id2label": {"0": "a", "1": "b"}}, REFUSE),
    "experts per token": (MIXTRAL, {**MIXTRAL, "num_experts_per_tok": 1}, REFUSE),
    "rotated share": (GPT_NEOX, {**GPT_NEOX, "rotary_pct": 0.5}, REFUSE),
    "inside a part": (GEMMA3, text(GEMMA3, query_pre_attn_scalar=64), REFUSE),
    "remote code, an unknown key": (REMOTE, {**REMOTE, "mystery": 1}, REFUSE),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_pair(name: str, swapped: bool) -> None:
    ours, theirs, expected = PAIRS[name]
    if swapped:
        ours, theirs = theirs, ours
    found = config_differences(ours, theirs, Path("a"), Path("b"))
    verdict = REFUSE if any(one.fatal for one in found) else WARN if found else SAME
    assert verdict == expected, [one.text for one in found]


def test_there_are_forty_pairs_of_each_direction() -> None:
    assert len(PAIRS) >= 40
    assert min(sum(one[2] == kind for one in PAIRS.values()) for kind in (SAME, REFUSE)) >= 18


def test_only_the_leaf_that_differs_is_named() -> None:
    (found,) = config_differences(
        GEMMA3, text(GEMMA3, query_pre_attn_scalar=64), Path("a"), Path("b")
    )
    assert found.key == "config.text_config.query_pre_attn_scalar"
    assert (
        found.text
        == "config.json text_config.query_pre_attn_scalar: absent (default 256) in a, 64 in b"
    )


def test_long_values_are_shown_where_they_differ() -> None:
    ours, theirs = ["same"] * 40, ["same"] * 39 + ["other"]
    shown = describe_values(ours, theirs, Path("a"), Path("b"))
    first, second = shown.split(" in a, ")
    assert '"same"]' in first and '"other"]' in second and len(shown) < 200
    assert describe_values(ABSENT, None, Path("a"), Path("b")) == "absent in a, null in b"


def test_end_tokens_of_generation_are_compared(tmp_path: Path) -> None:
    for name, ids in (("a", 2), ("b", [2]), ("c", [2, 3])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(LLAMA))
        path = tmp_path / name / "generation_config.json"
        path.write_text(json.dumps({"eos_token_id": ids}))
    assert compare_configs(tmp_path / "a", tmp_path / "b") == []
    (found,) = compare_configs(tmp_path / "a", tmp_path / "c")
    assert found.key == "generation_config.eos_token_id" and not found.fatal


def test_equal_configurations_do_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Config) -> None:
        raise AssertionError("transformers was asked")

    monkeypatch.setattr("salsa_cli.weights.config_classes.complete", fail)
    assert config_differences(LLAMA, V5, Path("a"), Path("b")) == []
    assert config_differences(GEMMA3, GEMMA3, Path("a"), Path("b")) == []


def test_a_default_of_the_class_is_shown_as_one() -> None:
    ours, theirs = without(LLAMA, "num_key_value_heads"), LLAMA
    (found,) = config_differences(ours, theirs, Path("a"), Path("b"))
    assert found.text == "config.json num_key_value_heads: absent (default 2) in a, 1 in b"
