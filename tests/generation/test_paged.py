"""Continuous batching on a CPU: the same model, another way to its answers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from salsa_cli.errors import SalsaError
from salsa_cli.generation import paged
from tests.support.kinds import PROMPTS, llama, naive, numbers, policy, told

runs = pytest.mark.skipif(
    not hasattr(transformers, "ContinuousBatchingConfig"),
    reason="this transformers batches continuously on GPUs alone",
)


@runs
def test_greedy_answers_are_those_of_a_loop_without_cache_or_batch() -> None:
    model, uniforms = policy(llama), numbers(len(PROMPTS))
    answers = told(paged.generate(model, PROMPTS, uniforms, 0.0))
    assert answers == naive(model.model, PROMPTS, uniforms, 0.0)
    assert "forward" not in vars(model.model)


@runs
def test_draws_follow_the_models_distribution_and_leave_the_global_generator_alone() -> None:
    model, draws, temperature = policy(llama), 400, 2.0
    model.model.lm_head.weight.mul_(8)  # so that a temperature shows
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    ids = paged.generate(model, [[4, 6]] * draws, numbers(draws, 1), temperature)
    assert torch.rand(1) == expected
    counts = np.bincount(ids[:, 0].numpy(), minlength=24)
    logits = model.model(torch.tensor([[4, 6]])).logits[0, -1]
    shares = draws * torch.softmax(logits / temperature, -1).double().numpy()
    common = shares > 5
    chi2 = float(((counts - shares)[common] ** 2 / shares[common]).sum())
    # The mean of chi-square is its degrees of freedom d, its deviation sqrt(2 d): 5 of them.
    freedom = int(common.sum()) - 1
    assert freedom > 3
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


@runs
def test_autocast_does_not_reach_it() -> None:
    """The pages have the type of the weights, and would not take other states."""
    model, uniforms = policy(llama), numbers(len(PROMPTS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answers = told(paged.generate(model, PROMPTS, uniforms, 0.0))
    assert answers == naive(model.model, PROMPTS, uniforms, 0.0)


@runs
def test_a_request_that_fails_ends_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    model = policy(llama)
    monkeypatch.setattr(type(model.model), "generate_batch", lambda self, **_: {})
    with pytest.raises(SalsaError, match="2 of 2 requests failed; --generator auto needs no pages"):
        paged.generate(model, PROMPTS[:2], numbers(2, 3), 0.7)


def test_another_transformers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(page_size: int) -> None: ...

    other = SimpleNamespace(__version__="5.0.0", ContinuousBatchingConfig=older)
    monkeypatch.setattr(paged, "transformers", other)
    with pytest.raises(SalsaError, match=r"does not know the transformers 5\.0\.0"):
        paged.generate(policy(llama), PROMPTS[:2], numbers(2, 3), 0.7)
