"""A world small enough for tests: one token a word, random Llamas of a few thousand weights."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

transformers.utils.logging.disable_progress_bar()

WORDS = (
    "the a cat dog bird sat ran sang on mat tree and then happy sad good bad day sun rain".split()
)
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def tokenizer(words: list[str] = WORDS, **options: Any) -> PreTrainedTokenizerFast:
    """One token a word; no beginning token is added."""
    vocab = {token: index for index, token in enumerate([*SPECIAL, *words])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **{**named, **options})


def config(**changes: Any) -> LlamaConfig:
    """Two layers of width 16."""
    settings: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaConfig(**{**settings, **changes})


def save_language_model(folder: Path, seed: int, scale: float = 0.0, **changes: Any) -> Path:
    """A random causal LM; `scale` moves it away from the one of seed 0, as fine-tuning would."""
    torch.manual_seed(0 if scale else seed)
    model = LlamaForCausalLM(config(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # far from uniform, so that KLs are not all but zero
    if scale:
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_reward_model(folder: Path, seed: int = 7, **changes: Any) -> Path:
    """A random reward model."""
    torch.manual_seed(seed)
    LlamaForSequenceClassification(config(num_labels=1, **changes)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A JSON Lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prompts(path: Path, count: int = 12) -> Path:
    """Prompts of two to five words."""
    return write_rows(
        path,
        [
            {"prompt": " ".join(WORDS[(i + k) % len(WORDS)] for k in range(2 + i % 4))}
            for i in range(count)
        ],
    )


def preferences(path: Path, count: int = 40) -> Path:
    """Pairs in which the answer that says `happy` is the better one."""
    return write_rows(
        path,
        [
            {
                "prompt": f"{WORDS[i % 20]} {WORDS[2 + i % 3]}",
                "chosen": f" {WORDS[5 + i % 3]} happy",
                "rejected": f" {WORDS[5 + i % 3]} sad",
            }
            for i in range(count)
        ],
    )
