"""What is measured of a policy on held-out prompts: `heldout` in a row of metrics.jsonl."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import nan, sqrt
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class HeldOutFigure:
    """A mean over the prompts and its standard error, which is NaN for a single prompt."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """The figure of one value per prompt, `[N]`."""
        given = np.asarray(values, dtype=np.float64)
        count = len(given)
        error = float(given.std(ddof=1)) / sqrt(count) if count > 1 else nan
        return cls(float(given.mean()), error)

    @classmethod
    def read(cls, stored: Mapping[str, float | None]) -> Self:
        """The figure from JSON, where null stands for NaN."""
        mean, error = stored["mean"], stored["standard_error"]
        return cls(nan if mean is None else mean, nan if error is None else error)


@dataclass(frozen=True)
class HeldOutMetrics:
    """Figures of a policy on the held-out prompts.

    Attributes:
        prompts: number of prompts.
        reward: as the policy is trained on it.
        rewards: each member of an ensemble by name; empty where there is one.
        watch: rewards that are only watched, by name.
        kl: to each reference and to the start, by name: nats per answer at temperature 1, exactly
            over the vocabulary at every token.
        objective: reward - kl_coef * KL to the reference at the sampling temperature, which is what
            the run maximises; None for a penalty that is not a KL.
        length: tokens of an answer, its end token counted.
        finished: share of the answers that came to an end token.
    """

    prompts: int
    reward: HeldOutFigure
    rewards: Mapping[str, HeldOutFigure]
    watch: Mapping[str, HeldOutFigure]
    kl: Mapping[str, HeldOutFigure]
    objective: HeldOutFigure | None
    length: HeldOutFigure
    finished: HeldOutFigure

    def record(self) -> dict[str, Any]:
        """The object in a row of metrics.jsonl."""
        return asdict(self)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """The metrics of an object that `record` made, read from JSON."""

        def named(name: str) -> Mapping[str, HeldOutFigure]:
            return {key: HeldOutFigure.read(value) for key, value in stored[name].items()}

        return cls(
            prompts=stored["prompts"],
            reward=HeldOutFigure.read(stored["reward"]),
            rewards=named("rewards"),
            watch=named("watch"),
            kl=named("kl"),
            objective=stored["objective"] and HeldOutFigure.read(stored["objective"]),
            length=HeldOutFigure.read(stored["length"]),
            finished=HeldOutFigure.read(stored["finished"]),
        )
