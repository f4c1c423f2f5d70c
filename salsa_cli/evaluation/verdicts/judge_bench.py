"""JudgeBench's outputs: two responses of one model with a gold label, judged in one or both orders.

Conventions of `metrics.py`: the second judgment was made with the responses exchanged, and its
decision is of what the judge saw first and second.
"""

import re

from salsa_cli.evaluation.verdicts import labels
from salsa_cli.evaluation.verdicts.labels import Label
from salsa_cli.evaluation.verdicts.rows import StoredRow, stem
from salsa_cli.evaluation.verdicts.verdict import Order, Verdict

COLUMNS = frozenset({"pair_id", "label", "judgments"})
GOLD = "label"

_JUDGE_MODEL = re.compile(r"judge_model=([^,]+)")
_ORDERS: tuple[Order, Order] = ("ab", "ba")


def games(row: StoredRow) -> list[Verdict]:
    """The gold label, and a verdict for each judgment."""
    label = labels.parse_label(row.text("label"))
    if label is None:
        raise row.error(f"column 'label' is {row.get('label')!r:.40}; expected A>B or B>A")
    judgments = row.get("judgments")
    if not isinstance(judgments, list) or not 1 <= len(judgments) <= len(_ORDERS):
        raise row.error(f"column 'judgments' is {judgments!r:.40}; expected one or two judgments")
    question = row.identifier("pair_id")
    gold = _verdict(row, question, GOLD, None, label, None)
    judge = _judge(row)
    return [
        gold,
        *(
            _game(row, question, judge, order, judgment)
            for order, judgment in zip(_ORDERS, judgments, strict=False)
        ),
    ]


def _game(row: StoredRow, question: str, judge: str, order: Order, judgment: object) -> Verdict:
    if judgment is None:
        return _verdict(row, question, judge, order, None, None)
    if not isinstance(judgment, dict) or "decision" not in judgment:
        raise row.error(f"a judgment is {judgment!r:.40}; expected an object with 'decision'")
    decision = judgment["decision"]
    label = labels.parse_label(decision) if isinstance(decision, str) else None
    if label is not None and order == "ba":
        label = label.swapped
    written = judgment.get("judgment")
    text = written.get("response") if isinstance(written, dict) else None
    return _verdict(row, question, judge, order, label, text if isinstance(text, str) else None)


def _verdict(
    row: StoredRow,
    question: str,
    judge: str,
    order: Order | None,
    label: Label | None,
    text: str | None,
) -> Verdict:
    return Verdict(
        question=question,
        judge=judge,
        a="response_A",
        b="response_B",
        order=order,
        outcome=None if label is None else label.outcome,
        category=row.optional_text("source"),
        invalid="no decision" if label is None else None,
        text=text,
    )


def _judge(row: StoredRow) -> str:
    """The judge's model, which the file's name holds, else the name of the judge's method."""
    if match := _JUDGE_MODEL.search(stem(row.source)):
        return match[1]
    return row.optional_text("judge_name") or stem(row.source)
