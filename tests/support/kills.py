"""Kill `salsa ppo` at random moments, resume it, and compare every bit with a run left alone.

    python -m tests.support.kills [COUNT] [SEED]

A run of 12 updates on a tiny world, with all that a run can carry along: a moving reference, an
adaptive weight, scaled rewards, several minibatches, a model that asks for dropout, held-out
prompts, snapshots and the best policy. Prints a line a kill and exits 1 if one of them left a
trace.
"""

import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support import tiny
from tests.support.commands import Command, run

UPDATES = 12


def make_world(folder: Path) -> list[str]:
    """Models and prompts; returns the command that trains on them."""
    a = tiny.save_language_model(folder / "a", seed=1, scale=0.1, attention_dropout=0.1)
    b = tiny.save_language_model(folder / "b", seed=2, scale=0.1, attention_dropout=0.1)
    reward = tiny.save_reward_model(folder / "rm")
    prompts = tiny.prompts(folder / "prompts.jsonl")
    held_out = [{"prompt": text} for text in ("cat ?", "dog dog", "sun moon tree")]
    evaluated = tiny.write_rows(folder / "eval.jsonl", held_out)
    options = f"""--reward {reward} --prompts {prompts} --updates {UPDATES} --batch-size 8
        --minibatches 2 --response-length 6 --learning-rate 1e-3 --save-every 2 --anchor-every 3
        --ref-update ema --ref-rate 0.1 --kl-target 4 --kl-horizon 64 --normalize-reward
        --snapshot-every 3 --eval-prompts {evaluated} --eval-every 1 --keep-best reward
        --device cpu -q""".split()
    return ["ppo", "--ref", f"soup({a},{b},alpha=0.5)", *options]


def trace(folder: Path) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    """All that two equal runs share: metrics without times, samples, weights of every model."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return (
        [{key: value for key, value in row.items() if key != "time"} for row in rows],
        {str(file.relative_to(folder)): file.read_bytes() for file in sorted(_kept(folder))},
    )


def _kept(folder: Path) -> Iterator[Path]:
    yield folder / "samples.jsonl"
    yield folder / "rewards.jsonl"
    yield folder / "best" / "best.json"
    yield from folder.rglob("*.safetensors")


def partial(output: Path) -> Path:
    """Where the run works until it is complete."""
    return output.with_name(output.name + ".partial")


def finished_updates(output: Path) -> int:
    """Rows that the run has written so far."""
    metrics = partial(output) / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def strike(train: list[str], output: Path, moment: float, pace: float) -> str | None:
    """Kill a run at `moment`, counted in updates; returns where it stood, None if it was faster."""
    process = Command(*train, "-o", output)
    whole = int(moment)
    while process.poll() is None and (
        not partial(output).exists() or finished_updates(output) < whole
    ):
        time.sleep(0.002)
    time.sleep((moment - whole) * pace)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        return None
    saved = sorted(file.name for file in (partial(output) / "checkpoints").glob("*"))
    return f"{finished_updates(output):2} rows, {', '.join(saved) or 'no checkpoint'}"


def finish(*command: object) -> None:
    """Run a command to its end."""
    done = run(*command)
    if done.returncode:
        sys.exit(done.stderr)


def main(count: int, seed: int) -> int:
    """Make `count` kills; returns the number of runs that differ."""
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as root:
        train = make_world(Path(root))
        alone = Path(root) / "alone"
        finish(*train, "-o", alone)
        expected, pace = trace(alone), seconds_per_update(alone)
        struck = same = 0
        while struck < count:
            output = Path(root) / "killed"
            moment = moments.uniform(0, UPDATES)
            place = strike(train, output, moment, pace)
            if place is not None:
                struck += 1
                finish(*train, "-o", output, "--resume")
                equal = trace(output) == expected
                same += equal
                verdict = "bit-identical" if equal else "DIFFERS"
                print(
                    f"kill {struck:2}  at {moment:5.2f} updates  {place:40} {verdict}", flush=True
                )
            shutil.rmtree(output)
        print(f"{same} of {count} bit-identical to the run that was never stopped")
    return count - same


def seconds_per_update(folder: Path) -> float:
    """Of a finished run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return sum(sum(row["time"].values()) for row in rows) / len(rows)


if __name__ == "__main__":
    arguments = [int(word) for word in sys.argv[1:]]
    count, seed = (arguments + [20, 1][len(arguments) :])[:2]
    sys.exit(1 if main(count, seed) else 0)
