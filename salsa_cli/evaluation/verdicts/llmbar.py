"""LLMBar's verdicts: two outputs with a gold label, judged in both orders.

The file is named after the judge, its folder (or the one above `result`) after the subset.
"""

from pathlib import Path

from salsa_cli.evaluation.verdicts.rows import StoredRow, stem
from salsa_cli.evaluation.verdicts.verdict import Order, Verdict

COLUMNS = frozenset({"i", "label", "order_12", "order_21"})
GOLD = "label"

_OUTCOMES = {"1": 1.0, "2": 0.0, 1: 1.0, 2: 0.0, None: None}


def games(row: StoredRow) -> list[Verdict]:
    """The gold label and the two games; the winner is an output, whatever the order."""
    subset = _subset(row.source.name)
    question = f"{subset}/{row.identifier('i')}"
    label = Verdict(
        question=question,
        judge=GOLD,
        a="output_1",
        b="output_2",
        outcome=_OUTCOMES[row.choice("label", (1, 2, "1", "2"))],
        category=subset,
    )
    orders: tuple[tuple[str, Order], ...] = (("order_12", "ab"), ("order_21", "ba"))
    return [label, *(_game(row, question, subset, name, order) for name, order in orders)]


def _game(row: StoredRow, question: str, subset: str, name: str, order: Order) -> Verdict:
    game = row.get(name)
    known = isinstance(game, dict) and not isinstance(game.get("winner", ""), dict | list | bool)
    if not known or game.get("winner") not in _OUTCOMES:
        raise row.error(f"column '{name}' is {game!r:.40}; expected a 'winner' of 1, 2 or nothing")
    outcome = _OUTCOMES[game.get("winner")]
    text = game.get("completion")
    return Verdict(
        question=question,
        judge=stem(row.source),
        a="output_1",
        b="output_2",
        order=order,
        outcome=outcome,
        category=subset,
        invalid="the judge's text holds no verdict" if outcome is None else None,
        text=text if isinstance(text, str) else None,
    )


def _subset(source: str) -> str:
    folder = Path(source).absolute().parent
    return (folder.parent if folder.name == "result" else folder).name
