"""With and without a critic on the quickstart's world; and TRL's RLOO and GRPO on the same.

    bash examples/quickstart.sh quickstart
    python -m tests.benchmarks.advantages quickstart > result.json
    python -m tests.benchmarks.advantages quickstart --ways gae,rloo --seeds 4 --peer-python PYTHON

Runs each way once a seed, in turn, with the quickstart's settings, and prints one JSON object. Of
each way, over the seeds: seconds of a run, answer tokens a second (median over the updates but the
first of each run), peak memory of the process, the mean reward by update, the KL to the reference,
and the gold reward of held-out answers with the standard error over seeds (`salsa eval` with
examples/gold.py).

`trl-rloo` and `trl-grpo` are the trainers of TRL 1.16 (`peer_trl_rloo.py`), run where
`--peer-python` names a Python that has it. They know no reference but the start, so they are held
near sft-a; salsa is held near the soup, and its plain run (`rloo-plain`) near sft-a, too. The same
answers per prompt, answers per update, passes over them, length, rate and temperature; TRL computes
the penalty in the loss for GRPO, in the reward for RLOO. It scores texts without their end token,
so that its rewards are not those of salsa; the gold of the held-out answers is the same for all.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from tests.benchmarks import measure
from tests.benchmarks.ppo_vs_trl import Run, run, say

HERE = Path(__file__).parent
PEER = HERE / "peer_trl_rloo.py"
GOLD = HERE.parents[1] / "examples" / "gold.py"
BATCH, SAMPLES, EPOCHS, LENGTH, RATE, KL_COEF = 64, 4, 4, 64, 5e-4, 0.05

WAYS: dict[str, list[str]] = {
    "gae": ["--lambda", "1", "--critic-learning-rate", "1e-3"],
    "rloo": ["--advantage", "rloo"],
    "group": ["--advantage", "group"],
    "grpo": ["--advantage", "grpo"],
    "rloo-plain": ["--advantage", "rloo"],
}
PEERS = ("trl-rloo", "trl-grpo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", type=Path, help="folder that examples/quickstart.sh wrote")
    parser.add_argument("--ways", default="gae,rloo,rloo-plain")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--peer-python", help="a Python with trl==1.16.0; without it, no TRL")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ways = [*given.ways.split(","), *(PEERS if given.peer_python else ())]
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    golds: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as root:
        machine = measure.machine(Path(root))
        for seed in range(given.seeds):
            for way in ways:
                output = Path(root) / f"{way}-{seed}"
                command = command_of(way, given.world, seed, given.updates, output, given)
                done = run("salsa" if way in WAYS else way, command, output, keep=True)
                runs[way].append(done)
                golds[way].append(gold_of(output, given.world, Path(root) / "eval"))
                shutil.rmtree(output)
                say(f"seed {seed}: {way} {median(done.speeds):.0f} answer tokens a second")
    result = {
        "machine": machine,
        "threads": os.environ["OMP_NUM_THREADS"],
        "salsa": measure.commit(HERE),
        "seeds": given.seeds,
        "updates": given.updates,
        "versions": measure.versions("torch", "transformers"),
        **{way: summary(runs[way], golds[way]) for way in ways},
    }
    print(json.dumps(result, indent=1))


def command_of(
    way: str, world: Path, seed: int, updates: int, output: Path, given: argparse.Namespace
) -> list[str]:
    """The same settings for all."""
    near = world / ("sft-a" if way == "rloo-plain" or way in PEERS else "ref")
    shared = [
        *("--policy", world / "sft-a", "--ref", near, "--reward", world / "rm"),
        *("--prompts", world / "world" / "prompts.jsonl", "--updates", updates, "--seed", seed),
        *("--batch-size", BATCH, "--response-length", LENGTH, "--learning-rate", RATE),
        *("--kl-coef", KL_COEF, "--epochs", EPOCHS, "--device", "cpu"),
    ]
    if way in PEERS:
        command = [given.peer_python, PEER, *shared, "--samples-per-prompt", SAMPLES]
        command += ["--algorithm", way.removeprefix("trl-"), "--output", output]
    else:
        command = [sys.executable, "-m", "salsa_cli", "ppo", *shared, "-o", output, "-q"]
        command += ["--schedule", "constant", "--anchor-every", 0, "--save-every", updates]
        command += WAYS[way]
        if way != "gae":
            command += ["--samples-per-prompt", SAMPLES]
    return [str(word) for word in command]


def gold_of(policy: Path, world: Path, output: Path) -> float:
    """Mean gold reward of answers to prompts that no run has seen."""
    command = [sys.executable, "-m", "salsa_cli", "eval", policy, "--force", "--json"]
    command += ["--prompts", world / "world" / "heldout.jsonl", "-o", output]
    command += ["--judge", f"python:{GOLD}:score", "--response-length", LENGTH]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["scores"][0]["score"])


def summary(done: Sequence[Run], golds: Sequence[float]) -> dict[str, Any]:
    """What the runs of a way came to."""
    updates = min(len(one.rows) for one in done)
    return {
        "answer tokens a second": round(median(s for one in done for s in one.speeds)),
        "seconds of a run": [round(one.usage.seconds, 1) for one in done],
        "peak memory": max(one.usage.peak_rss or 0 for one in done),
        "peak anonymous memory": max(one.usage.peak_anonymous or 0 for one in done),
        "reward": [round(mean(one.rows[i]["reward"] for one in done), 3) for i in range(updates)],
        "kl of the last update": round(mean(one.rows[-1]["kl"] for one in done), 3),
        "gold": [round(value, 3) for value in golds],
        "gold, mean and standard error": [round(mean(golds), 3), error(golds)],
    }


def error(values: Sequence[float]) -> float | None:
    return round(stdev(values) / len(values) ** 0.5, 3) if len(values) > 1 else None


if __name__ == "__main__":
    main()
