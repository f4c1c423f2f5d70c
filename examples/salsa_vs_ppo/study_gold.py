"""The gold rewards of the study: fixed rules that say how good an answer really is.

    salsa eval ... --judge python:study_gold.py:score --judge python:study_gold.py:plain

`score` is the gold reward that preference pairs are labelled with and that every claim is about.
`plain` is the same without fluency: fluency under the base model favours whatever is near the
base, as a soup is.

    happy words   +0.6 for the first, less for each further, different one; one a sentence
    sad words     -0.5 each, down to -2
    repetition    -0.2 for every pair of neighbouring words that was there before, down to -2
    the end       +0.5 where the last sentence is finished, -0.5 where it breaks off
    length        +0.03 a word up to 16, then -0.1 for every word over 20, down to -1
    fluency       mean log-probability of two characters under the frozen base model, plus 1.5
                  nats; at most 0, at least -2 (`score` only)

The environment variable STUDY_BASE names the folder or the hub id of the base model, STUDY_WORLD
the folder that world.py wrote: it has the characters per token of the base.
"""

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gold import SAD, diminishing, happy_sentences, repeated_pairs, words_of

# Nats per two characters, which are a token of the small model; fluency is what is missing to the
# first.
FLUENT, LEAST = -1.5, -2.0
BATCH = 128


def score(prompts: list[str], answers: list[str]) -> list[float]:
    """Return the gold reward of each answer, about -6 to +4."""
    found = zip(plain(prompts, answers), fluency(prompts, answers), strict=True)
    return [words + fluent for words, fluent in found]


def plain(prompts: list[str], answers: list[str]) -> list[float]:
    """Return the gold reward of each answer without its fluency."""
    return [of_words(answer) for answer in answers]


def of_words(answer: str) -> float:
    """All terms that need no model."""
    words = words_of(answer)
    finished = answer.rstrip().rstrip("\"'").endswith((".", "!", "?"))
    return (
        0.6 * diminishing(happy_sentences(answer))
        - min(0.5 * sum(word in SAD for word in words), 2.0)
        - min(0.2 * repeated_pairs(words), 2.0)
        + (0.5 if finished else -0.5)
        + 0.03 * min(len(words), 16)
        - min(0.1 * max(len(words) - 20, 0), 1.0)
    )


@torch.inference_mode()
def fluency(prompts: list[str], answers: list[str]) -> list[float]:
    """Mean log-probability of two characters of each answer under the base, plus 1.5, at most 0.

    It is the mean over tokens, in units of 2 / (characters per token) of the base's tokenizer.
    """
    model, tokenizer = base()
    per_token = 2 / characters_per_token()
    found: list[float] = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        heads = [tokenizer(prompt)["input_ids"] for prompt in prompts[part]]
        whole = [
            tokenizer(prompt + answer)["input_ids"]
            for prompt, answer in zip(prompts[part], answers[part], strict=True)
        ]
        width = max(map(len, whole))
        ids = torch.zeros(len(whole), width, dtype=torch.long)
        of_answer = torch.zeros(len(whole), width, dtype=torch.bool)
        for row, (head, tokens) in enumerate(zip(heads, whole, strict=True)):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            of_answer[row, len(head) : len(tokens)] = True
        # Padding is at the end, where no real token attends to it.
        logprobs = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        picked = logprobs.gather(-1, ids[:, 1:, None])[..., 0] * of_answer[:, 1:]
        counts = of_answer[:, 1:].sum(1)
        means = picked.sum(1) / counts.clamp(min=1)
        missing = torch.where(counts > 0, means * per_token - FLUENT, torch.tensor(LEAST))
        found += missing.clamp(min=LEAST, max=0.0).tolist()
    return found


@cache
def base() -> tuple[Any, Any]:
    """The frozen base model and its tokenizer."""
    place = os.environ["STUDY_BASE"]
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(place)


@cache
def characters_per_token() -> float:
    """What world.py found for the base's tokenizer."""
    found = json.loads((Path(os.environ["STUDY_WORLD"]) / "tokens.json").read_text())
    return float(found["characters_per_token"])
