"""Updates of PPO as the monitors see them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from salsa_cli.rl.held_out_metrics import HeldOutFigure, HeldOutMetrics
from salsa_cli.rl.metrics import UpdateMetrics

HEALTHY = Path(__file__).parents[1] / "golden" / "healthy_run.jsonl"


START = UpdateMetrics(
    update=1,
    reward=0.0,
    reward_std=1.0,
    rewards={},
    watched={},
    kl=2.0,
    kl_anchors={},
    reference_end=-6.0,
    penalty=2.0,
    kl_coef=0.05,
    objective=-0.1,
    length=40.0,
    finished=0.95,
    entropy=1.0,
    length_reward_correlation=0.1,
    explained_variance=0.3,
    mean_return=0.0,
    policy_loss=0.0,
    value_loss=0.0,
    clip_share=0.02,
    value_clip_share=0.1,
    approx_kl=0.001,
    ratio_error=0.0,
    policy_grad_norm=0.3,
    critic_grad_norm=1.0,
    learning_rate=1e-5,
    tokens=40 * 64,
    time={"rollout": 1.0},
)


def measured(reward: float, watch: float = 0.0, objective: float = 0.0) -> HeldOutMetrics:
    """An evaluation on eight held-out prompts; each standard error is 0.1."""

    def figure(mean: float) -> HeldOutFigure:
        return HeldOutFigure(mean, 0.1)

    watched = {"gold": figure(watch), "other": figure(-watch)}
    rest = figure(1.0)
    return HeldOutMetrics(
        8, figure(reward), {}, watched, {"start": rest}, figure(objective), rest, rest
    )


def history(updates: int, **series: float | Sequence[object]) -> list[UpdateMetrics]:
    """Updates like `START` but for some figures: one for all, or one each."""
    return [
        replace(
            START,
            update=i + 1,
            **{k: v[i] if isinstance(v, Sequence) else v for k, v in series.items()},  # type: ignore[arg-type]
        )
        for i in range(updates)
    ]
