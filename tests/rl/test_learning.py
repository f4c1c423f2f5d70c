"""What an update learns, held against the naive restatement in `oracle.py`."""

from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.generation.rollouts import Rollout, Sampled
from salsa_cli.maths import advantages as adv
from salsa_cli.maths import categorical, masked, ppo_loss
from salsa_cli.models import forward, loading
from salsa_cli.models.backbones import Placement
from salsa_cli.models.learners import Learner
from salsa_cli.models.tokenization import Tokens, pad_left
from salsa_cli.reward_models.rewards import Ensemble
from salsa_cli.rl import experience, learning
from salsa_cli.rl.actors import Actors
from salsa_cli.rl.learning import Targets
from salsa_cli.rl.run import Run
from tests.support import oracle
from tests.support.oracle import Batch, Recipe
from tests.support.worlds import World

ROWS, WIDTH, VOCABULARY, END = 8, 6, 11, 2

SETTINGS: list[dict[str, Any]] = [
    {},
    {"kl_coef": 0.3, "gamma": 0.9, "lam": 0.7, "temperature": 0.7},
    {"kl_coef": 0.2, "whiten_rewards": True},
    {"kl_coef": 0.2, "value_clip": 0.0, "lam": 0.0},
    {"penalty": "chi2", "dual_clip": 1.3, "clip": 0.1},
    {"penalty": "mean-kl", "ref": ("a", "b"), "kl_coef": 0.5, "lam": 1.0},
    {"kl_in": "loss", "kl_estimator": "k2", "kl_coef": 0.4, "whiten_rewards": True},
    {"kl_in": "loss", "kl_estimator": "k3", "kl_coef": 0.4, "dual_clip": 2.0},
    {"advantage": "rloo", "samples_per_prompt": 4, "kl_coef": 0.3, "temperature": 0.7},
    {"advantage": "group", "samples_per_prompt": 2, "penalty": "mean-kl", "ref": ("a", "b")},
    {"advantage": "grpo", "samples_per_prompt": 2, "penalty": "chi2", "dual_clip": 1.3},
    {"advantage": "grpo", "kl_in": "loss", "kl_estimator": "k3", "kl_coef": 0.4},
    {"clip": 0.1, "clip_high": 0.25, "critic_lambda": 1.0, "lam": 0.6},
    {"adaptive_lambda": 0.4, "critic_lambda": 0.9},
]
BY_ANSWER: list[dict[str, Any]] = [
    {**SETTINGS[4], "loss_level": "answer"},
    {**SETTINGS[11], "loss_level": "answer"},
]
"""Answers weigh the same: `learn` alone does that, with the figures of a whole minibatch."""


def configure(**changes: Any) -> PPOConfig:
    settings: dict[str, Any] = {
        "ref": ("a",),
        "reward": ("r",),
        "prompts": "p",
        "output": Path("unused"),
        "batch_size": ROWS,
    }
    return PPOConfig(**{**settings, **changes})


def recipe(config: PPOConfig) -> Recipe:
    """The same settings in the oracle's words."""
    return Recipe(
        estimator="chi2" if config.penalty == "chi2" else config.kl_estimator,
        coef=config.kl_coef,
        in_loss=config.kl_in == "loss",
        whiten_rewards=config.whiten_rewards,
        gamma=config.gamma,
        lam=config.lam,
        clip=config.clip,
        dual_clip=config.dual_clip,
        value_clip=config.value_clip or float("inf"),
        temperature=config.temperature,
        advantage=config.advantage,
        size=config.group_size,
        clip_high=config.clip_high,
        critic_lam=config.critic_lambda,
        adaptive=config.adaptive_lambda,
        by_answer=config.loss_level == "answer",
    )


def lengths_of(kind: str, generator: np.random.Generator) -> list[int]:
    """Answers that end at every position, after one token, never, or anywhere."""
    return {
        "every position": [1, 2, 3, 4, 5, 6, 6, 1],
        "one token": [1] * ROWS,
        "all cut": [WIDTH] * ROWS,
        "ragged": generator.integers(1, WIDTH + 1, ROWS).tolist(),
    }[kind]


def rows_of(x: torch.Tensor, lengths: list[int]) -> list[np.ndarray]:
    return [row[:n].detach().numpy() for row, n in zip(x, lengths, strict=True)]


def running(config: PPOConfig, runtime: Runtime) -> Run:
    """A run of these settings; what computes with given answers needs neither plan nor folder."""
    plan: Any = None
    return Run(plan, config, runtime, Path("unused"))


@pytest.fixture(params=["every position", "one token", "all cut", "ragged"])
def lengths(request: pytest.FixtureRequest) -> list[int]:
    return lengths_of(request.param, np.random.default_rng(3))


@pytest.mark.parametrize("changes", SETTINGS)
def test_an_update_is_that_of_the_oracle(changes: dict[str, Any], lengths: list[int]) -> None:
    """Log-probabilities, penalty, rewards, GAE, returns, whitening, losses; gradients of both."""
    config = configure(**changes)
    settings = recipe(config)
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.arange(WIDTH) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(0, VOCABULARY, (ROWS, WIDTH), generator=generator)
    old_logits, moved = normal(ROWS, WIDTH, VOCABULARY), normal(ROWS, WIDTH, VOCABULARY)
    ref_logits = [normal(ROWS, WIDTH, VOCABULARY) for _ in config.ref]
    logits = (old_logits + 0.3 * moved).requires_grad_()
    values, scores = normal(ROWS, WIDTH), normal(ROWS)
    new_values = (values + 0.3 * normal(ROWS, WIDTH)).requires_grad_()

    def logprobs(given: torch.Tensor) -> torch.Tensor:
        return categorical.token_logprobs(given, tokens, config.temperature)

    def naive(given: torch.Tensor) -> list[np.ndarray]:
        return [
            oracle.token_logprobs(row[:n].detach().numpy(), ids[:n].tolist(), config.temperature)
            for row, ids, n in zip(given, tokens, lengths, strict=True)
        ]

    sampled = Sampled(
        Tokens(tokens[:, :1], mask[:, :1]), Tokens(tokens, mask), torch.ones(ROWS, dtype=torch.bool)
    )
    poison = torch.where(mask, 0.0, torch.nan)  # nothing on padding may reach a result
    rollout = Rollout(
        sampled,
        logprobs(old_logits) + poison,
        tuple(logprobs(ref) + poison for ref in ref_logits),
        values + poison if config.has_critic else None,
        scores,
    )
    penalty = learning.compute_penalties(
        rollout.logprobs, rollout.ref_logprobs, rollout.mask, config
    )
    targets = learning.compute_advantages(rollout, penalty, config.kl_coef, config)
    expected = oracle.aim(
        Batch(
            naive(old_logits),
            [naive(ref) for ref in ref_logits],
            rows_of(values, lengths),
            scores.tolist(),
        ),
        settings,
    )
    close(targets.advantages, expected.advantages, lengths)
    if config.has_critic:
        close(targets.returns, expected.returns, lengths)
    assert float(targets.advantages[~mask].abs().sum()) == 0

    count = mask.sum()
    new = logprobs(logits)
    policy = ppo_loss.policy_loss(
        new,
        rollout.logprobs,
        targets.advantages,
        mask,
        config.clip,
        count,
        config.dual_clip,
        config.clip_high,
    ).loss
    if config.kl_in == "loss":
        near = learning.loss_penalties(new, rollout.logprobs, rollout.ref_logprobs, mask, config)
        policy = policy + config.kl_coef * ppo_loss.divergence_loss(
            targets.unit * near, mask, count
        )
    value = new_values.sum() * 0
    if config.has_critic:
        value = ppo_loss.value_loss(
            new_values, rollout.values, targets.returns, mask, settings.value_clip, count
        ).loss
    assert policy.item() == pytest.approx(
        oracle.policy_loss(expected, naive(logits), settings), abs=1e-10
    )
    if config.has_critic:
        assert value.item() == pytest.approx(
            oracle.value_loss(expected, rows_of(new_values, lengths), settings), abs=1e-10
        )

    torch.autograd.backward(policy + value)
    step = 1e-6
    for row, column in [(0, 0), (3, lengths[3] - 1), (5, 0)]:
        for token in (int(tokens[row, column]), 7):
            ends = []
            for sign in (1, -1):
                shifted = logits.detach().clone()
                shifted[row, column, token] += sign * step
                ends.append(
                    oracle.policy_loss(expected, naive(shifted), settings, fixed=naive(logits))
                )
            assert logits.grad is not None
            # A central difference of 1e-6 leaves rounding of about 1e-10.
            assert float(logits.grad[row, column, token]) == pytest.approx(
                (ends[0] - ends[1]) / (2 * step), abs=1e-8
            )
        ends = []
        if not config.has_critic:
            continue
        for sign in (1, -1):
            nudged = new_values.detach().clone()
            nudged[row, column] += sign * step
            ends.append(oracle.value_loss(expected, rows_of(nudged, lengths), settings))
        assert new_values.grad is not None
        assert float(new_values.grad[row, column]) == pytest.approx(
            (ends[0] - ends[1]) / (2 * step), abs=1e-8
        )
    assert float(logits.grad[~mask].abs().sum()) == 0
    assert float(new_values.grad[~mask].abs().sum()) == 0


def close(found: torch.Tensor, expected: oracle.Rows, lengths: list[int]) -> None:
    for ours, theirs in zip(rows_of(found, lengths), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


# ----------------------------------------------------------------- through a model, in float64


PROMPTS = [[4, 6, 9], [5], [7, 8], [4, 7, 10, 11, 12], [6, 6], [13], [9, 9, 9, 9], [4]]


@pytest.fixture(scope="module")
def cpu() -> Runtime:
    return start_runtime("cpu")


def act(world: World, cpu: Runtime, config: PPOConfig | None = None) -> Actors:
    """Policy, two references and critic in float64, or as many of them as a configuration has."""
    policy = loading.load_language_model(world.a, Placement(torch.float64, cpu.device))
    held = [
        loading.load_language_model(f, Placement(torch.float64, cpu.device))
        for f in (world.soup, world.b)
    ]
    critic = loading.load_critic(world.rm, Placement(torch.float32, cpu.device)).double()
    for model in (policy.model, critic, *(one.model for one in held)):
        in_full_precision(model)
    count = len(held) if config is None else len(config.ref)
    return Actors(
        policy,
        tuple(one.model for one in held[:count]),
        Ensemble((), lambda scores: scores[0]),
        None,
        Learner("policy", policy.model, forward.answer_logprobs, 1e-3, 1.0, cpu),
        Learner("critic", critic, forward.answer_values, 1e-3, 1.0, cpu)
        if config is None or config.has_critic
        else None,
    )


def in_full_precision(model: Any) -> None:
    """Llama's norm rounds to float32, whatever its weights are; here it keeps float64."""

    def norm(self: Any, x: torch.Tensor) -> torch.Tensor:
        size: torch.Tensor = x.square().mean(-1, keepdim=True)
        return self.weight * x * torch.rsqrt(size + self.variance_epsilon)

    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = MethodType(norm, module)


def given_answers(lengths: list[int], pad: int) -> Sampled:
    """Random answers of these lengths; those shorter than WIDTH close with the end token."""
    generator = np.random.default_rng(8)
    ids = torch.full((ROWS, WIDTH), pad)
    mask = torch.arange(WIDTH) < torch.tensor(lengths)[:, None]
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.from_numpy(generator.integers(4, 24, length))
        if length < WIDTH:
            ids[row, length - 1] = END
    finished = torch.tensor(lengths) < WIDTH
    return Sampled(pad_left(PROMPTS, pad), Tokens(ids, mask), finished)


def alone(model: Any, sampled: Sampled, row: int) -> tuple[torch.Tensor, list[int], int]:
    """Inputs of one answer without any padding: ids, the answer's tokens, the prompt's length."""
    answer = sampled.responses.ids[row][sampled.responses.mask[row]].tolist()
    return torch.tensor([PROMPTS[row] + answer]), answer, len(PROMPTS[row])


@torch.no_grad()
def naive_logprobs(model: Any, sampled: Sampled, temperature: float) -> list[np.ndarray]:
    found = []
    for row in range(ROWS):
        ids, answer, start = alone(model, sampled, row)
        logits = model(input_ids=ids).logits[0, start - 1 : -1].numpy()
        found.append(oracle.token_logprobs(logits, answer, temperature))
    return found


@torch.no_grad()
def naive_values(critic: Any, sampled: Sampled) -> list[np.ndarray]:
    found = []
    for row in range(ROWS):
        ids, _, start = alone(critic, sampled, row)
        hidden = critic.model(input_ids=ids).last_hidden_state
        found.append(critic.score(hidden)[0, start - 1 : -1, 0].numpy())
    return found


@pytest.mark.parametrize(
    "changes", [SETTINGS[1], SETTINGS[5], SETTINGS[7], *SETTINGS[8:], *BY_ANSWER]
)
def test_an_update_through_models_is_that_of_the_oracle(
    world: World, cpu: Runtime, changes: dict[str, Any], lengths: list[int]
) -> None:
    """Padding, positions and temperature too: the oracle runs each answer alone, unpadded."""
    config = configure(**changes, micro_batch_size=4)
    settings = recipe(config)
    acting = act(world, cpu, config)
    sampled, scores = given_answers(lengths, pad=0), torch.linspace(-1, 2, ROWS).double()
    rollout = experience.compute_rollout(sampled, scores, acting, running(config, cpu))
    expected = oracle.aim(
        Batch(
            naive_logprobs(acting.policy.model, sampled, config.temperature),
            [naive_logprobs(one, sampled, config.temperature) for one in acting.references],
            naive_values(acting.critic.model, sampled) if config.has_critic else [],
            scores.tolist(),
        ),
        settings,
    )
    close(rollout.logprobs, expected.old, lengths)
    if config.has_critic:
        close(rollout.values, expected.values, lengths)
    for found, theirs in zip(rollout.ref_logprobs, expected.refs, strict=True):
        close(found, theirs, lengths)
    penalty = learning.compute_penalties(
        rollout.logprobs, rollout.ref_logprobs, rollout.mask, config
    )
    targets = learning.compute_advantages(rollout, penalty, config.kl_coef, config)
    close(targets.advantages, expected.advantages, lengths)

    move(acting)
    order = torch.arange(ROWS)
    measured = accumulate(order, rollout, targets, acting, running(config, cpu))

    moved = naive_logprobs(acting.policy.model, sampled, config.temperature)

    def policy_loss() -> float:
        new = naive_logprobs(acting.policy.model, sampled, config.temperature)
        return oracle.policy_loss(expected, new, settings, fixed=moved)

    def value_loss() -> float:
        new = naive_values(acting.critic.model, sampled)
        return oracle.value_loss(expected, new, settings)

    assert measured["policy_loss"] == pytest.approx(policy_loss(), abs=1e-10)
    check_gradient(acting.policy.model, policy_loss)
    if config.has_critic:
        assert measured["value_loss"] == pytest.approx(value_loss(), abs=1e-10)
        check_gradient(acting.critic.model, value_loss)


@pytest.mark.parametrize(
    "changes", [SETTINGS[1], SETTINGS[4], SETTINGS[6], SETTINGS[7], SETTINGS[-1]]
)
def test_answers_of_another_program_count_by_their_importance(
    world: World, cpu: Runtime, changes: dict[str, Any]
) -> None:
    """Clipping, dual clipping and a divergence in the loss, each term times its token's weight."""
    lengths = lengths_of("ragged", np.random.default_rng(3))
    config = configure(**changes, micro_batch_size=4)
    settings = recipe(config)
    acting = act(world, cpu, config)
    sampled, scores = given_answers(lengths, pad=0), torch.linspace(-1, 2, ROWS).double()
    rollout = experience.compute_rollout(sampled, scores, acting, running(config, cpu))
    apart = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(7)).double()
    theirs = torch.where(rollout.mask, rollout.logprobs + apart, torch.nan)
    rollout = replace(rollout, sampled=replace(sampled, sampler_logprobs=theirs))
    naive = Batch(
        naive_logprobs(acting.policy.model, sampled, config.temperature),
        [naive_logprobs(one, sampled, config.temperature) for one in acting.references],
        naive_values(acting.critic.model, sampled) if config.has_critic else [],
        scores.tolist(),
        sampler=rows_of(theirs, lengths),
    )
    expected = oracle.aim(naive, settings)
    penalty = learning.compute_penalties(
        rollout.logprobs, rollout.ref_logprobs, rollout.mask, config
    )
    targets = learning.compute_advantages(rollout, penalty, config.kl_coef, config)
    assert float(targets.advantages[~rollout.mask].abs().sum()) == 0
    assert targets.weights is not None
    assert 0 < float((targets.weights == 2).sum()) < sum(lengths)  # some are cut, not all

    move(acting)
    order = torch.arange(ROWS)
    measured = accumulate(order, rollout, targets, acting, running(config, cpu))

    moved = naive_logprobs(acting.policy.model, sampled, config.temperature)

    def policy_loss() -> float:
        new = naive_logprobs(acting.policy.model, sampled, config.temperature)
        return oracle.policy_loss(expected, new, settings, fixed=moved)

    assert measured["policy_loss"] == pytest.approx(policy_loss(), abs=1e-10)
    if config.has_critic:
        new_values = naive_values(acting.critic.model, sampled)
        value_loss = oracle.value_loss(expected, new_values, settings)  # has no weights
        assert measured["value_loss"] == pytest.approx(value_loss, abs=1e-10)
    check_gradient(acting.policy.model, policy_loss)


def accumulate(
    order: torch.Tensor, rollout: Rollout, targets: Targets, acting: Actors, run: Run
) -> dict[str, float]:
    """The gradients of both models, and the figures of both."""
    given = order, rollout, targets
    coef = run.config.kl_coef
    policy = learning._accumulate_policy_gradients(*given, coef, acting, run)
    if acting.critic is None:
        return policy
    return policy | learning._accumulate_critic_gradients(*given, acting, run)


def move(acting: Actors) -> None:
    """Away from the weights that sampled, so that the ratio is not 1."""
    torch.manual_seed(4)
    with torch.no_grad():
        for learner in filter(None, (acting.actor, acting.critic)):
            for parameter in learner.model.parameters():
                parameter.add_(0.03 * torch.randn_like(parameter))


def check_gradient(model: Any, loss: Any, step: float = 1e-6) -> None:
    """A few weights of every third parameter, by central differences of the oracle's loss."""
    for parameter in list(model.parameters())[::3]:
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        place = int(gradient.abs().argmax())
        before, ends = float(flat[place]), []
        for sign in (1, -1):
            flat[place] = before + sign * step
            ends.append(loss())
        flat[place] = before
        # rounding of the difference, 1e-16 / 1e-6, and its curvature
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-7, rel=1e-7)


def test_one_model_has_gradients_at_a_time(world: World, cpu: Runtime) -> None:
    """In every pass, of several a step, the other model has none."""
    config = configure(minibatches=2, epochs=2, micro_batch_size=2)
    acting = act(world, cpu)
    sampled = given_answers([1, 2, 3, 4, 5, 6, 6, 1], pad=0)
    scores = torch.linspace(-1, 1, ROWS).double()
    rollout = experience.compute_rollout(sampled, scores, acting, running(config, cpu))
    targets = learning.compute_advantages(rollout, torch.zeros_like(rollout.logprobs), 0.0, config)
    passes = []
    for one, other in ((acting.actor, acting.critic), (acting.critic, acting.actor)):

        def watch(*_: Any, one: Learner = one, other: Learner = other) -> None:
            passes.append(one is acting.actor)
            assert all(weight.grad is None for weight in other.model.parameters())

        one.network.register_forward_pre_hook(watch)
    learning.learn(0, rollout, targets, 0.0, acting, running(config, cpu))
    assert passes == [True, True, False, False] * 4


def test_pad_equal_to_the_end_token_changes_nothing(world: World, cpu: Runtime) -> None:
    """What stands on the padding is never looked at."""
    config = configure(minibatches=2, epochs=2, learning_rate=1e-3)
    found = []
    for pad in (0, END):
        acting = act(world, cpu)
        sampled = given_answers([1, 2, 3, 4, 5, 6, 6, 1], pad)
        rollout = experience.compute_rollout(
            sampled, torch.arange(8.0).double(), acting, running(config, cpu)
        )
        penalty = learning.compute_penalties(
            rollout.logprobs, rollout.ref_logprobs, rollout.mask, config
        )
        targets = learning.compute_advantages(rollout, penalty, config.kl_coef, config)
        learned = learning.learn(0, rollout, targets, config.kl_coef, acting, running(config, cpu))
        found.append((learned, acting.policy.model.state_dict()))
    assert found[0][0] == found[1][0]
    for name, weight in found[0][1].items():
        assert torch.equal(found[1][1][name], weight), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sixteen_at_once_and_four_times_four_make_the_same_update(
    world: World, cpu: Runtime, dtype: torch.dtype
) -> None:
    found = []
    for micro in (16, 4):
        config = configure(batch_size=16, micro_batch_size=micro, learning_rate=1e-3)
        acting = act(world, cpu)
        for model in (acting.policy.model, acting.critic.model, *acting.references):
            model.to(dtype)
        half = given_answers([1, 2, 3, 4, 5, 6, 6, 1], pad=0)
        sampled = Sampled(
            *(
                Tokens(t.ids.repeat(2, 1), t.mask.repeat(2, 1))
                for t in (half.prompts, half.responses)
            ),
            half.finished.repeat(2),
        )
        scores = torch.linspace(-2, 2, 16, dtype=dtype)
        rollout = experience.compute_rollout(sampled, scores, acting, running(config, cpu))
        penalty = learning.compute_penalties(
            rollout.logprobs, rollout.ref_logprobs, rollout.mask, config
        )
        targets = learning.compute_advantages(rollout, penalty, config.kl_coef, config)
        learning.learn(0, rollout, targets, config.kl_coef, acting, running(config, cpu))
        found.append({**acting.policy.model.state_dict(), **acting.critic.model.state_dict()})
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, atol=1e-6, rtol=0)


def test_the_critic_alone_learns_at_first(world: World, cpu: Runtime) -> None:
    config = configure(critic_warmup=1, learning_rate=1e-3)
    acting = act(world, cpu)
    before = [
        {name: weight.clone() for name, weight in model.state_dict().items()}
        for model in (acting.policy.model, acting.critic.model)
    ]
    sampled = given_answers([1, 2, 3, 4, 5, 6, 6, 1], pad=0)
    rollout = experience.compute_rollout(
        sampled, torch.arange(8.0).double(), acting, running(config, cpu)
    )
    penalty = learning.compute_penalties(
        rollout.logprobs, rollout.ref_logprobs, rollout.mask, config
    )
    targets = learning.compute_advantages(rollout, penalty, config.kl_coef, config)

    def moved(update: int) -> tuple[bool, bool]:
        learned = learning.learn(update, rollout, targets, 0.05, acting, running(config, cpu))
        assert (learned.learning_rate == 0) == (update == 0)
        assert all(weight.grad is None for weight in acting.policy.model.parameters())
        after = (acting.policy.model.state_dict(), acting.critic.model.state_dict())
        policy, critic = (
            any(not torch.equal(weight, then[name]) for name, weight in now.items())
            for now, then in zip(after, before, strict=True)
        )
        return policy, critic

    assert moved(0) == (False, True)
    assert moved(1) == (True, True)


def test_rewards_keep_their_mean_when_they_are_scaled() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    x = torch.tensor([[1.0, 3.0, torch.nan], [5.0, torch.nan, torch.nan]])
    # mean 3, deviation sqrt(8 / 3)
    expected = [[3 - 2 / (8 / 3) ** 0.5, 3.0, 0.0], [3 + 2 / (8 / 3) ** 0.5, 0.0, 0.0]]
    torch.testing.assert_close(masked.scale(x, mask), torch.tensor(expected))


def test_a_constant_reward_gives_finite_targets() -> None:
    """Whitening divides by a deviation of 0 here; nothing may come of it."""
    mask = torch.ones(4, 3, dtype=torch.bool)
    zeros = torch.zeros(4, 3)
    sampled = Sampled(Tokens(zeros.long(), mask), Tokens(zeros.long(), mask), mask[:, 0])
    rollout = Rollout(sampled, zeros, (zeros,), zeros, torch.ones(4))
    config = configure(lam=1.0, whiten_rewards=True)
    targets = learning.compute_advantages(rollout, zeros, 0.05, config)
    assert isinstance(targets, Targets)
    assert torch.isfinite(targets.advantages).all()
    plain = learning.compute_advantages(rollout, zeros, 0.05, configure(lam=1.0))
    assert plain.advantages.abs().max() == 0
    assert float(adv.objective(rollout.scores, torch.zeros(4), 0.05)) == 1.0


def test_bfloat16_and_float32_agree_on_the_same_answers(world: World, cpu: Runtime) -> None:
    """The ratio that half precision alone makes, on the first minibatch: within 2 % of 1."""
    sampled = given_answers([1, 2, 3, 4, 5, 6, 6, 1], pad=0)
    config = configure()
    policy = loading.load_language_model(world.a, Placement(torch.float32, cpu.device)).model
    exact = forward.answer_logprobs(policy, sampled.sequences, config.temperature)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = forward.answer_logprobs(policy, sampled.sequences, config.temperature)
    assert half.dtype == torch.float32
    mask = sampled.responses.mask
    ratio = torch.exp(half - exact)[mask]
    print(f"ratio of bfloat16 to float32: {ratio.min():.4f} to {ratio.max():.4f}")
    assert float((ratio - 1).abs().mean()) < 0.02


def test_a_first_ratio_far_from_one_stops_before_a_step() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    learning.check_first_ratio(0.04)
    for error in (0.11, float("nan")):
        with pytest.raises(SalsaError, match="before any weight was changed"):
            learning.check_first_ratio(error)
    plain = PPOConfig(ref=("ref",), reward=("rm",), prompts="p", output=Path("out"))
    reusing = replace(plain, reuse_logprobs=True)
    assert learning.has_exact_ratio(plain, cpu) and learning.has_exact_ratio(reusing, cpu)
    assert not learning.has_exact_ratio(plain, gpu)  # other kernels round differently
    assert learning.has_exact_ratio(replace(plain, weights="bfloat16"), cpu)
    assert not learning.has_exact_ratio(replace(reusing, weights="bfloat16"), cpu)


def test_a_policy_that_computes_otherwise_in_training_is_not_trained(
    world: World, cpu: Runtime
) -> None:
    """Log-probabilities that training finds a tenth higher: refused, weights as they were."""
    config = configure(learning_rate=1e-3)
    acting = act(world, cpu)
    run = running(config, cpu)
    sampled = given_answers([1, 2, 3, 4, 5, 6, 6, 1], pad=0)
    rollout = experience.compute_rollout(sampled, torch.arange(8.0).double(), acting, run)
    penalty = learning.compute_penalties(
        rollout.logprobs, rollout.ref_logprobs, rollout.mask, config
    )
    targets = learning.compute_advantages(rollout, penalty, config.kl_coef, config)
    shifted = replace(rollout, logprobs=rollout.logprobs - 0.1)
    before = {name: one.clone() for name, one in acting.policy.model.state_dict().items()}
    with pytest.raises(SalsaError, match="the update was not made"):
        learning.learn(0, shifted, targets, config.kl_coef, acting, run)
    for name, one in acting.policy.model.state_dict().items():
        assert torch.equal(one, before[name])
