"""Cut stories into short prompts with completions: the data of the study.

    python world.py BASE --train train.jsonl --heldout heldout.jsonl -o world/

Both files have one {"text"} a row. Writes into the folder:

    sft.jsonl      {"prompt", "completion"} rows for supervised fine-tuning
    prompts.jsonl  {"prompt"} rows for preference pairs and PPO
    tune.jsonl     {"prompt"} rows of held-out stories, to tune the KL coefficient on
    probe.jsonl    the same with their completions, for `salsa soup --probe`
    test.jsonl     {"prompt"} rows of other held-out stories, for every comparison
    tokens.json    {"characters_per_token", "pad_token"}: of the completions, by BASE's tokenizer,
                   to a tenth; and the pad token to name, where BASE pads with its end token

A prompt is one or two sentences of a story, its completion the two or three that follow. No
sentence is in two rows. Of every three windows of the training stories two are for SFT and one is
for PPO, so that PPO's prompts are new to the SFT models. Held-out stories go to tune.jsonl and
test.jsonl in turn.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

PROMPT = range(25, 71)  # characters
COMPLETION = range(50, 121)
TUNE, TEST = 128, 256  # prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="folder or hub id of the base model")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    training = [row for text in texts(given.train) for row in windows(text)]
    stories = [list(windows(text)) for text in texts(given.heldout)]
    tune = [row for story in stories[0::2] for row in story][:TUNE]
    test = [row for story in stories[1::2] for row in story][:TEST]
    sft = [row for place, row in enumerate(training) if place % 3 < 2]
    prompts = training[2::3]
    for path, found in ((given.train, prompts), (given.heldout, tune), (given.heldout, test)):
        if not found:
            sys.exit(f"error: {path} has too few stories with sentences of 25 to 120 characters")
    write(given.output / "sft.jsonl", sft)
    write(given.output / "prompts.jsonl", [{"prompt": row["prompt"]} for row in prompts])
    write(given.output / "probe.jsonl", tune)
    write(given.output / "tune.jsonl", [{"prompt": row["prompt"]} for row in tune])
    write(given.output / "test.jsonl", [{"prompt": row["prompt"]} for row in test])
    tokenizer = AutoTokenizer.from_pretrained(given.base)
    size = characters_per_token(tokenizer, sft)
    measured = {"characters_per_token": size, "pad_token": pad_token(tokenizer)}
    (given.output / "tokens.json").write_text(json.dumps(measured) + "\n", encoding="utf-8")
    print(f"{len(sft)} SFT rows; {len(prompts)}, {len(tune)} and {len(test)} prompts")
    print(f"{size} characters per token")


def characters_per_token(tokenizer: Any, rows: list[dict[str, str]]) -> float:
    """The mean over the completions, to a tenth: no more is needed to choose a length."""
    characters = tokens = 0
    for row in rows:
        characters += len(row["completion"])
        head, whole = row["prompt"], row["prompt"] + row["completion"]
        tokens += len(tokenizer(whole)["input_ids"]) - len(tokenizer(head)["input_ids"])
    return round(characters / tokens, 1)


def pad_token(tokenizer: Any) -> str | None:
    """The unknown token if the pad token would end an answer; None if nothing is to be named."""
    if tokenizer.pad_token not in (None, tokenizer.eos_token):
        return None
    unknown: str | None = tokenizer.unk_token
    return None if unknown == tokenizer.eos_token else unknown


def texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)["text"].strip()
            except (ValueError, TypeError, KeyError, AttributeError):
                sys.exit(f'error: {path}:{number}: expected {{"text": "..."}}, found {line[:60]!r}')


def windows(text: str) -> Iterator[dict[str, str]]:
    """Prompts with completions, in the order of the story, none of which overlap."""
    sentences = re.split(r"(?<=[.!?])\s+", re.sub(r"\s+", " ", text))
    at = 0
    while at < len(sentences):
        found = window(sentences[at:])
        if found is None:
            at += 1
            continue
        prompt, completion, used = found
        yield {"prompt": prompt, "completion": " " + completion}
        at += used


def window(sentences: list[str]) -> tuple[str, str, int] | None:
    """The prompt and completion that begin with the first sentence, and how many they use."""
    for first in (1, 2):
        prompt = " ".join(sentences[:first])
        if len(prompt) not in PROMPT:
            continue
        for more in (2, 3):
            completion = " ".join(sentences[first : first + more])
            if len(sentences) >= first + more and len(completion) in COMPLETION:
                return prompt, completion, first + more
    return None


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
