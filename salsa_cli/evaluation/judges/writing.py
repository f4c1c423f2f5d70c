"""Judges that read answers and write a judgement: what they are asked, once or twice, and kept.

Whatever model writes (`Writer`), the rest is the same. A judgement that can be read is stored at
once, so that it is paid for once; one that cannot be read is asked for once more and is then
invalid; a failure is never stored, and is never a loss.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Literal, Protocol

from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.judges import wording
from salsa_cli.evaluation.questions import answer_files
from salsa_cli.evaluation.questions.answer_files import Replies
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.evaluation.verdicts.labels import Label
from salsa_cli.evaluation.verdicts.verdict import Order, Verdict
from salsa_cli.records import to_json
from salsa_cli.runs.events import Advanced, Note, Report
from salsa_cli.text import amount

Grading = Literal["pairwise", "single"]

BYTES_A_TOKEN = 4
"""Bytes of UTF-8 a token, about, in English and elsewhere; a forecast needs no better."""


@dataclass(frozen=True)
class JudgeSampling:
    """How a judge writes: temperature (0 takes the likeliest token) and most tokens a judgement."""

    temperature: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Request:
    """One thing to ask of a judge; `attempt` counts from 0."""

    key: str
    text: str
    attempt: int = 0


@dataclass(frozen=True)
class Completion:
    """What came of a request: a text, or why there is none."""

    request: Request
    text: str | None = None
    failure: str | None = None


class Writer(Protocol):
    """A model that writes judgements."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str:
        """What tells it from every other judge: part of the key of what is stored."""
        ...

    def write(self, requests: Sequence[Request], sampling: JudgeSampling) -> Iterator[Completion]:
        """One `Completion` a request, as they come, in any order."""
        ...


@dataclass(frozen=True)
class JudgeTask:
    """One judgement to be had: of `a` alone, or of `a` and `b` in one order."""

    question: Question
    turn: int
    a: str
    b: str | None
    order: Order | None
    request: Request | None
    """None where nothing needs to be asked: two answers of the same words tie."""

    def verdict(self, judge: str, judgement: "Judgement") -> Verdict:
        """The verdict that a judgement gives on this task."""
        label = judgement.label
        if label is not None and self.order == "ba":
            label = label.swapped
        return Verdict(
            question=self.question.id,
            judge=judge,
            a=self.a,
            b=self.b,
            turn=self.turn,
            order=self.order,
            outcome=label.outcome if label else None,
            strong=label.strong if label else False,
            score_a=judgement.grade,
            category=self.question.category,
            invalid=judgement.invalid,
            text=judgement.text,
        )


@dataclass(frozen=True)
class Judgement:
    """A judgement as it was read: a comparison or a grade, or why it is invalid."""

    text: str | None = None
    label: Label | None = None
    grade: float | None = None
    invalid: str | None = None


@dataclass(frozen=True)
class Forecast:
    """What the calls of a judge will take, before the first: tokens in are estimated from bytes."""

    judge: str
    calls: int
    stored: int
    tokens_in: int
    tokens_out: int
    cost: float | None = None

    def __str__(self) -> str:
        text = (
            f"{self.judge}: {self.calls:,} calls to make, {self.stored:,} judgements stored; "
            f"about {amount(self.tokens_in, 'tokens')} tokens in, "
            f"at most {amount(self.tokens_out, 'tokens')} out"
        )
        return text if self.cost is None else f"{text}, together about ${self.cost:,.2f}"


def cases(
    writer: Writer,
    questions: Sequence[Question],
    answers: Mapping[str, Replies],
    template: str,
    sampling: JudgeSampling,
    *,
    grading: Grading,
    orders: Sequence[Order],
    baseline: str | None = None,
) -> list[JudgeTask]:
    """All that a judge is to be asked about these answers: every pair, or those of the baseline."""
    pairs = [(a, b) for a, b in combinations(answers, 2) if baseline in (None, a, b)]
    found = []
    for question in questions:
        said = {model: [r.text for r in replies[question.id]] for model, replies in answers.items()}
        for turn in range(1, question.turns + 1):
            if grading == "single":
                for a in answers:
                    text = wording.fill(template, question, turn, {"answer": said[a]})
                    alone = Request(_key(writer, text, sampling), text)
                    found.append(JudgeTask(question, turn, a, None, None, alone))
                continue
            for a, b in pairs:
                for order in orders:
                    first, second = (a, b) if order == "ab" else (b, a)
                    shown = {"answer_a": said[first], "answer_b": said[second]}
                    text = wording.fill(template, question, turn, shown)
                    same = said[a][:turn] == said[b][:turn]
                    request = None if same else Request(_key(writer, text, sampling), text)
                    found.append(JudgeTask(question, turn, a, b, order, request))
    return found


def forecast(
    judge: str,
    asked: Sequence[JudgeTask],
    stored: Mapping[str, str],
    sampling: JudgeSampling,
    price: tuple[float, float] | None,
) -> Forecast:
    """What is left to ask; `price` is in dollars a million tokens, in and out."""
    needed = {case.request.key: case.request for case in asked if case.request}
    open_ = [request for key, request in needed.items() if key not in stored]
    tokens_in = sum(len(request.text.encode()) for request in open_) // BYTES_A_TOKEN
    tokens_out = len(open_) * sampling.max_tokens
    cost = (tokens_in * price[0] + tokens_out * price[1]) / 1e6 if price else None
    return Forecast(judge, len(open_), len(needed) - len(open_), tokens_in, tokens_out, cost)


def judge(
    writer: Writer,
    asked: Sequence[JudgeTask],
    sampling: JudgeSampling,
    *,
    grading: Grading,
    store: Path,
    report: Report,
) -> list[Verdict]:
    """The judge's word on every case; the stored judgements in `store` are not asked for again."""
    judgements = _ask(writer, asked, sampling, grading, store, report)
    same = Judgement(label=Label(0.5))
    return [
        case.verdict(writer.name, judgements[case.request.key] if case.request else same)
        for case in asked
    ]


def read_store(store: Path) -> dict[str, str]:
    """The stored judgements, by the key of their request.

    Raises:
        SalsaError: the file holds something else; names file and line.
    """
    rows = answer_files.finished_rows(store)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("key"), str) or not isinstance(row.get("text"), str):
            raise SalsaError(
                f"{store}, line {number}: no stored judgement; its columns are "
                f"{', '.join(row) or 'none'}; expected texts in 'key' and 'text'"
            )
    return {row["key"]: row["text"] for row in rows}


def _ask(
    writer: Writer,
    asked: Sequence[JudgeTask],
    sampling: JudgeSampling,
    grading: Grading,
    store: Path,
    report: Report,
) -> dict[str, Judgement]:
    """The judgement on each request, by its key."""
    requests = {case.request.key: case.request for case in asked if case.request}
    answer_files.cut_off(store)
    stored = read_store(store)
    judgements = {key: _read(stored[key], grading) for key in requests if key in stored}
    again: list[Request] = []
    todo = [request for key, request in requests.items() if key not in judgements]
    for completion in writer.write(todo, sampling):
        key = completion.request.key
        judgements[key] = _read_completion(completion, grading, writer, store)
        if completion.text is not None and judgements[key].invalid:
            del judgements[key]
            again.append(Request(key, completion.request.text + wording.REMINDER, attempt=1))
        report(Advanced(f"judging by {writer.name}", len(judgements), len(requests), "judgements"))
    if again:
        report(Note(f"{writer.name}: asking once more for {len(again)} judgements without verdict"))
    for completion in writer.write(again, sampling):
        judgements[completion.request.key] = _read_completion(completion, grading, writer, store)
        report(Advanced(f"judging by {writer.name}", len(judgements), len(requests), "judgements"))
    return judgements


def _read_completion(
    completion: Completion, grading: Grading, writer: Writer, store: Path
) -> Judgement:
    """Read a judgement, and store it if it is one."""
    if completion.text is None:
        return Judgement(invalid=completion.failure)
    judgement = _read(completion.text, grading)
    if judgement.invalid is None:
        row = {"key": completion.request.key, "judge": writer.name, "text": completion.text}
        answer_files.append(store, [row])
    return judgement


def _read(text: str, grading: Grading) -> Judgement:
    if grading == "single":
        grade = wording.graded(text)
        return Judgement(text, grade=grade, invalid=None if grade is not None else "no grade in it")
    label = wording.compared(text)
    return Judgement(text, label, invalid=None if label else "no verdict in it")


def _key(writer: Writer, text: str, sampling: JudgeSampling) -> str:
    """Judge, prompt, both answers and their order (all in `text`), and sampling.

    At temperature 0 the seed changes nothing, and is no reason to pay again.
    """
    drawn = sampling if sampling.temperature else replace(sampling, seed=0)
    parts = to_json([writer.identity, text, asdict(drawn)])
    return blake2b(parts.encode(), digest_size=16).hexdigest()
