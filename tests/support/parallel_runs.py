"""One process of several, as a launcher starts them: trains on the world of a test.

    RANK=0 WORLD_SIZE=2 ... python -m tests.support.parallel_runs FOLDER

Writes the runs of `tests/end_to_end/test_parallel.py`, plain and sharded, into FOLDER; with the URL
of a server as a second argument, the run of `tests/end_to_end/test_ppo_vllm.py`.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from salsa_cli import ppo, train_rm
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.devices import processes
from salsa_cli.devices.runtime import Runtime
from salsa_cli.runs.events import silent


def ppo_config(folder: Path, output: Path, **changes: Any) -> PPOConfig:
    """Six updates with most of what a run can carry along."""
    settings: dict[str, Any] = {
        "ref": (f"soup({folder / 'a'},{folder / 'b'},alpha=0.5)",),
        "reward": (str(folder / "rm"), f"{folder / 'gold.py'}:score"),
        "prompts": str(folder / "prompts.jsonl"),
        "output": output,
        "updates": 6,
        "batch_size": 8,
        "minibatches": 2,
        "micro_batch_size": 1,
        "epochs": 2,
        "response_length": 6,
        # Adam magnifies the last place of a gradient that vanishes by the rate.
        "learning_rate": 1e-4,
        "save_every": 2,
        "anchor_every": 3,
        "ref_update": "ema",
        "normalize_reward": True,
        "device": "cpu",
    }
    return PPOConfig(**{**settings, **changes})


def evaluated_config(folder: Path, output: Path, **changes: Any) -> PPOConfig:
    """The same with held-out prompts, snapshots and the best policy."""
    settings: dict[str, Any] = {
        "eval_prompts": str(folder / "eval.jsonl"),
        "eval_every": 3,
        "keep_best": "reward",
        "snapshot_every": 3,
    }
    return ppo_config(folder, output, **{**settings, **changes})


def lora_config(folder: Path, output: Path, **changes: Any) -> PPOConfig:
    """Two updates with new adapters, against the base itself, on which the critic is, too."""
    settings: dict[str, Any] = {
        "ref": (str(folder / "a"),),
        "reward": (f"{folder / 'gold.py'}:score",),
        "critic": "policy",
        "lora_rank": 2,
        "updates": 2,
        "epochs": 1,
        "ref_update": "none",
        "anchor_every": 1,
        "eval_prompts": str(folder / "eval.jsonl"),
        "eval_every": 2,
    }
    return ppo_config(folder, output, **{**settings, **changes})


def by_server(url: str) -> dict[str, Any]:
    """Two updates with answers of a server."""
    return {"generator": "vllm", "vllm_url": url, "updates": 2, "ref_update": "none"}


def rm_config(folder: Path, output: Path, **changes: Any) -> TrainRMConfig:
    """Two models; batches of seven pairs, which no number of processes divides."""
    settings: dict[str, Any] = {
        "model": str(folder / "a"),
        "data": str(folder / "preferences.jsonl"),
        "output": output,
        "batch_size": 7,
        # Four pairs take two passes, three pairs one: one process makes a pass that counts nothing.
        "micro_batch_size": 3,
        "learning_rate": 1e-4,
        "ensemble": 2,
        "save_every": 2,
        "device": "cpu",
    }
    return TrainRMConfig(**{**settings, **changes})


def main(folder: Path) -> None:
    """Train by both commands, plain and sharded; shards of reward models are offloaded."""
    ppo.run(evaluated_config(folder, folder / "ppo-plain"), silent)
    train_rm.run(rm_config(folder, folder / "rm-plain"), silent)
    if find_spec("peft"):
        ppo.run(lora_config(folder, folder / "lora-sharded", shard=True), silent)
    # Now and then two answers fit into a pass, so that one process has fewer passes to make.
    Runtime.pass_tokens = property(lambda self: 14)  # type: ignore[assignment,method-assign]
    changes: dict[str, Any] = {"shard": True, "micro_batch_size": None}
    ppo.run(evaluated_config(folder, folder / "ppo-sharded", **changes), silent)
    # What accelerate launch sets for fsdp_offload_params: true.
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_OFFLOAD_PARAMS": "true",
    }
    train_rm.run(rm_config(folder, folder / "rm-sharded"), silent)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    if len(sys.argv) > 2:
        ppo.run(ppo_config(place, place / "ppo-vllm", **by_server(sys.argv[2])), silent)
    else:
        main(place)
    processes.leave(0)
