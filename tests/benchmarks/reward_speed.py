"""Speed and memory of `salsa train-rm` beside TRL's RewardTrainer: one epoch, interleaved runs.

    python tests/benchmarks/reward_speed.py MODEL PAIRS.jsonl --peer "PYTHON trl_rm.py" [--runs 3]

The peer is a command that takes --model, --prefs, --eval-prefs, --out, --batch, --steps, --lr,
--max-length, --threads and --cpu, and prints one JSON object a line: {"step", "sec"} for each step
and {"versions", "kept_train"} first. PAIRS has preference pairs, or stories as {"prompt",
"completion"}, which become pairs of ragged length.

Both train on the very same pairs, in steps of the same number of pairs, in float32 on one thread.
The first step, which warms up, counts for neither. Prints one JSON object.
"""

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from salsa_cli.data import Source, read
from salsa_cli.models import loading
from salsa_cli.records import read_rows
from salsa_cli.reward_models import pairs, preferences

RATE = "1e-4"


@dataclass(frozen=True)
class Run:
    """One run of one side: pairs per second over its steps, and its largest resident memory."""

    pairs_per_second: float
    peak_gib: float


def ragged(source: Source) -> Source:
    """Stories as pairs of ragged length: one to twelve sentences of the right continuation of each
    beginning, and as many of the next story's.
    """
    if "completion" not in source.rows[0]:
        return source
    # Neighbours differ in length, as they do in any data that nobody has sorted.
    following = [*source.rows[1:], source.rows[0]]
    rows = [
        {
            "prompt": row["prompt"],
            "chosen": sentences(row["completion"], 1 + place % 12),
            "rejected": sentences(other["completion"], 1 + place % 12),
        }
        for place, (row, other) in enumerate(zip(source.rows, following, strict=True))
    ]
    return Source(source.name, rows)


def sentences(text: str, count: int) -> str:
    """The first `count` sentences."""
    return "".join(re.findall(r".*?(?:[.!?]+[\"']?|$)", text, re.DOTALL)[:count])


def prepare(
    model: Path, source: Path, folder: Path, length: int, batch: int, limit: int
) -> tuple[Path, Path]:
    """The pairs that both sides keep, a multiple of the batch, and a few for evaluation."""
    given = preferences.preferences(ragged(read(str(source))))
    kept = pairs.encode(loading.load_tokenizer(model), given, length, "drop").kept
    rows = [given[pair.row - 1] for pair in kept][: limit + 8]
    texts = [
        json.dumps({"prompt": p.prompt, "chosen": p.chosen.text, "rejected": p.rejected.text})
        for p in rows
    ]
    few, count = 8, (len(texts) - 8) // batch * batch
    training, held_out = folder / "training.jsonl", folder / "held-out.jsonl"
    training.write_text("\n".join(texts[few : few + count]) + "\n", encoding="utf-8")
    held_out.write_text("\n".join(texts[:few]) + "\n", encoding="utf-8")
    return training, held_out


def measure(command: list[str], threads: int) -> tuple[str, float]:
    """What a command prints, and its largest resident memory in GiB."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{shlex.join(command)} failed:\n{errors.read()[-3000:]}")
        return out.read(), usage.ru_maxrss / 2**20


def ours(args: argparse.Namespace, training: Path, held_out: Path, out: Path) -> Run:
    """One epoch of `salsa train-rm`."""
    command = [sys.executable, "-m", "salsa_cli", "train-rm", str(args.model)]
    command += ["--data", str(training), "--eval-data", str(held_out), "-o", str(out), "-q"]
    command += ["--batch-size", str(args.batch), "--learning-rate", RATE, "--device", "cpu"]
    _, peak = measure([*command, "--max-length", str(args.max_length)], args.threads)
    seconds = [row["time"]["step"] for row in read_rows(out / "metrics.jsonl")]
    return Run(args.batch * (len(seconds) - 1) / sum(seconds[1:]), peak)


def theirs(
    args: argparse.Namespace, training: Path, held_out: Path, out: Path
) -> tuple[Run, dict[str, Any]]:
    """As many steps of the peer."""
    count = len(training.read_text(encoding="utf-8").split("\n")) - 1
    command = [*shlex.split(args.peer), "--model", str(args.model), "--prefs", str(training)]
    command += ["--eval-prefs", str(held_out), "--out", str(out), "--batch", str(args.batch)]
    command += ["--steps", str(count // args.batch), "--lr", RATE, "--cpu"]
    command += ["--max-length", str(args.max_length), "--threads", str(args.threads)]
    printed, peak = measure(command, args.threads)
    rows = [json.loads(line) for line in printed.split("\n") if line.startswith('{"')]
    if rows[0]["kept_train"] != count:
        raise SystemExit(f"the peer kept {rows[0]['kept_train']} of {count} pairs")
    seconds = [row["sec"] for row in rows if "sec" in row]
    return Run(args.batch * (len(seconds) - 1) / sum(seconds[1:]), peak), rows[0]["versions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--peer", required=True, help="command of the peer")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--limit", type=int, default=320, help="pairs to train on at most")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    found: dict[str, list[Run]] = {"salsa": [], "peer": []}
    versions: dict[str, Any] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        training, held_out = prepare(
            args.model, args.pairs, folder, args.max_length, args.batch, args.limit
        )
        for run in range(args.runs):
            found["salsa"].append(ours(args, training, held_out, folder / f"ours-{run}"))
            theirs_run, versions = theirs(args, training, held_out, folder / f"theirs-{run}")
            found["peer"].append(theirs_run)
        count = len(training.read_text(encoding="utf-8").split("\n")) - 1
    medians = {
        name: Run(
            statistics.median(run.pairs_per_second for run in runs),
            statistics.median(run.peak_gib for run in runs),
        )
        for name, runs in found.items()
    }
    salsa, peer = medians["salsa"], medians["peer"]
    result = {
        "pairs": count,
        "batch": args.batch,
        "medians": {name: asdict(run) for name, run in medians.items()},
        "speed": salsa.pairs_per_second / peer.pairs_per_second,
        "memory": salsa.peak_gib / peer.peak_gib,
        "runs": {name: [asdict(run) for run in runs] for name, runs in found.items()},
        "peer_versions": versions,
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
        },
        "seconds": time.monotonic() - began,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
