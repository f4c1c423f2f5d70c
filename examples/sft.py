"""Supervised fine-tuning of a small causal language model, in plain PyTorch.

    python examples/sft.py world/base --data world/sft.jsonl --seed 1 --share 1/2 -o sft-a/
    python examples/sft.py world/base --data world/sft.jsonl --seed 2 --share 2/2 -o sft-b/

DATA is a file of JSON lines, each {"prompt": ..., "completion": ...}. The loss is on the tokens
of the completion and on the end token after it; the prompt is read, but not learned.

Two models for a soup have to differ, or their average is the same model again. A different seed
shuffles the data differently; a share gives each model other rows; a larger learning rate takes
each further from the base. MODEL is any Hugging Face folder of a causal language model.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

IGNORED = -100  # the label of a token that the loss leaves out


@dataclass(frozen=True)
class Example:
    """One row in tokens: the first `prompt_length` of them are the prompt."""

    tokens: list[int]
    prompt_length: int


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    part, parts = args.share
    rows = read_rows(args.data)[part - 1 :: parts]
    examples = [encode(row, tokenizer, args.max_length) for row in rows]
    heldout = [encode(row, tokenizer, args.max_length) for row in read_rows(args.heldout)]

    report_heldout(model, heldout, args.batch_size)
    train(model, examples, args)
    report_heldout(model, heldout, args.batch_size)
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    print(f"saved {args.output}", flush=True)


def read_rows(path: Path | None) -> list[dict[str, str]]:
    """Read a file of JSON lines; no file has no rows."""
    if path is None:
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def encode(row: dict[str, str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Example:
    """Turn a row into tokens: prompt with special tokens, completion, end token.

    Some tokenizers begin every text with a space. For them the completion on its own is not
    what follows the prompt, so both are encoded as one text wherever that keeps the prompt's
    tokens as they are.
    """
    prompt = tokenizer(row["prompt"])["input_ids"]
    whole = tokenizer(row["prompt"] + row["completion"])["input_ids"]
    if whole[: len(prompt)] != prompt:
        completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        whole = prompt + completion
    return Example([*whole, tokenizer.eos_token_id][:max_length], len(prompt))


def train(model: PreTrainedModel, examples: list[Example], args: argparse.Namespace) -> None:
    """Run AdamW over the examples, with a learning rate that falls linearly to zero."""
    rng = random.Random(args.seed)
    steps = args.epochs * -(-len(examples) // args.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    started, tokens = time.perf_counter(), 0
    model.train()
    for step, batch in enumerate(epochs(examples, args.batch_size, args.epochs, rng), start=1):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        tokens += sum(len(example.tokens) for example in batch)
        if step % args.log_every == 0 or step == steps:
            speed = tokens / (time.perf_counter() - started)
            print(f"step {step}/{steps}  loss {loss.item():.3f}  {speed:,.0f} tokens/s", flush=True)


def epochs(
    examples: list[Example], size: int, count: int, rng: random.Random
) -> Iterator[list[Example]]:
    """Yield the batches of `count` passes over the examples, each in an order of its own."""
    for _ in range(count):
        order = rng.sample(examples, len(examples))
        yield from (order[start : start + size] for start in range(0, len(order), size))


def loss_of(model: PreTrainedModel, batch: list[Example]) -> torch.Tensor:
    """Return the mean cross-entropy of the batch's completion tokens.

    Padding is recognised by its position, never by its id: some models pad with a token that
    also occurs in text.
    """
    width = max(len(example.tokens) for example in batch)
    tokens = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    labels = torch.full_like(tokens, IGNORED)
    for row, example in enumerate(batch):
        length, prompt = len(example.tokens), example.prompt_length
        tokens[row, :length] = torch.tensor(example.tokens)
        mask[row, :length] = 1
        labels[row, prompt:length] = tokens[row, prompt:length]
    loss: torch.Tensor = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
    return loss


@torch.no_grad()
def report_heldout(model: PreTrainedModel, examples: list[Example], size: int) -> None:
    """Print the mean loss per completion token of examples that the model was not trained on."""
    if not examples:
        return
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(examples), size):
        batch = examples[start : start + size]
        targets = sum(len(example.tokens) - example.prompt_length for example in batch)
        total += loss_of(model, batch).item() * targets
        count += targets
    print(f"held-out loss {total / count:.3f} per token ({len(examples)} rows)", flush=True)


def share(text: str) -> tuple[int, int]:
    """Read '1/2' as the pair (1, 2)."""
    part, parts = (int(number) for number in text.split("/"))
    if not 1 <= part <= parts:
        raise ValueError(text)
    return part, parts


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of the model to start from")
    parser.add_argument("--data", type=Path, required=True, help="JSON lines to train on")
    parser.add_argument("--heldout", type=Path, help="JSON lines to measure the loss on")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=1, help="seed of the order of the rows")
    parser.add_argument(
        "--share", type=share, default=(1, 1), metavar="I/N", help="train on every N-th row only"
    )
    parser.add_argument("--epochs", type=int, default=4, help="passes over the rows")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="at the first step")
    parser.add_argument("--batch-size", type=int, default=16, help="rows per step")
    parser.add_argument("--max-length", type=int, default=256, help="tokens kept of a row")
    parser.add_argument("--log-every", type=int, default=25, help="steps between two lines")
    args = parser.parse_args()
    if args.output.exists() and any(args.output.iterdir()):
        parser.error(f"{args.output} is not empty: name another folder, or delete it first")
    return args


if __name__ == "__main__":
    main()
