"""Verdicts to points, by hand: rules, failures, turns, orders, weights."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.evaluation.results.comparisons import (
    Comparison,
    Game,
    Rules,
    Tally,
    group_by_pair,
    tally,
)
from salsa_cli.evaluation.verdicts.formats import Convention
from salsa_cli.evaluation.verdicts.verdict import Verdict

PLAIN = Convention()
HALF = Rules()
ARENA = Convention(rate="pooled", strong_weight=3, dropped="game")


def games(*outcomes: float | None, question: str = "q", turn: int = 1) -> list[Verdict]:
    """Verdicts of x against y, in both orders by turns."""
    return [
        Verdict(
            question,
            "j",
            "x",
            "y",
            turn,
            "ab" if index % 2 == 0 else "ba",
            outcome,
            invalid="failed" if outcome is None else None,
        )
        for index, outcome in enumerate(outcomes)
    ]


def gathered(
    verdicts: Sequence[Verdict], convention: Convention = PLAIN, baseline: str | None = None
) -> Comparison:
    (comparison,) = group_by_pair([(verdict, convention) for verdict in verdicts], baseline)
    return comparison


def counted(
    verdicts: Sequence[Verdict], rules: Rules = HALF, convention: Convention = PLAIN
) -> Tally:
    return tally(gathered(verdicts, convention, rules.baseline), rules)


def test_half_by_hand() -> None:
    # Question 1: 1 and 0 make 0.5. Question 2: two turns, 1, 1, 1 and 0.5 make 0.875.
    found = counted(
        [*games(1, 0), *games(1, 1, question="2"), *games(1, 0.5, question="2", turn=2)]
    )
    assert found.rate == (0.5 + 0.875) / 2
    assert (found.wins, found.losses, found.ties, found.n) == (1, 0, 1, 2)
    assert found.points.tolist() == [0.5, 0.875] and found.weights.tolist() == [1, 1]


def test_both_must_agree_by_hand() -> None:
    verdicts = [*games(1, 1), *games(1, 0.5, turn=2), *games(0, 0, question="2")]
    found = counted(verdicts, Rules("both-agree"))
    # A win, a tie and a loss: three comparisons on two questions.
    assert (found.wins, found.losses, found.ties, found.n) == (1, 1, 1, 3)
    assert found.rate == 0.5
    assert found.points.tolist() == [1.5, 0.0] and found.weights.tolist() == [2, 1]


def test_two_ties_agree_on_a_tie() -> None:
    assert counted(games(0.5, 0.5), Rules("both-agree")).ties == 1


def test_a_question_judged_twice_is_two_comparisons() -> None:
    found = counted(games(1, 1, 1, 0), Rules("both-agree"))
    assert (found.wins, found.ties) == (1, 1)


def test_a_verdict_without_order_agrees_with_itself() -> None:
    verdict = Verdict("q", "rm", "x", "y", outcome=1.0)
    assert counted([verdict], Rules("both-agree")).wins == 1
    lone = replace(verdict, order="ab")
    assert counted([lone], Rules("both-agree")).ties == 1


@pytest.mark.parametrize(
    ("convention", "rules", "rate", "n"),
    [
        # A comparison with a failure falls out whole, or with its failed game alone, or is a tie.
        (PLAIN, Rules("half", "drop"), 0.0, 1),
        (ARENA, Rules("half", "drop"), 1 / 3, 2),
        (PLAIN, Rules("half", "tie"), (0.75 + 0) / 2, 2),
        (PLAIN, Rules("both-agree", "drop"), 0.0, 1),
        (PLAIN, Rules("both-agree", "tie"), 0.25, 2),
    ],
)
def test_failures(convention: Convention, rules: Rules, rate: float, n: int) -> None:
    found = counted([*games(1, None), *games(0, 0, question="2")], rules, convention)
    assert found.rate == pytest.approx(rate, abs=1e-15)
    assert (found.n, found.invalid) == (n, 1)


def test_strong_verdicts_count_three_times() -> None:
    strong = [replace(verdict, strong=True) for verdict in games(1)]
    found = counted([*strong, *games(0, question="2")], convention=ARENA)
    assert found.rate == 0.75
    assert found.points.tolist() == [3, 0] and found.weights.tolist() == [3, 1]
    assert counted([*strong, *games(0, question="2")]).rate == 0.5


def test_one_direction_for_each_pair() -> None:
    turned = [verdict.swapped for verdict in games(0, 0, question="2")]
    found = gathered([*games(1, 1), *turned])
    assert (found.a, found.b) == ("x", "y")
    assert tally(found, Rules()).rate == 0.5
    assert (gathered(games(1), baseline="x").a, gathered(games(1), baseline="y").a) == ("y", "x")


def against_itself(*outcomes: float | None, question: str = "q") -> list[Verdict]:
    return [replace(verdict, b="x") for verdict in games(*outcomes, question=question)]


@pytest.mark.parametrize("convention", [PLAIN, ARENA])
@pytest.mark.parametrize("rule", ["half", "both-agree"])
def test_a_model_against_itself_is_even(convention: Convention, rule: Literal["half"]) -> None:
    strong = [replace(verdict, strong=True) for verdict in against_itself(1, 1, question="2")]
    verdicts = [*against_itself(0, 1), *strong, *against_itself(0.5, 0, question="3")]
    for baseline in (None, "x"):
        found = counted(verdicts, Rules(rule, baseline=baseline), convention)
        assert (found.rate, found.wins, found.ties, found.losses) == (0.5, 0, 3, 0)
    failed = [*verdicts, *against_itself(None, 1, question="4")]
    assert counted(failed, Rules(rule), convention).rate == 0.5
    assert counted(failed, Rules(rule), convention).invalid == 1


def test_a_model_against_itself_keeps_what_was_said() -> None:
    # In both orders the second answer won: nothing is turned round on the way.
    found = gathered(against_itself(0, 1), baseline="x")
    (match,) = found.matches
    assert match.forward == Game(0.0) and match.backward == Game(1.0)


def test_nothing_that_counts() -> None:
    found = counted(games(None, None))
    assert found.rate != found.rate and (found.n, found.invalid) == (0, 1)


outcomes = st.sampled_from([0.0, 0.5, 1.0, None])
played = st.lists(
    st.tuples(st.integers(0, 5), outcomes, outcomes, st.booleans(), st.integers(1, 2)), min_size=1
)


@given(
    played,
    st.sampled_from([PLAIN, ARENA]),
    st.sampled_from(["half", "both-agree"]),
    st.sampled_from(["drop", "tie"]),
)
def test_the_other_side_has_exactly_the_rest(
    rows: list[tuple[int, float | None, float | None, bool, int]],
    convention: Convention,
    rule: str,
    failed: str,
) -> None:
    verdicts = [
        replace(verdict, strong=strong)
        for question, first, second, strong, turn in rows
        for verdict in games(first, second, question=str(question), turn=turn)
    ]
    rules = Rules(rule, failed)  # type: ignore[arg-type]
    ours = counted(verdicts, rules, convention)
    theirs = counted([verdict.swapped for verdict in verdicts], rules, convention)
    if ours.n == 0:
        assert theirs.n == 0
        return
    assert ours.rate == 1 - theirs.rate and theirs.rate == 1 - ours.rate
    assert (ours.wins, ours.losses, ours.ties) == (theirs.losses, theirs.wins, theirs.ties)
    assert ours.rate == pytest.approx(ours.points.sum() / ours.weights.sum(), abs=1e-12)
