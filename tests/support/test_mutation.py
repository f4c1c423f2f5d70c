"""The tables of mutants fit the package: each text is there once, each test file exists."""

from collections import Counter

import pytest

from tests import mutants, reward_mutants
from tests.support.mutation import Mutant, misplaced


@pytest.mark.parametrize("table", [mutants, reward_mutants], ids=["ppo", "train-rm"])
def test_every_mutant_has_its_place(table: object) -> None:
    rows, nearest = table.MUTANTS, table.NEAREST  # type: ignore[attr-defined]
    assert misplaced(rows, nearest) == []
    assert all(row.before != row.after for row in rows)
    assert Counter(row.name for row in rows).most_common(1)[0][1] == 1


def test_what_has_no_place_is_named() -> None:
    rows = [
        Mutant("gone", "maths/nowhere.py", "a", "b"),
        Mutant("twice", "maths/kl.py", "def ", "x"),
        Mutant("never", "maths/kl.py", "no such text", "x"),
    ]
    found = misplaced(rows, ["maths", "maths/test_nowhere.py"])
    assert [line.split(":")[0] for line in found] == [
        "gone",
        "twice",
        "never",
        "no tests/maths/test_nowhere.py",
    ]
