"""Ensembles as one reward; the same score wherever a pair is scored."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from salsa_cli import evaluate, ppo, soup, train_rm
from salsa_cli.config.eval import EvalConfig
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.soup import SoupConfig
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.models.tokenization import Answer
from salsa_cli.records import read_json, read_rows
from salsa_cli.reward_models import evaluation, rewards
from salsa_cli.runs.events import Event, Note, Warned, silent
from salsa_cli.weights import folders
from tests.support import tiny
from tests.support.worlds import World

DEVICE = start_runtime("cpu")


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
    with pytest.raises(SalsaError, match=r"1: no config.json found; expected a member"):
        rewards.resolve(str(folder))
    shutil.rmtree(folder / "1")
    with pytest.raises(SalsaError, match="is an incomplete ensemble: member 1 is missing"):
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
    assert isinstance(result, EvalResult) and len(result.scores) == 1


def test_the_soup_of_a_whole_folder_is_the_averaged_reward_model(
    ensemble: Path, tmp_path: Path
) -> None:
    notes: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Note | Warned):
            notes.append(event.text)

    everything = tuple(str(path) for path in sorted(ensemble.iterdir()))
    soup.run(SoupConfig(models=everything, output=tmp_path / "soup"), hear)
    assert any("ignored, because" in text and "report.html" in text for text in notes)
    weights = [
        AutoModelForSequenceClassification.from_pretrained(folder).score.weight
        for folder in (*(ensemble / str(k) for k in range(3)), tmp_path / "soup")
    ]
    torch.testing.assert_close(weights[3], torch.stack(weights[:3]).mean(0))
    # Nothing can be known of the scale of its scores, and nothing is said of it.
    assert "salsa_reward" not in read_json(tmp_path / "soup" / "config.json")
    assert any("are unknown, so its scores are raw" in text for text in notes)


PAIR = {"prompt": "the cat", "chosen": " sat happy", "rejected": " ran and ran sad"}
LONGER = {"prompt": "the dog", "chosen": " sat on a mat and sang", "rejected": " sad"}
PAIRS = (PAIR, LONGER)


@pytest.fixture(scope="module")
def alone(ensemble: Path) -> torch.Tensor:
    """The normalised scores of the answers of `PAIR`, each in a batch of its own."""
    return torch.cat([scores(ensemble / "0", [PAIR[s]]) for s in ("chosen", "rejected")])


def normalised(folder: Path, raw: torch.Tensor) -> torch.Tensor:
    scale = rewards.stored_scale(folder)
    assert scale is not None
    return (raw - scale.mean) / scale.std


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_pair_scores_the_same_in_any_batch(ensemble: Path, alone: torch.Tensor) -> None:
    together = scores(ensemble / "0", [PAIR["chosen"], PAIR["rejected"], LONGER["chosen"]])
    assert_same(together[:2], alone)


@pytest.mark.parametrize("side", ["left", "right"])
def test_transformers_gives_the_score_whichever_side_is_padded(
    ensemble: Path, alone: torch.Tensor, side: str
) -> None:
    folder = ensemble / "0"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = side
    texts = [f"the cat{PAIR[one]}{tokenizer.eos_token}" for one in ("chosen", "rejected")]
    with torch.no_grad():
        raw = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits[:, 0]
    assert_same(normalised(folder, raw), alone)


def test_an_evaluation_gives_the_score(ensemble: Path, alone: torch.Tensor, tmp_path: Path) -> None:
    config = TrainRMConfig(
        model=str(ensemble / "0"),
        eval_data=str(tiny.write_rows(tmp_path / "held-out.jsonl", list(PAIRS))),
        output=tmp_path / "evaluation",
        device="cpu",
    )
    evaluation.run(config, silent)
    row = read_rows(config.output / "eval_scores.jsonl")[0]
    assert_same(normalised(ensemble / "0", torch.tensor([row["chosen"], row["rejected"]])), alone)


def test_a_training_gives_the_score_that_its_model_gives_later(
    world: World, tmp_path: Path
) -> None:
    config = TrainRMConfig(
        model=str(world.a),
        data=str(world.preferences),
        eval_data=str(tiny.write_rows(tmp_path / "held-out.jsonl", list(PAIRS))),
        output=tmp_path / "rm",
        batch_size=8,
        learning_rate=3e-3,
        device="cpu",
    )
    train_rm.run(config, silent)
    row = read_rows(config.output / "eval_scores.jsonl")[0]
    written = normalised(config.output, torch.tensor([row["chosen"], row["rejected"]]))
    assert_same(written, scores(config.output, [PAIR["chosen"], PAIR["rejected"]]))


def test_eval_gives_the_score(ensemble: Path, alone: torch.Tensor, tmp_path: Path) -> None:
    """By the whole command, beside a longer answer to another prompt."""
    prompts = tiny.write_rows(tmp_path / "p.jsonl", [{"prompt": p["prompt"]} for p in PAIRS])
    given = []
    for name in ("chosen", "rejected"):
        rows = [{"prompt": pair["prompt"], "answer": pair[name]} for pair in PAIRS]
        given.append(f"{name}={tiny.write_rows(tmp_path / f'{name}.jsonl', rows)}")
    config = EvalConfig(
        answers=tuple(given),
        prompts=str(prompts),
        judge=(f"rm:{ensemble / '0'}",),
        output=tmp_path / "results",
        device="cpu",
    )
    evaluate.run(config, silent)
    verdict = read_rows(config.output / "judgments.jsonl")[0]
    assert_same(torch.tensor([verdict["score_a"], verdict["score_b"]]), alone)


def test_ppo_gives_the_score(ensemble: Path, world: World, tmp_path: Path) -> None:
    """By the whole command: what it writes of its samples, scored again one by one."""
    folder = ensemble / "0"
    config = PPOConfig(
        ref=(str(world.soup),),
        reward=(str(folder),),
        prompts=str(world.prompts),
        output=tmp_path / "policy",
        updates=2,
        batch_size=4,
        response_length=6,
        device="cpu",
    )
    ppo.run(config, silent)
    samples = read_rows(config.output / "samples.jsonl")
    assert len(samples) == 4 and len({row["answer"] for row in samples}) > 1
    scorer = rewards.load(str(folder), DEVICE)
    again = [
        scorer.score([row["prompt"]], [Answer(row["answer"], row["finished"])]) for row in samples
    ]
    assert_same(torch.tensor([row["reward"] for row in samples]), torch.cat(again))
