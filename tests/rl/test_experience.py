"""What the policy did and what it was worth: rewards, KLs, and what must not be learned from."""

from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch

from salsa_cli import data
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.generation import rollouts
from salsa_cli.generation.rollouts import Rollout, Sampled
from salsa_cli.models.tokenization import Tokens
from salsa_cli.rl import experience, preflight
from salsa_cli.rl.actors import load_actors
from salsa_cli.rl.run import Run
from salsa_cli.runs.events import silent
from tests.support.ppo_runs import configure
from tests.support.worlds import World

LENGTHS = torch.tensor([7, 10])
MASK = torch.tensor([[True, True, True], [True, False, False]])


def settings(**changes: Any) -> PPOConfig:
    given: dict[str, Any] = {"ref": ("r",), "reward": ("m",), "prompts": "p", "output": Path("o")}
    return PPOConfig(**{**given, **changes})


def rollout(sampler: torch.Tensor | None = None, **changes: Any) -> Rollout:
    """Two answers of three tokens and of one, under one or several references."""
    prompts = Tokens(torch.ones(2, 1, dtype=torch.long), torch.ones(2, 1, dtype=torch.bool))
    answers = Tokens(torch.ones(2, 3, dtype=torch.long), MASK)
    held: dict[str, Any] = {
        "sampled": Sampled(prompts, answers, torch.tensor([True, True]), sampler),
        "logprobs": torch.tensor([[-1.0, -2.0, -3.0], [-0.5, 0.0, 0.0]]),
        "ref_logprobs": (torch.tensor([[-2.0, -2.0, -1.0], [-1.5, 0.0, 0.0]]),),
        "values": torch.zeros(2, 3),
        "scores": torch.tensor([1.0, 2.0]),
    }
    return Rollout(**{**held, **changes})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [3.0, 5.0]),
        ({"no_eos": "subtract", "no_eos_value": 1.0}, [3.0, 4.0]),
        ({"no_eos": "replace", "no_eos_value": -1.0}, [3.0, -1.0]),
        ({"reward_clip": 4.0}, [3.0, 4.0]),
        # the rule comes after the clipping, so that a clipped answer can still be told apart
        ({"reward_clip": 2.0, "no_eos": "subtract", "no_eos_value": 1.0}, [2.0, 1.0]),
        # Of 10 tokens at most, answers of 7 and 10: 1 and 4 of the last 4 tokens are used.
        ({"overlong_penalty": 2.0, "overlong_buffer": 4}, [2.5, 3.0]),
        ({"overlong_penalty": 2.0}, [3.0, 3.0]),  # over 2 tokens
        ({"overlong_penalty": 1.0, "reward_clip": 2.0}, [2.0, 1.0]),
    ],
)
def test_what_an_answer_scores(
    world: World, options: dict[str, Any], expected: list[float]
) -> None:
    config = configure(world, Path("unused"), response_length=10, **options)
    finished = torch.tensor([True, False])
    found = experience.shape_rewards(torch.tensor([3.0, 5.0]), finished, LENGTHS, config)
    assert found.tolist() == expected


def test_the_kl_is_the_sum_over_an_answer_and_the_mean_of_the_references() -> None:
    # k1 = log pi - log ref: 1 + 0 - 2 = -1, and 1.
    assert experience.kl_sums(rollout()).tolist() == [-1.0, 1.0]
    first = rollout().ref_logprobs[0]
    both = rollout(ref_logprobs=(first, first - 2.0))
    # The second reference adds 2 nats per token: -1 + 6 and 1 + 2; the mean of both.
    assert experience.kl_sums(both).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("logprobs", "1 of 4 of the policy's log-probabilities"),
        ("ref_logprobs", "1 of 4 of the reference's log-probabilities"),
        ("values", "1 of 4 of the critic's values"),
        ("scores", "1 of 2 of the rewards"),
    ],
)
def test_nothing_is_learned_from_what_is_not_finite(name: str, words: str, bad: float) -> None:
    good = getattr(rollout(), name)
    held = (good[0] if isinstance(good, tuple) else good).clone()
    held.view(-1)[0] = bad
    broken = rollout(**{name: (held,) if isinstance(good, tuple) else held})
    with pytest.raises(SalsaError, match=words):
        experience._check_finite(broken)


def test_what_lies_on_the_padding_does_not_matter() -> None:
    held = rollout().logprobs.clone()
    held[~MASK] = nan
    experience._check_finite(rollout(logprobs=held))


def test_another_sampler_is_refused_where_it_is_too_far_away() -> None:
    assert experience.mismatch(rollout()) is None
    experience._check_sampler(rollout(), settings())
    ours = rollout().logprobs
    # The mean of |log pi - log mu| over the four tokens.
    near = rollout(sampler=ours + torch.tensor([[0.4, -0.3, 0.0], [0.1, 9.0, 9.0]]))
    found = experience.mismatch(near)
    assert found is not None and found.nats == pytest.approx(0.2, abs=1e-6)
    far = rollout(sampler=ours + torch.tensor([[0.4, -0.4, 0.0], [0.1, 0.0, 0.0]]))
    with pytest.raises(
        SalsaError,
        match=(
            r"differ by 0\.23 nats per token on average, more than "
            r"0\.2"
        ),
    ):
        experience._check_sampler(far, settings())


def test_the_hint_names_the_temperature_only_where_there_is_one() -> None:
    far = rollout(sampler=rollout().logprobs + 1)
    for temperature, hinted in ((1.0, False), (0.7, True)):
        with pytest.raises(SalsaError) as found:
            experience._check_sampler(far, settings(temperature=temperature))
        assert ("--temperature 0.7 needs" in str(found.value)) is hinted


def test_answers_are_drawn_by_the_settings(world: World, tmp_path: Path) -> None:
    """Length, temperature and seeds are those of the run, and another temperature draws others."""
    config = configure(world, tmp_path / "o", temperature=0.4, response_length=5, seed=3)
    plan = preflight.prepare(config, silent)
    run = Run(plan, config, start_runtime("cpu"), tmp_path)
    actors = load_actors(run)
    found = experience.generate_answers("rollout", 2, 3, actors, run).sampled
    places = data.batch_indices(len(plan.prompts), config.batch_size, 3, 2)

    def drawn(temperature: float) -> Sampled:
        return rollouts.sample(
            actors.policy,
            [plan.prompt_ids[i] for i in places],
            [data.stable_seed(3, "rollout", 2, place) for place in range(config.batch_size)],
            length=5,
            temperature=temperature,
            runtime=run.runtime,
        )

    assert torch.equal(found.responses.ids, drawn(0.4).responses.ids)
    other = drawn(1.0).responses.ids
    assert other.shape != found.responses.ids.shape or not torch.equal(other, found.responses.ids)


def test_answers_of_a_prompt_stand_together_and_differ(world: World, tmp_path: Path) -> None:
    """Four prompts, those that an update of four answers would take, two answers of each."""
    found = {}
    for size in (1, 2):
        config = configure(
            world, tmp_path / "o", batch_size=4 * size, samples_per_prompt=size, advantage="gae"
        )
        plan = preflight.prepare(config, silent)
        run = Run(plan, config, start_runtime("cpu"), Path("unused"))
        found[size] = experience.generate_answers("rollout", 2, 3, load_actors(run), run)
    assert found[2].prompts == tuple(one for one in found[1].prompts for _ in range(2))
    ids = found[2].sampled.responses.ids.tolist()
    assert sum(ids[row] != ids[row + 1] for row in range(0, 8, 2)) > 2


def test_means_by_name() -> None:
    scores = torch.tensor([[1.0, 3.0], [0.0, -1.0]])
    assert experience.means(("a", "b"), scores) == {"a": 2.0, "b": -0.5}
    assert experience.means(("a",), None) == {}
