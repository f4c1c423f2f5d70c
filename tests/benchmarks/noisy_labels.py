"""What wrong labels cost a reward model, and what label smoothing and an ensemble save of it.

    python tests/benchmarks/noisy_labels.py MODEL PAIRS.jsonl [--seeds 3] [--flipped 0.25]

PAIRS are pairs that a rule has labelled (gold_pairs.py). A share of the training labels is swapped,
the held-out ones never; the split, the swaps and the training change with the seed. One table on
stderr, and one JSON object on stdout.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from salsa_cli import train_rm
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.records import read_rows
from salsa_cli.runs.events import silent

HELD_OUT = 0.2
MEMBERS = 3
SWAPPED = {
    "chosen": "rejected",
    "rejected": "chosen",
    "chosen_finished": "rejected_finished",
    "rejected_finished": "chosen_finished",
}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def worlds(rows: list[dict[str, Any]], seed: int, flipped: float, folder: Path) -> dict[str, str]:
    """Files of held-out pairs, of clean training pairs, and of the same with swapped labels."""
    generator = np.random.default_rng(seed)
    prompts = sorted({row["prompt"] for row in rows})
    apart = set(generator.permutation(prompts)[: round(HELD_OUT * len(prompts))].tolist())
    training = [row for row in rows if row["prompt"] not in apart]
    wrong = generator.random(len(training)) < flipped
    noisy = [
        {SWAPPED.get(name, name): value for name, value in row.items()} if swap else row
        for row, swap in zip(training, wrong, strict=True)
    ]
    return {
        "held-out": write(folder / "held-out.jsonl", [r for r in rows if r["prompt"] in apart]),
        "clean": write(folder / "clean.jsonl", training),
        "noisy": write(folder / "noisy.jsonl", noisy),
    }


def accuracies(args: argparse.Namespace, seed: int, folder: Path) -> dict[str, float]:
    """Held-out accuracy of each way to train."""
    files = worlds(read_rows(args.pairs), seed, args.flipped, folder)

    def train(name: str, data: str, **changes: Any) -> train_rm.TrainRMResult:
        config = TrainRMConfig(
            model=str(args.model),
            data=files[data],
            eval_data=files["held-out"],
            output=folder / name,
            epochs=args.epochs,
            learning_rate=args.learning_rate,
            schedule="cosine",
            seed=seed,
            device="cpu",
            **changes,
        )
        result = train_rm.run(config, silent)
        assert isinstance(result, train_rm.TrainRMResult)
        return result

    together = train("ensemble", "noisy", ensemble=MEMBERS)
    return {
        "clean": train("clean", "clean").eval_accuracy,
        # Each member is the run of one model, and single ones differ by up to 16 points.
        "noisy, plain": statistics.mean(together.members),
        "noisy, smoothed": train("smoothed", "noisy", label_smoothing=args.flipped).eval_accuracy,
        f"noisy, ensemble of {MEMBERS}": together.eval_accuracy,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flipped", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    args = parser.parse_args()
    began = time.monotonic()
    found: list[dict[str, float]] = []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(accuracies(args, seed, Path(folder)))
        print(f"seed {seed}: {found[-1]}", file=sys.stderr, flush=True)
    means = {name: statistics.mean(row[name] for row in found) for name in found[0]}
    seeds = "  ".join(f"seed {seed}" for seed in range(args.seeds))
    print(f"{'held-out accuracy':24}{seeds}    mean", file=sys.stderr)
    for name, mean in means.items():
        row = "  ".join(f"{one[name]:6.1%}" for one in found)
        print(f"{name:24}{row}  {mean:6.1%}", file=sys.stderr)
    result = {
        "flipped": args.flipped,
        "epochs": args.epochs,
        "learning_rate": args.learning_rate,
        "accuracy": found,
        "mean": means,
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "seconds": time.monotonic() - began,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
