"""Memory and time of `salsa ppo` on one backbone, beside four models of their own: same settings.

    python tests/benchmarks/shared_backbone.py [--hidden 768] [--layers 12] [--runs 3]

Policy, soup reference, critic and reward model are LoRA adapters of one random Llama (about 98
million parameters by default). Three ways, each in processes of its own, in turn:

- `shared`: as `salsa ppo` does it, the base once;
- `apart`: the same, but every model loads the base for itself;
- `whole`: the adapters merged, and all four whole models; policy and critic learn with all weights,
  as without LoRA.

Prints one JSON object: medians of the peaks, the times of an update, and how far metrics and
weights of `shared` and `apart` lie apart. The first update warms up and does not count for the
time. Needs the extra 'lora'.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

WAYS = ("shared", "apart", "whole")


def main() -> None:
    """Make the models, run all ways in turn, print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--run", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--world", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        train(given.run, given.world, given.output, given.updates)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(given, Path(folder)), indent=2))


def compare(given: argparse.Namespace, root: Path) -> dict[str, Any]:
    """All ways in turn, several times."""
    import measure

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    parameters = make_world(root, given)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(given.runs):
        for way in WAYS:
            output = root / f"{way}-{number}"
            command = [sys.executable, __file__, "--run", way, "--world", str(root)]
            command += ["--output", str(output), "--updates", str(given.updates)]
            used = measure.run(command, environment)
            if used.exit_code:
                raise SystemExit(used.errors)
            steps = [sum(row["time"].values()) for row in rows_of(output)][1:]
            found[way].append(
                {"peak_rss": float(used.peak_rss or 0), "update": statistics.median(steps)}
            )
    checkpoint = {way: checkpoint_bytes(root / f"{way}-0") for way in WAYS}
    return {
        "command": " ".join(sys.argv),
        "parameters": parameters,
        "rank": given.rank,
        "runs": given.runs,
        "ways": {
            way: {
                "peak_rss_gib": round(median(runs, "peak_rss") / 2**30, 3),
                "seconds_per_update": round(median(runs, "update"), 2),
                "checkpoint_mib": round(checkpoint[way] / 2**20, 1),
            }
            for way, runs in found.items()
        },
        "largest_difference_of_shared_and_apart": difference(root / "shared-0", root / "apart-0"),
        "threads": 1,
        "machine": measure.machine(root),
        "versions": measure.versions("torch", "transformers", "peft"),
        "commit": measure.commit(HERE),
    }


def make_world(root: Path, given: argparse.Namespace) -> int:
    """A base, two SFT adapters and a reward adapter with noise in them, and all of them merged."""
    import peft
    import tiny
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from salsa_cli import soup
    from salsa_cli.configs import SoupConfig
    from salsa_cli.reports import silent

    base = tiny.save_language_model(
        root / "base",
        seed=1,
        hidden_size=given.hidden,
        intermediate_size=given.hidden * 8 // 3,
        num_hidden_layers=given.layers,
        num_attention_heads=12,
        num_key_value_heads=12,
        vocab_size=8192,
    )
    tiny.prompts(root / "prompts.jsonl")
    for seed, (name, task) in enumerate(
        {"a": "CAUSAL_LM", "b": "CAUSAL_LM", "rm": "SEQ_CLS"}.items()
    ):
        torch.manual_seed(seed)
        loader = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
        options = {} if task == "CAUSAL_LM" else {"num_labels": 1}
        config = peft.LoraConfig(
            r=given.rank, lora_alpha=given.rank, target_modules="all-linear", task_type=task
        )
        model = peft.get_peft_model(loader.from_pretrained(base, **options), config)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.01)
        model.save_pretrained(root / name)
        merged = model.merge_and_unload()
        merged.save_pretrained(root / f"{name}-whole")
        for folder in (root / name, root / f"{name}-whole"):
            tiny.tokenizer().save_pretrained(folder)
    pair = (str(root / "a"), str(root / "b"))
    soup.run(SoupConfig(models=pair, output=root / "ref"), silent)
    whole = SoupConfig(models=pair, output=root / "ref-whole", merge_into=str(base))
    soup.run(whole, silent)
    return int(sum(one.numel() for one in AutoModelForCausalLM.from_pretrained(base).parameters()))


def train(way: str, root: Path, output: Path, updates: int) -> None:
    """One run of one way."""
    from salsa_cli import backbones, ppo
    from salsa_cli.backbones import Backbones
    from salsa_cli.reports import silent
    from salsa_cli.rl.ppo_config import PPOConfig

    if way == "apart":
        for name in ("hold", "lend"):
            setattr(Backbones, name, staticmethod(backbones.alone))
    ending = "-whole" if way == "whole" else ""
    config = PPOConfig(
        ref=(str(root / f"ref{ending}"),),
        reward=(str(root / f"rm{ending}"),),
        policy=str(root / f"a{ending}"),
        prompts=str(root / "prompts.jsonl"),
        output=output,
        updates=updates,
        batch_size=4,
        response_length=16,
        epochs=1,
        learning_rate=1e-4,
        anchor_every=0,
        device="cpu",
    )
    ppo.run(config, silent)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def checkpoint_bytes(folder: Path) -> int:
    """Bytes of the newest checkpoint of a run."""
    return max((folder / "checkpoints").glob("*.pt")).stat().st_size


def difference(first: Path, other: Path) -> dict[str, float]:
    """The largest absolute differences between two runs, of metrics and of weights."""
    from safetensors.torch import load_file

    metrics = [
        abs(ours[name] - theirs[name])
        for ours, theirs in zip(rows_of(first), rows_of(other), strict=True)
        for name in ours
        if isinstance(ours[name], float)
    ]
    name = "adapter_model.safetensors"
    weights, others = load_file(first / name), load_file(other / name)
    return {
        "metrics": max(metrics),
        "weights": max(float((weights[key] - others[key]).abs().max()) for key in weights),
    }


def median(runs: list[dict[str, float]], name: str) -> float:
    """The median of one figure over runs."""
    return statistics.median(one[name] for one in runs)


if __name__ == "__main__":
    main()
