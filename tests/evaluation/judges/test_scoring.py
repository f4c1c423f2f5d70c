"""Judges that score: what they are shown of a conversation, and what their scores say."""

from collections.abc import Sequence

import torch

from salsa_cli.data import Message, Prompt
from salsa_cli.evaluation.judges import scoring
from salsa_cli.evaluation.judges.scoring import Scored
from salsa_cli.evaluation.questions.answer_files import Reply
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.models.tokenization import Answer


class Recorder:
    """Scores an answer by its length, and keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[Prompt, Answer]] = []

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor:
        self.shown += zip(prompts, answers, strict=True)
        return torch.tensor([float(len(answer.text)) for answer in answers])


def test_each_turn_is_scored_after_those_before_it() -> None:
    question = Question("1", (Message("user", "one"),), ("two",))
    replies = {"1": (Reply("first", finished=False), Reply("last"))}
    recorder = Recorder()
    turns = scoring.turns_of([question])
    assert scoring.score_turns(recorder, turns, replies) == [5.0, 4.0]
    (before, first), (after, second) = recorder.shown
    assert before == question.opening and first == Answer("first", False)
    assert after == question.conversation(["first"]) and second == Answer("last", True)


def test_scores_as_verdicts() -> None:
    questions = [Question("7", (Message("user", "one"),), ("two",), category="math")]
    scored = Scored("j", scoring.turns_of(questions), {"x": [1.0, 2.0], "y": [0.0, 2.0]})
    win, tie = scoring.verdicts(scored, [("x", "y")])
    assert (win.question, win.turn, win.outcome, win.score_a, win.score_b) == (
        "7",
        1,
        1.0,
        1.0,
        0.0,
    )
    assert (tie.turn, tie.outcome, tie.category, tie.order) == (2, 0.5, "math", None)
