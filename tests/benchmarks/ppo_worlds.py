"""Small worlds to measure `salsa ppo` in: a policy, a soup as reference, a reward model, prompts.

    python -m tests.benchmarks.ppo_worlds WORLD --shape 260k [--base stories260k-llama/]
    python -m tests.benchmarks.ppo_worlds WORLD --shape 4m

The policy is `--base`, or random weights, trained for a moment on stories of one to four sentences
(examples/stories.py), so that its answers end, on average at half of 48 tokens. The second
ingredient of the soup is the policy with noise on its weights. The reward model is the policy's
body with a head that is fitted to the gold rule of the quickstart (examples/gold.py).

Shapes of known models (`shapes.py`) get random weights in bfloat16, one token a word, and prompts
of 128 tokens; their answers hardly ever end.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from examples import gold
from examples.stories import stories
from tests.benchmarks import shapes
from tests.support import tiny

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SHAPES = {
    # that of Karpathy's stories260K
    "260k": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 5,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    # 4.06 million parameters, half of them in the embeddings
    "4m": {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}
STEPS, BATCH, RATE = 200, 16, 1e-3
SENTENCES = {"260k": (1, 3), "4m": (2, 6)}
NOISE = 0.03  # of the second ingredient, in standard deviations of each weight
PROMPTS, LONGEST = 512, 24
FITTED = 2000
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
RANDOM_PROMPT = 128


def make(world: Path, shape: str, base: Path | None = None) -> Path:
    """Write the world's folders `a`, `b`, `ref` and `rm`, and its `prompts.jsonl`."""
    transformers.set_seed(0)
    if base is None:
        tokenizer = new_tokenizer(SHAPES[shape]["vocab_size"])
        special = {name: getattr(tokenizer, name) for name in SPECIAL_IDS}
        settings = {**SHAPES[shape], **special, "max_position_embeddings": 512}
        model = LlamaForCausalLM(LlamaConfig(**settings))
    else:
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base)
        # TRL's PPO knows of one end token alone.
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    train(model, tokenizer, SENTENCES[shape])
    save(model, tokenizer, world / "a")
    reward = AutoModelForSequenceClassification.from_pretrained(world / "a", num_labels=1)
    fit(reward, tokenizer, SENTENCES[shape])
    save(reward, tokenizer, world / "rm")
    noise = [NOISE * p.std() * torch.randn_like(p) for p in model.parameters()]
    for folder in ("ref", "b"):  # half the way, and all of it
        with torch.no_grad():
            for parameter, step in zip(model.parameters(), noise, strict=True):
                parameter.add_(step / 2)
        save(model, tokenizer, world / folder)
    write_prompts(world / "prompts.jsonl", tokenizer)
    return world


def make_random(world: Path, shape: str, device: str) -> Path:
    """The same files for the shape of a known model; nothing in them is trained."""
    settings = shapes.LLAMA[shape]
    words = [f"w{number}" for number in range(settings["vocab_size"] - len(tiny.SPECIAL))]
    tokenizer = tiny.tokenizer(words)
    special = {name: getattr(tokenizer, name) for name in SPECIAL_IDS}
    config = LlamaConfig(**settings, **special, max_position_embeddings=4096, num_labels=1)
    torch.set_default_dtype(torch.bfloat16)
    for seed, name in enumerate(("a", "ref", "rm")):
        torch.manual_seed(seed)
        with torch.device(device):
            kind = LlamaForSequenceClassification if name == "rm" else LlamaForCausalLM
            save(kind(config), tokenizer, world / name)
    torch.set_default_dtype(torch.float32)
    rng = random.Random(0)
    rows = [{"prompt": " ".join(rng.choices(words, k=RANDOM_PROMPT))} for _ in range(PROMPTS)]
    (world / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return world


def texts(seed: int, sentences: tuple[int, int] = (1, 6)) -> Iterator[tuple[str, str]]:
    """The opening of a story, and its next sentences."""
    rng = random.Random(seed)
    for story in stories(rng):
        opening, *rest = re.split(r"(?<=[.!?])\s+", story.text)
        yield opening, " " + " ".join(rest[: rng.randint(*sentences)])


def train(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, sentences: tuple[int, int]
) -> None:
    """Next-token prediction on answers with their end."""
    given = texts(0, sentences)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    for step in range(STEPS):
        rows = []
        for _ in range(BATCH):
            opening, rest = next(given)
            rows.append([*tokenizer(opening + rest).input_ids, tokenizer.eos_token_id])
        width = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        inside = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        loss = model(ids, labels=ids.masked_fill(inside == 0, -100)).loss
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        optimiser.step()
        optimiser.zero_grad()


@torch.no_grad()
def fit(
    reward: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, sentences: tuple[int, int]
) -> None:
    """The head by ridge regression on the gold of stories; half of them are cut, which costs 1."""
    rng = random.Random(2)
    states, golds = [], []
    for index, (opening, rest) in zip(range(FITTED), texts(2, sentences), strict=False):
        ids = tokenizer(opening + rest).input_ids
        if index % 2:
            ids = ids[: rng.randint(len(tokenizer(opening).input_ids) + 1, len(ids))]
            rest = tokenizer.decode(ids, skip_special_tokens=True)[len(opening) :]
        else:
            ids = [*ids, tokenizer.eos_token_id]
        states.append(reward.model(torch.tensor([ids])).last_hidden_state[0, -1].double())
        golds.append(gold.reward(opening, rest) - index % 2)
    matrix, wanted = torch.stack(states), torch.tensor(golds, dtype=torch.float64)
    square = matrix.T @ matrix
    ridge = 0.01 * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    reward.score.weight.copy_(torch.linalg.solve(square + ridge, matrix.T @ wanted)[None])


def save(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """An ordinary model folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def new_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of this many tokens, learned from stories and from words of syllables."""
    rng = random.Random(0)
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    told = texts(seed=0)
    lines = ["".join(next(told)) for _ in range(size)]
    lines += [" ".join(word(rng) for _ in range(20)) for _ in range(size)]
    raw.train_from_iterator(lines, trainer)
    named = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, padding_side="left", **named)


def word(rng: random.Random) -> str:
    """One to four syllables."""
    syllables = (rng.choice("bcdfghjklmnprstvz") + rng.choice("aeiou") for _ in range(4))
    return "".join(list(syllables)[: rng.randint(1, 4)])


def write_prompts(path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Openings that the policy was not trained on, of at most LONGEST tokens."""
    rows: dict[str, None] = {}
    for opening, _ in texts(seed=1):
        if len(rows) == PROMPTS:
            break
        if len(tokenizer(opening).input_ids) <= LONGEST:
            rows[opening] = None
    path.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", type=Path)
    parser.add_argument("--shape", choices=[*SHAPES, *shapes.LLAMA], required=True)
    parser.add_argument("--base", type=Path, help="pretrained model; random weights by default")
    parser.add_argument("--device", default="cpu", help="where random weights are drawn")
    given = parser.parse_args()
    if given.shape in shapes.LLAMA:
        print(make_random(given.world, given.shape, given.device))
    else:
        print(make(given.world, given.shape, given.base))


if __name__ == "__main__":
    main()
