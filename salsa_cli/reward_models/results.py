"""The result of `train-rm`, as JSON and as a summary."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from salsa_cli.formatting import counted, duration, figure
from salsa_cli.maths.rewardbench import Section
from salsa_cli.reward_models.assessment import Assessment, Group
from salsa_cli.reward_models.rewards import RewardScale
from salsa_cli.runs.events import Table


@dataclass(frozen=True, kw_only=True)
class RewardModelResult:
    """A reward model on held-out pairs; accuracy is the share that it ranks correctly.

    Attributes:
        output: the folder that was written.
        pairs: number of training pairs.
        dropped: rows of all files that were dropped.
        truncated: rows with a truncated answer.
        eval_low, eval_high: 95% interval of the accuracy.
        eval_margin: mean score of the chosen answer minus that of the rejected one; for an
            ensemble, of normalised scores.
        categories: accuracy by category, where the data has categories.
        sections: RewardBench scores by its own rules, for RewardBench data.
        members: accuracy of each member of an ensemble; all other values describe its mean score.
    """

    output: str
    pairs: int
    dropped: int
    truncated: int
    eval_pairs: int
    eval_accuracy: float
    eval_low: float
    eval_high: float
    eval_ties: int
    eval_margin: float
    eval_calibration_error: float
    categories: tuple[Group, ...]
    sections: tuple[Section, ...]
    members: tuple[float, ...]
    seconds: float

    @classmethod
    def restored(cls, record: Mapping[str, Any]) -> Self:
        """Rebuild a result from its record in JSON."""
        typed = {
            "categories": tuple(Group(**one) for one in record["categories"]),
            "sections": tuple(Section(**one) for one in record["sections"]),
            "members": tuple(record["members"]),
        }
        return cls(**{**record, **typed})

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints."""
        return asdict(self)

    def summary(self) -> tuple[str, Table | None]:
        """A few lines of text, and a table of the accuracy by category."""
        rows = [
            (one.name, str(one.n), f"{one.accuracy:.1%}", f"{one.low:.1%} to {one.high:.1%}")
            for one in self.categories
        ]
        table = Table(("", "pairs", "accuracy", "95% interval"), rows) if rows else None
        return "\n".join([self._first_line(), *self._more_lines()]), table

    def _first_line(self) -> str:
        what = f"mean of {len(self.members)} models, accuracy" if self.members[1:] else "accuracy"
        ties = f", {self.eval_ties} of them ties" if self.eval_ties else ""
        return (
            f"{self.output}: {what} {self.eval_accuracy:.1%} on "
            f"{counted(self.eval_pairs, 'held-out pair')}{ties} "
            f"(95% interval {self.eval_low:.1%} to {self.eval_high:.1%})"
        )

    def _more_lines(self) -> list[str]:
        lines = []
        if self.sections:
            listed = ", ".join(f"{one.name} {one.score:.1%}" for one in self.sections)
            lines.append(f"RewardBench scores: {listed}")
        if len(self.members) > 1:
            lines.append("individual models: " + ", ".join(f"{one:.1%}" for one in self.members))
        if self.eval_low <= 0.5 <= self.eval_high:
            lines.append(f"{proves_nothing(self.eval_pairs)}.")
        return lines


@dataclass(frozen=True, kw_only=True)
class TrainRMResult(RewardModelResult):
    """The result of a training run."""

    def _first_line(self) -> str:
        trained = f"trained on {counted(self.pairs, 'pair')} in {duration(self.seconds)}"
        return f"{super()._first_line()}; {trained}"


@dataclass(frozen=True, kw_only=True)
class EvaluatedModelResult(RewardModelResult):
    """The result of evaluating an existing model, with the scale of its scores on these answers.

    `scales` has one entry per member; a single model has one.
    """

    scales: tuple[RewardScale, ...]

    @classmethod
    def restored(cls, record: Mapping[str, Any]) -> Self:
        """Rebuild a result from its record in JSON."""
        scales = tuple(RewardScale(**one) for one in record["scales"])
        return super().restored({**record, "scales": scales})

    def _more_lines(self) -> list[str]:
        each = [f"mean {figure(s.mean)}, standard deviation {figure(s.std)}" for s in self.scales]
        if len(each) > 1:
            each = [f"member {number}: {words}" for number, words in enumerate(each)]
        return [f"raw scores: {'; '.join(each)}", *super()._more_lines()]


def proves_nothing(pairs: int) -> str:
    """The sentence for an interval that contains one half."""
    return f"The accuracy is not significantly different from chance ({counted(pairs, 'pair')})"


def evaluated(found: Assessment, members: Sequence[Assessment]) -> dict[str, Any]:
    """The fields of a result that come from an assessment."""
    whole = found.accuracy
    return {
        "eval_pairs": whole.n,
        "eval_accuracy": whole.accuracy,
        "eval_low": whole.low,
        "eval_high": whole.high,
        "eval_ties": whole.ties,
        "eval_margin": found.margin,
        "eval_calibration_error": found.calibration_error,
        "categories": found.categories,
        "sections": found.sections,
        "members": tuple(one.accuracy.accuracy for one in members),
    }
