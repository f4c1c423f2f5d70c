"""Win rates, mean scores and ratings from verdicts, with intervals worked by hand."""

from collections.abc import Sequence
from math import exp, isnan, log, sqrt

import pytest

from salsa_cli.evaluation.results import eval_result, win_rates
from salsa_cli.evaluation.results.comparisons import Rules
from salsa_cli.evaluation.results.win_rates import PairRow, Resampling
from salsa_cli.evaluation.verdicts.formats import Convention, Stored
from salsa_cli.evaluation.verdicts.verdict import Verdict

FEW = Resampling(seed=0, draws=500)
HALF = Rules()


def both_orders(
    question: str,
    forward: float | None,
    backward: float | None,
    a: str = "x",
    b: str = "y",
    judge: str = "j",
    category: str | None = None,
) -> list[Verdict]:
    """Two games of a question; an outcome of None is a failed one."""
    return [
        Verdict(
            question,
            judge,
            a,
            b,
            order=order,
            outcome=outcome,
            category=category,
            invalid="no verdict" if outcome is None else None,
        )
        for order, outcome in (("ab", forward), ("ba", backward))
    ]


def stored(verdicts: Sequence[Verdict], gold: str | None = None) -> Stored:
    return Stored("file", "salsa", Convention(), verdicts, gold)


def rows(verdicts: Sequence[Verdict], rules: Rules = HALF) -> tuple[PairRow, ...]:
    return win_rates.pair_rows(win_rates.comparisons([stored(verdicts)], rules), rules, FEW)


def test_a_pair_by_hand() -> None:
    # Questions of 1, 1/2 (one game each), 0 and 1: 2.5 of 4; the third question is not judged.
    verdicts = [
        *both_orders("1", 1, 1),
        *both_orders("2", 1, 0),
        *both_orders("3", None, 0),
        *both_orders("4", 0, 0),
        *both_orders("5", 1, 1),
    ]
    (row,) = rows(verdicts)
    assert (row.a, row.b, row.judge) == ("x", "y", "j")
    assert (row.wins, row.losses, row.ties, row.n, row.invalid) == (2, 1, 1, 4, 1)
    assert row.win_rate == 0.625
    # Of four questions judged in both orders, three have the same outcome; the answer shown first
    # won 1 + 0, 1 + 1, 0 + 1, 1 + 0 of two games each.
    assert row.consistency == 0.75
    assert row.first_position == 0.625
    # The failed game counted as lost makes question 3 a loss, 0.5, and counted as won a tie, 0.6;
    # the rate itself, without question 3, is above both.
    assert (row.worst, row.best) == (0.5, 0.625)
    assert (row.judgements, dict(row.reasons)) == (10, {"no verdict": 1})
    # Two wins against one loss: a sign test of three coins, 2 * (3 + 1) / 8 = 1 at most.
    assert row.p_value == 1.0
    assert row.low < row.win_rate < row.high and not row.decided


def test_the_exact_sign_test_and_holm_for_all_pairs_of_a_judge() -> None:
    # y never wins: over eight questions 2 / 2^8, over six 2 / 2^6, over six with a tie 2 / 2^5.
    verdicts = [one for n in range(8) for one in both_orders(str(n), 1, 1, "x", "y")]
    verdicts += [one for n in range(6) for one in both_orders(str(n), 1, 1, "x", "z")]
    verdicts += [one for n in range(6) for one in both_orders(str(n), 1, n and 1, "z", "y")]
    found = rows(verdicts)
    assert [row.p_value for row in found] == pytest.approx([2 / 256, 2 / 64, 2 / 32])
    # Holm: the smallest times three, the next times two, the largest once, never decreasing.
    assert [row.p_holm for row in found] == pytest.approx([3 * 2 / 256, 2 * 2 / 64, 2 / 32])
    elsewhere = rows([*verdicts, *both_orders("1", 1, 1, "x", "y", judge="k")])
    assert [row.p_holm for row in elsewhere[:3]] == pytest.approx([6 / 256, 4 / 64, 2 / 32])


def test_a_clean_sweep_has_wilsons_interval() -> None:
    (row,) = rows([one for n in range(8) for one in both_orders(str(n), 1, 1)])
    z = 1.959963984540054
    assert (row.win_rate, row.high) == (1.0, pytest.approx(1.0))
    assert row.low == pytest.approx(8 / (8 + z * z))
    assert row.decided


def test_the_detectable_difference_shrinks_with_the_root_of_the_questions() -> None:
    def found(times: int) -> float:
        verdicts = [
            one
            for n in range(4 * times)
            for one in both_orders(str(n), 1 if n % 4 else 0, 1 if n % 4 else 0)
        ]
        return rows(verdicts)[0].detectable

    # (1.96 + 0.84) sqrt(p (1 - p) / (n - 1)) for 3 wins of 4.
    assert found(5) == pytest.approx((1.959964 + 0.841621) * sqrt(0.1875 / 19), rel=1e-5)
    assert found(20) == pytest.approx(found(5) * sqrt(19 / 79), rel=1e-9)


def test_without_a_valid_game_there_is_no_rate() -> None:
    (row,) = rows(both_orders("1", None, None))
    assert isnan(row.win_rate) and (row.n, row.low, row.high) == (0, 0.0, 1.0)
    assert (row.worst, row.best) == (0.0, 1.0)


def test_a_model_against_itself_shows_the_position_bias_alone() -> None:
    (row,) = rows([*both_orders("1", 1, 0, "x", "x"), *both_orders("2", 1, 1, "x", "x")])
    assert row.of_itself and row.win_rate == 0.5 and row.p_holm == 1.0
    assert row.first_position == 0.75


def test_categories_only_where_there_are_several() -> None:
    verdicts = [
        *both_orders("1", 1, 1, category="math"),
        *both_orders("2", 0, 1, category="math"),
        *both_orders("3", 0, 0, category="poems"),
    ]
    compared = win_rates.comparisons([stored(verdicts)], HALF)
    found = win_rates.category_rows(compared, HALF, FEW)
    assert [(row.category, row.win_rate, row.n) for row in found] == [
        ("math", 0.75, 2),
        ("poems", 0.0, 1),
    ]
    alone = win_rates.comparisons([stored(verdicts[:4])], HALF)
    assert win_rates.category_rows(alone, HALF, FEW) == ()


def test_gold_labels_are_no_judge() -> None:
    label = Verdict("1", "label", "x", "y", outcome=1.0)
    found = win_rates.comparisons([stored([label, *both_orders("1", 0, 0)], "label")], HALF)
    assert [one.judge for one in found] == ["j"]


def test_mean_scores_weigh_every_grade_alike() -> None:
    def grade(question: str, turn: int, score: float | None) -> Verdict:
        reason = "no rating" if score is None else None
        return Verdict(question, "j", "x", turn=turn, score_a=score, invalid=reason)

    verdicts = [grade("1", 1, 8), grade("1", 2, 5), grade("2", 1, 2), grade("2", 2, None)]
    (row,) = win_rates.score_rows(verdicts, FEW)
    assert row.score == 5.0  # (8 + 5 + 2) / 3, not the mean of 6.5 and 2
    assert row.turns == (5.0, 5.0)
    assert (row.n, row.invalid, dict(row.reasons)) == (3, 1, {"no rating": 1})
    assert 2.0 <= row.low <= 5.0 <= row.high <= 6.5
    (failed,) = win_rates.score_rows([grade("1", 1, None)], FEW)
    assert isnan(failed.score) and (failed.n, failed.invalid) == (0, 1)


def strengths(wins: dict[tuple[str, str], tuple[int, int]], baseline: str | None = None) -> dict:
    """Ratings of models by name, from wins and losses of each pair."""
    verdicts = [
        Verdict(f"{a}{b}{n}", "j", a, b, outcome=1.0 if n < won else 0.0)
        for (a, b), (won, lost) in wins.items()
        for n in range(won + lost)
    ]
    rules = Rules(baseline=baseline)
    compared = win_rates.comparisons([stored(verdicts)], rules)
    return {row.model: row for row in win_rates.ratings(compared, rules, FEW).rows}


def test_ratings_recover_the_odds_of_a_consistent_tournament() -> None:
    # Odds 3 : 1 and 2 : 1, hence 6 : 1: the Bradley-Terry model holds exactly.
    found = strengths({("x", "y"): (30, 10), ("y", "z"): (20, 10), ("x", "z"): (60, 10)})
    assert list(found) == ["x", "y", "z"]
    assert found["x"].strength - found["y"].strength == pytest.approx(log(3), abs=1e-6)
    assert found["y"].strength - found["z"].strength == pytest.approx(log(2), abs=1e-6)
    assert sum(row.strength for row in found.values()) == pytest.approx(0, abs=1e-9)
    # Against the mean opponent: 3/4 against y and 6/7 against z.
    assert found["x"].win_rate == pytest.approx((3 / 4 + 6 / 7) / 2, abs=1e-6)
    assert all(row.low <= row.win_rate <= row.high for row in found.values())
    against = strengths({("x", "y"): (30, 10), ("z", "y"): (10, 20), ("x", "z"): (60, 10)}, "y")
    assert against["x"].win_rate == pytest.approx(3 / 4, abs=1e-6)
    assert against["y"].win_rate == pytest.approx(1 / 2, abs=1e-9)
    assert against["z"].win_rate == pytest.approx(1 / (1 + exp(log(2))), abs=1e-6)


def test_no_ratings_where_all_pairs_share_a_model() -> None:
    assert strengths({("x", "y"): (3, 1), ("z", "y"): (1, 3)}) == {}


def test_ties_that_leave_too_little_for_a_test_are_named() -> None:
    """Two wins and no loss give p = 0.5 however many ties there are: no power of 80 %."""

    def sentence(won: int, tied: int) -> str:
        games = [both_orders(str(n), float(n < won) or 0.5, 0.5) for n in range(won + tied)]
        verdicts = [one for game in games for one in game]
        (row,) = rows([*verdicts, *both_orders("lost", 0, 0)])
        return eval_result.undecided(row)

    assert sentence(1, 17).endswith(
        "17 ties on 19 prompts, 1 win and 1 loss. The exact sign test counts wins and losses only, "
        "and needs 6 of them to show anything."
    )
    assert "this many prompts and ties show a difference of" in sentence(5, 17)
    assert "this many prompts show a difference of" in sentence(5, 2)
