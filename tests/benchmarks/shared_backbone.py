"""Memory and time of `salsa ppo` on one backbone, beside four models of their own: same settings.

    python -m tests.benchmarks.shared_backbone [--runs 3]
    python -m tests.benchmarks.shared_backbone --shape 7b --device cuda --ways shared --runs 1 \\
        --prompt-length 128 --response-length 128 --batch-size 64 --micro-batch-size 16

Policy, soup reference, critic and reward model are LoRA adapters of one random Llama (about 98
million parameters, or the shape of Llama 2 7B). Three ways, each in processes of its own, in turn:

- `shared`: as `salsa ppo` does it, the base once;
- `apart`: the same, but every model loads the base for itself;
- `whole`: the adapters merged, and all four whole models; policy and critic learn with all weights,
  as without LoRA.

Prints one JSON object: medians of the peaks, the times of an update, and how far metrics and
weights of `shared` and `apart` lie apart. The first update warms up and does not count for the
time. On a GPU the peaks are what PyTorch allocated there, and what it reserved. Needs the extra
'lora'.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import measure, shapes

HERE = Path(__file__).parent

WAYS = ("shared", "apart", "whole")
SHAPES: dict[str, dict[str, Any]] = {
    "98m": {
        "vocab_size": 8192,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "tie_word_embeddings": False,
    },
    **shapes.LLAMA,
}


def main() -> None:
    """Make the models, run all ways in turn, print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="98m")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prompt-length", type=int, default=4)
    parser.add_argument("--response-length", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--micro-batch-size", type=int)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--run", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--world", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        train(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(given, Path(folder)), indent=2))


def compare(given: argparse.Namespace, root: Path) -> dict[str, Any]:
    """All ways in turn, several times."""
    environment = dict(os.environ)
    if given.device == "cpu":
        environment["OMP_NUM_THREADS"] = "1"
    parameters = make_world(root, given)
    ways = given.ways.split(",")
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(given.runs):
        for way in ways:
            output = root / f"{way}-{number}"
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.shared_backbone",
                *sys.argv[1:],
                "--run",
                way,
            ]
            used = measure.run([*command, "--world", root, "--output", output], environment)
            if used.exit_code:
                raise SystemExit(used.errors)
            found[way].append({**json.loads(used.output), "peak_rss": float(used.peak_rss or 0)})
            print(f"{way}: {found[way][-1]}", file=sys.stderr, flush=True)
    result: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "parameters": parameters,
        "ways": {way: summary(runs, root / f"{way}-0") for way, runs in found.items()},
        "device": device_name(given.device),
        "machine": measure.machine(root),
        "versions": measure.versions("torch", "transformers", "peft"),
        "commit": measure.commit(HERE),
    }
    if {"shared", "apart"} <= set(ways):
        apart = difference(root / "shared-0", root / "apart-0")
        result["largest_difference_of_shared_and_apart"] = apart
    return result


def summary(runs: list[dict[str, float]], output: Path) -> dict[str, float]:
    """Medians of the runs of one way, and the size of its checkpoint."""
    gib = {
        f"{name}_gib": round(median(runs, name) / 2**30, 3)
        for name in ("peak_rss", "peak_allocated", "peak_reserved")
        if name in runs[0]
    }
    return {
        **gib,
        "seconds_per_update": round(median(runs, "update"), 2),
        "seconds_of_rollout": round(median(runs, "rollout"), 2),
        "checkpoint_mib": round(checkpoint_bytes(output) / 2**20, 1),
    }


def device_name(device: str) -> str:
    """What the figures were measured on."""
    import torch

    return "cpu, one thread" if device == "cpu" else torch.cuda.get_device_name()


def make_world(root: Path, given: argparse.Namespace) -> int:
    """A base, two SFT adapters and a reward adapter with noise in them, and all of them merged."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from salsa_cli import soup
    from salsa_cli.config.soup import SoupConfig
    from salsa_cli.runs.events import silent
    from tests.support import tiny

    settings = SHAPES[given.shape]
    words = [f"w{number}" for number in range(settings["vocab_size"] - len(tiny.SPECIAL))]
    rng = random.Random(0)
    rows = [{"prompt": " ".join(rng.choices(words, k=given.prompt_length))} for _ in range(64)]
    tiny.write_rows(root / "prompts.jsonl", rows)
    kind = torch.float32 if given.device == "cpu" else torch.bfloat16
    base = root / "base"
    torch.manual_seed(1)
    torch.set_default_dtype(kind)
    with torch.device(given.device):
        config = tiny.config(**settings, max_position_embeddings=4096)
        model = AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    parameters = sum(one.numel() for one in model.parameters())
    model.save_pretrained(base)
    tiny.tokenizer(words).save_pretrained(base)
    del model
    for seed, (name, task) in enumerate(
        {"a": "CAUSAL_LM", "b": "CAUSAL_LM", "rm": "SEQ_CLS"}.items()
    ):
        torch.manual_seed(seed)
        loader = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
        options: dict[str, Any] = {} if task == "CAUSAL_LM" else {"num_labels": 1}
        config = peft.LoraConfig(
            r=given.rank, lora_alpha=given.rank, target_modules="all-linear", task_type=task
        )
        loaded = loader.from_pretrained(base, dtype=kind, **options).to(given.device)
        model = peft.get_peft_model(loaded, config)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.01)
        model.save_pretrained(root / name)
        tiny.tokenizer(words).save_pretrained(root / name)
        if "whole" in given.ways:
            model.merge_and_unload().save_pretrained(root / f"{name}-whole")
            tiny.tokenizer(words).save_pretrained(root / f"{name}-whole")
        del loaded, model
    pair = (str(root / "a"), str(root / "b"))
    soup.run(SoupConfig(models=pair, output=root / "ref"), silent)
    if "whole" in given.ways:
        whole = SoupConfig(models=pair, output=root / "ref-whole", merge_into=str(base))
        soup.run(whole, silent)
    if given.device == "cuda":
        torch.cuda.empty_cache()
    return parameters


def train(given: argparse.Namespace) -> None:
    """One run of one way; prints what it took."""
    import torch

    from salsa_cli import ppo
    from salsa_cli.config.ppo import PPOConfig
    from salsa_cli.models import backbones
    from salsa_cli.models.backbones import Backbones
    from salsa_cli.runs.events import silent

    if given.run == "apart":
        for name in ("load", "borrow"):
            setattr(Backbones, name, staticmethod(backbones.unshared))
    root, ending = given.world, "-whole" if given.run == "whole" else ""
    config = PPOConfig(
        ref=(str(root / f"ref{ending}"),),
        reward=(str(root / f"rm{ending}"),),
        policy=str(root / f"a{ending}"),
        prompts=str(root / "prompts.jsonl"),
        output=given.output,
        updates=given.updates,
        batch_size=given.batch_size,
        micro_batch_size=given.micro_batch_size,
        response_length=given.response_length,
        epochs=1,
        learning_rate=1e-4,
        anchor_every=0,
        device=given.device,
    )
    ppo.run(config, silent)
    times = [row["time"] for row in rows_of(given.output)][1:]
    taken = {
        "update": statistics.median(sum(time.values()) for time in times),
        "rollout": statistics.median(time["rollout"] for time in times),
    }
    if given.device == "cuda":
        taken["peak_allocated"] = float(torch.cuda.max_memory_allocated())
        taken["peak_reserved"] = float(torch.cuda.max_memory_reserved())
    print(json.dumps(taken))


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
