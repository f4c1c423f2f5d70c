"""Two processes train in every way that saves memory; `tests/end_to_end/test_parallel_memory.py`.

RANK=0 WORLD_SIZE=2 ... python -m tests.support.parallel_ways FOLDER WAY...
"""

import sys
from pathlib import Path
from typing import Any

from salsa_cli import ppo
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.devices import processes
from salsa_cli.devices.runtime import Runtime
from salsa_cli.rl import offload
from salsa_cli.runs.events import silent

NARROW = {"weights": "bfloat16", "optimiser": "adamw-8bit"}

WAYS: dict[str, dict[str, Any]] = {
    "adapters": {},
    "adapters checkpointed": {"gradient_checkpointing": True},
    "new adapters": {"policy": "base", "ref": "base", "reward": "whole-rm", "lora_rank": 2},
    "moments": {"ref": "a-whole", "reward": "whole-rm", "offload": ("moments",)},
    "narrow": {"ref": "a-whole", "reward": "whole-rm", **NARROW},
    "narrow moments": {
        "ref": "a-whole",
        "reward": "whole-rm",
        "offload": ("moments",),
        **NARROW,
    },
}
"""What a way changes of a run with adapters."""


def ppo_config(folder: Path, output: Path, way: str, **changes: Any) -> PPOConfig:
    """Four updates with anchors, held-out prompts and snapshots."""
    settings: dict[str, Any] = {
        "ref": "soup",
        "reward": "rm",
        "prompts": str(folder / "prompts.jsonl"),
        "output": output,
        "updates": 4,
        "batch_size": 8,
        "response_length": 6,
        "epochs": 2,
        "minibatches": 2,
        "micro_batch_size": 1,
        "learning_rate": 1e-4,
        "anchor_every": 2,
        "save_every": 2,
        "eval_prompts": str(folder / "eval.jsonl"),
        "eval_every": 2,
        "snapshot_every": 2,
        "device": "cpu",
        **WAYS[way],
        **changes,
    }
    for name in ("ref", "reward"):
        settings[name] = (str(folder / settings[name]),)
    if "policy" in settings:
        settings["policy"] = str(folder / settings["policy"])
    return PPOConfig(**settings)


def allow_offloading_on_a_cpu() -> None:
    """Moments may then be offloaded on a CPU, where that changes nothing."""
    offload.check = lambda *given: None  # type: ignore[assignment]


def main(folder: Path, names: list[str]) -> None:
    """Train in the ways named; a name that ends with `+shard` shards."""
    allow_offloading_on_a_cpu()
    # Now and then two answers fit into a pass, so that one process has fewer passes to make.
    Runtime.pass_tokens = property(lambda self: 14)  # type: ignore[assignment,method-assign]
    for name in names:
        way, _, more = name.partition("+")
        given = {"shard": True, "micro_batch_size": None} if "shard" in more else {}
        if "weights" in more:
            given["offload"] = (*WAYS[way].get("offload", ()), "weights")
        ppo.run(ppo_config(folder, folder / name, way, **given), silent)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    processes.leave(0)
