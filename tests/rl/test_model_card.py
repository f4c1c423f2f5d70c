"""The card of a policy, read back as the hub reads it."""

from pathlib import Path
from typing import Any

import yaml

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.rl import model_card


def card(start: Path, **changes: Any) -> str:
    settings = {"ref": ("soup(a: x,b)",), "reward": ("rm|1",), "prompts": "p.jsonl", **changes}
    return model_card.write(PPOConfig(output=Path("out"), **settings), start, 3, (0.5, 1.25))


def head(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.removeprefix("---\n").split("---\n")[0])
    return found


def test_a_policy_of_a_model_of_the_hub(tmp_path: Path) -> None:
    text = card(tmp_path, policy="Qwen/Qwen2.5-0.5B")
    assert head(text) == {
        "base_model": ["Qwen/Qwen2.5-0.5B"],
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "ppo", "salsa"],
    }
    assert "| reference | soup(a: x,b) |" in text and "| reward | rm\\|1 |" in text
    assert "in 3 updates; the mean reward went from 0.500 in the first to 1.250" in text


def test_a_local_start_stands_in_the_text_alone(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    text = card(tmp_path)
    assert "base_model" not in text and head(text)["library_name"] == "peft"
    assert f"| start | {tmp_path} |" in text


def test_the_algorithm_is_named(tmp_path: Path) -> None:
    assert "# A policy trained with PPO\n" in card(tmp_path)
    text = card(tmp_path, advantage="rloo")
    assert "# A policy trained with RLOO\n" in text
    assert head(text)["tags"] == ["rlhf", "rloo", "salsa"]
