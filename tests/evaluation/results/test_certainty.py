"""Win rates: bounds over invalid verdicts, and what counts as decided."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli import pages
from salsa_cli.config.eval import EvalConfig
from salsa_cli.evaluation.report import report_page
from salsa_cli.evaluation.results import counting, win_rates
from salsa_cli.evaluation.results.comparisons import Rules, group_by_pair, tally
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.results.win_rates import PairRow, Resampling
from salsa_cli.evaluation.verdicts.formats import Convention, Stored
from salsa_cli.evaluation.verdicts.verdict import Order, Verdict

QUESTIONS = Convention()
V01 = Convention(rate="pooled", strong_weight=3, dropped="game")
V20 = Convention(rate="pooled", strong_weight=3)
HALF = Rules()
FEW = Resampling(seed=0, draws=100)


def game(
    question: str, order: Order | None, outcome: float | None, strong: bool = False, turn: int = 1
) -> Verdict:
    invalid = "no verdict found" if outcome is None else None
    return Verdict(
        question, "j", "x", "y", turn, order, outcome, strong and outcome != 0.5, invalid=invalid
    )


def row_of(verdicts: Sequence[Verdict], convention: Convention, rules: Rules = HALF) -> PairRow:
    found = win_rates.comparisons([Stored("file", "f", convention, verdicts)], rules)
    (row,) = win_rates.pair_rows(found, rules, FEW)
    return row


# --- bounds ---


def test_a_missing_strong_verdict_counts_three_times_in_the_bounds() -> None:
    # 2 wins, 2 losses and a game that is missing: lost by `>>` it is 2 of 7, won 5 of 7.
    verdicts = [game(str(n), "ab", float(n < 2)) for n in range(4)]
    row = row_of([*verdicts, game("4", "ab", None)], V01)
    assert (row.win_rate, row.worst, row.best) == (0.5, pytest.approx(2 / 7), pytest.approx(5 / 7))


def test_the_game_that_was_dropped_with_a_missing_one_is_in_the_bounds() -> None:
    # Arena-Hard v2.0 drops a lost game along with its missing sibling, and prints 100 %.
    verdicts = [game("1", "ab", 1.0), game("1", "ba", 1.0), game("2", "ab", 0.0, strong=True)]
    row = row_of([*verdicts, game("2", "ba", None)], V20)
    # Lost strongly: 2 of 8. Won strongly: 5 of 8. The printed rate is not outside its own bounds.
    assert (row.win_rate, row.worst, row.best) == (1.0, 2 / 8, 1.0)


played = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.integers(1, 2),
        st.lists(
            st.tuples(
                st.sampled_from(["ab", "ba", None]),
                st.sampled_from([0.0, 0.5, 1.0, None]),
                st.booleans(),
            ),
            min_size=1,
            max_size=3,
        ),
    ),
    min_size=1,
    max_size=8,
)


@given(
    played,
    st.sampled_from([QUESTIONS, V01, V20]),
    st.sampled_from(["half", "both-agree"]),
    st.sampled_from(["drop", "tie"]),
    st.randoms(use_true_random=False),
)
def test_no_completion_of_a_file_is_outside_the_bounds(
    rows: list[tuple[int, int, list[tuple[Order | None, float | None, bool]]]],
    convention: Convention,
    rule: str,
    failed: str,
    random: Random,
) -> None:
    verdicts = [
        game(str(question), order, outcome, strong, turn)
        for question, turn, some in rows
        for order, outcome, strong in some
    ]
    rules = Rules(rule, failed)  # type: ignore[arg-type]
    row = row_of(verdicts, convention, rules)
    missing = [place for place, verdict in enumerate(verdicts) if verdict.outcome is None]
    assert (row.worst is None) == (not missing)
    if row.worst is None or row.best is None:
        return
    assert not row.n or row.worst <= row.win_rate <= row.best
    for _ in range(10):
        completed = list(verdicts)
        for place in missing:
            strong = random.random() < 0.5
            completed[place] = replace(
                game("", None, random.choice([0.0, 0.5, 1.0]), strong),
                question=verdicts[place].question,
                order=verdicts[place].order,
                turn=verdicts[place].turn,
            )
        (whole,) = group_by_pair([(one, convention) for one in completed], None)
        assert row.worst - 1e-12 <= tally(whole, rules).rate <= row.best + 1e-12


# --- what counts as decided ---


def counted(*wins: tuple[str, str, int, int, int]) -> EvalResult:
    """The result of (a, b, wins, losses, ties) on questions of their own."""
    verdicts = [
        Verdict(str(question), "j", a, b, outcome=outcome)
        for a, b, won, lost, tied in wins
        for question, outcome in enumerate([1.0] * won + [0.0] * lost + [0.5] * tied)
    ]
    config = EvalConfig(judgments=("file",), output=Path("out"), draws=1000)
    return counting.count([Stored("file", "salsa", QUESTIONS, verdicts)], {}, config)


def test_four_wins_and_76_ties_are_not_decided() -> None:
    result = counted(("x", "y", 4, 0, 76))
    (row,) = result.pairs
    # 2 (1/2)^4: one in eight coins does as well.
    assert (row.win_rate, row.p_value, row.decided) == (0.525, 0.125, False)
    assert (
        "By j, no significant difference between x and y: 4 wins and 0 losses on 80 prompts give "
        "p = 0.125 (exact sign test, corrected for all pairs of the judge)."
    ) in result.summary()[0]


def test_one_prompt_decides_nothing() -> None:
    verdicts = [game("1", "ab", 1.0), game("1", "ba", 0.5)]
    row = row_of(verdicts, QUESTIONS)
    # Wilson: (0.75 + z^2 / 2 -+ z sqrt(0.1875 + z^2 / 4)) / (1 + z^2), z^2 = 3.8415.
    assert row.win_rate == 0.75 and not row.decided
    assert (row.low, row.high) == pytest.approx((0.1179, 0.9854), abs=1e-4)
    config = EvalConfig(judgments=("file",), output=Path("out"), draws=100)
    result = counting.count([Stored("file", "salsa", QUESTIONS, verdicts)], {}, config)
    assert (
        "By j, no significant difference between x and y: there is only one prompt."
        in result.summary()[0]
    )


def test_decided_is_corrected_for_all_pairs() -> None:
    # 6 of 6 has p = 1/32 alone, and 3/32 as one of three pairs.
    assert counted(("x", "y", 6, 0, 0)).pairs[0].decided
    three = counted(("x", "y", 6, 0, 0), ("y", "z", 3, 3, 0), ("x", "z", 3, 3, 0))
    assert [row.decided for row in three.pairs] == [False] * 3
    assert three.pairs[0].p_holm == pytest.approx(3 / 32)


def test_models_that_won_all_have_no_joint_rating() -> None:
    result = counted(("x", "y", 10, 0, 0), ("y", "z", 6, 4, 0), ("x", "z", 10, 0, 0))
    assert result.ratings == ()
    assert result.rating_gaps == (
        "By j, no Bradley-Terry fit of all pairs: x won or lost all comparisons with the other "
        "models, so the fit has no maximum.",
    )
    assert result.rating_gaps[0] in result.summary()[0]
    more = counted(
        ("x", "y", 10, 0, 0), ("y", "z", 6, 4, 0), ("z", "w", 6, 4, 0), ("w", "y", 5, 5, 0)
    )
    assert {row.model for row in more.ratings} == {"y", "z", "w"}
    assert more.rating_gaps[0].startswith(
        "By j, a Bradley-Terry fit of only y, z, w: x won or lost all"
    )


def test_groups_that_never_met_are_named_and_not_ranked() -> None:
    result = counted(("a", "b", 6, 4, 0), ("c", "d", 7, 3, 0))
    assert result.ratings == ()
    assert result.rating_gaps == (
        "By j, no Bradley-Terry fit of all pairs: these groups of models were never compared: a, b "
        "| c, d.",
    )


def test_one_prompt_gives_no_joint_rating() -> None:
    result = counted(("x", "y", 0, 0, 1), ("y", "z", 0, 0, 1), ("x", "z", 0, 0, 1))
    assert result.ratings == () and "there is no interval with one prompt" in result.rating_gaps[0]


def test_a_tie_on_one_prompt_is_not_certain() -> None:
    row = row_of([game("1", None, 0.5)], QUESTIONS)
    # Wilson's interval of a half in 1, by hand: 1/2 -+ z sqrt(1 + z^2) / (2 (1 + z^2)), z = 1.96.
    half = 1.959964 / (2 * (1 + 1.959964**2) ** 0.5)
    assert (row.low, row.high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert not row.decided


def test_prompts_that_all_say_the_same_give_no_joint_rating() -> None:
    verdicts = [
        Verdict(str(n), "j", a, b, outcome=float(n % 4 > 0))
        for n in range(12)
        for a, b in ("ab", "bc", "ca")
    ]
    found = win_rates.comparisons([Stored("file", "f", QUESTIONS, verdicts)], HALF)
    rated = win_rates.ratings(found, HALF, FEW)
    words = (
        "By j, no Bradley-Terry fit: all prompts have the same outcome, so there is no interval."
    )
    assert (rated.rows, rated.gaps) == ((), (words,))


def test_what_is_not_defined_is_called_none_and_never_nan() -> None:
    # Both judges always say the same: no chance to agree by, and no kappa.
    verdicts = [Verdict(str(n), judge, "x", "y", outcome=1.0) for n in range(4) for judge in "jk"]
    verdicts += [Verdict("9", "l", "x", "y", invalid="down")]
    config = EvalConfig(judgments=("file",), output=Path("out"), draws=100)
    result = counting.count([Stored("file", "salsa", QUESTIONS, verdicts)], {}, config)
    text, table = result.summary()
    assert "Cohen's kappa none, Krippendorff's alpha none" in text and "nan" not in text
    assert table is not None
    assert [row[3:5] for row in table.rows if row[2] == "l"] == [("none", "")]
    page = pages.render(report_page.build(result, verdicts, {}, {}))
    assert ">none<" in page and "nan" not in page
