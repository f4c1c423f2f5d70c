"""`--weights bfloat16` compared with float32: what runs reach, and what becomes of small steps.

    bash examples/quickstart.sh quickstart
    python -m tests.benchmarks.narrow_weights quickstart > result.json
    python -m tests.benchmarks.narrow_weights quickstart --seeds 2 --updates 4

Trains each way once a seed on the quickstart's world, then evaluates all runs with `salsa eval` on
400 prompts that none has seen. Prints one JSON object, and tables to stderr: the held-out reward
and the KL to the reference of each way, with the standard error over seeds, and the differences
from float32 in pairs of the same seed.

A run amplifies any difference: one token sampled differently changes all that follows. So two ways
that differ in nothing but rounding give different results with every seed, and even without any
effect their means differ by more than one standard error one time in three. To measure this, the
way `float32-rounded-start` is float32 from a start that is rounded to bfloat16 once. (One unit in
the last place of float32 is too little: the 10 updates then sample the same tokens.)

The second table tells how much of a difference the rounding of weights makes without feedback: the
updates of one float32 run are made again on bfloat16 weights, each step rounded stochastically. It
has the distance between the two ends, as a share of the way, and the exact KL between them.

The third table is about steps that are too small for bfloat16: AdamW at a learning rate of 1e-6 on
weights of standard deviation 0.02, 100 steps whose gradients have a mean of their own for each
weight. It has the share of the weights that moved, and the mean movement along the way that float32
weights take, as a share of it, with its standard error.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from salsa_cli import cli
from salsa_cli.data import stable_seed
from salsa_cli.maths import quantization
from salsa_cli.maths.student_t import quantile
from salsa_cli.models.optimizers import ChunkedAdamW
from tests.benchmarks import measure

HERE = Path(__file__).parent
RATE, STEPS, SHAPE = 1e-6, 100, (512, 512)
BATCH, LENGTH, EPOCHS = 32, 48, 2

WEIGHTS = "model.safetensors"

FIRST = "float32"
ROUNDED = "float32-rounded-start"
WAYS: dict[str, list[str]] = {
    FIRST: [],
    ROUNDED: [],
    "bfloat16": ["--weights", "bfloat16"],
    "bfloat16-8bit": ["--weights", "bfloat16", "--optimiser", "adamw-8bit"],
}

FORKS = multiprocessing.get_context("forkserver")
"""Importing everything takes as long as training such a small model, so it is done once."""

Found = Mapping[str, Mapping[str, float]]
"""Reward and KL of one seed, by way."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", type=Path, help="folder that examples/quickstart.sh wrote")
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--work", type=Path, help="folder whose finished seeds are not run again")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    FORKS.set_forkserver_preload(["tests.support.preloaded"])
    with tempfile.TemporaryDirectory() as root:
        work = given.work or Path(root)
        machine = measure.machine(work)
        found = [
            seed_results(given.world, work, seed, given.updates) for seed in range(given.seeds)
        ]
        alone = rounding_alone(given.world, work, given.updates)
    result = {
        "machine": machine,
        "salsa": measure.commit(HERE),
        "versions": measure.versions("torch", "transformers"),
        "seeds": given.seeds,
        "updates": given.updates,
        "ways": {way: summary(found, way) for way in WAYS},
        "rounding alone": alone,
        "small steps": small_steps(),
    }
    show(result)
    print(json.dumps(result, indent=1))


def seed_results(world: Path, work: Path, seed: int, updates: int) -> Found:
    """What the ways reach with one seed: read, if the folder has it, or else trained."""
    file = work / f"seed-{seed}.json"
    if not file.exists():
        runs = {way: work / f"{way}-{seed}" for way in WAYS}
        for way, output in runs.items():
            train(way, world, work, seed, updates, output)
        found = evaluate(runs, world, seed, work / f"results-{seed}")
        file.write_text(json.dumps(found))
        for output in runs.values():
            shutil.rmtree(output)
        say(f"seed {seed}: {found}")
    read: Found = json.loads(file.read_text())
    return read


def train(
    way: str, world: Path, work: Path, seed: int, updates: int, output: Path, *more: Any
) -> None:
    """One run of the quickstart's settings, shortened."""
    policy = rounded(world / "sft-a", work) if way == ROUNDED else world / "sft-a"
    salsa(
        *("ppo", "-q", "--device", "cpu", "-o", output, "--force"),
        *("--policy", policy, "--ref", world / "ref", "--reward", world / "rm"),
        *("--prompts", world / "world" / "prompts.jsonl", "--updates", updates, "--seed", seed),
        *("--batch-size", BATCH, "--response-length", LENGTH, "--epochs", EPOCHS, "--lambda", 1),
        *("--learning-rate", 5e-4, "--critic-learning-rate", 1e-3, "--schedule", "constant"),
        *("--anchor-every", 0, "--save-every", updates, *WAYS[way], *more),
    )


def rounded(folder: Path, work: Path) -> Path:
    """A copy of a model with the weights rounded to bfloat16, stored in float32."""
    copy = work / "rounded-start"
    if not copy.exists():
        shutil.copytree(folder, copy)
        weights = load_file(folder / WEIGHTS)
        weights = {name: weight.bfloat16().float() for name, weight in weights.items()}
        save_file(weights, copy / WEIGHTS, metadata={"format": "pt"})
    return copy


def evaluate(
    runs: Mapping[str, Path], world: Path, seed: int, output: Path
) -> dict[str, dict[str, float]]:
    """Mean reward and KL of the answers to held-out prompts, by way."""
    salsa(
        *("eval", *(f"{way}={folder}" for way, folder in runs.items())),
        *("-q", "-o", output, "--force", "--seed", seed, "--response-length", LENGTH),
        *("--prompts", world / "world" / "heldout.jsonl"),
        *("--judge", f"rm:{world / 'rm'}", "--anchors", world / "ref"),
    )
    told = json.loads((output / "results.json").read_text())
    reward = {row["model"]: row["score"] for row in told["scores"]}
    kl = {row["model"]: row["kl"] for row in told["kl"]}
    return {way: {"reward": reward[way], "kl": kl[way]} for way in runs}


def salsa(*words: Any) -> None:
    """One command, in a process of its own."""
    process = FORKS.Process(target=_command, args=([str(word) for word in words],))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"salsa {words[0]} ended with {process.exitcode}")


def _command(words: list[str]) -> None:
    sys.argv = ["salsa", *words]
    cli.main()


def summary(found: Sequence[Found], way: str) -> dict[str, Any]:
    """Mean and standard error over seeds; and of the differences from float32.

    All differences from the same runs share their chance. Those from the mean of both float32 ways
    have less of it.
    """
    told: dict[str, Any] = {}
    for name in ("reward", "kl"):
        values = [one[way][name] for one in found]
        told[name] = spread(values)
        told[f"{name} by seed"] = [round(value, 3) for value in values]
        if way != FIRST:
            first = [one[FIRST][name] for one in found]
            told[f"{name}, difference"] = difference(values, first)
        if way not in (FIRST, ROUNDED):
            both = [(one[FIRST][name] + one[ROUNDED][name]) / 2 for one in found]
            told[f"{name}, difference from both"] = difference(values, both)
    return told


def difference(values: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Of two samples in pairs: mean, standard error, and half of the 95 % interval by Student's t.

    The unpaired standard error is what it would be if the pairs had nothing in common.
    """
    count = len(values)
    average, error = spread([one - other for one, other in zip(values, others, strict=True)])
    apart = (spread(values)[1] ** 2 + spread(others)[1] ** 2) ** 0.5
    within = quantile(0.975, count - 1) * error if count > 1 else float("nan")
    return {
        "mean": average,
        "standard error": error,
        "unpaired standard error": round(apart, 4),
        "within, at 95 %": round(within, 4),
    }


def spread(values: Sequence[float]) -> list[float]:
    """Mean and standard error."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return [round(mean(values), 4), round(error, 4)]


def rounding_alone(world: Path, work: Path, updates: int) -> dict[str, float]:
    """The way of a float32 run, made again on bfloat16 weights with the steps rounded."""
    run = work / "way"
    train(FIRST, world, work, 0, updates, run, "--snapshot-every", 1)
    start, *ends = [world / "sft-a", *sorted((run / "snapshots").iterdir())]
    way = [load_file(place / WEIGHTS) for place in (start, *ends)]
    again = {name: _walked([one[name] for one in way], name) for name in way[0]}
    walked = work / "walked"
    shutil.copytree(ends[-1], walked, dirs_exist_ok=True)
    save_file(again, walked / WEIGHTS, metadata={"format": "pt"})
    output = work / "results-walked"
    salsa(
        *(
            "eval",
            f"{FIRST}={ends[-1]}",
            "-q",
            "-o",
            output,
            "--force",
            "--response-length",
            LENGTH,
        ),
        *("--prompts", world / "world" / "heldout.jsonl", "--judge", f"rm:{world / 'rm'}"),
        *("--anchors", walked),
    )
    (kl,) = json.loads((output / "results.json").read_text())["kl"]
    first, last = way[0], way[-1]
    apart = sum(float((again[name] - last[name]).square().sum()) for name in first) ** 0.5
    moved = sum(float((last[name] - first[name]).square().sum()) for name in first) ** 0.5
    return {
        "distance": round(apart / moved, 4),
        **{n: round(kl[n], 5) for n in ("kl", "low", "high")},
    }


def _walked(way: Sequence[torch.Tensor], name: str) -> torch.Tensor:
    """A weight that takes the same updates, each in `EPOCHS` equal steps."""
    weight = way[0].bfloat16().float()
    for update, (one, other) in enumerate(pairwise(way)):
        for step in range(EPOCHS):
            seed = stable_seed(0, "walk", name, update, step)
            bits = quantization.random_bits(seed, 0, weight.numel(), weight.device)
            moved = weight + (other - one) / EPOCHS
            weight = quantization.round_stochastically(moved, bits.view_as(weight)).float()
    return weight


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
    """The tables, to stderr."""
    say("| weights | held-out reward | KL | reward minus float32's | KL minus float32's |")
    for way, found in result["ways"].items():
        cells = ["{:.3f} ± {:.3f}".format(*found[name]) for name in ("reward", "kl")]
        for name in ("reward, difference", "kl, difference"):
            apart = found.get(name, {})
            cells.append("{mean:.3f} ± {standard error:.3f}".format(**apart) if apart else "")
        say(f"| {way} | {' | '.join(cells)} |")
    say("| rounding alone | distance | KL from float32 |")
    say(
        "| | {distance:.1%} | {kl:.4f} [{low:.4f}, {high:.4f}] |".format(**result["rounding alone"])
    )
    say("| small steps | weights that moved | movement of float32's |")
    for way, found in result["small steps"].items():
        share, error = found["movement"], found["standard error"]
        say(f"| {way} | {found['moved']:.1%} | {share:.3f} ± {error:.3f} |")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
