"""Rows of any file, with `--columns` that say what each of its columns is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from salsa_cli.errors import UsageError
from salsa_cli.evaluation.verdicts import labels
from salsa_cli.evaluation.verdicts.rows import StoredRow, stem
from salsa_cli.evaluation.verdicts.verdict import Verdict, is_number

NAMES = ("a", "b", "outcome", "score_a", "question", "judge", "turn", "category")

_TIES = frozenset({"tie", "tied", "draw", "both", "equal", "c", "none"})
_FIRST = frozenset({"a", "1", "model_a", "model_1", "first", "left", "win", "a wins"})
_SECOND = frozenset({"b", "2", "model_b", "model_2", "second", "right", "loss", "b wins"})


@dataclass(frozen=True)
class Columns:
    """The columns of a file by what they hold."""

    of: Mapping[str, str]

    def read(self, row: StoredRow) -> list[Verdict]:
        """The verdict of a row."""
        a = row.identifier(self.of["a"])
        b = row.identifier(self.of["b"]) if "b" in self.of else None
        outcome = self._outcome(row, a, b) if "outcome" in self.of else None
        score = row.number(self.of["score_a"]) if "score_a" in self.of else None
        missing = outcome is None if b is not None else score is None
        return [
            Verdict(
                question=self._text(row, "question") or str(row.index),
                judge=self._text(row, "judge") or stem(row.source),
                a=a,
                b=b,
                turn=row.turn(self.of["turn"]) if "turn" in self.of else 1,
                outcome=outcome,
                score_a=score,
                category=self._text(row, "category"),
                invalid="no verdict" if missing else None,
            )
        ]

    def _text(self, row: StoredRow, name: str) -> str | None:
        return row.identifier(self.of[name]) if name in self.of else None

    def _outcome(self, row: StoredRow, a: str, b: str | None) -> float | None:
        """A number from 0 to 1 for `a`; or a label, the name of the winner, or its side."""
        column = self.of["outcome"]
        value = row.numeric(column)
        if value is None or value == "":
            return None
        if is_number(value) and 0 <= value <= 1:
            return float(value)
        word = str(value).strip()
        if word in (a, b):
            return 1.0 if word == a else 0.0
        lowered = word.lower()
        for words, outcome in ((_FIRST, 1.0), (_SECOND, 0.0), (_TIES, 0.5)):
            if lowered in words or lowered.split(" (")[0] in words:
                return outcome
        if (label := labels.parse_label(word.strip("[]"))) is not None:
            return label.outcome
        raise row.error(
            f"column '{column}' is {value!r:.40}; expected a number from 0 to 1 for {a}, a label, "
            f"or the winner: {a}, {b} or tie"
        )


def columns(given: Sequence[str]) -> Columns | None:
    """Parse `a=model_1,b=model_2,outcome=winner`; None where nothing is given.

    Raises:
        UsageError: a name is not known, or is given twice, or `a` or an outcome is missing.
    """
    parts = [part for one in given for part in one.split(",")]
    found: dict[str, str] = {}
    for part in parts:
        name, equals, column = part.partition("=")
        if not equals or not column or name not in NAMES or name in found:
            raise UsageError(
                f"--columns {part}: expected NAME=COLUMN, each NAME once, of {', '.join(NAMES)}"
            )
        found[name] = column
    if not found:
        return None
    needed = ("a", "score_a") if "b" not in found else ("a", "b", "outcome")
    if missing := [name for name in needed if name not in found]:
        raise UsageError(
            f"--columns has no {', '.join(missing)}; expected a, b and outcome for comparisons, or "
            "a and score_a for grades"
        )
    return Columns(found)
