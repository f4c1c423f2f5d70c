"""Agreement of judges and accuracy against gold labels, worked by hand."""

import pytest

from salsa_cli.evaluation.results import judge_agreement
from salsa_cli.evaluation.results.win_rates import Resampling
from salsa_cli.evaluation.verdicts.formats import Convention, Stored
from salsa_cli.evaluation.verdicts.verdict import Order, Verdict

FEW = Resampling(seed=0, draws=300)


def stored(verdicts: list[Verdict], gold: str | None = None) -> Stored:
    return Stored("file", "salsa", Convention(), verdicts, gold)


def said(judge: str, outcomes: str, a: str = "x", b: str = "y") -> list[Verdict]:
    """A verdict a question: w for a win of a, l for a loss, t for a tie, - for none."""
    values = {"w": 1.0, "l": 0.0, "t": 0.5}
    return [
        Verdict(str(n), judge, a, b, outcome=values[letter])
        for n, letter in enumerate(outcomes)
        if letter != "-"
    ]


def test_two_judges_by_hand() -> None:
    verdicts = said("one", "wwwwwwllll") + said("two", "wwwwlllllw")
    (row,) = judge_agreement.agreements([stored(verdicts)], FEW)
    assert (row.judges, row.kind, row.n) == (("one", "two"), "comparison", 10)
    # The same on 4 wins and 3 losses: 7 of 10.
    assert row.raw == pytest.approx(0.7)
    # By chance (6 * 5 + 4 * 5) / 100 = 0.5; Cohen's kappa (0.7 - 0.5) / (1 - 0.5).
    assert row.kappa == pytest.approx(0.4)
    # Krippendorff: 11 wins and 9 losses among 20; expected 2 * 11 * 9 / (20 * 19), observed 6 / 20.
    assert row.alpha == pytest.approx(1 - (6 / 20) / (2 * 11 * 9 / (20 * 19)))
    assert row.raw_low is not None and row.raw_high is not None
    assert row.raw_low <= 0.7 <= row.raw_high


def test_a_judge_that_names_the_models_the_other_way_round_agrees() -> None:
    verdicts = said("one", "wwlt") + said("two", "llwt", "y", "x")
    (row,) = judge_agreement.agreements([stored(verdicts)], FEW)
    assert (row.n, row.raw, row.kappa, row.alpha) == (4, 1.0, 1.0, 1.0)


def test_the_games_of_an_item_are_its_majority() -> None:
    games: list[tuple[Order, float]] = [("ab", 1.0), ("ba", 0.0), ("ab", 1.0)]
    first = [Verdict("0", "one", "x", "y", order=order, outcome=o) for order, o in games]
    verdicts = [*first, *said("two", "w")]
    (row,) = judge_agreement.agreements([stored(verdicts)], FEW)
    assert (row.n, row.raw) == (1, 1.0)
    (tied,) = judge_agreement.agreements([stored([*first[:2], *said("two", "w")])], FEW)
    assert tied.raw == 0.0  # one game each way is a tie


def test_three_judges_also_together_and_without_common_items_not_at_all() -> None:
    verdicts = said("one", "wl--") + said("two", "-lw-") + said("three", "--wl")
    rows = judge_agreement.agreements([stored(verdicts)], FEW)
    assert [row.judges for row in rows] == [
        ("one", "two"),
        ("two", "three"),
        ("one", "two", "three"),
    ]
    together = rows[-1]
    assert (together.n, together.raw, together.kappa, together.alpha) == (2, None, None, 1.0)


def test_grades_agree_by_the_square_of_their_difference() -> None:
    grades = {"one": (1.0, 2.0, 3.0), "two": (1.0, 3.0, 3.0)}
    verdicts = [
        Verdict(str(n), judge, "x", score_a=score)
        for judge, scores in grades.items()
        for n, score in enumerate(scores)
    ]
    (row,) = judge_agreement.agreements([stored(verdicts)], FEW)
    assert (row.kind, row.raw) == ("grading", pytest.approx(2 / 3))
    # Observed: one pair differs by 1, told twice among 6 values. Expected: over the 30 ordered
    # pairs of 1, 1, 2, 3, 3, 3 the squares are 2*(2*1*1 + 2*3*4 + 1*3*1) = 58.
    assert row.alpha == pytest.approx(1 - (2 / 6) / (58 / 30))


def test_scores_of_a_reward_model_are_no_grades() -> None:
    verdicts = [
        Verdict(str(n), judge, "x", score_a=n / 7 + bias)
        for judge, bias in (("one", 0.0), ("two", 0.01))
        for n in range(60)
    ]
    assert judge_agreement.agreements([stored(verdicts)], FEW) == ()


def test_accuracy_by_hand() -> None:
    gold = [Verdict(str(n), "label", "x", "y", outcome=o) for n, o in enumerate((1.0, 0.0, 1.0))]
    games: list[tuple[float | None, float | None]] = [(1.0, 1.0), (0.0, 1.0), (0.0, None)]
    orders: tuple[Order, Order] = ("ab", "ba")
    judged = [
        Verdict(
            str(n),
            "j",
            "x",
            "y",
            order=order,
            outcome=outcome,
            invalid="none" if outcome is None else None,
        )
        for n, pair in enumerate(games)
        for order, outcome in zip(orders, pair, strict=True)
    ]
    (row,) = judge_agreement.accuracies([stored([*gold, *judged], "label")], FEW)
    assert row.accuracy == 0.5  # 2 + 1 + 0 of 6 games
    assert (row.n, row.invalid) == (3, 1)
    assert (row.correct_forward, row.correct_backward, row.correct_both) == (2, 1, 1)
    assert row.alike == 1  # right or wrong, but the same verdict in both orders
    assert judge_agreement.accuracies([stored(judged)], FEW) == ()
