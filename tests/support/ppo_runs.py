"""Runs of `salsa ppo` on small worlds, and what two equal runs share."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from salsa_cli import ppo
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.records import read_rows
from salsa_cli.rl import preflight
from salsa_cli.rl.run import Run
from salsa_cli.runs.events import Event, Measured, Report, silent
from tests.support import tiny
from tests.support.adapters import AdapterWorld
from tests.support.worlds import World


def configure(world: World, output: Path, **changes: Any) -> PPOConfig:
    """Four updates of eight answers; large steps, so that mistakes show."""
    settings: dict[str, Any] = {
        "ref": (str(world.soup),),
        "reward": (str(world.rm),),
        "prompts": str(world.prompts),
        "output": output,
        "updates": 4,
        "batch_size": 8,
        "response_length": 6,
        "epochs": 2,
        "minibatches": 2,
        "learning_rate": 1e-3,
        "save_every": 2,
        "device": "cpu",
    }
    return PPOConfig(**{**settings, **changes})


def begun(config: PPOConfig, folder: Path) -> Run:
    """A run as the trainer gets it, in an empty folder."""
    folder.mkdir(exist_ok=True)
    return Run(preflight.prepare(config, silent), config, start_runtime("cpu"), folder)


def run(config: PPOConfig, report: Report = silent) -> ppo.PPOResult:
    result = ppo.run(config, report)
    assert isinstance(result, ppo.PPOResult)
    return result


def stopping_at(update: int) -> Report:
    """Ctrl-C while this update ends; what stands then is the checkpoint before it."""

    def stop(event: Event) -> None:
        if isinstance(event, Measured) and event.values["update"] == update:
            raise KeyboardInterrupt

    return stop


def rows_without_time(folder: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k != "time"} for row in read_rows(folder / "metrics.jsonl")
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    return state


def configure_anchored(world: World, output: Path, **changes: Any) -> PPOConfig:
    settings: dict[str, Any] = {
        "ref": (str(world.soup),),
        "reward": (str(world.rm),),
        "prompts": str(world.prompts),
        "output": output,
        "updates": 3,
        "batch_size": 8,
        "response_length": 6,
        "learning_rate": 1e-3,
        "anchor_every": 1,
        "device": "cpu",
    }
    return PPOConfig(**{**settings, **changes})


def rows_of(config: PPOConfig, report: Any = silent) -> list[dict[str, Any]]:
    ppo.run(config, report)
    return read_rows(config.output / "metrics.jsonl")


def configure_adapted(adapted: AdapterWorld, output: Path, **changes: Any) -> PPOConfig:
    settings: dict[str, Any] = {
        "ref": (str(adapted.soup),),
        "reward": (str(adapted.rm),),
        "prompts": str(tiny.prompts(output.parent / "prompts.jsonl")),
        "output": output,
        "updates": 3,
        "batch_size": 8,
        "response_length": 6,
        "epochs": 2,
        "minibatches": 2,
        "learning_rate": 1e-3,
        "anchor_every": 2,
        "save_every": 2,
        "device": "cpu",
    }
    return PPOConfig(**{**settings, **changes})
