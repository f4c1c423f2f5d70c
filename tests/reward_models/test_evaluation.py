"""A reward model that exists, evaluated: what is found, written, refused."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.records import read_json, read_rows
from salsa_cli.reward_models import evaluation, rewards
from salsa_cli.reward_models.results import EvaluatedModelResult
from salsa_cli.reward_models.rewards import RewardScale
from salsa_cli.runs.events import DryRun, Event, Note, Warned, silent
from tests.support import tiny
from tests.support.worlds import World

ROWS = [
    {
        "prompt": f"the {word}",
        "chosen": " sat happy" + " and ran" * (place % 3),
        "rejected": " sad",
        "subset": ("odd", "even")[place % 2],
    }
    for place, word in enumerate(tiny.WORDS)
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.save_reward_model(tmp_path / "rm", seed=3)


def configure(model: Path, **changes: Any) -> TrainRMConfig:
    settings: dict[str, Any] = {
        "model": str(model),
        "eval_data": str(tiny.write_rows(model.parent / "held-out.jsonl", ROWS)),
        "output": model.parent / "evaluation",
        "batch_size": 8,
        "device": "cpu",
    }
    return TrainRMConfig(**{**settings, **changes})


def run(config: TrainRMConfig) -> tuple[EvaluatedModelResult, list[str]]:
    said: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Note | Warned):
            said.append(event.text)

    result = evaluation.run(config, hear)
    assert isinstance(result, EvaluatedModelResult)
    return result, said


def raw_scores(model: Path) -> np.ndarray:
    """Of the chosen and of the rejected answers, [2, n], by Transformers, one text at a time."""
    loaded = AutoModelForSequenceClassification.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = np.empty((2, len(ROWS)))
    for side, name in enumerate(("chosen", "rejected")):
        for place, row in enumerate(ROWS):
            ids = tokenizer(row["prompt"] + row[name] + tokenizer.eos_token, return_tensors="pt")
            with torch.no_grad():
                found[side, place] = float(loaded(**ids).logits)
    return found


def test_accuracy_and_scale_are_what_transformers_and_numpy_find(model: Path) -> None:
    config = configure(model)
    before = (model / "config.json").read_bytes()
    result, said = run(config)
    better, worse = raw_scores(model)
    right = better > worse
    assert (result.pairs, result.eval_pairs) == (0, 20)
    assert result.eval_accuracy == pytest.approx(right.mean())
    assert {one.name: (one.n, one.accuracy) for one in result.categories} == {
        "even": (10, pytest.approx(right[1::2].mean())),
        "odd": (10, pytest.approx(right[::2].mean())),
    }
    (scale,) = result.scales
    both = np.concatenate([better, worse])
    assert (scale.mean, scale.std) == pytest.approx((both.mean(), both.std()), abs=1e-6)
    rows = read_rows(config.output / "eval_scores.jsonl")
    np.testing.assert_allclose([row["chosen"] for row in rows], better, atol=1e-5)
    evaluation = read_json(config.output / "evaluation.json")
    assert evaluation["scales"][0]["stored"] is None
    assert (model / "config.json").read_bytes() == before
    assert any("so ppo and eval use raw scores" in text for text in said)
    assert sorted(path.name for path in config.output.iterdir()) == [
        *("eval_scores.jsonl", "evaluation.json", "report.html", "salsa.json")
    ]
    summary, table = result.summary()
    assert "held-out pairs" in summary and "trained" not in summary
    assert table is not None and [row[0] for row in table.rows] == ["even", "odd"]


def test_the_scale_is_stored_where_that_is_asked_for(model: Path) -> None:
    result, said = run(configure(model, store_scale=True))
    assert rewards.stored_scale(model) == result.scales[0]
    assert any("the scale was measured on 20 pairs; 256 or more" in text for text in said)
    assert rewards.unscaled([str(model)]) == []
    again, said = run(configure(model, output=model.parent / "again"))
    assert again.scales == result.scales and said == []


def test_an_ensemble_is_evaluated_as_ppo_takes_it(tmp_path: Path) -> None:
    folder = tmp_path / "rms"
    for number, seed in enumerate((3, 4)):
        member = tiny.save_reward_model(folder / str(number), seed=seed)
        path = member / "config.json"
        scale = {"mean": 0.1 * number, "std": 0.5 + number}
        path.write_text(json.dumps({**json.loads(path.read_text()), "salsa_reward": scale}))
    config = configure(folder)
    result, _ = run(config)
    raw = [raw_scores(folder / str(number)) for number in (0, 1)]
    mean = raw[0] / 0.5 / 2 + (raw[1] - 0.1) / 1.5 / 2
    assert result.eval_accuracy == pytest.approx((mean[0] > mean[1]).mean())
    assert result.members == pytest.approx([(one[0] > one[1]).mean() for one in raw])
    rows = read_rows(config.output / "member-1" / "eval_scores.jsonl")
    np.testing.assert_allclose([row["rejected"] for row in rows], raw[1][1], atol=1e-5)
    assert read_json(config.output / "evaluation.json")["evaluation"]["disagreement"]


def test_files_that_the_model_was_trained_on_are_no_held_out_ones(model: Path) -> None:
    config = configure(model)
    path = Path(str(config.eval_data))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for known, warned in (("0" * 64, False), (digest, True)):
        inputs = {"data": {"source": "elsewhere.jsonl", "sha256": {"elsewhere.jsonl": known}}}
        (model / "salsa.json").write_text(json.dumps({"inputs": inputs}))
        _, said = run(replace(config, force=True))
        text = f"{path} is the data that {model} was trained on; the accuracy says little"
        assert any(one.startswith(text) for one in said) == warned


def test_a_complete_evaluation_is_read_back(model: Path) -> None:
    config = configure(model)
    result, _ = run(config)
    assert evaluation.run(replace(config, resume=True), silent) == result


def test_a_dry_run_writes_nothing(model: Path) -> None:
    found = evaluation.run(configure(model, dry_run=True), silent)
    assert isinstance(found, DryRun) and found.record()["held_out_pairs"] == 20
    assert not (model.parent / "evaluation").exists()


def test_what_is_no_reward_model_is_refused(world: World, model: Path) -> None:
    with pytest.raises(
        SalsaError,
        match=(
            r"is not a reward model: .* or --data with pairs to "
            r"train"
        ),
    ):
        evaluation.run(replace(configure(model), model=str(world.a)), silent)
    broken = Path(shutil.copytree(model, model.parent / "broken"))
    (broken / "config.json").unlink()
    with pytest.raises(SalsaError, match=r"no config\.json found"):
        evaluation.run(replace(configure(model), model=str(broken)), silent)


def test_settings_without_effect_are_refused(model: Path) -> None:
    with pytest.raises(UsageError, match=r"--epochs, --center have no effect without --data"):
        configure(model, epochs=3, center=0.01)
    with pytest.raises(UsageError, match="--data is missing; expected preference pairs"):
        configure(model, eval_data=None)
    with pytest.raises(UsageError, match="--store-scale has no effect with --data"):
        configure(model, data="prefs.jsonl", store_scale=True)


def test_stored_scales_are_read(model: Path) -> None:
    assert rewards.stored_scale(model) is None
    assert rewards.unscaled([str(model), "f.py:score"]) == [model]
    path = model / "config.json"
    settings = json.loads(path.read_text()) | {"salsa_reward": {"mean": 1, "std": 2}}
    path.write_text(json.dumps(settings))
    assert rewards.stored_scale(model) == RewardScale(1.0, 2.0)
