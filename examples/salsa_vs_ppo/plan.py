"""What PLAN.md fixes before the first run: conditions, arms, seeds and sizes."""

import math
from argparse import Namespace
from collections import Counter
from dataclasses import dataclass, replace

CANDIDATES = 3  # SFT pairs that a pipeline tries before it is given up
PAIR = {"sft": 2, "soup": 1, "probe": 1, "admission": 1}  # commands of a pair


@dataclass(frozen=True)
class Condition:
    """How the SFT models are made, and which pairs are admitted.

    A pair is admitted if the gain of its soup in gold over the better of its models lies between
    the two limits, on training prompts.
    """

    name: str
    shares: tuple[str, str]
    epochs: int
    learning_rate: float
    least_gain: float = -math.inf
    most_gain: float = math.inf

    def admits(self, barrier: float, kl: float, gain: float) -> bool:
        """Whether a pair is near enough to be averaged, far enough to matter, and of this kind."""
        connected = barrier <= 0.02 and 0.3 <= kl <= 20
        return connected and self.least_gain <= gain <= self.most_gain

    def union(self) -> "Condition":
        """One model that sees what both models see, as often as they do."""
        if self.shares[0] == self.shares[1]:
            return replace(self, epochs=2 * self.epochs)
        return replace(self, shares=("1/2", "1/2"))


@dataclass(frozen=True)
class Arm:
    """A start and a reference, by the names of a pipeline's folders, and further options."""

    name: str
    ref: tuple[str, ...]
    policy: str = "a"
    options: tuple[str, ...] = ()


# Numbered as in PLAN.md.
PRIMARY = (
    Arm("ppo", ("a",)),
    Arm("salsa", ("soup",)),
    Arm("start-soup", ("soup",), policy="soup"),
)
SECONDARY = (
    Arm("ref-b", ("b",)),
    Arm("two-kls", ("a", "b"), options=("--penalty", "mean-kl")),
    Arm("union", ("union",)),
    Arm("ema", ("a",), options=("--ref-update", "ema", "--ref-rate", "0.05")),
    Arm("perturbed", ("perturbed",)),
)


def product(factor: float, learning_rate: float) -> float:
    """Rounded, so that a tenth of 3e-3 reads as 0.0003."""
    return float(f"{factor * learning_rate:.6g}")


@dataclass(frozen=True)
class Plan:
    """Everything that is chosen before the first run."""

    conditions: tuple[Condition, ...] = (
        Condition("holds", ("1/4", "3/4"), epochs=6, learning_rate=3e-3, least_gain=0.1),
        Condition("fails", ("1/1", "1/1"), epochs=2, learning_rate=1e-3, most_gain=0.1),
    )
    first_seed: int = 2  # 1 is the pilot that the number of updates comes from
    seeds: int = 12
    secondary_seeds: int = 6
    coefficients: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    pairs: int = 1500
    arms: tuple[Arm, ...] = PRIMARY
    updates: int = 8
    batch_size: int = 64
    best_of: int = 16
    learning_rate: float = 5e-4  # of PPO
    critic_learning_rate: float = 1e-3

    def times(self, factor: float) -> "Plan":
        """The same with other learning rates of SFT and PPO."""
        return replace(
            self,
            conditions=tuple(
                replace(one, learning_rate=product(factor, one.learning_rate))
                for one in self.conditions
            ),
            learning_rate=product(factor, self.learning_rate),
            critic_learning_rate=product(factor, self.critic_learning_rate),
        )

    @property
    def pipeline_seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)


QUICK = Plan(
    seeds=1,
    secondary_seeds=0,
    coefficients=(0.03, 0.3),
    pairs=400,
    updates=3,
    batch_size=16,
    best_of=4,
)
LENGTH = 112  # characters of an answer: 56 tokens of stories260k
ADMISSION = 512  # prompts that decide whether a pair is admitted


def commands_of(plan: Plan) -> Counter[str]:
    """How many commands of each kind the plan takes, with one SFT pair a pipeline."""
    primary = len(plan.conditions) * plan.seeds
    secondary = len(plan.conditions) * plan.secondary_seeds
    once = PAIR | {"pairs": 1, "train-rm": 1, "eval": 1}
    found = Counter({kind: primary * count for kind, count in once.items()})
    found["sft"] += secondary
    found["perturb"] = found["line"] = secondary
    found["eval"] += secondary
    arms = primary * len(plan.arms) + secondary * len(SECONDARY)
    found["ppo"] = arms * len(plan.coefficients)
    return found


def plan_of(given: Namespace) -> Plan:
    """The plan, or the smaller one that is asked for."""
    plan = QUICK if given.quick else Plan()
    if given.scale:
        plan = replace(plan, seeds=3, secondary_seeds=0, best_of=QUICK.best_of)
        plan = replace(plan, conditions=plan.conditions[:1], arms=PRIMARY[:2])
    if given.seeds:
        plan = replace(
            plan, seeds=given.seeds, secondary_seeds=min(given.seeds, plan.secondary_seeds)
        )
    return plan.times(given.learning_rate_factor)
