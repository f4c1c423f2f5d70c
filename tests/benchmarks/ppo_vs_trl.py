"""`salsa ppo` beside the PPO of TRL 1.12.0: tokens a second, memory, and what both learn.

    python -m tests.benchmarks.ppo_vs_trl --base stories260k-llama/ > result.json
    python -m tests.benchmarks.ppo_vs_trl --peer-python trl/bin/python --cases 260k --seeds 1
    python -m tests.benchmarks.ppo_vs_trl --cases 1b                                   # on a GPU

Makes two small worlds (`ppo_worlds.py`) and, where no Python with TRL is named, an environment for
it. Runs both tools on each world with the same models, prompts, lengths and settings, in turn, once
a seed, and prints one JSON object:

- answer tokens a second, end to end: real tokens of an update's answers (the end token included)
  by the time from the end of one update to the end of the next, the median over all updates but the
  first of each run. TRL's calls of gc.collect are timed apart and taken out of its time;
- peak memory of a whole run, from /proc (`measure.py`);
- reward and KL to the reference by update, mean over seeds, and how many standard errors of their
  difference lie between the tools.

Case `4m-cut` is `4m` with answers of at most 16 tokens, of which few end before: there TRL computes
no padding that salsa would save.

Case `1b` needs a GPU: random weights in the shape of Llama 3.2 1B, prompts and answers of 128
tokens, none of which ends; both tools hold what learns in float32 and multiply in bfloat16, and
memory is the device's. Its `trl-bf16` is TRL with all weights and moments in bfloat16, which is
less to compute and to hold, and loses small steps.

Where the two differ by design: TRL places the score one token after the end token, and trains the
critic on that token too; it takes the old log-probabilities from generation, not from a pass like
those of training, so that the first ratio is 1 up to rounding only; it has one optimiser for the
sum of the policy's loss and 0.1 times the critic's; it steps without clipping gradients, whatever
it is told.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from tests.benchmarks import measure

HERE = Path(__file__).parent
PEER = HERE / "peer_trl_ppo.py"
REQUIREMENTS = ("trl==1.12.0",)
BATCH, KL_COEF = 64, 0.05


@dataclass(frozen=True)
class Case:
    """A world and the lengths of its runs; `pass_size` answers go through a model at once."""

    shape: str
    response_length: int
    learning_rate: float
    updates: int
    device: str = "cpu"
    pass_size: int = BATCH

    @property
    def tools(self) -> tuple[str, ...]:
        """Who runs, in turn."""
        return ("salsa", "trl") if self.device == "cpu" else ("salsa", "trl", "trl-bf16")


CASES = {
    "260k": Case("260k", 48, 3e-4, 16),
    "4m": Case("4m", 48, 1e-4, 8),
    "4m-cut": Case("4m", 16, 1e-4, 5),
    "1b": Case("1b", 128, 1e-6, 4, device="cuda", pass_size=32),
}


@dataclass(frozen=True)
class Run:
    """One run of one tool.

    Attributes:
        rows: what the tool says of each update.
        seconds: from the end of one update to the end of the next, without gc.collect.
        device_memory: the most that was in use on the GPU.
    """

    rows: list[dict[str, float]]
    seconds: list[float]
    usage: measure.Usage
    device_memory: int

    @property
    def speeds(self) -> list[float]:
        """Answer tokens a second of each update but the first."""
        tokens = [row["tokens"] for row in self.rows[1:]]
        return [n / spent for n, spent in zip(tokens, self.seconds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="stories260k; random weights by default")
    parser.add_argument("--peer-python", help="a Python with trl==1.12.0; made by default")
    on_cpu = [name for name, case in CASES.items() if case.device == "cpu"]
    parser.add_argument("--cases", default=",".join(on_cpu))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--updates", type=int, help="of each run, in place of the case's own")
    parser.add_argument("--threads", type=int, help="of both tools; the machine's by default")
    parser.add_argument("--options", default="", help="further options of salsa ppo")
    parser.add_argument("--worlds", type=Path, help="keep the worlds there, or find them there")
    given = parser.parse_args()
    if given.threads:
        os.environ["OMP_NUM_THREADS"] = str(given.threads)
    with tempfile.TemporaryDirectory() as root:
        python = given.peer_python or environment(Path(root) / "trl")
        result: dict[str, Any] = {
            "machine": measure.machine(Path(root)),
            "threads": os.environ.get("OMP_NUM_THREADS", "the machine's"),
            "salsa": measure.commit(HERE),
            "options of salsa": given.options,
            "versions of salsa": measure.versions("torch", "transformers"),
            "versions of the peer": measure.versions(
                "trl", "torch", "transformers", python=Path(python)
            ),
        }
        for name in given.cases.split(","):
            case = CASES[name]
            world = (given.worlds or Path(root)) / case.shape
            if not world.exists():
                say(f"making the world {case.shape}")
                make_world(world, case, given.base)
            updates = given.updates or case.updates
            runs: dict[str, list[Run]] = {tool: [] for tool in case.tools}
            for seed in range(given.seeds):
                for tool, done in runs.items():
                    output = Path(root) / f"{name}-{tool}-{seed}"
                    command = commands(case, world, seed, updates, output, python)[tool]
                    if tool == "salsa":
                        command += given.options.split()
                    done.append(run(tool, command, output))
                    speed = median(done[-1].speeds)
                    say(f"{name}, seed {seed}: {tool} {speed:.0f} answer tokens a second")
            result[name] = summary(runs)
    print(json.dumps(result, indent=1))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_world(world: Path, case: Case, base: Path | None) -> None:
    """The models and prompts of a case, made in a process that gives its device's memory back."""
    command = [sys.executable, "-m", "tests.benchmarks.ppo_worlds", world, "--shape", case.shape]
    command += ["--device", case.device]
    if base is not None and case.shape == "260k":
        command += ["--base", base]
    subprocess.run([str(word) for word in command], check=True, stdout=sys.stderr)


def environment(folder: Path) -> str:
    """A new environment with TRL; returns its Python."""
    say("making an environment for TRL")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    wanted = [*REQUIREMENTS, f"torch=={measure.version('torch')}".split("+")[0]]
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True, stdout=sys.stderr)
    return str(python)


def commands(
    case: Case, world: Path, seed: int, updates: int, output: Path, python: str
) -> Mapping[str, list[str]]:
    """The same settings for both."""
    shared = [
        *("--policy", world / "a", "--ref", world / "ref", "--reward", world / "rm"),
        *("--prompts", world / "prompts.jsonl", "--updates", updates, "--seed", seed),
        *("--batch-size", BATCH, "--response-length", case.response_length),
        *("--learning-rate", case.learning_rate, "--kl-coef", KL_COEF),
        *("--device", case.device, "--micro-batch-size", case.pass_size),
    ]
    salsa = [
        *(sys.executable, "-m", "salsa_cli", "ppo", *shared, "-o", output, "-q"),
        *("--lambda", 1, "--schedule", "constant", "--anchor-every", 0),
        *("--save-every", updates, "--max-grad-norm", 1e9),
    ]
    peer = [python, PEER, *shared, "--output", output]
    narrow = [*peer, "--dtype", "bfloat16"]
    tools = {"salsa": salsa, "trl": peer, "trl-bf16": narrow}
    return {tool: [str(word) for word in command] for tool, command in tools.items()}


def run(tool: str, command: list[str], output: Path, *, keep: bool = False) -> Run:
    """Run a tool and note when each update ended, by the arrival of its line."""
    log = output.with_suffix(".lines")
    place = output.with_name(output.name + ".partial") / "metrics.jsonl"
    if tool != "salsa":
        command = ["sh", "-c", 'log=$1; shift; exec "$@" > "$log"', "sh", str(log), *command]
        place = log
    arrivals, device = Arrivals(place), measure.DeviceWatch()
    usage = measure.run(command)
    arrivals.stop()
    device.stop()
    if usage.exit_code:
        sys.exit(f"{tool} failed:\n{usage.errors[-2000:]}")
    lines = (output / "metrics.jsonl" if tool == "salsa" else log).read_text().splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    if not keep:
        shutil.rmtree(output, ignore_errors=True)  # a checkpoint of 1b has 30 GB
    times = arrivals.times[: len(rows)]
    spent = [
        later - earlier - row.get("collecting", 0.0)
        for earlier, later, row in zip(times, times[1:], rows[1:], strict=False)
    ]
    return Run(rows, spent, usage, device.peak)


class Arrivals:
    """When each line with a JSON object came into a file, looked at every 20 ms on a thread."""

    def __init__(self, path: Path) -> None:
        self.times: list[float] = []
        self._path = path
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.02):
            try:
                text = self._path.read_text()
            except OSError:  # not there yet, or moved to its final place
                continue
            count = sum(line.startswith("{") for line in text.splitlines(keepends=True))
            self.times += [time.perf_counter()] * (count - len(self.times))


def summary(runs: Mapping[str, list[Run]]) -> dict[str, Any]:
    """What the runs of a case came to."""
    told: dict[str, Any] = {}
    for tool, done in runs.items():
        rows = [row for one in done for row in one.rows[1:]]
        told[tool] = {
            "answer tokens a second": round(median(s for one in done for s in one.speeds)),
            "of each run": [round(median(one.speeds)) for one in done],
            "seconds an update": round(median(s for one in done for s in one.seconds), 3),
            "answer tokens an update": round(mean(row["tokens"] for row in rows)),
            "seconds of rollout": round(median(map(rollout_of, rows)), 3),
            "peak memory": max(one.usage.peak_rss or 0 for one in done),
            "peak anonymous memory": max(one.usage.peak_anonymous or 0 for one in done),
            "peak device memory": max(one.device_memory for one in done),
            "seconds of a run": [round(one.usage.seconds, 1) for one in done],
        }
    for tool in set(runs) - {"salsa"}:
        told[tool]["seconds of gc.collect an update"] = round(
            median(row["collecting"] for one in runs[tool] for row in one.rows), 3
        )
        memory = "peak device memory" if told[tool]["peak device memory"] else "peak memory"
        for name, key in (("tokens a second", "answer tokens a second"), ("memory", memory)):
            ratio = round(told["salsa"][key] / told[tool][key], 3)
            told[f"{name}, salsa to {tool}"] = ratio
    told["curves"] = {name: curves(runs, name) for name in ("reward", "kl")}
    return told


def rollout_of(row: Mapping[str, Any]) -> float:
    """Seconds of generation of an update."""
    return float(row["rollout"] if "rollout" in row else row["time"]["rollout"])


def curves(runs: Mapping[str, list[Run]], name: str) -> dict[str, Any]:
    """A figure by update, mean over seeds, and the difference of the tools over all updates.

    The standard error is over updates, of the means over seeds: neighbouring updates share their
    policy but not their prompts and draws.
    """
    updates = min(len(one.rows) for done in runs.values() for one in done)
    means = {
        tool: [mean(one.rows[update][name] for one in done) for update in range(updates)]
        for tool, done in runs.items()
    }
    gaps = [ours - theirs for ours, theirs in zip(means["salsa"], means["trl"], strict=True)]
    error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
    return {
        **{tool: [round(value, 3) for value in values] for tool, values in means.items()},
        "mean difference": round(mean(gaps), 4),
        "its standard error": round(error, 4),
        "in standard errors": round(mean(gaps) / error, 2) if error else None,
    }


if __name__ == "__main__":
    main()
