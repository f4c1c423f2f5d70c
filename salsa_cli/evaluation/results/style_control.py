"""Style control: win rates at equal length and style of the answers, as in Arena-Hard."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from salsa_cli import data
from salsa_cli.config import run_names
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.results import win_rates
from salsa_cli.evaluation.results.comparisons import Comparison, Match, Rules
from salsa_cli.evaluation.results.win_rates import PairRow, Resampling
from salsa_cli.evaluation.verdicts.formats import Stored
from salsa_cli.evaluation.verdicts.rows import StoredRow, stem
from salsa_cli.evaluation.verdicts.verdict import Verdict, short_name
from salsa_cli.maths import bradley_terry, resampling

Control = Literal["length", "markdown", "style"]
FEATURES: Mapping[Control, tuple[str, ...]] = {
    "length": ("token_len",),
    "markdown": ("header_count", "list_count", "bold_count"),
    "style": ("token_len", "header_count", "list_count", "bold_count"),
}

# Lengths a and b count as alike within this share of a + b: 5% is 95 tokens to 105.
ALIKE = 0.05

# Log-odds that a fit may drift as its prior is weakened; see `bradley_terry.ControlledFit`.
UNBOUNDED = 1.0

# Its published rate is an L1-regularised fit that wants the difficulty of each instruction and
# annotations of gamed answers, a file of its authors'.
NOT_ALPACA_EVAL = (
    "The win rates at equal length and style are salsa's own. They are not AlpacaEval's "
    "length-controlled win rates and cannot be compared with its leaderboard."
)

_CODE = re.compile(r"```[^`]*```")
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
_LIST = re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


@dataclass(frozen=True)
class AnswerStyle:
    """Length of an answer in tokens, and how many headers, list items and bold spans it has."""

    token_len: int
    header_count: int
    list_count: int
    bold_count: int


@dataclass(frozen=True)
class StoredAnswer:
    """A model's answer to a question, one text per turn (none if a file stores the style only)."""

    style: AnswerStyle
    turns: tuple[str, ...] = ()
    prompt: str | None = None


Answers = Mapping[str, Mapping[str, StoredAnswer]]
"""By model and question."""


@dataclass(frozen=True)
class ControlledRow:
    """The win rate of a model over the baseline at equal length, or at equal style.

    `low` and `high` are of a 95% bootstrap over questions, each draw one step from the fit.
    """

    model: str
    baseline: str
    judge: str
    control: str
    win_rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Controlled:
    """The rates of one fit, and the coefficient of each feature (see `bradley_terry`).

    Rates and coefficients that only the prior of the fit would bound are left out; `separated`
    says which, and why.
    """

    rows: tuple[ControlledRow, ...]
    coefficients: Mapping[str, float]
    separated: str | None = None


def read(given: Sequence[str]) -> dict[str, dict[str, StoredAnswer]]:
    """Read stored answers and their style, in the format of FastChat, Arena-Hard or salsa.

    Args:
        given: files, folders of files, or NAME=FILE. A file of one model is named after it where
            neither its rows nor NAME say whose answers it holds.

    Raises:
        SalsaError: a file cannot be read, or a row is no answer; names file and row.
    """
    found: dict[str, dict[str, StoredAnswer]] = {}
    for one in given:
        name, path = run_names.split(one)
        for file in data.local_files(path) or (path,):
            source = data.read(str(file))
            for index in range(len(source.rows)):
                row = StoredRow(source, index)
                model = name or row.optional_text("model_id") or row.optional_text("model")
                answers = found.setdefault(model or stem(source), {})
                question = _question(row, index)
                if question in answers:
                    raise row.error(
                        f"a second answer of {model or stem(source)} to question {question}; "
                        "expected one"
                    )
                answers[question] = _answer(row)
    return found


def of_text(text: str, tokens: int | None = None) -> AnswerStyle:
    """The style of an answer; its words are counted if its tokens are not known."""
    bare = _CODE.sub("", text)
    return AnswerStyle(
        len(text.split()) if tokens is None else tokens,
        len(_HEADER.findall(bare)),
        len(_LIST.findall(bare)),
        len(_BOLD.findall(bare)),
    )


def all_controls(
    stored: Sequence[Stored], answers: Answers, baseline: str | None, drawn: Resampling
) -> tuple[Controlled, ...]:
    """Win rates at equal length and at equal style by every judge that compared answers.

    Without a baseline, the second model of the first comparison is used.
    """
    judges: dict[str, str] = {}
    for one in stored:
        for verdict in one.verdicts:
            if verdict.b is not None and verdict.outcome is not None and verdict.judge != one.gold:
                judges.setdefault(verdict.judge, baseline or verdict.b)
    controls: tuple[Control, ...] = ("length", "style")
    return tuple(
        controlled_rates([one.by_judge(judge) for one in stored], answers, control, against, drawn)
        for judge, against in judges.items()
        for control in controls
    )


def controlled_rates(
    stored: Sequence[Stored], answers: Answers, control: Control, baseline: str, drawn: Resampling
) -> Controlled:
    """Win rates over the baseline by one judge, from a joint fit of all models.

    Raises:
        SalsaError: answers of a model are missing.
    """
    games = [
        (verdict, one.convention.strong_weight if verdict.strong else 1)
        for one in stored
        for verdict in one.verdicts
        if verdict.b is not None and verdict.outcome is not None
    ]
    models = list(dict.fromkeys(n for v, _ in games for n in (str(v.b), v.a)))
    places = {name: index for index, name in enumerate(models)}
    numbers = {q: n for n, q in enumerate(dict.fromkeys(v.question for v, _ in games))}
    features = np.array([_difference(verdict, answers, control) for verdict, _ in games])
    weights = np.array([float(weight) for _, weight in games])
    customs = {one.convention.style_origin for one in stored}
    origin = np.zeros(features.shape[1])
    if customs == {"mean"}:
        origin = np.average(features, axis=0, weights=weights)
    fit = bradley_terry.controlled_bradley_terry(
        # The baseline first, as Arena-Hard has it: it matters where a model meets itself.
        first=np.array([places[str(v.b)] for v, _ in games]),
        second=np.array([places[v.a] for v, _ in games]),
        outcomes=np.array([1.0 - float(v.outcome or 0.0) for v, _ in games]),
        weights=weights,
        features=features,
        questions=np.array([numbers[v.question] for v, _ in games]),
        models=len(models),
        origin=origin,
    )
    sums = resampling.resampled_sums(fit.influence, drawn.seed, drawn.draws)
    strengths = fit.strengths + sums - fit.influence.sum(axis=0)
    against = places[baseline]
    rates = bradley_terry.expected_rate(strengths, strengths[:, [against]])
    estimates = bradley_terry.expected_rate(fit.strengths, fit.strengths[against])
    judge = games[0][0].judge
    telling = bool((fit.feature_drift > UNBOUNDED).any())
    apart = [n for n, at in places.items() if abs(fit.drift[at] - fit.drift[against]) > UNBOUNDED]
    rows = [
        ControlledRow(
            name,
            baseline,
            judge,
            control,
            float(estimates[index]),
            *resampling.percentiles(rates[:, index]),
        )
        for name, index in places.items()
        if name != baseline and name not in apart and not telling
    ]
    if telling:
        return Controlled((), {}, _told_by_style(judge, control, baseline))
    coefficients = dict(zip(FEATURES[control], map(float, fit.coefficients), strict=True))
    separated = _told_by_model(judge, control, baseline, apart) if apart else None
    return Controlled(tuple(rows), coefficients, separated)


def _told_by_style(judge: str, control: Control, baseline: str) -> str:
    return (
        f"By {short_name(judge)}, at equal {control}, against {baseline}: no win rate: {control} "
        "alone separates wins from losses (perfect separation). Use more prompts, or answers that "
        "differ less "
        "in it."
    )


def _told_by_model(judge: str, control: Control, baseline: str, apart: Sequence[str]) -> str:
    return (
        f"By {short_name(judge)}, at equal {control}, against {baseline}: no win rate for "
        f"{', '.join(apart)}, whose comparisons with the others were all won or all lost "
        "(perfect separation)."
    )


def length_rows(
    found: Sequence[Comparison], rules: Rules, drawn: Resampling, answers: Answers
) -> tuple[PairRow, ...]:
    """Win rates where the answer of `a` is shorter, about as long, or longer than that of `b`."""

    def part(comparison: Comparison, match: Match) -> str | None:
        pair = [answers.get(name, {}).get(match.question) for name in (comparison.a, comparison.b)]
        if pair[0] is None or pair[1] is None:
            return None
        a, b = (answer.style.token_len for answer in pair if answer is not None)
        if abs(a - b) <= ALIKE * (a + b):
            return "about as long"
        return "shorter" if a < b else "longer"

    rows = win_rates.parted_rows(found, rules, drawn, part)
    names = ("shorter", "about as long", "longer")
    places = {
        row: place for place, row in enumerate(dict.fromkeys((r.a, r.b, r.judge) for r in rows))
    }
    return tuple(
        sorted(rows, key=lambda r: (places[r.a, r.b, r.judge], names.index(str(r.category))))
    )


def _difference(verdict: Verdict, answers: Answers, control: Control) -> NDArray[np.float64]:
    """(b - a) / (b + a + 1) of each feature, of the baseline less the model."""
    pair = []
    for name in (str(verdict.b), verdict.a):
        answer = answers.get(name, {}).get(verdict.question)
        if answer is None:
            whole = name not in answers
            what = (
                f"the answers of {name} are missing; pass them"
                if whole
                else f"the answer to question {verdict.question} of {name} is missing; pass it"
            )
            raise SalsaError(f"{what} with --answers {name}=FILE")
        pair.append(
            np.array([getattr(answer.style, feature) for feature in FEATURES[control]], float)
        )
    return np.asarray((pair[0] - pair[1]) / (pair[0] + pair[1] + 1))


def _question(row: StoredRow, index: int) -> str:
    for name in ("question_id", "uid", "question"):
        if row.has(name):
            return row.identifier(name)
    return str(index)


def _answer(row: StoredRow) -> StoredAnswer:
    turns = row.get("turns")
    choices = row.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        turns = choices[0].get("turns")
    if row.has("answer"):
        turns = [{"content": row.get("answer"), "tokens": row.get("tokens")}]
    texts, tokens = _texts(row, turns if isinstance(turns, list) else [])
    for name in ("conv_metadata", "metadata"):
        metadata = row.get(name)
        if isinstance(metadata, Mapping) and "token_len" in metadata:
            counted = AnswerStyle(
                *(_count(row, f"{name}.{key}", metadata.get(key)) for key in FEATURES["style"])
            )
            return StoredAnswer(counted, texts, row.optional_text("prompt"))
    if not texts:
        raise row.error("no answer: expected 'answer', 'turns', 'choices' or 'conv_metadata'")
    return StoredAnswer(of_text("\n".join(texts), tokens), texts, row.optional_text("prompt"))


def _texts(row: StoredRow, turns: Sequence[Any]) -> tuple[tuple[str, ...], int | None]:
    """The texts of some turns, and their total tokens if every turn gives them."""
    texts: list[str] = []
    tokens: list[object] = []
    for turn in turns:
        fields = turn if isinstance(turn, Mapping) else {"content": turn}
        text = fields.get("content", fields.get("answer"))
        if not isinstance(text, str):
            raise row.error(
                f"turn {len(texts) + 1} of the answer is {text!r:.40}; expected a string"
            )
        texts.append(text)
        tokens.append(fields.get("token_len", fields.get("tokens")))
    known = [count for count in tokens if isinstance(count, int)]
    return tuple(texts), sum(known) if known and len(known) == len(tokens) else None


def _count(row: StoredRow, name: str, value: object) -> int:
    if isinstance(value, Mapping):
        return sum(_count(row, f"{name}.{key}", one) for key, one in value.items())
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise row.error(f"column '{name}' is {value!r:.20}; expected a whole number, 0 or more")
    return value
