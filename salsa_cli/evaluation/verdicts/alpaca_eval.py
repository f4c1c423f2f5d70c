"""AlpacaEval's annotations: a model's output (2) against a reference output (1).

`preference` is 1 for output_1 and 2 for output_2; weighted annotators give any number between, as
the probability of output_2 plus 1. 0 and 1.5 are draws, and no number is no verdict.
"""

from hashlib import blake2b

from salsa_cli.evaluation.verdicts.rows import StoredRow
from salsa_cli.evaluation.verdicts.verdict import Verdict, is_number

COLUMNS = frozenset({"instruction", "generator_1", "generator_2", "preference"})

_DRAW = 0


def annotation(row: StoredRow) -> list[Verdict]:
    """The verdict on the model, `generator_2`, over the reference."""
    outcome = _outcome(row)
    return [
        Verdict(
            question=question(row),
            judge=row.optional_text("annotator") or "annotator",
            a=row.text("generator_2"),
            b=row.text("generator_1"),
            outcome=outcome,
            category=row.optional_text("dataset"),
            invalid="no preference" if outcome is None else None,
        )
    ]


def outputs(row: StoredRow) -> list[tuple[str, str, str]]:
    """The outputs in the row, as (model, question, text)."""
    texts = ((row.text(f"generator_{n}"), row.optional_text(f"output_{n}")) for n in (1, 2))
    return [(model, question(row), text) for model, text in texts if text is not None]


def question(row: StoredRow) -> str:
    """An id of the instruction, which has none of its own: the same in the files of all models."""
    return blake2b(row.text("instruction").encode(), digest_size=6).hexdigest()


def _outcome(row: StoredRow) -> float | None:
    preference = row.get("preference")
    if preference is None or preference != preference:
        return None
    if not is_number(preference) or not (preference == _DRAW or 1 <= preference <= 2):
        raise row.error(f"column 'preference' is {preference!r:.40}; expected a number from 1 to 2")
    return 0.5 if preference == _DRAW else float(preference) - 1.0
