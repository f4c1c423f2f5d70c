"""Which models are packed: those alone whose packed rows are the rows by themselves."""

from typing import Any

import pytest
import torch
import transformers

from salsa_cli.models import forward, packed_attention
from salsa_cli.models.sequences import Sequences
from salsa_cli.models.tokenization import pad_left, pad_right
from tests.support.families import SMALL

# Rows longer than a small window, and shorter ones.
PROMPTS = [[4, 6, 9, 11, 12, 13, 5, 8], [5], [7, 8, 3, 3, 12]]
ANSWERS = [[6, 5, 9, 14, 2], [11, 5, 4, 8, 2], [3]]
WINDOW = 6

PLAIN = {name: value for name, value in SMALL.items() if name != "head_dim"}
LATENT = {
    **PLAIN,
    "moe_intermediate_size": 8,
    "num_key_value_heads": 2,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
EXPERTS = {**PLAIN, "num_local_experts": 4, "num_experts_per_tok": 2}
LAYERS = ["sliding_attention", "full_attention"]
GPT_NEO = {
    "vocab_size": 24,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "max_position_embeddings": 64,
    "attention_types": [[["global", "local"], 1]],
    "window_size": WINDOW,
}
MPT = {"vocab_size": 24, "d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 64}
LLAMA_4 = {**SMALL, "num_local_experts": 2, "attention_chunk_size": WINDOW}

KINDS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "a window in the mask alone": ("Phimoe", {**EXPERTS, "sliding_window": WINDOW}, False),
    "no window": ("Phimoe", {**EXPERTS, "sliding_window": None}, True),
    "chunks of attention": ("Llama4Text", LLAMA_4, False),
    "some layers with a window": (
        "Gemma3Text",
        {**SMALL, "sliding_window": WINDOW, "layer_types": LAYERS},
        False,
    ),
    "local layers": ("GPTNeo", GPT_NEO, False),
    "positions in the mask": ("Mpt", MPT, False),
    "heads of two sizes": ("DeepseekV3", LATENT, False),
    "a window that is not used": (
        "Qwen2",
        {**SMALL, "sliding_window": WINDOW, "use_sliding_window": False},
        True,
    ),
    "sinks": ("GptOss", {**SMALL, **EXPERTS, "layer_types": LAYERS}, False),
}


def build(kind: str, **changes: Any) -> tuple[Any, bool]:
    name, settings, packs = KINDS[kind]
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**{**settings, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, packs


@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_are_those_of_each_row_alone(kind: str) -> None:
    model, packs = build(kind)
    assert packed_attention.can_pack(model) == packs
    given = Sequences.of(pad_left(PROMPTS, 0), pad_right(ANSWERS, 0))
    with torch.no_grad():
        found = forward.answer_logprobs(model, given, 1.0)
        for prompt, answer, ours in zip(PROMPTS, ANSWERS, found, strict=True):
            logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0].double()
            theirs = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
            expected = theirs.gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)
            # float32, other shapes of the same matrix products
            torch.testing.assert_close(ours[: len(answer)].double(), expected, rtol=0, atol=2e-5)


def test_a_window_longer_than_any_row_is_found_out() -> None:
    """As real windows are; the trial makes it small in a copy, and leaves the model as it is."""
    model, _ = build("a window in the mask alone", sliding_window=2047)
    assert not packed_attention.can_pack(model)
    assert model.config.sliding_window == 2047
    note = packed_attention.padding_note(model)
    assert note == (
        "PhimoeForCausalLM: packed rows would lose its attention window, so rows are padded"
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "positions in the mask",
            "MptForCausalLM: it cannot process several rows as one packed sequence",
        ),
        (
            "heads of two sizes",
            "DeepseekV3ForCausalLM: it cannot process several rows as one packed",
        ),
        ("local layers", "GPTNeoForCausalLM: "),
    ],
)
def test_whatever_fails_is_said_in_one_line(kind: str, words: str) -> None:
    note = packed_attention.padding_note(build(kind)[0])
    assert note is not None and note.startswith(words) and "\n" not in note
    assert note.endswith(", so rows are padded")


def test_a_short_context_bounds_the_rows_of_the_trial() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=24, n_positions=9, n_embd=16, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    assert packed_attention.padding_note(model) is None
