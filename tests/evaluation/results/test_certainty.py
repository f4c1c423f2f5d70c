"""Win rates: bounds over invalid verdicts, and what counts as decided."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.evaluation.results import win_rates
from salsa_cli.evaluation.results.comparisons import Rules, group_by_pair, tally
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
    invalid = "no verdict in it" if outcome is None else None
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
