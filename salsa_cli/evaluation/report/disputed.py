"""Answers to read: those that the judges dispute most, side by side with the judgements."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from salsa_cli import pages
from salsa_cli.data import Prompt
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.evaluation.results.style_control import Answers
from salsa_cli.evaluation.verdicts.verdict import Verdict, short_name

_MOST_READ, _MOST_LOST, _MOST_MODELS = 25, 10, 5
_LONGEST_TEXT = 6000

Prompts = Mapping[str, Sequence[str]]
"""User turns by question."""


@dataclass(frozen=True)
class Dispute:
    """All verdicts on two answers (or a single graded answer) to one turn of a question."""

    question: str
    turn: int
    a: str
    b: str | None
    verdicts: Sequence[Verdict]

    @property
    def disagreement(self) -> float:
        """The variance of the outcomes, or of the scores."""
        values = [v.score_a if self.b is None else v.outcome for v in self.verdicts]
        known = [value for value in values if value is not None]
        if len(known) < 2:
            return 0.0
        mean = sum(known) / len(known)
        return sum((value - mean) ** 2 for value in known) / len(known)

    @property
    def difference(self) -> tuple[float, float]:
        """How far the verdicts are from a tie: by outcome, then by score."""
        known = [v.outcome for v in self.verdicts if v.outcome is not None]
        scores = [
            abs(v.score_a - v.score_b)
            for v in self.verdicts
            if v.score_a is not None and v.score_b is not None
        ]
        from_tie = abs(sum(known) / len(known) - 0.5) if known and self.b is not None else 0.0
        return from_tie, max(scores, default=0.0)

    @property
    def grade(self) -> float | None:
        """The mean score of a single answer."""
        scores = [v.score_a for v in self.verdicts if v.score_a is not None]
        return sum(scores) / len(scores) if scores and self.b is None else None


def disputes(verdicts: Iterable[Verdict]) -> list[Dispute]:
    """Verdicts grouped by what they judge: the most disputed first, then the most different."""
    groups: dict[tuple[str, int, str, str | None], list[Verdict]] = {}
    for given in verdicts:
        turned = given.b is not None and (given.question, given.turn, given.b, given.a) in groups
        verdict = given.swapped if turned else given
        key = (verdict.question, verdict.turn, verdict.a, verdict.b)
        groups.setdefault(key, []).append(verdict)
    found = [Dispute(*key, group) for key, group in groups.items()]
    return sorted(found, key=lambda one: (one.disagreement, *one.difference), reverse=True)


def asked(questions: Iterable[Question]) -> dict[str, tuple[str, ...]]:
    """User turns by question."""
    return {one.id: (_opening(one.opening), *one.followups) for one in questions}


def blocks(verdicts: Sequence[Verdict], answers: Answers, prompts: Prompts) -> list[pages.Block]:
    """Those with any text to read: the most disputed first, and by who loses."""
    readable = [
        dispute
        for dispute in disputes(verdicts)
        if any(v.text for v in dispute.verdicts) or dispute.a in answers or dispute.b in answers
    ]
    if not readable:
        return []
    chosen = _chosen(readable)
    shown = sorted({n for one in chosen.values() for n in one})
    choices = [
        pages.Choice(name, {shown.index(n) for n in one}) for name, one in chosen.items() if one
    ]
    return [
        pages.Heading("Answers side by side"),
        pages.Prose("Each line says which answer each judge prefers."),
        pages.Choices("Answers", choices, [_dispute(readable[n], answers, prompts) for n in shown]),
    ]


def _chosen(readable: Sequence[Dispute]) -> dict[str, list[int]]:
    """Indices of the disputes to show, by the name of the choice."""
    rates = [_rates(one) for one in readable]
    models = dict.fromkeys(model for one in rates for model in one)
    disputed = readable[0].disagreement > 0
    first = "most disputed" if disputed else "largest difference"
    chosen = {first: list(range(len(readable)))[:_MOST_READ]}
    for model in list(models)[:_MOST_MODELS]:
        lost = [n for n, one in enumerate(rates) if one.get(model, 1.0) < 0.5]
        chosen[f"{model} loses"] = sorted(lost, key=lambda n: rates[n][model])[:_MOST_LOST]
    graded = [(grade, n) for n, one in enumerate(readable) if (grade := one.grade) is not None]
    chosen["lowest score"] = [n for _, n in sorted(graded)[:_MOST_LOST]]
    failed = [n for n, one in enumerate(readable) if any(v.invalid for v in one.verdicts)]
    chosen["without a valid verdict"] = failed[:_MOST_LOST]
    return chosen


def _rates(dispute: Dispute) -> dict[str, float]:
    """The mean outcome for each of two models: 1 where all judges prefer it."""
    known = [v.outcome for v in dispute.verdicts if v.outcome is not None]
    if dispute.b is None or not known:
        return {}
    mean = sum(known) / len(known)
    return {dispute.a: mean, dispute.b: 1.0 - mean}


def _dispute(dispute: Dispute, answers: Answers, prompts: Prompts) -> pages.Block:
    names = [name for name in (dispute.a, dispute.b) if name is not None]
    quotes = [
        pages.Quote(name, _cut(answer.turns[dispute.turn - 1]))
        for name in names
        if (answer := answers.get(name, {}).get(dispute.question)) is not None
        and len(answer.turns) >= dispute.turn
    ]
    said = [
        pages.Quote(f"{short_name(v.judge)}{_order(v)}", _cut(v.text), (("says", _word(v)),))
        for v in dispute.verdicts
        if v.text
    ]
    words = "; ".join(f"{judge}: {', '.join(said)}" for judge, said in _by_judge(dispute).items())
    turn = f", turn {dispute.turn}" if dispute.turn > 1 else ""
    asked = prompts.get(dispute.question, ())
    prompt = (
        asked[dispute.turn - 1]
        if len(asked) >= dispute.turn
        else f"question {dispute.question}{turn}"
    )
    title = f"question {dispute.question}{turn}, {' vs. '.join(names)}. {words}"
    found: list[pages.Block] = [pages.Quotes(_cut(prompt), quotes)]
    if said:
        found.append(pages.Quotes("What the judges wrote", said, title="Judges"))
    return pages.Details(title, found)


def _by_judge(dispute: Dispute) -> dict[str, list[str]]:
    """The verdicts of each judge in one word: the preferred model, tie, or a score."""
    said: dict[str, list[str]] = {}
    for verdict in dispute.verdicts:
        outcome = verdict.outcome
        word = "no verdict" if outcome is None else _preferred(verdict, outcome)
        if verdict.b is None and verdict.score_a is not None:
            word = f"{verdict.score_a:g}"
        said.setdefault(short_name(verdict.judge), []).append(word)
    return said


def _word(verdict: Verdict) -> str:
    if verdict.invalid is not None:
        return "no verdict"
    if verdict.b is None:
        return f"{verdict.score_a:g}"
    strongly = " clearly" if verdict.strong else ""
    if verdict.outcome == 0.5:
        return "tie"
    assert verdict.outcome is not None
    return f"{verdict.a if verdict.outcome > 0.5 else verdict.b} wins{strongly}"


def _preferred(verdict: Verdict, outcome: float) -> str:
    return "tie" if outcome == 0.5 else str(verdict.a if outcome > 0.5 else verdict.b)


def _order(verdict: Verdict) -> str:
    if verdict.order is None:
        return ""
    return f", {verdict.a if verdict.order == 'ab' else verdict.b} shown first"


def _opening(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)


def _cut(text: str | None) -> str:
    """A text cut to a length that fits on the page."""
    whole = text or ""
    return whole if len(whole) <= _LONGEST_TEXT else f"{whole[:_LONGEST_TEXT]} ... (cut)"
