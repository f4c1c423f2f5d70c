"""Generation that depends on the seed alone, and the numbers that go with an answer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.generation import rollouts
from salsa_cli.generation.rollouts import Sampled
from salsa_cli.models import loading
from salsa_cli.models.backbones import Placement
from salsa_cli.models.loading import LanguageModel
from tests.support.worlds import World

PROMPTS = [[4, 6, 9], [5], [7, 8], [4, 7, 10, 11, 12], [6, 6], [13]]


@pytest.fixture(scope="module")
def cpu() -> Runtime:
    return start_runtime("cpu")


@pytest.fixture(scope="module")
def policy(world: World, cpu: Runtime) -> LanguageModel:
    return loading.load_language_model(world.a, Placement(torch.float32, cpu.device))


def draw(
    policy: LanguageModel,
    cpu: Runtime,
    rows: Sequence[int],
    *,
    length: int = 12,
    temperature: float = 0.8,
) -> Sampled:
    return rollouts.sample(
        policy,
        [PROMPTS[row] for row in rows],
        [1000 + row for row in rows],
        length=length,
        temperature=temperature,
        runtime=cpu,
    )


def real_tokens(sampled: Sampled, row: int) -> list[int]:
    return sampled.responses.ids[row][sampled.responses.mask[row]].tolist()


def test_an_answer_does_not_depend_on_its_batch(policy: LanguageModel, cpu: Runtime) -> None:
    together = draw(policy, cpu, range(6))
    answers = [real_tokens(together, row) for row in range(6)]
    assert [real_tokens(draw(policy, cpu, [row]), 0) for row in range(6)] == answers
    turned = draw(policy, cpu, [5, 4, 3, 2, 1, 0])
    assert [real_tokens(turned, 5 - row) for row in range(6)] == answers
    assert len({tuple(answer) for answer in answers}) > 1


def test_sampling_leaves_the_global_generator_alone(policy: LanguageModel, cpu: Runtime) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    draw(policy, cpu, range(3))
    assert torch.rand(1) == expected


def test_samples_follow_the_models_distribution(policy: LanguageModel, cpu: Runtime) -> None:
    draws, temperature = 4000, 1.3
    sampled = rollouts.sample(
        policy, [[4, 6]] * draws, range(draws), length=1, temperature=temperature, runtime=cpu
    )
    counts = np.bincount(sampled.responses.ids[:, 0].numpy(), minlength=24)
    with torch.no_grad():
        logits = policy.model(torch.tensor([[4, 6]])).logits[0, -1]
    expected = draws * torch.softmax(logits / temperature, -1).double().numpy()
    common = expected > 5
    chi2 = float(((counts - expected)[common] ** 2 / expected[common]).sum())
    # The mean of chi-square is its degrees of freedom d, its deviation sqrt(2 d): 5 of them.
    freedom = int(common.sum()) - 1
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_everything_behind_the_first_end_token_is_masked() -> None:
    ids = torch.tensor([[5, 2, 7, 2], [1, 5, 5, 5], [5, 6, 7, 8], [5, 6, 7, 2]])
    tokens, finished = rollouts._until_end(ids, (1, 2))
    assert tokens.mask.int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert finished.tolist() == [True, True, False, True]


def test_texts_leave_special_tokens_out(policy: LanguageModel, cpu: Runtime) -> None:
    sampled = draw(policy, cpu, range(6))
    for row, answer in enumerate(rollouts.texts(policy, sampled)):
        ids = [token for token in real_tokens(sampled, row) if token > 3]
        assert answer.text.split() == [policy.tokenizer.decode([token]) for token in ids]
        assert answer.finished == bool(sampled.finished[row])


@pytest.mark.parametrize("rows", [1, 4, 6])
def test_logprobs_equal_those_of_each_answer_alone(
    world: World, policy: LanguageModel, cpu: Runtime, rows: int
) -> None:
    sampled = draw(policy, cpu, range(6))
    groups = torch.tensor([3, 1, 5, 0, 2, 4]).split(rows)
    found = rollouts.logprobs(policy.model, sampled, temperature=0.8, groups=groups, runtime=cpu)
    naive = AutoModelForCausalLM.from_pretrained(world.a).double().eval()
    for row, prompt in enumerate(PROMPTS):
        answer = real_tokens(sampled, row)
        with torch.no_grad():
            logits = naive(torch.tensor([prompt + answer])).logits[0] / 0.8
        for place, token in enumerate(answer):
            expected = torch.log_softmax(logits[len(prompt) + place - 1], -1)[token]
            # float32 against float64 through two layers.
            assert float(found[row, place]) == pytest.approx(float(expected), abs=2e-5)


def test_values_are_of_the_state_before_each_token(
    world: World, policy: LanguageModel, cpu: Runtime
) -> None:
    sampled = draw(policy, cpu, range(6))
    critic = loading.load_critic(world.rm, Placement(torch.float32, cpu.device))
    groups = torch.tensor([3, 1, 5, 0, 2, 4]).split(2)
    found = rollouts.values(critic, sampled, groups=groups, runtime=cpu)
    naive = AutoModelForSequenceClassification.from_pretrained(world.rm).double().eval()
    for row, prompt in enumerate(PROMPTS):
        answer = real_tokens(sampled, row)
        for place in range(len(answer)):
            with torch.no_grad():
                state = naive.model(torch.tensor([prompt + answer[:place]]))
                expected = naive.score(state.last_hidden_state[0, -1])
            assert float(found[row, place]) == pytest.approx(float(expected), abs=2e-5)


def test_a_folders_sampling_habits_are_not_taken_over(
    world: World, cpu: Runtime, tmp_path: Path
) -> None:
    """A `repetition_penalty` in generation_config.json would bend the ratio without a word."""
    import json
    import shutil

    habits = shutil.copytree(world.a, tmp_path / "habits")
    given = {"eos_token_id": [1, 2], "pad_token_id": 0, "repetition_penalty": 5.0, "top_k": 1}
    (habits / "generation_config.json").write_text(json.dumps(given))
    model = loading.load_language_model(habits, Placement(torch.float32, cpu.device))
    plain = loading.load_language_model(world.a, Placement(torch.float32, cpu.device))
    assert model.eos_ids == (1, 2)
    first = draw(model, cpu, range(6), length=6, temperature=1.0)
    second = draw(plain, cpu, range(6), length=6, temperature=1.0)
    for row in range(6):
        short, long = sorted((real_tokens(first, row), real_tokens(second, row)), key=len)
        assert long[: len(short)] == short


def test_an_answer_ends_at_any_of_the_end_tokens(
    world: World, cpu: Runtime, tmp_path: Path
) -> None:
    import json
    import shutil

    ends = {9, 12, 2}
    several = shutil.copytree(world.a, tmp_path / "several")
    (several / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 12]}))
    policy = loading.load_language_model(several, Placement(torch.float32, cpu.device))
    assert set(policy.eos_ids) == ends
    sampled = rollouts.sample(
        policy, [[4, 6]] * 60, range(60), length=12, temperature=1.5, runtime=cpu
    )
    seen = set()
    for row in range(60):
        tokens = real_tokens(sampled, row)
        assert not ends & set(tokens[:-1])
        assert bool(sampled.finished[row]) == (tokens[-1] in ends)
        assert len(tokens) == 12 or sampled.finished[row]
        seen.add(tokens[-1])
    assert ends <= seen
