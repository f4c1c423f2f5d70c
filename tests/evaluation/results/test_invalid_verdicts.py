"""The limit on invalid verdicts: what is refused, and the bounds that the message names."""

import pytest

from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.results import invalid_verdicts
from salsa_cli.evaluation.results.win_rates import PairRow, ScoreRow

PAIR = PairRow(
    "x",
    "y",
    "j",
    win_rate=0.5,
    low=0.3,
    high=0.7,
    n=16,
    wins=8,
    losses=8,
    ties=0,
    invalid=4,
    worst=0.4,
    best=0.6,
    judgements=40,
    reasons={"no label": 3, "the server failed": 1},
)
GRADES = ScoreRow("x", "j", 7.0, 6.0, 8.0, (7.0,), n=6, invalid=2, reasons={"no rating": 2})


def refused(pairs: list[PairRow], scores: list[ScoreRow], most: float) -> str:
    with pytest.raises(SalsaError) as found:
        invalid_verdicts.refuse(pairs, scores, most, "Ask again")
    return str(found.value)


def test_the_share_is_of_the_judgements_and_the_limit_itself_is_allowed() -> None:
    invalid_verdicts.refuse([PAIR], [], 0.1, "")  # 4 of 40
    assert refused([PAIR], [], 0.0999) == (
        "j: 4 of 40 judgements of x against y are invalid (3 times: no label; once: the server "
        "failed); the win rate is between 40.0% and 60.0%\n"
        "That is more than --max-invalid 0.0999. Ask again"
    )


def test_the_bounds_of_a_mean_grade_are_those_of_ones_and_tens() -> None:
    invalid_verdicts.refuse([], [GRADES], 0.25, "")  # 2 of 8
    # (6 * 7 + 2 * 1) / 8 and (6 * 7 + 2 * 10) / 8.
    assert "the mean grade is between 5.50 and 7.75" in refused([], [GRADES], 0.2)


def test_every_pair_and_model_above_the_limit_is_named() -> None:
    assert len(refused([PAIR, PAIR], [GRADES], 0.0).splitlines()) == 4


def test_the_rarest_reasons_are_summed_up() -> None:
    reasons = {"a": 1234, "b": 5, "c": 2, "d": 1, "e": 1}
    assert invalid_verdicts.counted(reasons) == (
        "1,234 times: a; 5 times: b; 2 times: c; 2 times: other reasons"
    )
    assert invalid_verdicts.counted({"a": 1}) == "once: a"
