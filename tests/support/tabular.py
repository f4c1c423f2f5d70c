"""Tabular policies whose answers are enumerated: gradients of `learn` and of a divergence.

Two steps, three tokens, the last of which ends the answer. Probabilities are multiples of 1/4, so
that a batch in which every answer stands as often as its probability says is the expectation
itself. The gradient of a divergence comes from its definition: probabilities of whole answers,
differentiated by autograd, in float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.devices.runtime import Runtime
from salsa_cli.generation.rollouts import Rollout, Sampled
from salsa_cli.models.tokenization import Tokens
from salsa_cli.reward_models.rewards import Ensemble
from salsa_cli.rl import learning
from salsa_cli.rl.actors import Actors
from salsa_cli.rl.run import Run

END = 2
ANSWERS = [(0, 0), (0, 1), (0, END), (1, 0), (1, 1), (1, END), (END,)]
COUNTS = [4, 2, 2, 1, 1, 2, 4]
"""How often each answer stands in the batch of 16: its probability times 16."""

POLICY = torch.tensor(
    [[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], dtype=torch.float64
)
"""Next-token probabilities: at the start, after token 0, after token 1."""

REFS = [
    torch.tensor([[0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], dtype=torch.float64),
    torch.tensor([[0.7, 0.1, 0.2], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]], dtype=torch.float64),
]
FAR = torch.tensor([[0.01, 0.5, 0.49], [0.2, 0.5, 0.3], [0.3, 0.69, 0.01]], dtype=torch.float64)
"""A reference with ratios of 25 to 50, beyond the limit of `chi2`."""

SCORES = [0.3, -1.0, 2.0, 0.7, -0.4, 1.1, 0.0]
VALUES = torch.tensor([0.4, -0.3, 0.9], dtype=torch.float64)
"""The critic's value in each state: any numbers, since a baseline changes no expectation."""

COEF = 0.7
CAP = 20.085536923187668  # e^3


@dataclass
class Recorder:
    """Stands in for a Learner: keeps the gradient of each step and then moves the table."""

    network: Callable[..., torch.Tensor]
    parameter: torch.Tensor
    moves: Sequence[torch.Tensor] = ()
    gradients: list[torch.Tensor] = field(default_factory=list)

    def step(self, share: float) -> float:
        grad = self.parameter.grad
        assert grad is not None
        self.gradients.append(grad.clone())
        self.parameter.grad = None
        if len(self.gradients) <= len(self.moves):
            with torch.no_grad():
                self.parameter += self.moves[len(self.gradients) - 1]
        return 0.0

    def follow(self) -> None:
        """There is nothing to follow."""


def settings(**changes: Any) -> PPOConfig:
    """One step over the batch, without a clip that acts; undiscounted."""
    size = changes.get("samples_per_prompt", 1)
    of_the_critic = (
        {} if changes.get("advantage", "gae") != "gae" else {"lam": 1.0, "value_clip": 0.0}
    )
    given: dict[str, Any] = {
        "ref": ("a", "b") if changes.get("penalty") == "mean-kl" else ("a",),
        "reward": ("r",),
        "prompts": "p",
        "output": Path("unused"),
        "batch_size": size * sum(COUNTS) ** size,
        "epochs": 1,
        "clip": 0.999,
        "kl_coef": COEF,
        **of_the_critic,
    }
    return PPOConfig(**{**given, **changes})


def _states(answers: torch.Tensor) -> torch.Tensor:
    """Row of the table for each token of `[B, 2]` answers: 0, then 1 + the first token."""
    first = torch.zeros(len(answers), dtype=torch.long)
    return torch.stack([first, 1 + answers[:, 0].clamp(max=1)], dim=1)


def _logprobs(table: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(table, -1)[_states(answers), answers]


def batch(size: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All groups of `size` answers, one group after another, each as often as is due.

    Ids and mask `[B, 2]`, scores `[B]`, with B = size * 16^size.
    """
    answers = [place for place, count in enumerate(COUNTS) for _ in range(count)]
    rows = [place for group in product(answers, repeat=size) for place in group]
    ids = torch.tensor([[*ANSWERS[row], END][:2] for row in rows])
    mask = torch.tensor([[True, len(ANSWERS[row]) == 2] for row in rows])
    return ids, mask, torch.tensor([SCORES[row] for row in rows], dtype=torch.float64)


@dataclass(frozen=True)
class Learned:
    """Gradients of the policy's loss by the table's logits, an entry a step; and their scale.

    Attributes:
        gradients: as descended; in units of the objective where divided by `scale`.
        scale: the unit of the first answer times answers per token.
    """

    gradients: list[torch.Tensor]
    scale: float


def learned(
    config: PPOConfig,
    runtime: Runtime,
    refs: Sequence[torch.Tensor] = REFS,
    moves: Sequence[torch.Tensor] = (),
) -> Learned:
    """What the code of a run does with the enumerated batch."""
    ids, mask, scores = batch(config.group_size)
    prompts = Tokens(torch.zeros(len(ids), 1, dtype=torch.long), torch.ones(len(ids), 1).bool())
    sampled = Sampled(prompts, Tokens(ids, mask), torch.ones(len(ids)).bool())
    table = torch.log(POLICY).requires_grad_()
    values = VALUES.clone().requires_grad_()
    with torch.no_grad():
        rollout = Rollout(
            sampled,
            _logprobs(table, ids),
            tuple(_logprobs(ref.log(), ids) for ref in refs[: len(config.ref)]),
            values[_states(ids)] if config.has_critic else None,
            scores,
        )
        penalty = learning.compute_penalties(rollout.logprobs, rollout.ref_logprobs, mask, config)
        targets = learning.compute_advantages(rollout, penalty, config.kl_coef, config)
    actor = Recorder(lambda part, temperature: _logprobs(table, part.answers), table, moves)
    critic = (
        Recorder(lambda part: values[_states(part.answers)], values) if config.has_critic else None
    )
    actors: Any = Actors(None, (), Ensemble((), lambda s: s[0]), None, actor, critic)  # type: ignore[arg-type]
    plan: Any = None
    run = Run(plan, config, runtime, Path("unused"))
    learning.learn(0, rollout, targets, config.kl_coef, actors, run)
    return Learned(actor.gradients, float(targets.unit.flatten()[0]) * len(ids) / int(mask.sum()))


def answer_probability(table: torch.Tensor, answer: Sequence[int]) -> torch.Tensor:
    probabilities = torch.softmax(table, -1)
    found = probabilities[0, answer[0]]
    return found * probabilities[1 + answer[0], answer[1]] if len(answer) == 2 else found


def _kl(table: torch.Tensor, ref: torch.Tensor) -> torch.Tensor:
    """KL(pi || ref) over whole answers: sum_y pi(y) log(pi(y) / ref(y))."""
    total = torch.zeros((), dtype=torch.float64)
    for answer in ANSWERS:
        mine = answer_probability(table, answer)
        total = total + mine * torch.log(mine / answer_probability(ref.log(), answer))
    return total


def _chi2(table: torch.Tensor, ref: torch.Tensor) -> torch.Tensor:
    """Sum over the states that are met of sum_v pi_v min(pi_v / ref_v, e^3) - 1."""
    probabilities = torch.softmax(table, -1)
    met = torch.stack([torch.ones((), dtype=torch.float64), *probabilities[0, :2]])
    ratio = (probabilities / ref).clamp(max=CAP)
    return (met * ((probabilities * ratio).sum(-1) - 1)).sum()


def divergence(penalty: str, table: torch.Tensor, refs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The divergence that the help names."""
    if penalty == "chi2":
        return _chi2(table, refs[0])
    each = [_kl(table, ref) for ref in (refs if penalty == "mean-kl" else refs[:1])]
    return torch.stack(each).mean()


def objective_gradient(
    penalty: str, coef: float, refs: Sequence[torch.Tensor] = REFS
) -> torch.Tensor:
    """Gradient by the logits of -(E[score] - coef * divergence), from the definitions."""
    table = torch.log(POLICY).requires_grad_()
    reward = torch.zeros((), dtype=torch.float64)
    for answer, score in zip(ANSWERS, SCORES, strict=True):
        reward = reward + answer_probability(table, answer) * score
    loss = coef * divergence(penalty, table, refs) - reward
    (found,) = torch.autograd.grad(loss, table)
    return found


PAIRS = list(product(("kl", "mean-kl", "chi2"), ("k1", "k2", "k3"), ("reward", "loss")))
"""Every penalty, estimator and place."""
