"""A `Verdict`: two answers to one question compared, or one answer graded."""

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from salsa_cli.errors import SalsaError

Order = Literal["ab", "ba"]

CUT = "cut at --judge-tokens"
"""How the reason of a judgement begins that was cut at the token limit."""

NO_ANSWER = "no answer after its reasoning"
"""How the reason of a judgement begins that ended before its answer."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_FLIPPED: Mapping[Order, Order] = {"ab": "ba", "ba": "ab"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One call of a judge: two answers compared, or (with `b` None) one answer graded.

    A valid comparison has an `outcome`, a valid grading a `score_a`. An invalid verdict has
    neither, and gives the reason in `invalid`: a failed call is not a loss.

    Attributes:
        question: its id.
        judge: name of the judge.
        a: the model that `outcome` is for.
        b: the other model; None where `a` is graded alone.
        turn: of the conversation, from 1.
        order: whose answer was shown first; None where there is no order.
        outcome: from 0 (`b` won) to 1 (`a` won), 0.5 for a tie.
        strong: whether the judge called the winner much better (Arena-Hard's `>>`).
        score_a: score of `a`'s answer.
        score_b: score of `b`'s answer.
        category: of the question.
        invalid: the reason for an invalid verdict.
        text: the judgement as written.
    """

    question: str
    judge: str
    a: str
    b: str | None = None
    turn: int = 1
    order: Order | None = None
    outcome: float | None = None
    strong: bool = False
    score_a: float | None = None
    score_b: float | None = None
    category: str | None = None
    invalid: str | None = None
    text: str | None = None

    @property
    def swapped(self) -> "Verdict":
        """The same comparison with `a` and `b` exchanged."""
        assert self.b is not None
        # Built field by field: `replace` takes four times as long, and there may be 100,000.
        return Verdict(
            self.question,
            self.judge,
            self.b,
            self.a,
            self.turn,
            self.order and _FLIPPED[self.order],
            None if self.outcome is None else 1.0 - self.outcome,
            self.strong,
            self.score_b,
            self.score_a,
            self.category,
            self.invalid,
            self.text,
        )

    def by(self, judge: str) -> "Verdict":
        """The same verdict under the name of another judge."""
        return Verdict(
            self.question,
            judge,
            self.a,
            self.b,
            self.turn,
            self.order,
            self.outcome,
            self.strong,
            self.score_a,
            self.score_b,
            self.category,
            self.invalid,
            self.text,
        )


def short_name(judge: str) -> str:
    """A judge's name without the folders of its path."""
    kind, colon, source = judge.partition(":")
    return f"{kind}{colon}{source.rstrip('/').rsplit('/', 1)[-1]}" if colon else judge


def is_number(value: object) -> bool:
    """Whether a value is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def is_whole(text: str) -> bool:
    """Whether a text can be written as UTF-8."""
    return text.isascii() or _SURROGATE.search(text) is None


_DEFAULTS = {field.name: field.default for field in fields(Verdict)}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "question": (str,),
    "judge": (str,),
    "a": (str,),
    "b": (str,),
    "turn": (int,),
    "order": (str,),
    "outcome": (int, float),
    "strong": (bool,),
    "score_a": (int, float),
    "score_b": (int, float),
    "category": (str,),
    "invalid": (str,),
    "text": (str,),
}


def to_row(verdict: Verdict) -> dict[str, object]:
    """The verdict as a row of judgments.jsonl; defaults are left out."""
    return {name: value for name, value in asdict(verdict).items() if value != _DEFAULTS[name]}


def from_row(row: Mapping[str, Any]) -> Verdict:
    """A verdict from a row of judgments.jsonl.

    A row may name the question by `prompt`, its number from 0, as salsa's first files did.

    Raises:
        SalsaError: a column is missing, unknown or of another type, or the row is no verdict.
    """
    values = dict(row)
    if "question" not in values and "prompt" in values:
        values["question"] = values.pop("prompt")
    if isinstance(values.get("question"), int):
        values["question"] = str(values["question"])
    for name in ("question", "judge", "a"):
        if name not in values:
            raise SalsaError(f"no column '{name}'; its columns are {', '.join(row) or 'none'}")
    for name, value in values.items():
        if name not in _TYPES:
            raise SalsaError(f"column '{name}' is unknown; expected one of {', '.join(_TYPES)}")
        nothing = value is None and _DEFAULTS[name] is None
        if not nothing and type(value) not in _TYPES[name]:
            raise SalsaError(f"column '{name}' is {value!r:.40}; expected {_expected(name)}")
    verdict = Verdict(**values)
    _check(verdict)
    return verdict


def _expected(name: str) -> str:
    words = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
    return words[_TYPES[name][-1]]


def _check(verdict: Verdict) -> None:
    for name in ("question", "judge", "a", "b"):
        text = getattr(verdict, name)
        if text == "" or not is_whole(text or "x"):
            raise SalsaError(f"column '{name}' is {text!a:.40}; expected a string")
    if verdict.turn < 1:
        raise SalsaError(f"column 'turn' is {verdict.turn}; expected 1 or more")
    for name in ("score_a", "score_b"):
        score = getattr(verdict, name)
        if score is not None and not is_number(score):
            raise SalsaError(f"column '{name}' is {score!r:.40}; expected a finite number")
    if verdict.order not in (None, "ab", "ba"):
        raise SalsaError(f"column 'order' is '{verdict.order}'; expected 'ab' or 'ba'")
    if verdict.outcome is not None and not 0 <= verdict.outcome <= 1:
        raise SalsaError(f"column 'outcome' is {verdict.outcome}; expected a number from 0 to 1")
    if verdict.invalid is not None:
        if verdict.outcome is not None or verdict.score_a is not None:
            had = "outcome" if verdict.outcome is not None else "score_a"
            raise SalsaError(f"'{had}' together with 'invalid'; expected only one of them")
        return
    if verdict.b is None and verdict.score_a is None:
        raise SalsaError("neither 'b' nor 'score_a': it is neither a comparison nor a grade")
    if verdict.b is not None and verdict.outcome is None:
        raise SalsaError("no 'outcome', and no reason for it in 'invalid'")
