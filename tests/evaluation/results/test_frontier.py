"""Arms at equal KL and at equal score, from points made by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from salsa_cli.config.eval import EvalConfig
from salsa_cli.evaluation.arms import Arm, ArmRun, Point
from salsa_cli.evaluation.results import frontier
from salsa_cli.evaluation.results.frontier import Frontier

CONFIG = EvalConfig(judgments=("stored",), output=Path("out"), draws=200)
Values = dict[str, dict[str, float]]


def arm(name: str, seeds: Sequence[int], points: int = 3) -> Arm:
    runs = []
    for seed in seeds:
        run = f"{name}/{seed}"
        policies = tuple(Point(f"{run}@{n}", "", str(n)) for n in range(points))
        runs.append(ArmRun(run, run, seed, policies))
    return Arm(name, tuple(runs))


def values(given: Arm, curves: Sequence[Sequence[float]], spread: float = 0.0) -> Values:
    """A value for each of four prompts; their mean is the curve's."""
    offsets = spread * np.array([-1.0, 0.5, 0.5, 0.0])
    return {
        point.name: {str(q): value + float(offset) for q, offset in enumerate(offsets)}
        for run, curve in zip(given.runs, curves, strict=True)
        for point, value in zip(run.points, curve, strict=True)
    }


A, B = arm("a", [1, 2]), arm("b", [1, 2])
KL_A = [[0, 4, 6], [0, 2, 6]]
KL_B = [[0, 3, 8], [0, 4, 8]]
# a: 1 + KL / 2 for both runs; b: KL / 2 and KL / 2 + .1.
SCORE_A = [[1, 3, 4], [1, 2, 4]]
SCORE_B = [[0, 1.5, 4], [0.1, 2.1, 4.1]]


def found(scores: Values, kls: dict[str, Values], compared: Sequence[Arm] = (A, B)) -> Frontier:
    return frontier.of(compared, {"j": scores}, kls, CONFIG)


def both(a: Values, b: Values) -> Values:
    return {**a, **b}


def test_equal_kl_and_equal_score_by_hand() -> None:
    scores = both(values(A, SCORE_A), values(B, SCORE_B))
    kls = {"base": both(values(A, KL_A), values(B, KL_B))}
    result = found(scores, kls)
    two, five, score = result.rows
    assert (two.at, two.level, five.level) == ("KL", 2.0, 5.0)
    # Run by run 1 and .9 ahead at every KL.
    assert two.pair.difference == five.pair.difference == pytest.approx(0.95)
    assert two.pair.paired and two.pair.runs_a == 2
    # Scores from 1 (a's start) to 4: halfway 2.5, where a is at 3 nats, b at 5 and 4.8.
    assert (score.at, score.level) == ("score", pytest.approx(2.5))
    assert score.pair.difference == pytest.approx(3 - 4.9)
    assert "no comparison at 10 nats from base: not all runs reach it" in result.sentences[3]
    assert "(a 0.000 to 6.000 and b 0.000 to 8.000 nats)" in result.sentences[3]


def test_curves_are_means_over_runs() -> None:
    scores = both(values(A, SCORE_A), values(B, SCORE_B))
    result = found(scores, {"base": both(values(A, KL_A), values(B, KL_B))})
    a, b = result.curves
    assert (a.arm, a.kl[0], a.kl[-1]) == ("a", 0.0, 6.0)
    assert a.score == pytest.approx([1 + k / 2 for k in a.kl])
    assert b.score == pytest.approx([0.05 + k / 2 for k in b.kl])
    assert b.low == pytest.approx([k / 2 for k in b.kl])
    assert b.high == pytest.approx([0.1 + k / 2 for k in b.kl])
    assert {3.0, 4.0, 8.0} <= set(b.kl)  # corners are on the curve


def test_without_common_support_nothing_is_said() -> None:
    far = values(B, [[20, 22, 24], [20, 22, 24]])
    result = found(
        both(values(A, SCORE_A), values(B, [[9, 9.5, 10]] * 2)),
        {"base": both(values(A, KL_A), far)},
    )
    assert result.rows == ()
    (line,) = result.sentences
    assert "no comparison at 2, 5, 10 nats" in line


def test_levels_between_are_taken_where_no_run_reaches_two_nats() -> None:
    near = {"base": both(values(A, [[0, 0.5, 1]] * 2), values(B, [[0, 0.2, 0.9]] * 2))}
    result = found(both(values(A, SCORE_A), values(B, SCORE_B)), near)
    assert [row.level for row in result.rows if row.at == "KL"] == [0.45]


def test_the_axis_may_decide() -> None:
    scores = both(values(A, SCORE_A), values(B, [[0, 1.5, 4], [0, 2, 4]]))
    kls = {
        "base": both(values(A, KL_A), values(B, KL_B)),
        # On this axis a goes four times as far for the same score.
        "start": both(values(A, [[0, 16, 24], [0, 8, 24]]), values(B, KL_B)),
    }
    result = found(scores, kls)
    (line,) = [line for line in result.sentences if "depends on the axis" in line]
    # At 2 nats a still has 1.25 for b's 1, at 5 nats 1.625 for 2.5.
    assert "by KL to base a at 2, 5 nats; by KL to start a at 2 nats, b at 5 nats." in line


def test_runs_without_snapshots_have_no_frontier() -> None:
    alone = arm("a", [1, 2], points=1)
    scores = values(alone, [[1], [2]])
    assert found(scores, {"base": scores}, [alone]) == Frontier()
    assert frontier.of([A], {"j": values(A, SCORE_A)}, {}, CONFIG) == Frontier()
