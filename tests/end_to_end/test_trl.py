"""What salsa writes, in TRL: a soup as the reference of its DPO trainer, a policy as its model.

Skipped where TRL is not installed.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support import tiny
from tests.support.ppo_runs import configure, run
from tests.support.worlds import World

trl = pytest.importorskip("trl", reason="TRL is not installed")

BETA = 0.3


@pytest.fixture(scope="module")
def policy(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that `salsa ppo` trained near the soup."""
    config = configure(world, tmp_path_factory.mktemp("trl") / "policy", updates=2)
    run(config)
    return config.output


def trainer(model: Path, reference: Path | None, folder: Path) -> Any:
    """TRL's, for one step over four pairs."""
    from datasets import Dataset

    rows = [
        {"prompt": "the cat", "chosen": " sat happy", "rejected": " ran sad"},
        {"prompt": "a dog", "chosen": " sang on the mat", "rejected": " sat"},
        {"prompt": "the bird and", "chosen": " the sun", "rejected": " rain then sad"},
        {"prompt": "good day", "chosen": " happy", "rejected": " bad"},
    ]
    settings = trl.DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        per_device_train_batch_size=4,
        max_steps=1,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    return trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        ref_model=None if reference is None else AutoModelForCausalLM.from_pretrained(reference),
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
    )


@torch.no_grad()
def logprob(model: Any, prompt: list[int], answer: list[int]) -> float:
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1)[range(len(answer)), answer].sum())


def loss_by_hand(rows: Any, policy: Path, reference: Path) -> float:
    """-log sigmoid(beta * difference of the log-ratios), the mean over the pairs."""
    models = [AutoModelForCausalLM.from_pretrained(one) for one in (policy, reference)]
    losses = []
    for row in rows:
        ratios = []
        for answer in (row["chosen_ids"], row["rejected_ids"]):
            ours, theirs = (logprob(model, row["prompt_ids"], answer) for model in models)
            ratios.append(ours - theirs)
        losses.append(-float(logsigmoid(torch.tensor(BETA * (ratios[0] - ratios[1])))))
    return sum(losses) / len(losses)


def test_the_soup_is_the_reference_of_a_policy_in_dpo(
    world: World, policy: Path, tmp_path: Path
) -> None:
    dpo = trainer(policy, world.soup, tmp_path)
    rows = list(dpo.train_dataset)
    dpo.train()
    first = dpo.state.log_history[0]["loss"]
    # TRL logs the loss with a few digits.
    assert first == pytest.approx(loss_by_hand(rows, policy, world.soup), abs=1e-3)
    # With the policy itself, or an ingredient, as the reference it is another.
    assert abs(first - math.log(2)) > 5e-3
    assert abs(first - loss_by_hand(rows, policy, world.a)) > 5e-3
    dpo.save_model(str(tmp_path / "dpo"))
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "dpo").state_dict()
    before = AutoModelForCausalLM.from_pretrained(policy).state_dict()
    assert any(not torch.equal(trained[name], weight) for name, weight in before.items())


def test_a_policy_of_trl_goes_on_in_salsa(world: World, policy: Path, tmp_path: Path) -> None:
    """And back: what TRL saved starts a run near the same soup."""
    dpo = trainer(policy, world.soup, tmp_path / "work")
    dpo.train()
    dpo.save_model(str(tmp_path / "dpo"))
    tiny.tokenizer().save_pretrained(tmp_path / "dpo")
    run(configure(world, tmp_path / "policy", policy=str(tmp_path / "dpo"), updates=1))
