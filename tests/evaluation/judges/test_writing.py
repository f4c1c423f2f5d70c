"""What a judge that writes is asked, with a judge of ten lines."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from salsa_cli.data import Message
from salsa_cli.evaluation.judges import writing
from salsa_cli.evaluation.judges.prompts import Template
from salsa_cli.evaluation.judges.writing import Completion, JudgeSampling, JudgeTask, Request
from salsa_cli.evaluation.questions.answer_files import Replies, Reply
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.evaluation.verdicts import labels
from salsa_cli.runs.events import silent

SAMPLING = JudgeSampling(temperature=0.0, max_tokens=8, seed=0)
TEMPLATE = Template("t", "{question}|{answer_a}|{answer_b}")


@dataclass
class Fixed:
    """Says what it is told to, call after call."""

    texts: list[str]
    name: str = "fixed"
    identity: str = "fixed"
    asked: list[Request] = field(default_factory=list)

    def write(self, requests: Sequence[Request], sampling: JudgeSampling) -> Iterator[Completion]:
        for request in requests:
            self.asked.append(request)
            text = self.texts.pop(0)
            yield Completion(request, failure=text) if text == "down" else Completion(request, text)


def tasks(writer: Fixed, x: Sequence[str], y: Sequence[str]) -> list[JudgeTask]:
    question = Question("q", (Message("user", "one"),), ("two",) * (len(x) - 1))
    answers = {"x": {"q": tuple(map(Reply, x))}, "y": {"q": tuple(map(Reply, y))}}
    return all_tasks(writer, [question], answers)


def all_tasks(
    writer: Fixed, questions: Sequence[Question], answers: Mapping[str, Replies]
) -> list[JudgeTask]:
    return writing.tasks(
        writer,
        questions,
        answers,
        TEMPLATE,
        SAMPLING,
        grading="pairwise",
        orders=("ab", "ba"),
        pairs=[("x", "y")],
    )


def test_equal_conversations_tie_and_equal_turns_do_not() -> None:
    def silent_ties(x: Sequence[str], y: Sequence[str]) -> list[bool]:
        return [case.request is None for case in tasks(Fixed([]), x, y)]

    assert silent_ties(["a", "b"], ["a", "b"]) == [True] * 4
    # Equal in the first turn only: its two orders need no judge.
    assert silent_ties(["a", "b"], ["a", "c"]) == [True, True, False, False]
    # Equal in the second turn only, but after another first one.
    assert silent_ties(["a", "b"], ["c", "b"]) == [False] * 4


def test_the_order_is_taken_back(tmp_path: Path) -> None:
    writer = Fixed(["[[A>>B]]", "[[A>>B]]"])
    asked = tasks(writer, ["a"], ["b"])
    verdicts = writing.judge(
        writer, asked, SAMPLING, grading="pairwise", store=tmp_path / "s", report=silent
    )
    assert [request.text for request in writer.asked] == ["one|a|b", "one|b|a"]
    assert [(v.order, v.outcome, v.strong) for v in verdicts] == [
        ("ab", 1.0, True),
        ("ba", 0.0, True),
    ]


def test_once_more_and_then_invalid_and_never_stored(tmp_path: Path) -> None:
    writer = Fixed(["hm", "down", "hm", "[[A=B]]", "[[A>B]]"])
    store = tmp_path / "s"
    asked = tasks(writer, ["a"], ["b"])
    first, second = writing.judge(
        writer, asked, SAMPLING, grading="pairwise", store=store, report=silent
    )
    assert (first.invalid, first.text, first.outcome) == ("no verdict found", "hm", None)
    assert (second.invalid, second.text) == ("down", None)
    assert [request.attempt for request in writer.asked] == [0, 0, 1]
    assert writing.read_store(store) == {}
    again = writing.judge(writer, asked, SAMPLING, grading="pairwise", store=store, report=silent)
    assert [verdict.outcome for verdict in again] == [0.5, 0.0]
    assert len(writing.read_store(store)) == 2
    third = writing.judge(writer, asked, SAMPLING, grading="pairwise", store=store, report=silent)
    assert third == again and len(writer.asked) == 5


def test_the_forecast_counts_what_is_not_stored() -> None:
    writer = Fixed([])
    asked = tasks(writer, ["a" * 4000], ["b" * 4000])
    request = asked[0].request
    assert request is not None
    whole = writing.forecast("fixed", asked, {}, SAMPLING, (1.0, 10.0))
    assert (whole.calls, whole.stored, whole.tokens_in, whole.tokens_out) == (2, 0, 4002, 16)
    assert whole.cost == (4002 + 160) / 1e6
    half = writing.forecast("fixed", asked, {request.key: "[[A]]"}, SAMPLING, None)
    assert (half.calls, half.stored, half.cost) == (1, 1, None)


class Cut:
    """A judge whose texts are all cut at the token limit."""

    name = identity = "cut"

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def write(self, requests: Sequence[Request], sampling: JudgeSampling) -> Iterator[Completion]:
        for request, text in zip(requests, self.texts, strict=False):
            yield Completion(request, text, cut=True)


def test_10_000_random_texts_that_were_cut_give_no_verdict(tmp_path: Path) -> None:
    generator = random.Random(0)
    pieces = ["[[A>B]]", "[[B]]", "<think>", "</think>", "so", "\n", "[[7]]", "verdict:", "[[Tie]]"]
    texts = ["".join(generator.choices(pieces, k=generator.randint(0, 9))) for _ in range(10_000)]
    assert sum(labels.read_label(text) is not None for text in texts) > 1000
    questions = [Question(str(n), (Message("user", f"{n}"),)) for n in range(5_000)]
    answers = {name: {q.id: (Reply(f"{name}{q.id}"),) for q in questions} for name in "xy"}
    asked = all_tasks(Cut([]), questions, answers)
    store = tmp_path / "s"
    verdicts = writing.judge(
        Cut(texts), asked, SAMPLING, grading="pairwise", store=store, report=silent
    )
    assert len(verdicts) == 10_000 and not store.exists()
    assert {(v.outcome, v.invalid) for v in verdicts} == {(None, "cut at --judge-tokens 8")}
