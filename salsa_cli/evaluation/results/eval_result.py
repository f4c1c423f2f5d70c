"""The result of `eval`: the record in results.json and the summary for the terminal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from salsa_cli.config.eval import EvalConfig
from salsa_cli.evaluation.results import arm_tables, best_of_rows, invalid_verdicts, tables
from salsa_cli.evaluation.results.arm_results import ArmPairRow, ArmResults, ArmRow
from salsa_cli.evaluation.results.best_of_rows import AgainstBestOf, BestOfRow
from salsa_cli.evaluation.results.frontier import (
    Frontier,
    FrontierCurve,
    FrontierPoint,
    FrontierRow,
)
from salsa_cli.evaluation.results.judge_agreement import AccuracyRow, AgreementRow
from salsa_cli.evaluation.results.pooling import HANDFUL
from salsa_cli.evaluation.results.style_control import NOT_ALPACA_EVAL, Controlled, ControlledRow
from salsa_cli.evaluation.results.win_rates import PairRow, RatingRow, ScoreRow
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.formatting import counted, duration, figure, verb
from salsa_cli.records import JSON, read_json
from salsa_cli.runs import run_folder
from salsa_cli.runs.events import Note, Report, Table

_MOST_LINES = 4


FILE, RECORD = "results.json", "salsa.json"


@dataclass(frozen=True)
class AnswerRow:
    """The answers of one model: mean length in tokens, and the share that finished.

    The length is None for answers from a file that does not give it.
    """

    model: str
    length: float | None
    finished: float


@dataclass(frozen=True)
class KLRow:
    """KL in nats from a model's answers to an anchor, a mean over `n` prompts with its interval.

    `temperature` is that of both models; None in results of versions that took each question's own.
    """

    model: str
    anchor: str
    kl: float
    low: float
    high: float
    n: int
    temperature: float | None = None

    @property
    def at(self) -> str:
        """The temperature in words."""
        if self.temperature is None:
            return "at the temperature of each answer"
        return f"at temperature {self.temperature:g}"


@dataclass(frozen=True)
class SoupRow:
    """The mean reward of one soup's answers to `n` prompts, with its interval.

    `gain` is its reward less the mean of its models' own, in the same weights, prompt by
    prompt. `over_best` is its mean reward less that of the best of its models; the interval holds
    for all soups of the line or plane at once, so that the best one may be chosen by it. It is None
    for a model alone.
    """

    models: tuple[str, ...]
    weights: tuple[float, ...]
    judge: str
    score: float
    low: float
    high: float
    n: int
    gain: float = 0.0
    gain_low: float = 0.0
    gain_high: float = 0.0
    over_best: float | None = None
    over_best_low: float | None = None
    over_best_high: float | None = None


@dataclass(frozen=True)
class EvalResult:
    """The whole result; `remarks` are sentences on oddities in the data."""

    output: str
    prompts: int
    pairs: tuple[PairRow, ...]
    scores: tuple[ScoreRow, ...]
    answers: tuple[AnswerRow, ...]
    seconds: float
    categories: tuple[PairRow, ...] = ()
    lengths: tuple[PairRow, ...] = ()
    ratings: tuple[RatingRow, ...] = ()
    rating_gaps: tuple[str, ...] = ()
    controlled: tuple[Controlled, ...] = ()
    agreements: tuple[AgreementRow, ...] = ()
    accuracies: tuple[AccuracyRow, ...] = ()
    kl: tuple[KLRow, ...] = ()
    line: tuple[SoupRow, ...] = ()
    plane: tuple[SoupRow, ...] = ()
    best_of: tuple[BestOfRow, ...] = ()
    against_best_of: tuple[AgainstBestOf, ...] = ()
    remarks: tuple[str, ...] = ()
    arms: ArmResults = field(default_factory=ArmResults)
    frontier: Frontier = field(default_factory=Frontier)

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints and results.json stores."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "EvalResult":
        """The result stored in a results.json."""
        rows = {
            name: tuple(_row(kind, one) for one in record.get(name, ()))
            for name, kind in _ROWS.items()
        }
        controlled = tuple(
            Controlled(
                tuple(_row(ControlledRow, row) for row in one["rows"]),
                one["coefficients"],
                one["separated"],
            )
            for one in record["controlled"]
        )
        texts = {name: tuple(record.get(name, ())) for name in _TEXTS}
        whole = {
            **record,
            **rows,
            **texts,
            "controlled": controlled,
            "arms": _arms(record.get("arms", {})),
            "frontier": _frontier(record.get("frontier", {})),
        }
        return cls(**whole)

    def summary(self) -> tuple[str, Table | None]:
        """Win rates, or mean scores where nothing was compared, with what qualifies them."""
        of_arms = self.of_arms
        lines = (
            [*_few(self.arms.sentences), *_few(self.frontier.sentences), *self.arms.remarks]
            if of_arms
            else self._of_models()
        )
        lines += _few([_even(row) for row in self.pairs if row.of_itself])
        lines += _few([_failures(row) for row in self.pairs if row.invalid])
        lines += _few([_no_scores(row) for row in self.scores if row.invalid])
        lines += [text for text in self.remarks if text == NOT_ALPACA_EVAL]
        lines += _few([_accuracy(row) for row in self.accuracies])
        lines += _few([_agreement(row) for row in self.agreements])
        lines += [_distance(row) for row in self.kl if not of_arms]
        lines += _peaks("line", self.line) + _peaks("plane", self.plane)
        lines += best_of_rows.sentences(self.best_of, self.against_best_of)
        lines.append(
            f"{self.output}: {counted(self.prompts, 'prompt')} in {duration(self.seconds)}"
        )
        if of_arms:
            return "\n".join(lines), arm_tables.table(self.arms)
        return "\n".join(lines), (
            tables.pairs(self.pairs) if self.pairs else tables.scores(self.scores)
        )

    @property
    def of_arms(self) -> bool:
        """Whether arms of several runs were compared, and not single models."""
        return bool(self.arms.rows or self.arms.pairs)

    def _of_models(self) -> list[str]:
        """What single models show: scores, undecided pairs and ratings."""
        lines = [line for row in self.answers if (line := self._describe(row))]
        others = [row for row in self.pairs if not row.of_itself]
        lines += _few([undecided(row) for row in others if row.n and not row.decided])
        lines += _few(_ratings(self.ratings))
        lines += _few(self.rating_gaps)
        lines += _few([_controlled(one) for one in self.controlled if one.rows])
        lines += _few([one.separated for one in self.controlled if one.separated is not None])
        return lines

    def _describe(self, row: AnswerRow) -> str | None:
        means = [
            f"{short_name(score.judge)} {figure(score.score) if score.n else 'none'}"
            for score in self.scores
            if score.model == row.model
        ]
        facts = [f"mean score {', '.join(means)}"] if means else []
        facts += [f"{row.length:.1f} tokens per answer"] if row.length is not None else []
        if not facts:
            return None
        return f"{row.model}: {'; '.join([*facts, f'{row.finished:.0%} finished'])}"

    def tables(self) -> list[tuple[str, Table]]:
        """Every table with its title, for Markdown."""
        return [
            *arm_tables.titled(self.arms),
            *tables.titled(self.pairs, self.ratings, self.scores, self.controlled),
        ]


def made_by(config: EvalConfig, inputs: Mapping[str, JSON]) -> dict[str, JSON]:
    """The record for salsa.json; the result itself is in results.json."""
    return run_folder.made_by("eval", config, inputs, result={"file": FILE})


def finished(config: EvalConfig, report: Report) -> EvalResult | None:
    """The stored result, if a complete evaluation is resumed.

    Raises:
        SalsaError: it had other settings, or more invalid judgements than `config` allows.
    """
    if not config.resume or config.force:
        return None
    recorded = run_folder.finished(RECORD, config)
    if recorded is None:
        return None
    result = EvalResult.of(read_json(config.output / recorded["file"]))
    if config.max_invalid is not None:
        invalid_verdicts.refuse(
            result.pairs, result.scores, config.max_invalid, "Increase it to accept them"
        )
    report(Note(f"{config.output} is already complete; nothing to do"))
    return result


_TEXTS = ("remarks", "rating_gaps")

_ROWS: Mapping[str, type[Any]] = {
    "pairs": PairRow,
    "scores": ScoreRow,
    "answers": AnswerRow,
    "categories": PairRow,
    "lengths": PairRow,
    "ratings": RatingRow,
    "agreements": AgreementRow,
    "accuracies": AccuracyRow,
    "kl": KLRow,
    "line": SoupRow,
    "plane": SoupRow,
    "best_of": BestOfRow,
    "against_best_of": AgainstBestOf,
}


def _arms(stored: Mapping[str, Any]) -> ArmResults:
    return ArmResults(
        tuple(_row(ArmRow, row) for row in stored.get("rows", ())),
        tuple(_row(ArmPairRow, row) for row in stored.get("pairs", ())),
        tuple(stored.get("sentences", ())),
        tuple(stored.get("remarks", ())),
    )


def _frontier(stored: Mapping[str, Any]) -> Frontier:
    rows = stored.get("rows", ())
    return Frontier(
        tuple(_row(FrontierPoint, row) for row in stored.get("points", ())),
        tuple(_row(FrontierCurve, row) for row in stored.get("curves", ())),
        tuple(FrontierRow(**{**row, "pair": _row(ArmPairRow, row["pair"])}) for row in rows),
        tuple(stored.get("sentences", ())),
    )


def _row(kind: type[Any], record: Mapping[str, Any]) -> Any:
    """One row from JSON: lists become tuples, and null becomes NaN.

    Columns that no longer exist (the t-interval of older results) are ignored.
    """
    known = {one.name for one in fields(kind)}
    numbers = {one.name for one in fields(kind) if one.type is float}
    values = {
        name: float("nan")
        if value is None and name in numbers
        else tuple(value)
        if isinstance(value, list)
        else value
        for name, value in record.items()
        if name in known
    }
    return kind(**values)


def estimate(value: float | None, low: float | None, high: float | None) -> str:
    """An estimate with its interval as text; "none" where it is not defined (NaN)."""
    if value is None:
        return ""
    if math.isnan(value) or low is None or high is None:
        return "none"
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def judges(row: AgreementRow) -> str:
    """The judges of a row by name, or how many there are."""
    if len(row.judges) > HANDFUL:
        return f"{len(row.judges):,} judges"
    return ", ".join(map(short_name, row.judges))


DECIDED = 6
"""Wins and losses from which on an exact sign test can be significant: 2 * 0.5 ** 6 < 0.05."""


def undecided(row: PairRow) -> str:
    """Why a comparison shows no difference: too few prompts, too many ties, or an even result."""
    none = f"By {short_name(row.judge)}, no significant difference between {row.a} and {row.b}"
    if row.n == 1:
        return f"{none}: there is only one prompt."
    if not row.low <= 0.5 <= row.high:
        return (
            f"{none}: {counted(row.wins, 'win')} and {counted(row.losses, 'loss')} on {row.n} "
            f"prompts give p = {row.p_holm:.3f} (exact "
            "sign test, corrected for all pairs of the judge)."
        )
    if not row.detectable:
        return f"{none}: all {row.n} prompts have the same result."
    told = row.wins + row.losses
    if told < DECIDED:
        return (
            f"{none}: {counted(row.ties, 'tie')} on {row.n} prompts, {counted(row.wins, 'win')} "
            "and "
            f"{counted(row.losses, 'loss')}. The exact sign test counts wins and losses only, and "
            f"needs {DECIDED} of them to show anything."
        )
    many = "this many prompts and ties" if row.ties > row.n / 2 else "this many prompts"
    return (
        f"{none} ({row.win_rate:.1%}, {row.n} prompts). With 80% power, {many} show a "
        f"difference of {100 * row.detectable:.1f} points or more."
    )


def _even(row: PairRow) -> str:
    seen = (
        ""
        if row.first_position is None
        else f"; the answer shown first won {row.first_position:.1%}"
    )
    return f"By {short_name(row.judge)}, {row.a} was compared with itself: a tie{seen}."


def _failures(row: PairRow) -> str:
    assert row.worst is not None and row.best is not None
    return (
        f"By {short_name(row.judge)}, {counted(row.invalid, 'comparison')} of {row.a} and "
        f"{row.b} without "
        f"a valid verdict ({invalid_verdicts.counted(row.reasons)}); depending on their outcome, "
        f"{row.a} would win {row.worst:.1%} to {row.best:.1%}."
    )


def _no_scores(row: ScoreRow) -> str:
    return (
        f"By {short_name(row.judge)}, {row.invalid} of "
        f"{counted(row.n + row.invalid, 'answer')} of {row.model} "
        f"{verb(row.invalid, 'have')} no valid score ({invalid_verdicts.counted(row.reasons)})."
    )


def _ratings(rows: Sequence[RatingRow]) -> list[str]:
    judges: dict[str, list[str]] = {}
    for row in rows:
        rate = f"{row.model} {row.win_rate:.1%} ({row.low:.1%} to {row.high:.1%})"
        judges.setdefault(short_name(row.judge), []).append(rate)
    return [
        f"By {judge}, a Bradley-Terry fit of all pairs: {', '.join(rates)}."
        for judge, rates in judges.items()
    ]


def _controlled(one: Controlled) -> str:
    first = one.rows[0]
    ranked = sorted(one.rows, key=lambda row: -row.win_rate)
    rates = [f"{row.model} {row.win_rate:.1%} ({row.low:.1%} to {row.high:.1%})" for row in ranked]
    return (
        f"By {short_name(first.judge)}, at equal {first.control}, against {first.baseline}: "
        f"{', '.join(rates)}."
    )


def _few(lines: Sequence[str]) -> list[str]:
    """The first few of many similar lines."""
    if len(lines) <= _MOST_LINES:
        return list(lines)
    rest = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], f"... and {rest} more like this in results.json."]


def _accuracy(row: AccuracyRow) -> str:
    return (
        f"{short_name(row.judge)} agrees with the labels on {row.accuracy:.1%} of its verdicts "
        f"({row.low:.1%} to {row.high:.1%}), and with itself in both orders on {row.alike} of "
        f"{counted(row.n, 'question')}."
    )


def _agreement(row: AgreementRow) -> str:
    alpha = f"Krippendorff's alpha {estimate(row.alpha, row.alpha_low, row.alpha_high)}"
    where = f"{judges(row)} on {row.n} {row.kind}s"
    if row.raw is None:
        return f"{where}: {alpha}."
    kappa = f"Cohen's kappa {estimate(row.kappa, row.kappa_low, row.kappa_high)}"
    return f"{where}: agree on {row.raw:.1%}, {kappa}, {alpha}."


def _distance(row: KLRow) -> str:
    return (
        f"KL of {row.model} to {row.anchor}: {figure(row.kl)} nats per answer {row.at} "
        f"({figure(row.low)} to {figure(row.high)})"
    )


def _peaks(name: str, rows: Sequence[SoupRow]) -> list[str]:
    """For each judge: the middle soup compared with its models, and the best soup."""
    lines = []
    for judge in dict.fromkeys(row.judge for row in rows):
        soups = [row for row in rows if row.judge == judge and 1.0 not in row.weights]
        if not soups:
            continue
        middle = min(soups, key=lambda row: max(row.weights))
        lines.append(
            f"By {short_name(judge)}, the soup {_weights(middle)} of the {name} scores "
            f"{middle.gain:+.3f} compared with the mean of its models "
            f"({middle.gain_low:+.3f} to {middle.gain_high:+.3f})."
        )
        peak = max(soups, key=lambda row: row.score)
        if peak.over_best is not None:  # older results do not have it
            lines.append(
                f"By {short_name(judge)}, the best of {counted(len(soups), 'soup')} of the {name} "
                f"is {_weights(peak)} with {figure(peak.score)}: {peak.over_best:+.3f} compared "
                f"with the best of its models ({peak.over_best_low:+.3f} to "
                f"{peak.over_best_high:+.3f}, corrected for choosing the best soup)."
            )
    return lines


def _weights(row: SoupRow) -> str:
    return "/".join(f"{weight:.3g}" for weight in row.weights)
