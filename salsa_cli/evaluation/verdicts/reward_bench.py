"""RewardBench's and RewardBench 2's result files: whether a reward model prefers the right answer.

A file holds columns in place of rows, with the model once. `results` has the credit of each prompt:
1 where the right answer has the highest score, 0 where it has not, and a share where it ties.
"""

from salsa_cli.evaluation.verdicts.rows import StoredRow, stem
from salsa_cli.evaluation.verdicts.verdict import Verdict, is_number

COLUMNS = frozenset({"id", "subset", "results"})


def credit(row: StoredRow) -> list[Verdict]:
    """The right answer against the wrong ones, by the reward model."""
    result = row.get("results")
    if isinstance(result, bool):
        result = float(result)
    if result is not None and not (is_number(result) and 0 <= result <= 1):
        raise row.error(f"column 'results' is {result!r:.40}; expected a number from 0 to 1")
    subset = row.optional_text("subset")
    return [
        Verdict(
            question=f"{subset}/{row.identifier('id')}",
            judge=row.optional_text("model") or stem(row.source),
            a="chosen",
            b="rejected",
            outcome=None if result is None else float(result),
            category=subset,
            invalid="no result" if result is None else None,
        )
    ]
