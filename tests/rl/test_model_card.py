"""The card of a policy, read back as the hub reads it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from salsa_cli import VERSION
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.rl import model_card
from salsa_cli.rl.best import BestUpdate
from salsa_cli.rl.held_out_metrics import HeldOutFigure, HeldOutMetrics
from salsa_cli.rl.metrics import UpdateMetrics
from tests.support.histories import history

ROWS = [
    replace(
        row,
        reward=0.5 * row.update,
        kl=1.0 + row.update,
        kl_anchors={"reference": 1.0 + row.update, "start": -1e-9, "/m/sft-b": 4.0}
        if row.update in (1, 3)
        else {},
    )
    for row in history(3)
]


def card(
    start: Path,
    rows: Sequence[UpdateMetrics] = ROWS,
    kept: BestUpdate | None = None,
    **changes: Any,
) -> str:
    settings = {"ref": ("soup(a: x,b)",), "reward": ("rm|1",), "prompts": "p.jsonl", **changes}
    return model_card.write(PPOConfig(output=Path("out"), **settings), start, rows, kept)


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
    assert f"Trained by `salsa ppo` {VERSION} in 3 updates of 64 answers" in text
    assert "training reward was 0.500 in the first update and 1.500 in the last" in text


def test_the_card_says_how_the_policy_was_trained(tmp_path: Path) -> None:
    text = card(tmp_path, policy="a/b", kl_coef=0.2, learning_rate=1e-4, seed=7)
    for row in (
        "| method | PPO |",
        "| penalty | KL in the reward, coefficient 0.2 |",
        "| prompts | p.jsonl |",
        "| answers | up to 128 tokens at temperature 1 |",
        "| learning rate | 0.0001 |",
        "| seed | 7 |",
    ):
        assert f"{row}\n" in text, row
    command = "salsa ppo --ref 'soup(a: x,b)' --reward 'rm|1' --prompts p.jsonl --policy a/b"
    assert f"    {command} --kl-coef 0.2" in text and "-o out\n" in text
    adapted = card(tmp_path, kl_target=6.0, kl_in="loss", kl_estimator="k2")
    assert "| penalty | KL in the loss, coefficient adapted to 6, 0.05 at first |" in adapted


def test_the_card_says_how_far_the_policy_moved(tmp_path: Path) -> None:
    text = card(tmp_path)
    assert "KL in nats per answer:\n" in text
    assert "| reference | 2.000 | 4.000 |\n" in text
    assert "| sft-b | 4.000 | 4.000 |\n" in text  # an absolute path by its name
    at = [replace(row, temperature=0.7) for row in ROWS]
    assert "KL in nats per answer, of the policies at temperature 0.7:\n" in card(tmp_path, at)


def test_the_card_says_what_the_policy_was_compared_with(tmp_path: Path) -> None:
    assert "Not compared with another model: " in card(tmp_path)
    one = HeldOutFigure(1.0, 0.1)
    before = HeldOutMetrics(64, one, {}, {"gold": one}, {"start": one}, one, one, one)
    after = replace(before, reward=HeldOutFigure(2.0, 0.2))
    rows = [replace(ROWS[0], heldout_start=before), ROWS[1], replace(ROWS[2], heldout=after)]
    text = card(tmp_path, rows, BestUpdate(2, "reward", 2.5, 0.1))
    assert "Compared with its start on 64 held-out prompts (means" in text
    assert "| reward | 1.000 +- 0.100 | 2.000 +- 0.200 |\n" in text
    assert "| gold, not trained on | 1.000 +- 0.100 | 1.000 +- 0.100 |\n" in text
    assert "The best update by held-out reward was 2 (2.500); this is the last." in text
    assert "Not compared" not in text


def test_warnings_of_the_run_stand_in_the_card(tmp_path: Path) -> None:
    assert "Warnings" not in card(tmp_path)
    text = card(tmp_path, history(6, length=[40.0, 30, 20, 10, 5, 3]))
    assert "## Warnings\n\n- length-collapse, update 5: " in text


def test_a_local_start_stands_in_the_text_alone(tmp_path: Path) -> None:
    start = tmp_path / "sft-a"
    start.mkdir()
    (start / "adapter_config.json").write_text("{}")
    text = card(start)
    assert "base_model" not in text and head(text)["library_name"] == "peft"
    assert "| start | sft-a |" in text and str(tmp_path) not in text


def test_the_algorithm_is_named(tmp_path: Path) -> None:
    assert "# A policy trained with PPO\n" in card(tmp_path)
    text = card(tmp_path, advantage="rloo")
    assert "# A policy trained with RLOO\n" in text
    assert head(text)["tags"] == ["rlhf", "rloo", "salsa"]
