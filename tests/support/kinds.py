"""Models of several kinds, and answers by the slowest and plainest way."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from salsa_cli.models.forward import Module
from salsa_cli.models.loading import LanguageModel
from tests.support import tiny

PROMPTS = [[4, 6, 9], [5], [7, 8], [4, 7, 10, 11, 12, 13, 14, 15, 16], [6, 6, 7, 8, 9], [13]]
LENGTH = 14
ENDS = (2, 9, 14, 20)
SIZES: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama() -> Module:
    return transformers.LlamaForCausalLM(tiny.config())


def grouped() -> Module:
    """Two queries a key."""
    return transformers.LlamaForCausalLM(tiny.config(num_attention_heads=4, num_key_value_heads=2))


def sliding() -> Module:
    """Every layer attends to the last five tokens."""
    return transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, sliding_window=5))


def hybrid() -> Module:
    """One layer attends to the last five tokens, one to all."""
    types = ["sliding_attention", "full_attention"]
    settings = {**SIZES, "sliding_window": 5, "layer_types": types}
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**settings))


def learned_positions() -> Module:
    config = transformers.GPT2Config(
        vocab_size=24, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config)


def recurrent() -> Module:
    config = transformers.MambaConfig(
        vocab_size=24, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0
    )
    return transformers.MambaForCausalLM(config)


def convolutional() -> Module:
    """One layer of convolution, one of attention."""
    settings = {**SIZES, "layer_types": ["conv", "full_attention"], "block_ff_dim": 32}
    return transformers.Lfm2ForCausalLM(transformers.Lfm2Config(**settings))


def without_positions() -> Module:
    config = transformers.BloomConfig(vocab_size=24, hidden_size=16, n_layer=2, n_head=2)
    return transformers.BloomForCausalLM(config)


def policy(make: Callable[[], Module]) -> LanguageModel:
    torch.manual_seed(0)
    model = make().eval().requires_grad_(False)
    for parameter in model.parameters():
        # Larger than at the start, so that a wrong position or mask changes the answers.
        parameter.mul_(4 if parameter.dim() > 1 else 1)
    return LanguageModel(Path(), model, tiny.tokenizer(), ENDS, 0)


def numbers(rows: int, length: int = LENGTH) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).random((rows, length)))


def told(ids: torch.Tensor) -> list[list[int]]:
    """Each row up to its first end token."""
    answers = []
    for row in ids.tolist():
        ends = [place for place, token in enumerate(row) if token in ENDS]
        answers.append(row[: ends[0] + 1] if ends else row)
    return answers


def naive(
    model: Module, prompts: Sequence[Sequence[int]], uniforms: torch.Tensor, temperature: float
) -> list[list[int]]:
    """Whole sequences in float64, one at a time, the draw by NumPy."""
    answers = []
    wide = model.double()
    for prompt, numbers in zip(prompts, uniforms.tolist(), strict=True):
        answer: list[int] = []
        for number in numbers:
            logits = wide(torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0, -1].numpy()
            if temperature == 0:
                token = int(np.argmax(logits))
            else:
                weights = np.exp((logits - logits.max()) / temperature)
                token = int(np.searchsorted(np.cumsum(weights) / weights.sum(), number, "right"))
            answer.append(token)
            if token in ENDS:
                break
        answers.append(answer)
    model.float()
    return answers
