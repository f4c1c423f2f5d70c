"""Small worlds to measure `salsa ppo` in: a policy, a soup as reference, a reward model, prompts.

    python tests/benchmarks/ppo_worlds.py WORLD --shape 260k [--base stories260k-llama/]
    python tests/benchmarks/ppo_worlds.py WORLD --shape 4m

The policy is the pretrained `--base`, or random weights. The second ingredient of the soup is the
policy with noise on its weights. The reward model is the policy's body with a random head, so the
reward is a smooth function of the answer that PPO can climb.
"""

import argparse
import json
import random
import shutil
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
    PreTrainedTokenizerFast,
)

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
    "4m": {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}
NOISE = 0.1  # of the second ingredient, in standard deviations of each weight
PROMPTS = 256
THINGS = "dog cat tree ball cake boat song hat".split()
VERBS = "saw found liked made wanted lost kept heard".split()


def make(world: Path, shape: str, base: Path | None = None) -> Path:
    """Write the world's folders `a`, `b`, `ref` and `rm`, and its `prompts.jsonl`."""
    transformers.set_seed(0)
    if base is None:
        tokenizer = new_tokenizer(SHAPES[shape]["vocab_size"])
        special = {
            name: getattr(tokenizer, name)
            for name in ("pad_token_id", "bos_token_id", "eos_token_id")
        }
        settings = {**SHAPES[shape], **special, "max_position_embeddings": 512}
        model = LlamaForCausalLM(LlamaConfig(**settings))
    else:
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base)
        # Every end token but the tokenizer's own: TRL's PPO knows of one alone.
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    save(model, tokenizer, world / "a")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(NOISE * parameter.std() * torch.randn_like(parameter))
    save(model, tokenizer, world / "b")
    average(world / "a", world / "b", world / "ref")
    reward = AutoModelForSequenceClassification.from_pretrained(world / "a", num_labels=1)
    with torch.no_grad():
        reward.score.weight.normal_(std=(reward.config.hidden_size + 1) ** -0.5)
    save(reward, tokenizer, world / "rm")
    write_prompts(world / "prompts.jsonl", tokenizer)
    return world


def save(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """An ordinary model folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def average(first: Path, second: Path, target: Path) -> None:
    """The soup of two models with equal weights."""
    shutil.copytree(first, target, dirs_exist_ok=True)
    soup, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (first, second))
    with torch.no_grad():
        for ours, theirs in zip(soup.parameters(), other.parameters(), strict=True):
            ours.lerp_(theirs, 0.5)
    soup.save_pretrained(target)


def new_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of this many tokens, learned from words that mean nothing."""
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
    raw.train_from_iterator((" ".join(words(rng, 20)) for _ in range(10 * size)), trainer)
    named = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, padding_side="left", **named)


def words(rng: random.Random, count: int) -> list[str]:
    """Words of one to five syllables."""
    return [
        "".join(
            rng.choice("bcdfghjklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(1, 5))
        )
        for _ in range(count)
    ]


def write_prompts(path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Prompts of at most 24 tokens: beginnings of stories, of different lengths."""
    rng = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        written = 0
        while written < PROMPTS:
            sentences = [f"Once there was a {rng.choice(THINGS)}."]
            sentences += [f"It {rng.choice(VERBS)} {rng.choice(THINGS)}s." for _ in range(3)]
            text = " ".join(sentences)
            kept = tokenizer(text).input_ids[: rng.randint(6, 24)]
            prompt = tokenizer.decode(kept, skip_special_tokens=True)
            if 0 < len(tokenizer(prompt).input_ids) <= 24:
                file.write(json.dumps({"prompt": prompt}) + "\n")
                written += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", type=Path)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--base", type=Path, help="pretrained model; random weights by default")
    given = parser.parse_args()
    print(make(given.world, given.shape, given.base))


if __name__ == "__main__":
    main()
