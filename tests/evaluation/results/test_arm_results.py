"""Scores and win rates of arms, from verdicts made by hand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from salsa_cli.config.eval import EvalConfig
from salsa_cli.evaluation.arms import Arm, ArmRun, Point
from salsa_cli.evaluation.results import arm_results
from salsa_cli.evaluation.results.arm_results import SCORE, WIN_RATE, ArmPairRow, ArmResults
from salsa_cli.evaluation.verdicts.verdict import Verdict
from salsa_cli.maths import student_t


def arm(name: str, seeds: Sequence[int | None]) -> Arm:
    runs = [
        ArmRun(f"{name}/{n}", f"{name}{n}", seed, (Point(f"{name}/{n}", f"{name}{n}"),))
        for n, seed in enumerate(seeds)
    ]
    return Arm(name, tuple(runs))


def graded(given: Arm, table: Sequence[Sequence[float]], judge: str = "j") -> list[Verdict]:
    return [
        Verdict(question=str(q), judge=judge, a=run.last, score_a=float(score))
        for run, scores in zip(given.runs, table, strict=True)
        for q, score in enumerate(scores)
    ]


def won(a: Arm, b: Arm, table: Sequence[Sequence[float]]) -> list[Verdict]:
    return [
        Verdict(question=str(q), judge="j", a=x.last, b=y.last, outcome=float(outcome))
        for x, y, row in zip(a.runs, b.runs, table, strict=True)
        for q, outcome in enumerate(row)
    ]


def results(compared: Sequence[Arm], verdicts: list[Verdict], **changes: object) -> ArmResults:
    output = Path("out")
    config = EvalConfig(judgments=("stored",), output=output, draws=500, **changes)  # type: ignore[arg-type]
    between = [one for one in verdicts if one.b is not None]
    return arm_results.of(compared, between, [v for v in verdicts if v.b is None], config)


A, B = arm("a", [1, 2, 3]), arm("b", [1, 2, 3])
SCORES_A = [[1, 2, 3], [2, 3, 4], [3, 4, 8]]
SCORES_B = [[1, 1, 1], [1, 2, 3], [2, 2, 5]]


def test_paired_runs_by_hand() -> None:
    found = results([A, B], [*graded(A, SCORES_A), *graded(B, SCORES_B)])
    (row,) = found.pairs
    # Differences 0 1 2 | 1 1 1 | 1 2 3. Shares of the variance: runs (means 1, 1, 2) 1/9, prompts
    # (means 2/3, 4/3, 2) 4/27, rest (squares 4/3 in 4 degrees of freedom, over 9) 1/27.
    variance = 1 / 9 + 4 / 27 - 1 / 27
    df = variance**2 / ((1 / 9) ** 2 / 2 + (4 / 27) ** 2 / 2 + (1 / 27) ** 2 / 4)
    assert (row.measure, row.paired, row.runs_a, row.n) == (SCORE, True, 3, 3)
    assert row.difference == pytest.approx(4 / 3)
    assert row.high - row.difference == pytest.approx(student_t.quantile(0.975, df) * variance**0.5)
    assert row.bootstrap_low is not None and row.low < row.bootstrap_low < row.difference
    first, second = found.rows
    assert (first.arm, first.score, second.score) == ("a", pytest.approx(10 / 3), 2.0)
    assert first.spread == pytest.approx(np.std([2, 3, 5], ddof=1))


def test_runs_of_other_seeds_are_not_paired() -> None:
    other = arm("b", [4, 5, 6])
    (paired,) = results([A, B], [*graded(A, SCORES_A), *graded(B, SCORES_B)]).pairs
    (row,) = results([A, other], [*graded(A, SCORES_A), *graded(other, SCORES_B)]).pairs
    assert not row.paired and row.difference == paired.difference
    assert row.high - row.low > paired.high - paired.low


def test_pairs_of_seeds_follow_the_seeds_and_not_the_order() -> None:
    turned = arm("b", [3, 2, 1])
    (expected,) = results([A, B], [*graded(A, SCORES_A), *graded(B, SCORES_B)]).pairs
    (row,) = results([A, turned], [*graded(A, SCORES_A), *graded(turned, SCORES_B[::-1])]).pairs
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high))


def test_win_rates_of_matched_runs() -> None:
    found = results([A, B], won(A, B, [[1, 1, 0.5], [1, 0, 1], [1, 1, 1]]))
    (row,) = found.pairs
    assert row.measure == WIN_RATE and found.rows == ()
    assert row.difference == pytest.approx(6.5 / 9 + 1 / 9 - 0.5)
    assert row.amounts()[0] == "83.3%"


def test_the_baseline_is_second() -> None:
    compared = [B, A]
    verdicts = [*won(B, A, [[0, 0, 1]] * 3), *graded(A, SCORES_A), *graded(B, SCORES_B)]
    rows = results(compared, verdicts, baseline="b").pairs
    assert [(row.a, row.b) for row in rows] == [("a", "b"), ("a", "b")]
    assert [row.difference for row in rows] == pytest.approx([4 / 3, 2 / 3 - 0.5])


def test_one_run_is_about_this_model_only() -> None:
    alone = arm("b", [1])
    found = results([A, alone], [*graded(A, SCORES_A), *graded(alone, [[1, 1, 2]])])
    (row,) = found.pairs
    assert not row.several_runs and row.bootstrap_low is None and row.runs_needed is None
    # 2 3 5 less 1 1 2, prompts alone: 1, 2, 3.
    half = student_t.quantile(0.975, 2) / 3**0.5
    assert (row.low, row.high) == pytest.approx((2 - half, 2 + half))
    assert found.remarks[-1] == (
        "b is one run: these intervals are about these models only, not about other seeds."
    )


def test_prompts_that_a_run_lacks_do_not_count() -> None:
    verdicts = [*graded(A, SCORES_A), *graded(B, SCORES_B)]
    without = [v for v in verdicts if not (v.a == "b/1" and v.question == "0")]
    (row,) = results([A, B], without).pairs
    assert row.n == 2


def test_single_models_have_no_arms() -> None:
    one, two = arm("a", [1]), arm("b", [1])
    assert results([one, two], graded(one, [[1, 2]]) + graded(two, [[1, 2]])) == ArmResults()


def test_several_judges_and_holm() -> None:
    third = arm("c", [1, 2, 3])
    verdicts = [
        *graded(A, SCORES_A),
        *graded(B, SCORES_B),
        *graded(third, SCORES_B),
        *graded(A, SCORES_A, "k"),
        *graded(B, SCORES_B, "k"),
        *graded(third, SCORES_B, "k"),
    ]
    rows = results([A, B, third], verdicts).pairs
    assert [(r.a, r.b, r.judge) for r in rows] == [
        *(("a", "b", "j"), ("a", "c", "j"), ("b", "c", "j")),
        *(("a", "b", "k"), ("a", "c", "k"), ("b", "c", "k")),
    ]
    assert rows[0].p_holm == pytest.approx(3 * rows[0].p_value)
    assert rows[2].p_holm == 1.0


ROW = ArmPairRow("salsa", "ppo", "rm:rm/", SCORE, 0.1234, 0.05, 0.2, 4, 4, 200, True, 0.01, 0.01)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            ROW,
            "By rm:rm, salsa scores more than ppo: +0.123 (+0.050 to +0.200; 4 runs each, paired "
            "by seed, 200 prompts).",
        ),
        (
            replace(ROW, difference=-0.1234, low=-0.2, high=-0.05),
            "By rm:rm, ppo scores more than salsa: -0.123 (-0.200 to -0.050; 4 runs each, paired "
            "by seed, 200 prompts).",
        ),
        (
            replace(ROW, low=-0.05, p_holm=0.3, runs_needed=11, paired=False),
            "By rm:rm, no significant difference in score between salsa and ppo: +0.123 (-0.050 "
            "to +0.200; 4 runs each, 200 prompts). Showing a difference of this size would need "
            "about 11 runs per arm (80% power).",
        ),
        (
            replace(ROW, low=-0.05, p_holm=0.3, runs_needed=None),
            "No number of runs would show a difference of this size with so few prompts.",
        ),
        (
            replace(ROW, measure=WIN_RATE, runs_a=1, runs_b=1, paired=False),
            "By rm:rm, salsa wins against ppo: 62.3% (55.0% to 70.0%; 1 run each, 200 prompts).",
        ),
    ],
)
def test_sentences(row: ArmPairRow, words: str) -> None:
    assert words in arm_results.sentence(row)
