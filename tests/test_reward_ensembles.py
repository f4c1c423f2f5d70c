"""Ensembles as one reward; the same score wherever a pair is scored."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import World
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from salsa_cli import evaluate, folders, ppo, rewards, runtime, soup, train_rm
from salsa_cli.configs import SoupConfig
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.eval_config import EvalConfig
from salsa_cli.records import read_json, read_rows
from salsa_cli.reports import Event, Note, Warned, silent
from salsa_cli.reward_models.train_rm_config import TrainRMConfig
from salsa_cli.rl.ppo_config import PPOConfig
from salsa_cli.tokens import Answer

DEVICE = runtime.start("cpu")


@pytest.fixture(scope="module")
def ensemble(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("ensemble") / "rm"
    config = TrainRMConfig(
        model=str(world.a),
        data=str(world.preferences),
        output=output,
        ensemble=3,
        epochs=2,
        batch_size=8,
        learning_rate=3e-3,
        device="cpu",
    )
    train_rm.run(config, silent)
    return output


def scores(name: Path, answers: list[str]) -> torch.Tensor:
    scorer = rewards.load(str(name), DEVICE)
    return scorer.score(["the cat"] * len(answers), [Answer(text) for text in answers])


def test_an_ensembles_folder_scores_as_the_mean_of_its_members(ensemble: Path) -> None:
    answers = [" sat happy", " ran sad", " sang"]
    each = torch.stack([scores(ensemble / str(k), answers) for k in range(3)])
    torch.testing.assert_close(scores(ensemble, answers), each.mean(0))
    assert each.std(0).min() > 1e-3
    assert rewards.resolve(str(ensemble)) == str(ensemble)
    assert rewards.models_of(str(ensemble)) == tuple(ensemble / str(k) for k in range(3))
    assert [Path(str(m["path"])).name for m in folders.describe(ensemble)["members"]] == list("012")  # type: ignore[index, union-attr, call-overload]


def test_a_broken_ensemble_is_named(ensemble: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ensemble, tmp_path / "rm"))
    (folder / "1" / "config.json").unlink()
    with pytest.raises(SalsaError, match=r"1: no config.json in it; expected a member"):
        rewards.resolve(str(folder))
    shutil.rmtree(folder / "1")
    with pytest.raises(SalsaError, match="is an ensemble that lacks its member 1"):
        rewards.resolve(str(folder))


def test_ppo_and_eval_take_the_folder(ensemble: Path, world: World, tmp_path: Path) -> None:
    policy = PPOConfig(
        ref=(str(world.soup),),
        reward=(str(ensemble),),
        prompts=str(world.prompts),
        output=tmp_path / "policy",
        updates=1,
        batch_size=4,
        response_length=4,
        device="cpu",
    )
    ppo.run(policy, silent)
    made = read_json(policy.output / "salsa.json")
    assert len(made["inputs"]["rewards"][0]["members"]) == 3
    judged = EvalConfig(
        models=(str(world.a),),
        prompts=str(world.prompts),
        judge=(f"rm:{ensemble}",),
        output=tmp_path / "results",
        response_length=4,
        device="cpu",
    )
    result = evaluate.run(judged, silent)
    assert isinstance(result, evaluate.EvalResult) and len(result.scores) == 1


def test_the_soup_of_a_whole_folder_is_the_averaged_reward_model(
    ensemble: Path, tmp_path: Path
) -> None:
    notes: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Note | Warned):
            notes.append(event.text)

    everything = tuple(str(path) for path in sorted(ensemble.iterdir()))
    soup.run(SoupConfig(models=everything, output=tmp_path / "soup"), hear)
    assert any("left out" in text and "report.html" in text for text in notes)
    weights = [
        AutoModelForSequenceClassification.from_pretrained(folder).score.weight
        for folder in (*(ensemble / str(k) for k in range(3)), tmp_path / "soup")
    ]
    torch.testing.assert_close(weights[3], torch.stack(weights[:3]).mean(0))
    # Nothing can be known of the scale of its scores, and nothing is said of it.
    assert "salsa_reward" not in read_json(tmp_path / "soup" / "config.json")
    assert any("are not known, so its scores are raw" in text for text in notes)


def test_a_pair_scores_the_same_everywhere(ensemble: Path, world: World, tmp_path: Path) -> None:
    """In a batch of one, padded left and right, by train-rm, by ppo, by eval, by Transformers."""
    folder = ensemble / "0"
    pair = {"prompt": "the cat", "chosen": " sat happy", "rejected": " ran and ran sad"}
    longer = {"prompt": "the cat", "chosen": " sat on a mat and sang", "rejected": " sad"}
    answers = [pair["chosen"], pair["rejected"]]
    scale = read_json(folder / "config.json")["salsa_reward"]

    def normalised(raw: torch.Tensor) -> torch.Tensor:
        return (raw - scale["mean"]) / scale["std"]

    alone = torch.cat([scores(folder, [answer]) for answer in answers])
    together = scores(folder, [*answers, longer["chosen"]])[:2]
    found: dict[str, Any] = {"in a padded batch": together}
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for side in ("left", "right"):
        tokenizer.padding_side = side
        texts = [f"the cat{answer}{tokenizer.eos_token}" for answer in answers]
        with torch.no_grad():
            raw = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits[:, 0]
        found[f"Transformers, padded {side}"] = normalised(raw)
    # train-rm: what it wrote for held-out pairs of the very model it saved
    config = TrainRMConfig(
        model=str(world.a),
        data=str(world.preferences),
        eval_data=str(tiny.write_rows(tmp_path / "held.jsonl", [pair, longer])),
        output=tmp_path / "rm",
        epochs=1,
        batch_size=8,
        learning_rate=3e-3,
        device="cpu",
    )
    train_rm.run(config, silent)
    trained = read_rows(config.output / "eval_scores.jsonl")[0]
    own = scores(config.output, answers)
    config_scale = read_json(config.output / "config.json")["salsa_reward"]
    written = torch.tensor([trained["chosen"], trained["rejected"]])
    torch.testing.assert_close(
        (written - config_scale["mean"]) / config_scale["std"], own, atol=1e-5, rtol=0
    )
    for name, values in found.items():
        torch.testing.assert_close(values, alone, atol=1e-5, rtol=0, msg=name)
