"""Every layout of preference pairs, and what bad rows are told."""

from typing import Any

import pytest

from salsa_cli import data
from salsa_cli.data import Message, Prompt, Source
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.questions import benchmarks
from salsa_cli.models.tokenization import Answer
from salsa_cli.reward_models.preferences import (
    AnswerSet,
    Preference,
    answer_sets,
    has_answer_sets,
    preferences,
)

USER = {"role": "user", "content": "Why?"}
GOOD = {"role": "assistant", "content": "Because."}
BAD = {"role": "assistant", "content": "No."}
ASKED = (Message("user", "Why?"),)
TALK = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "prompt", "chosen", "rejected"),
    [
        ({"prompt": "P", "chosen": " a", "rejected": " b"}, "P", " a", " b"),
        (
            {"chosen": "One two three", "rejected": "One two four"},
            "One two",
            " three",
            " four",
        ),
        (
            {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
            ASKED,
            "Because.",
            "No.",
        ),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, ASKED, "Because.", "No."),
        (  # the conversation as prompt, the answers as text
            {"prompt": [USER], "chosen": "Because.", "rejected": "No."},
            ASKED,
            "Because.",
            "No.",
        ),
        (  # ultrafeedback_binarized: the prompt as text, and again inside the conversations
            {"prompt": "Why?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            ASKED,
            "Because.",
            "No.",
        ),
        (  # HH-RLHF: both answers begin alike, and yet the prompt ends with the turn
            {"chosen": f"{TALK} I think so.", "rejected": f"{TALK} I doubt it."},
            TALK,
            " I think so.",
            " I doubt it.",
        ),
        (  # HH-RLHF: the dialogues part before their last turn
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: A.\n\nHuman: Go\n\nAssistant: B.",
                "rejected": "\n\nHuman: Hi\n\nAssistant: C.",
            },
            "\n\nHuman: Hi\n\nAssistant:",
            " A.\n\nHuman: Go\n\nAssistant: B.",
            " C.",
        ),
        ({"chosen": "the same", "rejected": "the same"}, "", "the same", "the same"),
        ({"prompt": "P", "chosen": " a", "rejected": ""}, "P", " a", ""),
        ({"prompt": "P", "chosen": None, "rejected": " b"}, "P", "", " b"),
        ({"prompt": "Why?", "chosen": [USER, GOOD], "rejected": ""}, ASKED, "Because.", ""),
        ({"chosen": None, "rejected": [USER, BAD]}, ASKED, "", "No."),
        ({"chosen": "One two", "rejected": ""}, "", "One two", ""),
        ({"chosen": "One two", "rejected": "One"}, "One", " two", ""),
    ],
)
def test_every_layout(row: dict[str, Any], prompt: Prompt, chosen: str, rejected: str) -> None:
    expected = Preference(prompt, Answer(chosen), Answer(rejected))
    assert preferences(Source("x", [row])) == [expected]


def test_what_else_a_row_may_say() -> None:
    row = {
        "prompt": "p",
        "chosen": "a",
        "rejected": "b",
        "rejected_finished": False,
        "lead": 0.5,
        "subset": "natural",
        "metadata": {"score_chosen": 8, "score_rejected": 8.0},
    }
    plain, told = preferences(Source("x", [{**row, "subset": None, "metadata": {}}, row]), "lead")
    assert (plain.category, plain.scores, plain.row) == (None, None, 1)
    assert told == Preference(
        "p", Answer("a"), Answer("b", finished=False), 0.5, "natural", (8.0, 8.0), 2
    )
    top = {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 2, "score_rejected": 1}
    assert preferences(Source("x", [top]))[0].scores == (2.0, 1.0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"prompt": "p", "chosen": "c"},
            "row 1: no column 'rejected'; its columns are prompt, chosen",
        ),
        ({"prompt": "p", "chosen": "c", "rejected": 3}, "column 'rejected' holds 3; expected text"),
        ({"prompt": "", "chosen": "c", "rejected": "r"}, "column 'prompt' is empty"),
        ({"prompt": "p", "chosen": [], "rejected": "r"}, "column 'chosen' is empty"),
        (
            {"prompt": "p", "chosen": [{"role": "user"}], "rejected": [BAD]},
            "without 'role' and 'content'",
        ),
        (
            {"prompt": "p", "chosen": [USER], "rejected": [BAD]},
            "'chosen' does not end with the assistant",
        ),
        (
            {"prompt": "p", "chosen": "c", "rejected": [BAD]},
            "is a string, the other a list of messages",
        ),
        ({"chosen": "abc", "rejected": "xyz"}, "do not start with the same text"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "no 'prompt' column"),
        (
            {"chosen": [USER, GOOD], "rejected": [{"role": "user", "content": "How?"}, BAD]},
            "differ before their last message",
        ),
        (
            {"prompt": "p", "completion": "c", "label": True},
            "a 'label' column but no pair (columns: prompt, completion, label); expected 'chosen'",
        ),
        (
            {"prompt": "p", "chosen": "c", "rejected": "r", "chosen_finished": "yes"},
            "column 'chosen_finished' holds 'yes'; expected true or false",
        ),
        (
            {
                "prompt": "p",
                "chosen": "c",
                "rejected": "r",
                "score_chosen": "a",
                "score_rejected": 1,
            },
            "column 'score_chosen' holds 'a'; expected a number",
        ),
    ],
)
def test_bad_rows_are_named_with_their_column(row: dict[str, Any], words: str) -> None:
    with pytest.raises(SalsaError) as caught:
        preferences(Source("prefs.jsonl", [row]))
    assert words in str(caught.value)
    assert str(caught.value).startswith("prefs.jsonl, row 1: ")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("far", "column 'margin' holds 'far'; expected a number"),
        (float("nan"), "column 'margin' holds nan; expected a number"),
        (True, "column 'margin' holds True; expected a number"),
        (-101, "column 'margin' holds -101; expected the score difference that the chosen answer"),
        (None, "column 'margin' is empty"),
    ],
)
def test_a_margin_is_a_finite_number_of_a_sensible_size(value: object, words: str) -> None:
    row = {"prompt": "p", "chosen": "c", "rejected": "r", "margin": value}
    with pytest.raises(SalsaError) as caught:
        preferences(Source("x", [row]), "margin")
    assert words in str(caught.value)
    missing = {"prompt": "p", "chosen": "c", "rejected": "r"}
    with pytest.raises(SalsaError, match="no column 'margin'"):
        preferences(Source("x", [missing]), "margin")


@pytest.mark.parametrize(
    ("chosen", "rejected", "scores", "empty", "hole"),
    [
        ("a", "b", None, None, None),
        ("a", " \n", None, "rejected", "rejected"),
        ("", "b", None, "chosen", "chosen"),
        ("", "", None, "chosen", "chosen"),
        ("a", "", (7.5, 1.0), "rejected", None),  # a rater saw it and did not like it
        ("", "b", (7.5, 1.0), "chosen", "chosen"),  # nobody prefers nothing
        ("", "b", (3.0, 3.0), "chosen", None),  # it is left out anyway
    ],
)
def test_an_empty_answer_is_a_hole_unless_raters_scored_it_as_the_worse_one(
    chosen: str,
    rejected: str,
    scores: tuple[float, float] | None,
    empty: str | None,
    hole: str | None,
) -> None:
    pair = Preference("p", Answer(chosen), Answer(rejected), scores=scores)
    assert (pair.empty, pair.missing_answer) == (empty, hole)


def test_rows_of_rewardbench_2_are_contests() -> None:
    row = {"prompt": "p", "chosen": ["a"], "rejected": ["b", "c"], "subset": "Math", "id": "7"}
    assert answer_sets(Source("x", [row])) == [AnswerSet("p", ("a",), ("b", "c"), "Math", "7")]
    assert has_answer_sets(Source("x", [row]))
    assert not has_answer_sets(Source("x", [{"chosen": [GOOD], "rejected": [BAD]}]))
    holes = [
        answer_sets(Source("x", [{**row, **change}]))[0].missing_answer
        for change in ({}, {"chosen": [""]})
    ]
    assert holes == [None, "chosen"]
    with pytest.raises(
        SalsaError, match="row 1: column 'chosen' holds 'a'; expected a list of strings"
    ):
        answer_sets(Source("x", [{**row, "chosen": "a"}]))


SYSTEM = {"role": "system", "content": "Be brief."}
EARLIER = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


@pytest.mark.parametrize(
    ("prompt", "context", "expected"),
    [
        ([SYSTEM, USER], [USER], [SYSTEM, USER]),  # the answers lack the system message
        ([SYSTEM, *EARLIER, USER], [USER], [SYSTEM, *EARLIER, USER]),
        ([USER], [SYSTEM, USER], [SYSTEM, USER]),  # the prompt lacks it
        ([SYSTEM, EARLIER[0]], [EARLIER[0], EARLIER[1], USER], [SYSTEM, *EARLIER, USER]),
        ([EARLIER[0]], [EARLIER[1], USER], [*EARLIER, USER]),  # the answers go on
        ([SYSTEM, USER], [], [SYSTEM, USER]),
        ([SYSTEM, USER], [{"role": "user", "content": " Why?\n"}], [SYSTEM, USER]),
        ("Why?", [SYSTEM, USER], [SYSTEM, USER]),
        ("Hi", [*EARLIER, USER], [*EARLIER, USER]),  # the prompt is the first turn
        (None, [SYSTEM, USER], [SYSTEM, USER]),
    ],
)
def test_a_prompt_column_and_the_conversations_become_one_prompt(
    prompt: Any, context: list[Any], expected: list[Any]
) -> None:
    """The same in training, in PPO and in evaluation, which read prompts by `data.prompt`."""
    row = {"prompt": prompt, "chosen": [*context, GOOD], "rejected": [*context, BAD]}
    turns = tuple(Message(**turn) for turn in expected)
    assert preferences(Source("x", [row]))[0].prompt == turns
    assert data.prompts(Source("x", [row])) == [turns]
    assert benchmarks._question(Source("x", [row]), 0).opening == turns


@pytest.mark.parametrize("prompt", ["How?", [{"role": "user", "content": "How?"}], [SYSTEM]])
def test_a_prompt_that_contradicts_the_conversations_is_refused(prompt: Any) -> None:
    row = {"prompt": prompt, "chosen": [USER, GOOD], "rejected": [USER, BAD]}
    for read in (preferences, data.prompts):
        with pytest.raises(SalsaError, match=r"x, row 1: the 'prompt' .* is not a turn of"):
            read(Source("x", [row]))


def test_answers_that_repeat_the_prompt_are_read_once() -> None:
    rows = [
        {"prompt": "the cat", "chosen": "the cat sat", "rejected": "the cat ran"},
        {"prompt": "the cat", "chosen": "the cat sat", "rejected": " ran"},  # one alone: an answer
        {"prompt": "the cat", "chosen": "the cats sat", "rejected": "the cat ran"},
        {"prompt": TALK, "chosen": f"{TALK} I think so.", "rejected": f"{TALK} I doubt it."},
    ]
    found = preferences(Source("x", rows))
    texts = [(one.chosen.text, one.rejected.text, one.repeats_prompt) for one in found]
    assert texts == [
        (" sat", " ran", True),
        ("the cat sat", " ran", False),
        ("the cats sat", "the cat ran", False),
        (" I think so.", " I doubt it.", True),
    ]


@pytest.mark.parametrize("blank", ["", " ", None, float("nan")])
def test_empty_optional_cells_say_nothing(blank: Any) -> None:
    row = {
        "prompt": "p",
        "chosen": "a",
        "rejected": "b",
        "score_chosen": blank,
        "score_rejected": "3",
        "chosen_finished": blank,
        "subset": blank,
        "category": "Math",
    }
    found = preferences(Source("x", [row]))[0]
    assert (found.scores, found.chosen.finished, found.category) == (None, True, "Math")
    whole = preferences(Source("x", [{**row, "score_chosen": "4", "chosen_finished": "false"}]))[0]
    assert (whole.scores, whole.chosen.finished) == ((4.0, 3.0), False)
