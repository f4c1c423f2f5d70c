"""The verdict as a row of a file, and seen from the other side."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.verdicts.verdict import Verdict, from_row, to_row

names = st.text(min_size=1, max_size=5)
optional = st.none() | names
numbers = st.floats(allow_nan=False, allow_infinity=False)

comparisons = st.builds(
    Verdict,
    question=names,
    judge=names,
    a=names,
    b=names,
    turn=st.integers(1, 3),
    order=st.sampled_from([None, "ab", "ba"]),
    outcome=st.sampled_from([0.0, 0.5, 1.0]),
    strong=st.booleans(),
    score_a=st.none() | numbers,
    score_b=st.none() | numbers,
    category=optional,
    text=optional,
)
gradings = st.builds(Verdict, question=names, judge=names, a=names, score_a=numbers)
failures = st.builds(Verdict, question=names, judge=names, a=names, b=optional, invalid=names)


@given(verdict=comparisons | gradings | failures)
def test_a_row_gives_the_verdict_back(verdict: Verdict) -> None:
    assert from_row(json.loads(json.dumps(to_row(verdict)))) == verdict


@given(verdict=comparisons)
def test_the_other_side_of_the_other_side(verdict: Verdict) -> None:
    assert verdict.swapped.swapped == verdict
    assert verdict.outcome is not None and verdict.swapped.outcome == 1 - verdict.outcome


def test_the_other_side_by_hand() -> None:
    verdict = Verdict("7", "j", "x", "y", 2, "ab", 1.0, True, 3.0, 4.0, "math")
    assert verdict.swapped == Verdict("7", "j", "y", "x", 2, "ba", 0.0, True, 4.0, 3.0, "math")


def test_what_stands_at_its_default_is_left_out() -> None:
    row = to_row(Verdict("7", "j", "x", "y", outcome=0.0))
    assert row == {"question": "7", "judge": "j", "a": "x", "b": "y", "outcome": 0.0}


def test_the_rows_of_the_first_version() -> None:
    row = {"prompt": 3, "a": "x", "b": "y", "judge": "rm:r", "outcome": 0.5}
    verdict = from_row({**row, "score_a": 1.5, "score_b": 1.5})
    assert verdict == Verdict("3", "rm:r", "x", "y", outcome=0.5, score_a=1.5, score_b=1.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"a": None}, "column 'a' is None; expected a string"),
        ({"turn": "1"}, "column 'turn' is '1'; expected a whole number"),
        ({"turn": True}, "column 'turn' is True; expected a whole number"),
        ({"order": "first"}, "column 'order' is 'first'; expected 'ab' or 'ba'"),
        ({"outcome": 2}, "column 'outcome' is 2; expected a number from 0 to 1"),
        ({"outcome": None}, "no 'outcome', and no reason"),
        ({"b": None}, "neither a comparison nor a grade"),
        ({"winner": "x"}, "column 'winner' is unknown"),
    ],
)
def test_rows_that_are_no_verdict(changes: dict[str, Any], words: str) -> None:
    row = {"question": "1", "judge": "j", "a": "x", "b": "y", "outcome": 1.0}
    with pytest.raises(SalsaError, match=words):
        from_row({**row, **changes})


@pytest.mark.parametrize("name", ["question", "judge", "a"])
def test_a_row_without_what_every_verdict_has(name: str) -> None:
    row = {"question": "1", "judge": "j", "a": "x", "b": "y", "outcome": 1.0}
    del row[name]
    with pytest.raises(SalsaError, match=f"no column '{name}'; its columns are"):
        from_row(row)
