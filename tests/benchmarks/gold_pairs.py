"""Preference pairs that a fixed rule has labelled: the world in which reward models are measured.

    python tests/benchmarks/gold_pairs.py MODEL STORIES.jsonl -o pairs.jsonl [--pairs N]

Samples two answers of a small story model to the beginning of each story ({"prompt", ...} rows)
and puts them in the order of `examples/gold.py`. Answers that were cut say so, and pairs whose
rewards are nearer than --gap are left out, as people leave out what they cannot tell apart.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import torch

from salsa_cli.devices.runtime import start_runtime
from salsa_cli.generation import rollouts
from salsa_cli.models import loading, tokenization
from salsa_cli.models.backbones import Placement
from salsa_cli.models.tokenization import Answer

GOLD = Path(__file__).parents[2] / "examples" / "gold.py"
BATCH = 100


def gold_reward() -> Callable[[str, str], float]:
    """The rule of `examples/gold.py`."""
    spec = importlib.util.spec_from_file_location("gold", GOLD)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reward: Callable[[str, str], float] = module.reward
    return reward


def sample(
    policy: loading.LanguageModel, prompts: list[str], seed: int, length: int
) -> list[Answer]:
    """One answer to each prompt."""
    drawn = rollouts.sample(
        policy,
        [tokenization.prompt_ids(policy.tokenizer, prompt) for prompt in prompts],
        list(range(seed, seed + len(prompts))),
        length=length,
        temperature=1.0,
        runtime=start_runtime("cpu"),
    )
    return rollouts.texts(policy, drawn)


def make(model: Path, stories: Path, output: Path, count: int, gap: float, length: int = 48) -> int:
    """Sample `count` pairs and write those that the rule tells apart; returns how many."""
    reward = gold_reward()
    policy = loading.load_language_model(model, Placement(torch.float32, torch.device("cpu")))
    rows = [json.loads(line) for line in stories.read_text(encoding="utf-8").split("\n") if line]
    prompts = [row["prompt"] for row in rows if len(row["prompt"]) < 80]
    written = 0
    with output.open("w", encoding="utf-8") as file:
        for first in range(0, count, BATCH):
            batch = [prompts[i % len(prompts)] for i in range(first, first + BATCH)]
            both = [sample(policy, batch, seed + 2 * first, length) for seed in (0, BATCH)]
            for prompt, one, other in zip(batch, *both, strict=True):
                worse, better = sorted((one, other), key=lambda a: reward(prompt, a.text))
                lead = reward(prompt, better.text) - reward(prompt, worse.text)
                if lead >= gap and better.text.strip() and worse.text.strip():
                    row = {
                        "prompt": prompt,
                        "chosen": better.text,
                        "rejected": worse.text,
                        "chosen_finished": better.finished,
                        "rejected_finished": worse.finished,
                    }
                    file.write(json.dumps(row) + "\n")
                    written += 1
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("stories", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=6000)
    parser.add_argument("--gap", type=float, default=0.5, help="least difference of the rewards")
    args = parser.parse_args()
    print(f"{make(args.model, args.stories, args.output, args.pairs, args.gap)} pairs")


if __name__ == "__main__":
    main()
