"""Make the world of the quickstart: text, a tokenizer, and a small base model trained on it.

    python examples/world.py world/

writes into the folder:

    base/           a Llama of about 0.25M parameters that has read the stories
    sft.jsonl       finished stories as {"prompt", "completion"}, for examples/sft.py
    prompts.jsonl   {"prompt"} rows to train on, for examples/preferences.py and `salsa ppo`
    heldout.jsonl   {"prompt", "completion"} rows that nothing was trained on, for `salsa eval`
    tune.jsonl      more of them, to choose settings on

No prompt is in two of the files, nor in the text of the base model. Needs no network.
"""

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from stories import Story, stories
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
CONTEXT = 128  # tokens


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    rough = stories(rng, unfinished=0.1)
    pretraining = list(itertools.islice(rough, args.stories))
    seen = {story.prompt for story in pretraining}
    fresh = (story for story in stories(rng) if story.prompt not in seen)

    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out / "sft.jsonl", itertools.islice(fresh, args.sft))
    write(args.out / "prompts.jsonl", itertools.islice(fresh, args.prompts), completion=False)
    write(args.out / "heldout.jsonl", itertools.islice(fresh, args.heldout))
    write(args.out / "tune.jsonl", itertools.islice(fresh, args.tune))

    tokenizer = train_tokenizer((story.text for story in pretraining[:5000]), args.vocabulary)
    model = new_model(tokenizer, args.hidden, args.layers)
    print(f"base: {model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    train(model, tokenizer([story.text + EOS for story in pretraining])["input_ids"], args)
    model.save_pretrained(args.out / "base")
    tokenizer.save_pretrained(args.out / "base")


def write(path: Path, rows: Iterable[Story], completion: bool = True) -> None:
    """Write stories as JSON lines, with or without what follows the prompt."""
    with path.open("w", encoding="utf-8") as file:
        for story in rows:
            row = {"prompt": story.prompt}
            if completion:
                row["completion"] = story.completion
            file.write(json.dumps(row) + "\n")


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE tokenizer that starts every text with <s>."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS, UNK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> LlamaForCausalLM:
    """Return an untrained Llama that knows the tokenizer's special tokens."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=6,
        initializer_range=0.05,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def train(model: LlamaForCausalLM, rows: list[list[int]], args: argparse.Namespace) -> None:
    """Train on next-token prediction; the learning rate warms up, then falls as a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    rng = random.Random(args.seed)
    started, tokens = time.perf_counter(), 0
    for step, batch in enumerate(itertools.islice(batches(rows, args.batch_size, rng), args.steps)):
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * schedule(step, args.steps)
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens += sum(len(row) for row in batch)
        if step % 100 == 0 or step == args.steps - 1:
            speed = tokens / (time.perf_counter() - started)
            print(f"step {step:4d}  loss {loss.item():.3f}  {speed:,.0f} tokens/s", flush=True)


def batches(rows: list[list[int]], size: int, rng: random.Random) -> Iterator[list[list[int]]]:
    """Yield batches of rows of about one length, in random order, epoch after epoch."""
    while True:
        shuffled = rng.sample(rows, len(rows))
        for start in range(0, len(rows), 50 * size):
            alike = sorted(shuffled[start : start + 50 * size], key=len)
            chunks = [alike[first : first + size] for first in range(0, len(alike), size)]
            yield from rng.sample(chunks, len(chunks))


def loss_of(model: LlamaForCausalLM, batch: list[list[int]]) -> torch.Tensor:
    """Return the mean cross-entropy of all tokens of the batch, padding left out."""
    width = max(len(row) for row in batch)
    pad = model.config.pad_token_id
    tokens = torch.tensor([row + [pad] * (width - len(row)) for row in batch])
    real = tokens != pad
    labels = tokens.masked_fill(~real, -100)
    loss: torch.Tensor = model(input_ids=tokens, attention_mask=real.long(), labels=labels).loss
    return loss


def schedule(step: int, steps: int, warmup: int = 20) -> float:
    """Return the share of the full learning rate at this step."""
    return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write the world into")
    parser.add_argument("--seed", type=int, default=0, help="seed of the text and of the model")
    parser.add_argument("--stories", type=int, default=24000, help="stories for the base model")
    parser.add_argument("--sft", type=int, default=1200, help="rows of sft.jsonl")
    parser.add_argument("--prompts", type=int, default=2000, help="rows of prompts.jsonl")
    parser.add_argument("--heldout", type=int, default=400, help="rows of heldout.jsonl")
    parser.add_argument("--tune", type=int, default=400, help="rows of tune.jsonl")
    parser.add_argument("--vocabulary", type=int, default=800, help="tokens of the tokenizer")
    parser.add_argument("--hidden", type=int, default=96, help="width of the model")
    parser.add_argument("--layers", type=int, default=2, help="layers of the model")
    parser.add_argument("--steps", type=int, default=900, help="training steps of the model")
    parser.add_argument("--batch-size", type=int, default=24, help="stories per step")
    parser.add_argument("--learning-rate", type=float, default=6e-3, help="highest of the training")
    args = parser.parse_args()
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"{args.out} is not empty: name another folder, or delete it first")
    return args


if __name__ == "__main__":
    main()
