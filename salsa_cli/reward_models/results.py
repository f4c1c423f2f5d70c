"""What `train-rm` hands back: what a reward model is worth, as JSON and in a few lines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from salsa_cli.maths.rewardbench import Section
from salsa_cli.reward_models.assessment import Assessment, Group
from salsa_cli.reward_models.rewards import RewardScale
from salsa_cli.runs.events import Table
from salsa_cli.text import counted, duration, figure


@dataclass(frozen=True, kw_only=True)
class RewardModelResult:
    """What held-out pairs show of a reward model; accuracy is the share of them that it orders.

    Attributes:
        output: the folder that was written.
        pairs: that the model was trained on.
        dropped: rows of all files that were left out.
        truncated: rows of which an answer was cut.
        eval_low, eval_high: 95 % interval of the accuracy.
        eval_margin: mean lead of the better answer; of an ensemble, whose members' scores are
            divided by their deviations first.
        categories: accuracy by the kind of the pairs, where the data has kinds.
        sections: the scores of RewardBench by its own rules, where the data is of it.
        members: accuracy of each member of an ensemble, whose mean score the other figures
            describe.
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
        """From what `record` gave, by way of JSON."""
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
        """A few lines, and the accuracy by category."""
        rows = [
            (one.name, str(one.n), f"{one.accuracy:.1%}", f"{one.low:.1%} to {one.high:.1%}")
            for one in self.categories
        ]
        table = Table(("", "pairs", "accuracy", "95 % interval"), rows) if rows else None
        return "\n".join([self._first_line(), *self._more_lines()]), table

    def _first_line(self) -> str:
        what = f"mean of {len(self.members)} models orders" if len(self.members) > 1 else "orders"
        ties = f", {self.eval_ties} of them ties" if self.eval_ties else ""
        return (
            f"{self.output}: {what} {self.eval_accuracy:.1%} of "
            f"{counted(self.eval_pairs, 'held-out pair')}{ties} "
            f"(95 % interval {self.eval_low:.1%} to {self.eval_high:.1%})"
        )

    def _more_lines(self) -> list[str]:
        lines = []
        if self.sections:
            listed = ", ".join(f"{one.name} {one.score:.1%}" for one in self.sections)
            lines.append(f"by the rules of RewardBench: {listed}")
        if len(self.members) > 1:
            lines.append("each alone: " + ", ".join(f"{one:.1%}" for one in self.members))
        if self.eval_low <= 0.5 <= self.eval_high:
            lines.append(f"{proves_nothing(self.eval_pairs)}.")
        return lines


@dataclass(frozen=True, kw_only=True)
class TrainRMResult(RewardModelResult):
    """The same of a model that was trained."""

    def _first_line(self) -> str:
        trained = f"trained on {counted(self.pairs, 'pair')} in {duration(self.seconds)}"
        return f"{super()._first_line()}; {trained}"


@dataclass(frozen=True, kw_only=True)
class EvaluatedModelResult(RewardModelResult):
    """The same of a model that was there already, and the scale of its scores on these answers.

    `scales` are those of the members; of one model, one.
    """

    scales: tuple[RewardScale, ...]

    @classmethod
    def restored(cls, record: Mapping[str, Any]) -> Self:
        """From what `record` gave, by way of JSON."""
        scales = tuple(RewardScale(**one) for one in record["scales"])
        return super().restored({**record, "scales": scales})

    def _more_lines(self) -> list[str]:
        each = [f"mean {figure(s.mean)}, deviation {figure(s.std)}" for s in self.scales]
        if len(each) > 1:
            each = [f"member {number}: {words}" for number, words in enumerate(each)]
        return [f"raw scores: {'; '.join(each)}", *super()._more_lines()]


def proves_nothing(pairs: int) -> str:
    """What to say where the interval holds one half."""
    verb = "does" if pairs == 1 else "do"
    return f"{counted(pairs, 'pair')} {verb} not tell this accuracy from guessing"


def evaluated(found: Assessment, members: Sequence[Assessment]) -> dict[str, Any]:
    """The fields of a result that an evaluation gives."""
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
