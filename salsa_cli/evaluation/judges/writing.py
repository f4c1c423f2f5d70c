"""LLM judges: what they are asked, how their judgements are read, and how these are stored.

The model behind a judge is a `Writer`. A judgement that can be read is stored at once, so that it
is paid for once. One that cannot be read is asked for once more, and is then invalid. One that was
cut at the token limit is invalid, whatever labels are in it. Invalid judgements and failed calls
are not stored, and are never a loss.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal, Protocol

from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.judges import wording
from salsa_cli.evaluation.judges.prompts import JudgePrompt, Rendered
from salsa_cli.evaluation.questions import answer_files
from salsa_cli.evaluation.questions.answer_files import Replies
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.evaluation.verdicts import labels
from salsa_cli.evaluation.verdicts.labels import Label
from salsa_cli.evaluation.verdicts.verdict import CUT, Order, Verdict
from salsa_cli.formatting import amount, counted
from salsa_cli.records import to_json
from salsa_cli.runs.events import Advanced, Note, Report

Grading = Literal["pairwise", "single"]

BYTES_A_TOKEN = 4
"""Bytes of UTF-8 a token, about, in English and elsewhere; a forecast needs no better."""


@dataclass(frozen=True)
class JudgeSampling:
    """Sampling of judgements.

    Attributes:
        temperature: 0 takes the likeliest token; None leaves it to the server, for models that
            refuse the parameter.
        max_tokens: token limit of a judgement, thinking included.
    """

    temperature: float | None
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Request:
    """One prompt for a judge.

    Attributes:
        key: of its judgement in the store; the same for every token limit.
        text: the prompt, the user message.
        attempt: counts from 0.
        legacy_key: with the token limit in it, as stores of earlier versions have it.
        system: the system message, if there is one.
    """

    key: str
    text: str
    attempt: int = 0
    legacy_key: str = ""
    system: str | None = None


@dataclass(frozen=True)
class Completion:
    """What a judge wrote, or why it wrote nothing; `cut` where the token limit ended the text."""

    request: Request
    text: str | None = None
    failure: str | None = None
    cut: bool = False


class Writer(Protocol):
    """A model that writes judgements."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str:
        """Identifies the judge; part of the key of its stored judgements."""
        ...

    def write(self, requests: Sequence[Request], sampling: JudgeSampling) -> Iterator[Completion]:
        """One `Completion` per request, in any order."""
        ...


@dataclass(frozen=True)
class JudgeTask:
    """One judgement to make: `a` graded, or `a` and `b` compared in one order."""

    question: Question
    turn: int
    a: str
    b: str | None
    order: Order | None
    request: Request | None
    """None where nothing is asked: two equal answers tie."""

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
    """A judgement that was read: its label or grade, or why it is invalid."""

    text: str | None = None
    label: Label | None = None
    grade: float | None = None
    invalid: str | None = None


@dataclass(frozen=True)
class Forecast:
    """Calls, tokens and cost of a judge before the first call; input tokens are estimates."""

    judge: str
    calls: int
    stored: int
    tokens_in: int
    tokens_out: int
    cost: float | None = None

    def __str__(self) -> str:
        text = (
            f"{self.judge}: {counted(self.calls, 'call')} to make, "
            f"{counted(self.stored, 'judgement')} stored; "
            f"about {amount(self.tokens_in, 'tokens')} tokens in, "
            f"at most {amount(self.tokens_out, 'tokens')} out"
        )
        return text if self.cost is None else f"{text}, together about ${self.cost:,.2f}"


def tasks(
    writer: Writer,
    questions: Sequence[Question],
    answers: Mapping[str, Replies],
    prompt: JudgePrompt,
    sampling: JudgeSampling,
    *,
    grading: Grading,
    orders: Sequence[Order],
    pairs: Sequence[tuple[str, str]],
) -> list[JudgeTask]:
    """Everything to ask a judge about these answers: these pairs of models, or each alone."""
    found = []
    for question in questions:
        said = {model: [r.text for r in replies[question.id]] for model, replies in answers.items()}
        for turn in range(1, question.turns + 1):
            if grading == "single":
                for a in answers:
                    asked = prompt.render(question, turn, {"answer": said[a]})
                    alone = _request(writer, asked, sampling)
                    found.append(JudgeTask(question, turn, a, None, None, alone))
                continue
            for a, b in pairs:
                for order in orders:
                    first, second = (a, b) if order == "ab" else (b, a)
                    shown = {"answer_a": said[first], "answer_b": said[second]}
                    asked = prompt.render(question, turn, shown)
                    same = said[a][:turn] == said[b][:turn]
                    request = None if same else _request(writer, asked, sampling)
                    found.append(JudgeTask(question, turn, a, b, order, request))
    return found


def forecast(
    judge: str,
    asked: Sequence[JudgeTask],
    stored: Mapping[str, str],
    sampling: JudgeSampling,
    price: tuple[float, float] | None,
) -> Forecast:
    """What is left to ask; `price` is in dollars per million tokens, in and out."""
    needed = {task.request.key: task.request for task in asked if task.request}
    open_ = [request for request in needed.values() if _stored(request, stored) is None]
    tokens_in = (
        sum(len(f"{request.system or ''}{request.text}".encode()) for request in open_)
        // BYTES_A_TOKEN
    )
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
    """The verdicts of a judge; judgements in `store` are not asked for again."""
    judgements = _ask(writer, asked, sampling, grading, store, report)
    same = Judgement(label=Label(0.5))
    return [
        task.verdict(writer.name, judgements[task.request.key] if task.request else same)
        for task in asked
    ]


def read_store(store: Path, max_tokens: int | None = None) -> dict[str, str]:
    """The stored judgements, by the key of their request.

    Args:
        max_tokens: leaves out judgements that were made under a larger token limit than this one.

    Raises:
        SalsaError: the file holds something else; names file and line.
    """
    rows = answer_files.finished_rows(store)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("key"), str) or not isinstance(row.get("text"), str):
            raise SalsaError(
                f"{store}, line {number}: not a stored judgement; its columns are "
                f"{', '.join(row) or 'none'}; expected strings in 'key' and 'text'"
            )
    return {row["key"]: row["text"] for row in rows if _within(row.get("max_tokens"), max_tokens)}


def _within(made_with: object, max_tokens: int | None) -> bool:
    """Whether a judgement is one that this token limit would give as well: it ended before it."""
    return max_tokens is None or not isinstance(made_with, int) or made_with <= max_tokens


def _stored(request: Request, stored: Mapping[str, str]) -> str | None:
    return stored.get(request.key, stored.get(request.legacy_key))


def _ask(
    writer: Writer,
    asked: Sequence[JudgeTask],
    sampling: JudgeSampling,
    grading: Grading,
    store: Path,
    report: Report,
) -> dict[str, Judgement]:
    """The judgement on each request, by its key."""
    requests = {task.request.key: task.request for task in asked if task.request}
    answer_files.cut_off(store)
    stored = read_store(store, sampling.max_tokens)
    judgements: dict[str, Judgement] = {}
    again: list[Request] = []
    todo: list[Request] = []
    for key, request in requests.items():
        if (text := _stored(request, stored)) is None:
            todo.append(request)
        else:
            judgements[key] = _read(text, grading)
    for completion in writer.write(todo, sampling):
        request = completion.request
        judgement = _accept(completion, sampling, grading, writer, store)
        if judgement.invalid is not None and completion.text is not None and not completion.cut:
            again.append(replace(request, text=request.text + wording.REMINDER, attempt=1))
        else:
            judgements[request.key] = judgement
        report(Advanced(f"judging by {writer.name}", len(judgements), len(requests), "judgements"))
    if again:
        report(
            Note(f"{writer.name}: retrying {counted(len(again), 'judgement')} without a verdict")
        )
    for completion in writer.write(again, sampling):
        judgements[completion.request.key] = _accept(completion, sampling, grading, writer, store)
        report(Advanced(f"judging by {writer.name}", len(judgements), len(requests), "judgements"))
    return judgements


def _accept(
    completion: Completion, sampling: JudgeSampling, grading: Grading, writer: Writer, store: Path
) -> Judgement:
    """Read what a judge wrote, and store it if it is valid."""
    if completion.text is None:
        return Judgement(invalid=completion.failure)
    if completion.cut:
        return Judgement(completion.text, invalid=f"{CUT} {sampling.max_tokens}")
    judgement = _read(completion.text, grading)
    if judgement.invalid is None:
        row = {
            "key": completion.request.key,
            "judge": writer.name,
            "text": completion.text,
            "max_tokens": sampling.max_tokens,
        }
        answer_files.append(store, [row])
    return judgement


def _read(text: str, grading: Grading) -> Judgement:
    if grading == "pairwise":
        label = labels.read_label(text)
        return Judgement(text, label, invalid=None if label else "no verdict found")
    grade = labels.read_grade(text)
    if grade is None:
        return Judgement(text, invalid="no grade found")
    low, high = labels.LOWEST_GRADE, labels.HIGHEST_GRADE
    if not low <= grade <= high:
        return Judgement(text, invalid=f"grade {grade:g} is not between {low:g} and {high:g}")
    return Judgement(text, grade=grade)


def _request(writer: Writer, asked: Rendered, sampling: JudgeSampling) -> Request:
    """The request for a prompt; its key is of the judge, the prompt and the sampling.

    The prompt has both answers and their order in it. At temperature 0 the seed changes nothing. A
    larger token limit changes nothing that ended before it.
    """
    drawn = asdict(replace(sampling, seed=0) if sampling.temperature == 0 else sampling)
    unlimited = {name: value for name, value in drawn.items() if name != "max_tokens"}
    words = asked.text if asked.system is None else [asked.system, asked.text]
    return Request(
        _digest([writer.identity, words, unlimited]),
        asked.text,
        legacy_key=_digest([writer.identity, words, drawn]),
        system=asked.system,
    )


def _digest(parts: object) -> str:
    return blake2b(to_json(parts).encode(), digest_size=16).hexdigest()
