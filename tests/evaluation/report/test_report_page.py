"""report.html of an evaluation: what stands in it, and in which order."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from salsa_cli import pages
from salsa_cli.data import Message
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.evaluation.report import disputed, report_page
from salsa_cli.evaluation.results.eval_result import EvalResult, KLRow, SoupRow
from salsa_cli.evaluation.results.style_control import AnswerStyle, StoredAnswer
from salsa_cli.evaluation.results.win_rates import ScoreRow
from salsa_cli.evaluation.verdicts.verdict import Verdict
from tests.support import tiny
from tests.support.html_tree import Tree
from tests.support.verdict_rows import SINGLE, pairs
from tests.support.verdict_rows import count_files as run

STYLE = AnswerStyle(3, 0, 0, 0)


def page(result: EvalResult, *verdicts: Verdict, **given: Any) -> str:
    answers, prompts = given.get("answers", {}), given.get("prompts", {})
    return pages.render(report_page.build(result, verdicts, answers, prompts))


def test_the_sections(tmp_path: Path) -> None:
    rows = [
        *pairs(30, 0, 10, category="math"),
        *pairs(10, 5, 10, model_2="z", category="math"),
        *({**row, "question_id": 100 + n} for n, row in enumerate(pairs(5, 0, 5, category="art"))),
        *pairs(5, 0, 5, model_1="y", model_2="z"),
    ]
    run(tmp_path, rows, [{**row, "judge": "human"} for row in rows])
    text = (tmp_path / "out" / "report.html").read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        *("Who wins", "By category", "Both orders", "Judges against one another"),
        "How it was made",
    ]
    assert Tree(text).text["pre"][0].startswith("salsa eval --judgments ")
    assert 'href="./results.json"' in text
    assert 'href="./answers' not in text  # none are there
    assert "No significant difference:" in text and "Bradley-Terry" in text
    assert "http" not in text.replace("http-equiv", "") and "<script" not in text


def test_many_failures_are_a_table(tmp_path: Path) -> None:
    def failing(count: int) -> str:
        rows = [row for n in range(count) for row in pairs(4, 0, 4, model_2=f"m{n}")]
        run(tmp_path, rows + [{**row, "question_id": 9, "g1_winner": "error"} for row in rows[::8]])
        return (tmp_path / "out" / "report.html").read_text()

    few, many = failing(3), failing(4)
    assert few.count("1 of 9 comparisons of x and m") == 3 and "with reasons" not in few
    assert "4 comparisons or scores have no valid verdict." in many and "with reasons" in many
    assert many.count("once: the judge&#x27;s text contains no verdict") == 4


def test_scores_alone(tmp_path: Path) -> None:
    run(tmp_path, [SINGLE, {**SINGLE, "judgment": "So-so. [[7]]", "turn": 1}])
    text = (tmp_path / "out" / "report.html").read_text()
    assert "best score: x" in text and "turn 2" in text and "So-so. [[7]]" in text
    assert "significant differences" not in text


def test_the_most_disputed_comes_first() -> None:
    def verdicts(question: str, *outcomes: float) -> list[Verdict]:
        return [Verdict(question, str(n), "x", "y", outcome=o) for n, o in enumerate(outcomes)]

    found = disputed.disputes(
        [*verdicts("1", 1, 1), *verdicts("2", 1, 0), *verdicts("3", 1, 0.5), *verdicts("4", 0)]
    )
    assert [case.question for case in found] == ["2", "3", "1", "4"]
    assert [case.disagreement for case in found] == [0.25, 0.0625, 0.0, 0.0]
    # A comparison told from the other side is of the same case.
    (case,) = disputed.disputes([verdicts("1", 1)[0], verdicts("1", 1)[0].swapped])
    assert len(case.verdicts) == 2 and case.disagreement == 0.0


def test_of_one_judge_the_largest_differences_come_first() -> None:
    given = [("tie", 0.5, 2.0, 2.0), ("near", 1.0, 1.5, 1.0), ("far", 0.0, 1.0, 3.0)]
    verdicts = [Verdict(q, "j", "x", "y", outcome=o, score_a=a, score_b=b) for q, o, a, b in given]
    assert [case.question for case in disputed.disputes(verdicts)] == ["far", "near", "tie"]


def test_answers_are_chosen_by_who_loses(tmp_path: Path) -> None:
    result = run(tmp_path, pairs(1, 0, 1))
    outcomes = {"split": (1, 0), "x wins": (1, 1), "y wins": (0, 0), "y rather": (0, 0.5)}
    verdicts = [
        Verdict(question, f"j{n}", "x", "y", outcome=outcome, text="because")
        for question, given in outcomes.items()
        for n, outcome in enumerate(given)
    ]
    verdicts += [Verdict("failed", "j0", "x", "y", invalid="no label", text="Hm.")]
    (block,) = [
        one
        for one in report_page.build(result, verdicts, {}, {}).blocks
        if isinstance(one, pages.Choices)
    ]
    titles = [one.summary.split(",")[0] for one in block.blocks if isinstance(one, pages.Details)]
    found = {one.name: {titles[n] for n in one.shown} for one in block.choices}
    assert found == {
        "most disputed": {f"question {name}" for name in (*outcomes, "failed")},
        "x loses": {"question y wins", "question y rather"},
        "y loses": {"question x wins"},
        "without a valid verdict": {"question failed"},
    }
    graded = [Verdict(str(n), "j", "x", score_a=float(n), text="t") for n in range(12)]
    (block,) = [
        one
        for one in report_page.build(result, graded, {}, {}).blocks
        if isinstance(one, pages.Choices)
    ]
    lowest = {one.name: one.shown for one in block.choices}["lowest score"]
    assert set(lowest) == set(range(10))


def test_answers_stand_side_by_side(tmp_path: Path) -> None:
    result = run(tmp_path, pairs(1, 0, 1))
    verdicts = [
        Verdict("q", "gpt", "x", "y", 2, "ab", 1.0, strong=True, text="The first <b>."),
        Verdict("q", "gpt", "x", "y", 2, "ba", invalid="no label", text="Hm."),
    ]
    answers = {
        "x": {"q": StoredAnswer(STYLE, ("one", "two of x"))},
        "y": {"q": StoredAnswer(STYLE, ("one", "two of y"))},
    }
    prompts = disputed.asked([Question("q", (Message("user", "First?"),), ("And then?",))])
    text = page(result, *verdicts, answers=answers, prompts=prompts)
    assert "question q, turn 2, x vs. y. gpt: x, no verdict" in text
    for part in ("And then?", "two of x", "two of y", "The first &lt;b&gt;.", "x wins clearly"):
        assert part in text, part
    assert text.index("gpt, x shown first") < text.index("gpt, y shown first")
    assert "one" not in re.findall(r"<blockquote dir=\"auto\">(.*?)</blockquote>", text)


def test_where_the_models_are(tmp_path: Path) -> None:
    result = run(tmp_path, pairs(1, 0, 1))
    scores = [
        ScoreRow(name, "rm:a/rm", score, score - 0.1, score + 0.1, (score,), 5, 0)
        for name, score in (("x", 1.0), ("y", 2.0))
    ]
    result = replace(
        result,
        scores=tuple(scores),
        kl=(KLRow("x", "sft", 3.0, 2.5, 3.5, 5),),
        line=tuple(
            SoupRow(("p/a", "p/b"), (1 - w, w), "rm:a/rm", w, w - 0.1, w + 0.1, 5)
            for w in (0.0, 1.0)
        ),
        plane=(SoupRow(("p/a", "p/b", "p/c"), (0.2, 0.3, 0.5), "rm:a/rm", 0.7, 0.6, 0.8, 5),),
    )
    text = page(result)
    assert "Score by rm:rm and distance from sft" in text
    assert "share of b (0 is a)" in text
    assert "Soups of three, by rm:rm" in text


def test_stored_answers_reach_the_page(tmp_path: Path) -> None:
    rows = [
        {"question_id": n, "model_id": name, "choices": [{"turns": [f"answer {n} of {name}"]}]}
        for n in range(2)
        for name in ("x", "y")
    ]
    asked = [{"question_id": n, "category": "art", "turns": [f"ask {n}"]} for n in range(2)]
    answers = tiny.write_rows(tmp_path / "answers.jsonl", rows)
    questions = tiny.write_rows(tmp_path / "questions.jsonl", asked)
    run(tmp_path, pairs(1, 0, 1), answers=(str(answers),), prompts=str(questions))
    text = (tmp_path / "out" / "report.html").read_text()
    assert "ask 0" in text and "answer 1 of y" in text and "At equal length and style" in text
