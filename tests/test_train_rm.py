"""The story of `train-rm` on a model of a few thousand weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import World
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from salsa_cli import models, runs, train_rm
from salsa_cli.configs import TrainRMConfig
from salsa_cli.errors import SalsaError
from salsa_cli.records import read_rows
from salsa_cli.reports import Event, Measured, Warned, silent
from salsa_cli.tokens import Answer


def configure(world: World, output: Path, **changes: Any) -> TrainRMConfig:
    settings: dict[str, Any] = {
        "model": str(world.a),
        "data": str(world.preferences),
        "output": output,
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "save_every": 4,
        "device": "cpu",
    }
    return TrainRMConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> TrainRMConfig:
    config = configure(world, tmp_path_factory.mktemp("rm") / "rm")
    result = train_rm.run(config, silent)
    assert isinstance(result, train_rm.TrainRMResult)
    assert result.pairs == 36 and result.eval_pairs == 4
    assert result.eval_accuracy == 1.0
    assert 0.5 < result.eval_low < 0.52 and result.eval_high == 1.0  # Wilson: 4 of 4
    return config


def test_it_learns_and_says_so(trained: TrainRMConfig) -> None:
    rows = read_rows(trained.output / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 19))
    assert rows[-1]["loss"] < 0.2 < rows[0]["loss"]
    assert not (trained.output / "checkpoints").exists()


def test_the_result_loads_in_transformers_and_scores_the_same(trained: TrainRMConfig) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(trained.output).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.output)
    texts = ["the cat sat happy", "the dog ran sad"]
    ids = [tokenizer(text + tokenizer.eos_token).input_ids for text in texts]
    ours = models.load_reward_model(trained.output, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        raw = torch.cat([model(torch.tensor([row])).logits[0] for row in ids])
        padded = tokenizer(
            [t + tokenizer.eos_token for t in texts], return_tensors="pt", padding=True
        )
        together = model(**padded).logits[:, 0]
    scores = ours.score(["the cat", "the dog"], [Answer(" sat happy"), Answer(" ran sad")])
    torch.testing.assert_close(scores, (raw - ours.mean) / ours.std, atol=1e-5, rtol=0)
    torch.testing.assert_close(raw, together, atol=1e-5, rtol=0)
    assert scores[0] > 0 > scores[1]


def test_the_scale_makes_scores_of_the_reference_answers_standard(trained: TrainRMConfig) -> None:
    model = models.load_reward_model(trained.output, torch.float32, torch.device("cpu"))
    plan = train_rm.prepare(trained, silent)
    pairs = plan.held_out + plan.training  # few held-out pairs: the training pairs help out
    with torch.no_grad():
        raw = model.score_ids([ids for pair in pairs for ids in (pair.chosen, pair.rejected)])
    assert model.std > 0.1
    assert float(raw.mean()) == pytest.approx(model.mean, abs=1e-4)
    assert float(raw.std(unbiased=False)) == pytest.approx(model.std, abs=1e-4)


def test_a_run_that_was_stopped_resumes_to_the_same_bits(
    world: World, trained: TrainRMConfig, tmp_path: Path
) -> None:
    config = configure(world, tmp_path / "rm")

    def stopping(event: Event) -> None:
        if isinstance(event, Measured) and event.values["step"] == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_rm.run(config, stopping)
    saved = runs.latest_checkpoint(runs.partial_folder(config.output))
    assert saved is not None and saved.step == 8
    train_rm.run(replace(config, resume=True), silent)
    first, second = ((c.output / "model.safetensors").read_bytes() for c in (config, trained))
    assert first == second
    untimed = [
        [
            {k: v for k, v in row.items() if k != "time"}
            for row in read_rows(c.output / "metrics.jsonl")
        ]
        for c in (config, trained)
    ]
    assert untimed[0] == untimed[1]


def test_pairs_that_are_too_long_are_left_out_and_counted(world: World, tmp_path: Path) -> None:
    rows = [
        {"prompt": "the cat", "chosen": " sat happy", "rejected": " sat sad"},
        {"prompt": "the cat", "chosen": " sat happy and happy", "rejected": " sad"},
    ]
    path = tiny.write_rows(tmp_path / "p.jsonl", rows)
    config = configure(world, tmp_path / "rm", eval_data=str(path), max_length=5)
    warnings: list[str] = []
    plan = train_rm.prepare(
        config, lambda event: warnings.append(event.text) if isinstance(event, Warned) else None
    )
    assert len(plan.held_out) == 1
    assert warnings == ["1 of 2 held-out pairs are left out: longer than --max-length 5 tokens"]
    with pytest.raises(SalsaError, match="no training pair fits into --max-length 4"):
        train_rm.prepare(replace(config, max_length=4), silent)


def test_the_held_out_pairs_are_never_trained_on(world: World, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"the {word}", "chosen": " happy", "rejected": " sad"} for word in tiny.WORDS
    ]
    path = tiny.write_rows(tmp_path / "p.jsonl", rows)
    plan = train_rm.prepare(configure(world, tmp_path, data=str(path), eval_share=0.3), silent)
    assert len(plan.held_out) == 6 and len(plan.training) == 14
    assert not {pair.chosen for pair in plan.held_out} & {pair.chosen for pair in plan.training}


def test_one_pair_is_too_few(world: World, tmp_path: Path) -> None:
    path = tiny.preferences(tmp_path / "p.jsonl", 1)
    with pytest.raises(SalsaError, match="has one pair; expected two or more"):
        train_rm.prepare(configure(world, tmp_path, data=str(path)), silent)


def test_a_dry_run_counts_and_writes_nothing(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "rm", dry_run=True)
    record = train_rm.run(config, silent).record()
    assert record["training_pairs"] == 36 and record["steps"] == 18
    assert list(tmp_path.iterdir()) == []


def test_label_smoothing_holds_the_margin_back(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "rm", label_smoothing=0.3, epochs=8)
    train_rm.run(config, silent)
    last = read_rows(config.output / "metrics.jsonl")[-1]
    # The optimum of the smoothed loss is the margin log(0.7 / 0.3) = 0.85.
    assert last["margin"] == pytest.approx(0.85, abs=0.4)
    assert (
        json.loads((config.output / "salsa.json").read_text())["settings"]["label_smoothing"] == 0.3
    )
