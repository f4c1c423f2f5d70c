"""What `salsa ppo --dry-run` says of memory, beside what runs take: random models, two updates.

    python -m tests.benchmarks.memory_plan > result.json
    python -m tests.benchmarks.memory_plan --setting 10M,10M-twice

The estimate is the peak of the dry run. The measurement is the peak of resident memory of the run
less that of a run of a model of a few thousand weights, which is what Python, PyTorch and
Transformers take. It includes the files of frozen models: on a CPU, weights that are stored in
float32 are not copied, but mapped. The second update has the optimiser's moments, which the first
one makes.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.benchmarks import measure
from tests.support import tiny

THREADS = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Setting:
    """Shape of the models, lengths in tokens, answers in a batch and in a pass, held-out prompts,
    further options."""

    layers: int
    hidden: int
    inner: int
    vocabulary: int = 8000
    prompt: int = 32
    answer: int = 64
    batch: int = 8
    micro: int = 8
    held_out: int = 0
    options: tuple[str, ...] = ()


SMALL = Setting(layers=6, hidden=256, inner=688)
MIDDLE = Setting(layers=8, hidden=512, inner=1376)
LARGE = Setting(layers=12, hidden=768, inner=2048)
SHORT = replace(LARGE, prompt=16, answer=16, batch=4, micro=4)

SETTINGS = {
    "10M": SMALL,
    "10M-long": replace(SMALL, prompt=128, answer=256),
    "10M-batch": replace(SMALL, batch=64, micro=64),
    "10M-vocabulary": replace(SMALL, vocabulary=64_000, batch=16, micro=16),
    "10M-rollout": replace(SMALL, vocabulary=64_000, batch=256, micro=1, answer=16),
    "10M-twice": replace(SMALL, batch=64, micro=64, options=("--gradient-checkpointing",)),
    "30M": MIDDLE,
    "30M-pieces": replace(MIDDLE, batch=16, micro=4),
    "30M-anchors": replace(MIDDLE, options=("--anchor-every", "1")),
    "30M-narrow": replace(
        MIDDLE,
        options=("--weights", "bfloat16", "--optimiser", "adamw-8bit", "--gradient-checkpointing"),
    ),
    "30M-8bit": replace(MIDDLE, batch=16, micro=4, options=("--optimiser", "adamw-8bit")),
    "100M": LARGE,
    "100M-pieces": replace(LARGE, micro=2),
    "100M-twice": replace(LARGE, options=("--gradient-checkpointing",)),
    "100M-short": SHORT,
    "100M-8bit": replace(SHORT, options=("--optimiser", "adamw-8bit")),
    "100M-narrow": replace(SHORT, options=("--weights", "bfloat16", "--optimiser", "adamw-8bit")),
    "100M-rloo": replace(SHORT, options=("--advantage", "rloo", "--samples-per-prompt", "4")),
    "100M-lora": replace(SHORT, options=("--lora-rank", "16", "--critic", "policy")),
    "100M-eval": replace(SHORT, held_out=4, options=("--eval-every", "1")),
}
BASE = Setting(layers=2, hidden=16, inner=32, prompt=4, answer=4, batch=2, micro=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", default=",".join(SETTINGS), help="which, with commas")
    chosen = parser.parse_args().setting.split(",")
    with tempfile.TemporaryDirectory() as folder:
        base = run(Path(folder) / "base", BASE).peak_rss
        assert base is not None, "memory is measured on Linux alone"
        rows = [compare(Path(folder) / name, name, SETTINGS[name], base) for name in chosen]
        result = {
            "machine": measure.machine(Path(folder)),
            "versions": measure.versions("torch", "transformers"),
            "commit": measure.commit(Path(__file__).parent),
            "base_bytes": base,
            "settings": rows,
        }
    print(json.dumps(result, indent=1))


def compare(folder: Path, name: str, setting: Setting, base: int) -> dict[str, Any]:
    """One setting: the plan, the run, and a line for whoever waits."""
    taken = run(folder, setting)
    planned = json.loads(salsa(folder, setting, "dry", "--dry-run", "--json").output)["memory"]
    measured = (taken.peak_rss or 0) - base
    ratio = planned["peak"] / measured
    print(
        f"{name:16} planned {planned['peak'] / 1e6:8.0f} MB ({planned['peak_in']})"
        f"   measured {measured / 1e6:8.0f} MB   ratio {ratio:.2f}",
        file=sys.stderr,
    )
    return {
        "name": name,
        **asdict(setting),
        "planned_bytes": planned["peak"],
        "peak_in": planned["peak_in"],
        "phases": {phase: held["total"] for phase, held in planned["phases"].items()},
        "measured_bytes": measured,
        "measured_anonymous_bytes": taken.peak_anonymous,
        "ratio": round(ratio, 3),
        "seconds": round(taken.seconds, 1),
    }


def run(folder: Path, setting: Setting) -> measure.Usage:
    """Make the models, and train for two updates."""
    shape = {
        "num_hidden_layers": setting.layers,
        "hidden_size": setting.hidden,
        "intermediate_size": setting.inner,
        "num_attention_heads": max(1, setting.hidden // 64),
        "num_key_value_heads": max(1, setting.hidden // 64),
        "vocab_size": setting.vocabulary,
        "max_position_embeddings": setting.prompt + setting.answer,
    }
    words = [f"w{n}" for n in range(setting.vocabulary - len(tiny.SPECIAL))]
    for model in (
        tiny.save_language_model(folder / "policy", seed=1, **shape),
        tiny.save_reward_model(folder / "rm", **shape),
    ):
        tiny.tokenizer(words).save_pretrained(model)
    tiny.write_rows(
        folder / "prompts.jsonl",
        [{"prompt": " ".join(words[n : n + setting.prompt])} for n in range(setting.batch)],
    )
    if setting.held_out:
        rows = [words[-n - setting.prompt : -n] for n in range(1, setting.held_out + 1)]
        tiny.write_rows(folder / "held-out.jsonl", [{"prompt": " ".join(row)} for row in rows])
    return salsa(folder, setting, "out")


def salsa(folder: Path, setting: Setting, output: str, *more: str) -> measure.Usage:
    """`salsa ppo` in the folder."""
    options: dict[str, object] = {
        "--ref": folder / "policy",
        "--reward": folder / "rm",
        "--prompts": folder / "prompts.jsonl",
        "-o": folder / output,
        "--updates": 2,
        "--batch-size": setting.batch,
        "--micro-batch-size": setting.micro,
        "--response-length": setting.answer,
        "--epochs": 1,
        "--anchor-every": 0,
        "--save-every": 2,
        "--device": "cpu",
    }
    if setting.held_out:
        options["--eval-prompts"] = folder / "held-out.jsonl"
    flat = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "salsa_cli", "ppo", *flat, *setting.options, *more]
    done = measure.run(command, {**os.environ, **THREADS})
    if done.exit_code:
        raise SystemExit(done.errors)
    return done


if __name__ == "__main__":
    main()
