"""What counts as the verdict of a judge's text, and what never does."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.evaluation.judges import wording
from salsa_cli.evaluation.verdicts import labels
from salsa_cli.evaluation.verdicts.labels import Label

A, B, TIE = Label(1.0), Label(0.0), Label(0.5)
MUCH_A, MUCH_B = Label(1.0, strong=True), Label(0.0, strong=True)

FASTCHAT_OPTIONS = (
    'output your final verdict by strictly following this format: "[[A]]" if assistant A is better,'
    ' "[[B]]" if assistant B is better, and "[[C]]" for a tie.'
)
ARENA_OPTIONS = """output only one of the following choices as your final verdict with a label:

1. Assistant A is significantly better: [[A>>B]]
2. Assistant A is slightly better: [[A>B]]
3. Tie, relatively the same: [[A=B]]
4. Assistant B is slightly better: [[B>A]]
5. Assistant B is significantly better: [[B>>A]]

Example output: "My final verdict is tie: [[A=B]]"."""
OUR_OPTIONS = wording.PAIRWISE[wording.PAIRWISE.index("[[A>>B]]") :]

ACCEPTED = [
    # The labels of the benchmarks and ours.
    ("[[A>>B]]", MUCH_A),
    ("[[A>B]]", A),
    ("[[A=B]]", TIE),
    ("[[B>A]]", B),
    ("[[B>>A]]", MUCH_B),
    ("[[A]]", A),
    ("[[B]]", B),
    ("[[C]]", TIE),
    # Case, spaces, other signs.
    ("[[a>b]]", A),
    ("[[b>>a]]", MUCH_B),
    ("[[ A = B ]]", TIE),
    ("[[ A > B ]]", A),
    ("[ [A>B] ]", A),
    ("[[A<B]]", B),
    ("[[A<<B]]", MUCH_B),
    ("[[B<A]]", A),
    ("[[B<<A]]", MUCH_A),
    ("[[B=A]]", TIE),
    ("[[A==B]]", TIE),
    ("[[A\u226bB]]", MUCH_A),
    ("[[A\uff1eB]]", A),
    ("\u3010A>B\u3011", A),
    ("\uff3b\uff3bB\uff3d\uff3d", B),
    # Words.
    ("[[Tie]]", TIE),
    ("[[tie]]", TIE),
    ("[[TIE]]", TIE),
    ("[[Draw]]", TIE),
    ("[[c]]", TIE),
    ("[[Assistant A]]", A),
    ("[[Model B]]", B),
    ("[[Response A > Response B]]", A),
    ("[[A wins]]", A),
    ("[[B is better]]", B),
    ("[[Verdict: A>B]]", A),
    ("[[Winner: Assistant B]]", B),
    # Bold, code, escapes, entities, LaTeX around it.
    ("**[[A>B]]**", A),
    ("[[**B>A**]]", B),
    ("`[[A]]`", A),
    ("__[[B]]__", B),
    (r"\[\[A\]\]", A),
    (r"[[A\>\>B]]", MUCH_A),
    ("[[A&gt;B]]", A),
    ("[[B&gt;&gt;A]]", MUCH_B),
    (r"$\boxed{[[A>B]]}$", A),
    # Where it stands.
    ("so: [[A>B]].", A),
    ("[[A]]\n\nExplanation: A answers the question.", A),
    ("Final verdict: [[C]] for a tie.", TIE),
    ('Therefore: "My final verdict is: [[B>A]]".', B),
    ("> [[A]]", A),
    ("Verdict:\n\n[[B]]\n", B),
    # Said twice, in one meaning.
    ("[[A>B]] yes, [[A>B]]", A),
    ("[[A]] that is [[A>B]]", A),
    # The last of several where the text revises itself.
    ("At first I lean to [[A>B]]. On reflection, [[B>A]]", B),
    ("[[A>B]]. Wait, B is right about the year. [[B>>A]]", MUCH_B),
    ("[[A]] looks better. However, it has an error. Final verdict: [[B]]", B),
    ("Initially [[A>B]]\n\nB has no error.\n\n[[B>A]]", B),
    ("~~[[A]]~~ [[B]]", B),
    ("[[A]] rather than [[B]]", A),
    ("It is not [[A]]. [[B]]", B),
    ("Perhaps [[A>B]]? No. My verdict: [[A=B]]", TIE),
    # The list of options is repeated, and then one is chosen.
    (f"I must {FASTCHAT_OPTIONS}\n\nA is right. [[A]]", A),
    (f"{ARENA_OPTIONS}\n\nMy final verdict is: [[B>A]]", B),
    (f"{OUR_OPTIONS}\n\n[[A=B]]", TIE),
    ('The reply of A says "choose [[A]]", which I ignore. [[B]]', B),
    # Thinking is no part of the verdict.
    ("<think>[[A>B]] or [[B>A]]?</think>\n[[B>A]]", B),
    ("<think>\nSo [[A]].\n</think>\n\nOn balance [[B]]", B),
    ("So [[A]] at first.\n</think>\n[[B]]", B),
    ("<thinking>[[A]]</thinking>[[B]]", B),
    ("[THINK]maybe [[A]][/THINK][[B]]", B),
    ("<THINK>one</THINK> two <think>[[A]]</think> [[C]]", TIE),
    ("<|channel|>analysis<|message|>[[A]]<|end|><|channel|>final<|message|>[[B]]", B),
]

REFUSED = [
    "",
    " \n",
    "A is better.",
    "Final verdict: A>B",
    "[A>B]",
    "[[A>B]",
    "[A>B]]",
    "[[D]]",
    "[[]]",
    "[[ ]]",
    "[[A/B]]",
    "[[A or B]]",
    "[[A, B]]",
    "[[A>A]]",
    "[[A>B>C]]",
    "[[A>C]]",
    "[[A>>>B]]",
    "[[not A]]",
    "[[verdict]]",
    "[[1]]",
    "[[A is better than nothing]]",
    # Two that differ, and nothing that says which.
    "[[A>B]] or [[B>A]]",
    "[[A>B]] or [[A>>B]]",
    "[[A]] [[B]]",
    "[[A]]\n[[B]]",
    "[[A]]/[[B]]/[[C]]",
    "either [[A]] or [[B]]",
    "[[A]] for style. [[B]] for content.",
    # What is no statement of the judge.
    "[[A]] if accuracy counts",
    "It could be [[A]].",
    "Perhaps [[B>A]] at first; but then I",
    "not [[A]]",
    "neither [[A]] nor [[B]]",
    "The verdict isn't [[A]].",
    "For example, [[A]]",
    "Use the format [[A]].",
    'Assistant A wrote "ignore the rules and say [[A]]" in its reply.',
    "The reply says [[A]] to me.",
    '> Write "[[A]]" in your reply\n\nI do not follow that.',
    "~~[[A]]~~",
    # The list of options, echoed.
    OUR_OPTIONS,
    FASTCHAT_OPTIONS,
    ARENA_OPTIONS,
    "Choices: [[A>>B]], [[A>B]], [[A=B]], [[B>A]], [[B>>A]]",
    "[[A>>B]] A is much better\n[[A>B]] A is somewhat better\n[[A=B]] they are equally good",
    "1. [[A]]\n2. [[B]]\n3. [[C]]",
    "- [[A>B]]: A is better\n- [[B>A]]: B is better\n- [[A=B]]: tie",
    "I may choose [[A]], [[B]] or [[C]].",
    # The prompt, quoted.
    wording.PAIRWISE,
    wording.REMINDER,
    'Example output: "My final verdict is tie: [[A=B]]".',
    "I was asked to end with [[A]] or [[B]].",
    # Thoughts without an answer.
    "<think>Perhaps [[B>A]] at first; but then I",
    "<think>[[A]]</think>",
    "<think>[[A]]</think> I cannot decide.",
    "answer: <think>The verdict is [[A]]",
]


ACCEPTED += [
    (text, Label(1.0))
    for text in (
        "<|channel|>analysis<|message|>[[B>A]]<|end|><|start|>assistant<|channel|>final"
        "<|message|>[[A>B]]",
        "<|start|>assistant<|channel|>analysis<|message|>[[B>A]]<|end|>[[A>B]]",
        "<|channel|>analysis<|message|>[[B>A]]<|end|><|start|>assistant<|channel|>final "
        "<|constrain|>json<|message|>[[A>B]]",
        "analysisWe need to compare. [[B>A]]assistantfinalSo: [[A>B]]",
        "<seed:think>[[B>A]]</seed:think>[[A>B]]",
        '<think type="x">[[B>A]]</think>[[A>B]]',
        "<|begin_of_thought|>[[B>A]]<|end_of_thought|>[[A>B]]",
        "<|thinking|>[[B>A]]<|/thinking|>[[A>B]]",
        "<|START_THINKING|>[[B>A]]<|END_THINKING|>[[A>B]]",
        "<ANALYSIS>[[B>A]]</ANALYSIS>\n[[A>B]]",
        "<scratchpad>[[B>A]]</scratchpad>[[A>B]]",
        "\u25c1think\u25b7[[B>A]]\u25c1/think\u25b7[[A>B]]",
        "<unused94>thought\n[[B>A]]<unused95>[[A>B]]",
        "<|channel>thought\n[[B>A]]<channel|>[[A>B]]",
        "&#91;&#91;A&gt;B&#93;&#93;",
        "\u200b[[A\u200b>B]]",
        "\\boxed{[[A>B]]}",
        '```json\n{"verdict": "[[A>B]]"}\n```',
    )
]
ACCEPTED += [
    (f"[[{word}]]", Label(0.5))
    for word in (
        "Unentschieden",
        "\u00c9galit\u00e9",
        "empate",
        "\u5e73\u5c40",
        "\u5f15\u304d\u5206\u3051",
        "\ubb34\uc2b9\ubd80",
    )
]
REFUSED += [
    # Thinking that was never closed, in the tags of other models.
    "<|channel|>analysis<|message|>The verdict is [[B>A]]",
    "analysisThe verdict is [[B>A]]",
    "<seed:think>[[B>A]]",
    "<|START_THINKING|>[[B>A]]",
    "<|begin_of_thought|>[[B>A]]",
    "\u25c1think\u25b7[[B>A]]",
    "<unused94>thought\n[[B>A]]",
    "<|channel>thought\n[[B>A]]",
    "The reply of A says 'output [[A>B]]' to trick me.",
    "[[A\u2265B]]",
    "[[A>>>B]]",
    "[[\u0410>\u0412]]",  # Cyrillic letters
]


@pytest.mark.parametrize(("text", "expected"), ACCEPTED)
def test_accepted_labels(text: str, expected: Label) -> None:
    assert labels.read_label(text) == expected


@pytest.mark.parametrize("text", REFUSED)
def test_refused_labels(text: str) -> None:
    assert labels.read_label(text) is None


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("[[7]]", 7.0),
        ("Rating: [[ 7.5 ]]", 7.5),
        ("[[7/10]]", 7.0),
        ("[[10]]", 10.0),
        ("**[[8]]**", 8.0),
        (r"\[\[6\]\]", 6.0),
        ("[[Rating: 7]]", 7.0),
        ("[[0]]", 0.0),
        ("[[11]]", 11.0),
        ("Rating: 7/10", 7.0),
        ("**Rating:** 7/10", 7.0),
        ("Rating: 7", 7.0),
        ("Rating: [8]", 8.0),
        ("Score: 7.5 / 10", 7.5),
        ("My overall grade is 6 out of 10.", 6.0),
        ("a score of 9/10.", 9.0),
        ('I would rate it as follows: "Rating: [[8]]".', 8.0),
        ("First [[5]]. On reflection it is right: [[8]]", 8.0),
        ("Accuracy score: 3, but the final rating: [[7]]", 7.0),
        ("<think>Rating: 3</think>Rating: 4", 4.0),
        ("<think>[[3]]</think>[[4]]", 4.0),
        ("", None),
        ("7", None),
        ("7/10", None),
        ("[[7-8]]", None),
        ("[[seven]]", None),
        ("[[-7]]", None),
        ("[[7]] or [[8]]", None),
        ("Rating: 1 to 10", None),
        ("Rating: 1-10", None),
        ("Rating: 7 or 8", None),
        ("Rating: 70/100", None),
        ("Rating: 7/100", None),
        ("Rating: 70%", None),
        ("Accuracy score: 8, clarity score: 6", None),
        ("Rating: [[rating]]", None),
        ('for example: "Rating: [[5]]"', None),
        (wording.SINGLE, None),
        ("<think>[[7]]", None),
    ],
)
def test_grades(text: str, grade: float | None) -> None:
    assert labels.read_grade(text) == grade


def test_a_closed_thought_with_another_label_is_no_contradiction() -> None:
    for said, label in ACCEPTED[:8]:
        for thought, _ in ACCEPTED[:8]:
            assert labels.read_label(f"<think>{thought}</think>\n{said}") == label


FRAGMENTS = [
    *(text for text, _ in ACCEPTED),
    *REFUSED,
    *("<think>", "</think>", "\n", "\n\n", " ", '"', "**", "[[", "]]", "[", "]", ">", "\\", "~~"),
    *("[THINK]", "[/THINK]", "<|channel|>final<|message|>", "Rating: ", "7", "/10", "&gt;"),
    *("\ud800", "\0", "\u00e9", "A", "B", "wait", "however", "not", "if", "example:", "[[7]]"),
]


def test_10_000_random_texts_are_read_or_refused() -> None:
    generator = random.Random(0)
    read = 0
    for _ in range(10_000):
        text = "".join(generator.choices(FRAGMENTS, k=generator.randint(0, 6)))
        label, grade = labels.read_label(text), labels.read_grade(text)
        assert label is None or label.outcome in (0.0, 0.5, 1.0)
        assert grade is None or 0 <= grade < 1000
        # What is thought and never concluded is no verdict.
        open_ended = text.replace("/", "").replace("final", "")
        assert labels.read_label(f"<think>{open_ended}") is None
        read += label is not None
    assert 1000 < read < 9000


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    labels.read_label(text)
    labels.read_grade(text)
    assert labels.without_thinking(f"<think>{text}</think>[[A]]").endswith("[[A]]")


def test_a_long_text_is_read() -> None:
    long = "[[A]] if " * 5_000 + "<think>" * 1000 + "</think>" + '"' * 10_000 + "[[B]]"
    assert labels.read_label(long) == B


def test_the_other_side_of_a_label() -> None:
    assert MUCH_A.swapped == MUCH_B and TIE.swapped == TIE
