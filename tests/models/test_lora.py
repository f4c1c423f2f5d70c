"""LoRA: what is trained, what the merged model scores; activations that are computed twice."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from salsa_cli import evaluate, ppo, train_rm
from salsa_cli.config.eval import EvalConfig
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.models import loading, lora, shapes
from salsa_cli.models.backbones import Placement
from salsa_cli.models.forward import last_scores
from salsa_cli.models.loading import RewardModel
from salsa_cli.models.tokenization import Answer
from salsa_cli.records import read_rows
from salsa_cli.reward_models import fitting, rewards
from salsa_cli.reward_models.pairs import EncodedPair
from salsa_cli.runs.events import silent
from tests.support.ppo_runs import configure as ppo_config
from tests.support.worlds import World

DEVICE = start_runtime("cpu")
ROWS = [[4, 6, 9, 2], [5, 2], [7, 8, 10, 11, 12, 2]]
PAIRS = (EncodedPair("p", (4, 6, 9, 2), (4, 7, 2)), EncodedPair("q", (7, 8, 10, 11, 12), (7, 2)))


def new_model(world: World) -> RewardModel:
    return loading.new_reward_model(world.a, DEVICE.device, seed=3)


def test_without_peft_the_option_says_what_to_install(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SalsaError, match=r"--lora-rank.* needs PEFT.*pip install peft"):
        lora.add(new_model(world).model, 4, 0)


def test_adapters_start_as_nothing_and_merge_into_what_they_computed(world: World) -> None:
    pytest.importorskip("peft")
    reward = new_model(world)
    before = reward.score_ids(ROWS).detach()
    names = set(reward.model.state_dict())
    adapted = lora.add(reward.model, 4, seed=1)
    assert torch.equal(reward.score_ids(ROWS), before)
    trained = loading.trainable(reward.model)
    named = {n for n, p in reward.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name == "score.weight" for name in named)
    assert len(trained) == len(named) == 1 + 2 * 7 * 2  # two matrices, seven layers, two blocks
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.05 * torch.randn_like(parameter))
    apart = reward.score_ids(ROWS).detach()
    adapted.merge()
    assert set(reward.model.state_dict()) == names
    torch.testing.assert_close(reward.score_ids(ROWS).detach(), apart, atol=1e-5, rtol=0)
    assert (apart - before).abs().max() > 1e-2


def test_adapters_depend_on_the_seed_alone(world: World) -> None:
    pytest.importorskip("peft")
    found = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(noise)
        model = new_model(world).model
        lora.add(model, 2, seed)
        found.append(torch.cat([p.flatten() for n, p in model.named_parameters() if "lora_A" in n]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_run_with_adapters_learns_and_loads_like_any_other(world: World, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = TrainRMConfig(
        model=str(world.a),
        data=str(world.preferences),
        output=tmp_path / "rm",
        lora_rank=4,
        gradient_checkpointing=True,
        epochs=4,
        batch_size=8,
        learning_rate=1e-2,
        device="cpu",
    )
    train_rm.run(config, silent)
    rows = read_rows(config.output / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    model = AutoModelForSequenceClassification.from_pretrained(config.output)
    assert not any("lora" in name for name in model.state_dict())
    ours = loading.load_reward_model(config.output, Placement(torch.float32, DEVICE.device))
    with torch.no_grad():
        naive = torch.cat([model.eval()(torch.tensor([row])).logits[0] for row in ROWS])
        # Scores here are near 2.5: 1e-6 is absolute below 1 and relative above.
        torch.testing.assert_close(ours.score_ids(ROWS), naive, atol=1e-6, rtol=1e-6)


def test_a_kept_adapter_scores_the_same_by_peft_and_takes_part_in_ppo_and_eval(
    world: World, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = TrainRMConfig(
        model=str(world.a),
        data=str(world.preferences),
        output=tmp_path / "rm",
        lora_rank=4,
        lora_save="adapter",
        batch_size=8,
        learning_rate=1e-2,
        device="cpu",
    )
    train_rm.run(config, silent)
    settings = json.loads((config.output / "adapter_config.json").read_text())
    assert settings["task_type"] == "SEQ_CLS" and settings["modules_to_save"] == ["score"]
    assert settings["base_model_name_or_path"] == str(world.a)
    assert not (config.output / "config.json").exists()
    ours = loading.load_reward_model(config.output, Placement(torch.float32, DEVICE.device))
    theirs = peft.AutoPeftModelForSequenceClassification.from_pretrained(
        config.output, num_labels=1
    )
    with torch.no_grad():
        naive = torch.cat([theirs.eval()(torch.tensor([row])).logits[0] for row in ROWS])
    singly = torch.cat([ours.score_ids([row]) for row in ROWS])
    torch.testing.assert_close(singly, naive, atol=1e-6, rtol=0)
    # What training measured is what the folder scores.
    rows = read_rows(config.output / "eval_scores.jsonl")
    evaluation = json.loads((config.output / "evaluation.json").read_text())["evaluation"]
    assert evaluation["accuracy"]["n"] == len(rows)
    scale = json.loads((config.output / "salsa_reward.json").read_text())
    assert (ours.mean, ours.std) == (scale["mean"], scale["std"]) != (0.0, 1.0)
    # The card's recipe is run as it stands.
    card = (config.output / "README.md").read_text()
    recipe: dict[str, Any] = {}
    exec(card.partition("```python\n")[2].partition("```")[0], recipe)
    mine = ours.score(["the cat"], [Answer(" sat happy")])
    assert recipe["score"]("the cat", " sat happy") == pytest.approx(float(mine[0]), abs=1e-5)
    # As an ordinary reward, and as a judge.
    output = tmp_path / "policy"
    ppo.run(ppo_config(world, output, reward=(str(config.output),), updates=1), silent)
    assert (output / "config.json").exists()
    judged = EvalConfig(
        models=(str(world.a), str(world.b)),
        prompts=str(world.prompts),
        judge=(f"rm:{config.output}",),
        response_length=4,
        output=tmp_path / "judged",
        device="cpu",
    )
    evaluate.run(judged, silent)


def test_a_rank_that_is_not_low_is_refused_before_anything_is_loaded(
    world: World, tmp_path: Path
) -> None:
    width = shapes.shape(world.a).hidden
    config = TrainRMConfig(
        model=str(world.a), data=str(world.preferences), output=tmp_path / "rm", lora_rank=width
    )
    with pytest.raises(SalsaError, match=f"--lora-rank {width} is not low for a model of width"):
        train_rm.prepare(config, silent)
    train_rm.prepare(replace(config, lora_rank=width - 1), silent)


def test_a_merged_model_and_the_kept_adapter_score_the_same(world: World, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    found = []
    for kind in ("merged", "adapter"):
        config = TrainRMConfig(
            model=str(world.a),
            data=str(world.preferences),
            output=tmp_path / kind,
            lora_rank=4,
            lora_save=kind,
            ensemble=2,
            batch_size=8,
            learning_rate=1e-2,
            device="cpu",
        )
        train_rm.run(config, silent)
        found.append(rewards.load(str(config.output), DEVICE).score(["the cat"], [Answer(" ran")]))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match="--lora-save adapter has no effect without --lora-rank"):
        TrainRMConfig(model="m", data="d", output=tmp_path / "no", lora_save="adapter")


def test_activations_computed_twice_give_the_same_gradient(world: World) -> None:
    config = TrainRMConfig(model=str(world.a), data="x", output=Path("rm"))
    gradients, passes = [], []
    for twice in (False, True):
        reward = new_model(world)
        loading.trainable(reward.model)
        if twice:
            loading.checkpoint_activations(reward.model)
        calls: list[int] = []
        layer = reward.model.model.layers[0].mlp
        layer.register_forward_pre_hook(lambda *given, calls=calls: calls.append(1))
        fitting.accumulate_gradients(
            reward, partial(last_scores, reward.model), PAIRS, 0, config, DEVICE
        )
        gradients.append(torch.cat([p.grad.flatten() for p in reward.model.parameters()]))
        passes.append(len(calls))
        assert not layer.training
    assert passes == [1, 2]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-7, rtol=1e-5)
