"""What is measured of one PPO update: the one type behind every row of metrics.jsonl."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import nan
from typing import Any, Self

from salsa_cli.rl.held_out_metrics import HeldOutMetrics

HELD_OUT_STAGE = "heldout"
"""Name of the time that evaluation on held-out prompts takes."""

_OF_THE_CRITIC = frozenset(
    {"explained_variance", "mean_return", "value_loss", "value_clip_share", "critic_grad_norm"}
)
OPTIONAL = _OF_THE_CRITIC | {
    "sampler_mismatch",
    "sampler_truncated",
    "temperature",
    "kl_at_temperature_1",
    "groups",
    "equal_groups",
    "heldout",
    "heldout_start",
}
"""Figures that stand in a row only where there are some."""


@dataclass(frozen=True)
class UpdateMetrics:
    """Figures of one update, of its answers as they were sampled: means, unless said otherwise.

    KLs and penalties are in nats, summed over an answer, and those of the policies at
    `temperature`; the losses are per token.

    Attributes:
        update: counted from 1.
        reward, reward_std: what the policy is trained on, and its spread over the answers.
        rewards: each member of the ensemble by name; empty where there is one.
        watched: rewards that are only looked at, by name.
        kl: k1 to the reference, whatever the penalty is; the mean of several references.
        kl_anchors: k1 to every anchor by name; empty in updates that do not measure it.
        reference_end: log-probability, under the reference (the mean of several), of ending at
            once; in the first update, if the penalty is a KL.
        penalty: the divergence that is penalised, before its coefficient.
        kl_coef: the coefficient in this update.
        objective: reward - kl_coef * penalty, what the run maximises.
        length: tokens of an answer, its end token counted.
        finished: share of the answers that came to an end token.
        entropy: of the policy, nats per token, as its own samples estimate it: the mean of -log p
            over all tokens of the batch.
        length_reward_correlation: Pearson's, over the answers; 0 where one is constant.
        explained_variance: of the returns, by the critic as it was when the answers were sampled.
        mean_return: per token. This and the other figures of the critic are None, and not in the
            row, where there is no critic.
        policy_loss, value_loss, clip_share, value_clip_share: over all optimiser steps.
        approx_kl: k2 per token of the new policy from the one that sampled.
        ratio_error: largest |ratio - 1| in the first pass, before anything has moved.
        policy_grad_norm, critic_grad_norm: before clipping.
        learning_rate: of the policy; 0 while the critic alone learns.
        tokens: of all answers.
        sampler_mismatch, sampler_truncated: where another program sampled, |log pi - log mu| in
            nats per token, pi being the policy's probabilities and mu that program's, and the share
            of tokens whose importance weight is cut; else None, and not in the row.
        temperature: the sampling temperature (`--temperature`); None in rows of older versions.
        kl_at_temperature_1: KL of the policies at temperature 1 to every anchor by name, exact over
            the vocabulary at each token of the same answers. None where `kl_anchors` is at that
            temperature or not measured, and then not in the row.
        groups, equal_groups: where the answers of a prompt are compared, the number of prompts, and
            of those whose answers all have the same reward; else None, and not in the row.
        heldout: of the policy after this update, on held-out prompts; None where not measured.
        heldout_start: the same before the first update; in its row alone.
        time: seconds by stage, the only figures that differ between two equal runs.
    """

    update: int
    reward: float
    reward_std: float
    rewards: Mapping[str, float]
    watched: Mapping[str, float]
    kl: float
    kl_anchors: Mapping[str, float]
    reference_end: float | None
    penalty: float
    kl_coef: float
    objective: float
    length: float
    finished: float
    entropy: float
    length_reward_correlation: float
    explained_variance: float | None
    mean_return: float | None
    policy_loss: float
    value_loss: float | None
    clip_share: float
    value_clip_share: float | None
    approx_kl: float
    ratio_error: float
    policy_grad_norm: float
    critic_grad_norm: float | None
    learning_rate: float
    tokens: int
    time: Mapping[str, float]
    sampler_mismatch: float | None = None
    sampler_truncated: float | None = None
    temperature: float | None = None
    kl_at_temperature_1: Mapping[str, float] | None = None
    groups: int | None = None
    equal_groups: int | None = None
    heldout: HeldOutMetrics | None = None
    heldout_start: HeldOutMetrics | None = None

    def row(self) -> dict[str, Any]:
        """The row of metrics.jsonl."""
        row = asdict(self)
        return {name: v for name, v in row.items() if v is not None or name not in OPTIONAL}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The figures of a row that `row` made, read from JSON.

        JSON has no NaN, so a figure that was not finite is null there and NaN here.
        """
        names = [field.name for field in fields(cls)]
        found = {name: row[name] for name in names if name in row or name not in OPTIONAL}
        for name in ("heldout", "heldout_start"):
            if name in found:
                found[name] = HeldOutMetrics.of(row[name])
        lost = {name for name, value in found.items() if value is None} - {"reference_end"}
        absent = dict.fromkeys(OPTIONAL - found.keys())
        return cls(**{**absent, **found, **dict.fromkeys(lost, nan)})

    @property
    def equal_share(self) -> float | None:
        """Share of the prompts whose answers all have the same reward; None with a critic."""
        if self.groups is None or self.equal_groups is None:
            return None
        return self.equal_groups / self.groups

    @property
    def tokens_per_second(self) -> float:
        """Tokens of answers in the time of the update, without that of held-out evaluation."""
        return self.tokens / sum(t for stage, t in self.time.items() if stage != HELD_OUT_STAGE)
