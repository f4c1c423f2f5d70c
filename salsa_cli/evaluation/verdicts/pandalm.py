"""PandaLM's test set with the verdicts of three annotators, and verdict files of models."""

from collections.abc import Mapping

from salsa_cli.evaluation.verdicts.rows import StoredRow, stem
from salsa_cli.evaluation.verdicts.verdict import Verdict

TESTSET = frozenset({"idx", "cmp_key", "annotator1", "annotator2", "annotator3"})
VERDICTS = frozenset({"idx"})
RESULT = "_result"
"""How the column of a model's verdict ends: gpt_result, pandalm_result."""

Sides = Mapping[str, tuple[str, str]]
"""The two models of each item, by its id."""

_HUMAN = {0: 0.5, 1: 1.0, 2: 0.0}
_MODEL = {"1": 1.0, "2": 0.0, "0": 0.5, "Tie": 0.5, "tie": 0.5}


def sides(row: StoredRow) -> tuple[str, str]:
    """The models of `response1` and `response2`."""
    names = row.text("cmp_key").split("_")
    if len(names) != 2 or not all(names):
        raise row.error(f"column 'cmp_key' is '{row.get('cmp_key')}'; expected MODEL_MODEL")
    return names[0], names[1]


def annotators(row: StoredRow) -> list[Verdict]:
    """The verdicts of three annotators: 1 or 2 for a response, 0 for a tie."""
    a, b = sides(row)
    return [
        Verdict(
            question=row.identifier("idx"),
            judge=name,
            a=a,
            b=b,
            outcome=_HUMAN[row.choice(name, _HUMAN)],
            category=row.optional_text("motivation_app"),
        )
        for name in ("annotator1", "annotator2", "annotator3")
    ]


def model(row: StoredRow, known: Sides) -> list[Verdict]:
    """The verdict of a model; without the test set, the models of the responses are unknown."""
    question = row.identifier("idx")
    a, b = known.get(question, ("response1", "response2"))
    (column, *_) = row.columns_ending_with(RESULT)
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise row.error(f"column '{column}' is {value!r:.40}; expected 1, 2 or a tie")
    outcome = _MODEL.get(str(value).strip())
    return [
        Verdict(
            question=question,
            judge=stem(row.source).removesuffix("_verdicts"),
            a=a,
            b=b,
            outcome=outcome,
            invalid=None if outcome is not None else f"no verdict: {value!r:.20}",
        )
    ]
