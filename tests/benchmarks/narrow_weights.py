"""`--weights bfloat16` compared with float32: what runs reach, and what becomes of small steps.

    bash examples/quickstart.sh quickstart
    python -m tests.benchmarks.narrow_weights quickstart > result.json
    python -m tests.benchmarks.narrow_weights quickstart --seeds 2 --updates 4

Trains each way once a seed on the quickstart's world, then evaluates all runs with `salsa eval` on
prompts that none has seen. Prints one JSON object, and tables to stderr: the held-out reward and
the KL to the reference of each way, with the standard error over seeds, and the differences from
float32 in pairs of the same seed.

The second table is about steps that are too small for bfloat16: AdamW at a learning rate of 1e-6 on
weights of standard deviation 0.02, 100 steps whose gradients have a mean of their own for each
weight. It has the share of the weights that moved, and the mean movement along the way that float32
weights take, as a share of it, with its standard error.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from salsa_cli.models.optimizers import ChunkedAdamW
from tests.benchmarks import measure

HERE = Path(__file__).parent
RATE, STEPS, SHAPE = 1e-6, 100, (512, 512)
BATCH, LENGTH, PROMPTS = 32, 48, 100

WAYS: dict[str, list[str]] = {
    "float32": [],
    "bfloat16": ["--weights", "bfloat16"],
    "bfloat16-8bit": ["--weights", "bfloat16", "--optimiser", "adamw-8bit"],
}
"""The first is what the others are compared with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", type=Path, help="folder that examples/quickstart.sh wrote")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--updates", type=int, default=10)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as root:
        machine = measure.machine(Path(root))
        for seed in range(given.seeds):
            for way in WAYS:
                train(way, given.world, seed, given.updates, Path(root) / f"{way}-{seed}")
            say(f"seed {seed}: trained")
        runs = {way: [Path(root) / f"{way}-{seed}" for seed in range(given.seeds)] for way in WAYS}
        found = evaluate(runs, given.world, Path(root) / "results")
    result = {
        "machine": machine,
        "salsa": measure.commit(HERE),
        "versions": measure.versions("torch", "transformers"),
        "seeds": given.seeds,
        "updates": given.updates,
        "ways": {way: summary(found, way) for way in WAYS},
        "small steps": small_steps(),
    }
    show(result)
    print(json.dumps(result, indent=1))


def train(way: str, world: Path, seed: int, updates: int, output: Path) -> None:
    """One run of the quickstart's settings, shortened."""
    command = [
        *(sys.executable, "-m", "salsa_cli", "ppo", "-q", "--device", "cpu", "-o", output),
        *("--policy", world / "sft-a", "--ref", world / "ref", "--reward", world / "rm"),
        *("--prompts", world / "world" / "prompts.jsonl", "--updates", updates, "--seed", seed),
        *("--batch-size", BATCH, "--response-length", LENGTH, "--epochs", 2, "--lambda", 1),
        *("--learning-rate", 5e-4, "--critic-learning-rate", 1e-3, "--schedule", "constant"),
        *("--anchor-every", 0, "--save-every", updates, *WAYS[way]),
    ]
    subprocess.run([str(word) for word in command], check=True)


def evaluate(
    runs: dict[str, list[Path]], world: Path, output: Path
) -> dict[str, dict[str, list[float]]]:
    """Mean reward and KL of the answers to held-out prompts, by way, in the order of the seeds."""
    arms = [f"{way}={','.join(map(str, folders))}" for way, folders in runs.items()]
    command = [
        *(sys.executable, "-m", "salsa_cli", "eval", *arms, "-q", "--json", "-o", output),
        *("--prompts", world / "world" / "heldout.jsonl", "--max-prompts", PROMPTS),
        *("--judge", f"rm:{world / 'rm'}", "--anchors", world / "ref"),
        *("--response-length", LENGTH),
    ]
    done = subprocess.run([str(w) for w in command], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    reward = {row["model"]: row["score"] for row in told["scores"]}
    kl = {row["model"]: row["kl"] for row in told["kl"]}
    names = {way: [f"{way}/{run.name}" for run in folders] for way, folders in runs.items()}
    return {
        way: {"reward": [reward[one] for one in named], "kl": [kl[one] for one in named]}
        for way, named in names.items()
    }


def summary(found: dict[str, dict[str, list[float]]], way: str) -> dict[str, Any]:
    """Mean and standard error over seeds, and of the differences from the first way."""
    first = found[next(iter(WAYS))]
    told: dict[str, Any] = {}
    for name, values in found[way].items():
        told[name] = spread(values)
        told[f"{name} by seed"] = [round(value, 3) for value in values]
        if way != next(iter(WAYS)):
            told[f"{name}, difference"] = spread(
                [one - other for one, other in zip(values, first[name], strict=True)]
            )
    return told


def spread(values: Sequence[float]) -> list[float]:
    """Mean and standard error."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return [round(mean(values), 4), round(error, 4)]


def small_steps() -> dict[str, dict[str, Any]]:
    """What is left of small steps where weights are stored in each way."""
    generator = torch.Generator().manual_seed(0)
    start = (0.02 * torch.randn(SHAPE, generator=generator)).bfloat16()
    slope = torch.randn(SHAPE, generator=generator)
    gradients = [slope + torch.randn(SHAPE, generator=generator) for _ in range(STEPS)]

    def plain(parameter: torch.Tensor) -> Any:
        return torch.optim.AdamW([parameter], lr=RATE, eps=1e-5, weight_decay=0.0)

    def rounding(parameter: torch.Tensor) -> Any:
        return ChunkedAdamW([parameter], RATE, bits=32, seed=1)

    def coded(parameter: torch.Tensor) -> Any:
        return ChunkedAdamW([parameter], RATE, bits=8, seed=1)

    def moved(first: torch.Tensor, make: Callable[[torch.Tensor], Any]) -> torch.Tensor:
        parameter = first.clone().requires_grad_()
        stepping = make(parameter)
        for gradient in gradients:
            parameter.grad = gradient.to(parameter.dtype)
            stepping.step()
        return parameter.detach().float() - start.float()

    way = moved(start.float(), plain)
    ways = {
        "float32": way,
        "bfloat16, rounded to nearest": moved(start, plain),
        "bfloat16, rounded stochastically": moved(start, rounding),
        "the same with 8-bit moments": moved(start, coded),
    }
    return {name: _share(one, way) for name, one in ways.items()}


def _share(moved: torch.Tensor, way: torch.Tensor) -> dict[str, Any]:
    """Movement along the signs of another way, over the mean size of that way."""
    along = (moved * way.sign()).flatten()
    size = float(way.abs().mean())
    return {
        "moved": round(float((moved != 0).float().mean()), 4),
        "movement": round(float(along.mean()) / size, 4),
        "standard error": round(float(along.std()) / len(along) ** 0.5 / size, 4),
    }


def show(result: dict[str, Any]) -> None:
    """Both tables, to stderr."""
    say("| weights | held-out reward | KL | reward less float32's | KL less float32's |")
    for way, found in result["ways"].items():
        names = ("reward", "kl", "reward, difference", "kl, difference")
        cells = ["{:.3f} ± {:.3f}".format(*found[name]) if name in found else "" for name in names]
        say(f"| {way} | {' | '.join(cells)} |")
    say("| small steps | weights that moved | movement of float32's |")
    for way, found in result["small steps"].items():
        share, error = found["movement"], found["standard error"]
        say(f"| {way} | {found['moved']:.1%} | {share:.3f} ± {error:.3f} |")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
