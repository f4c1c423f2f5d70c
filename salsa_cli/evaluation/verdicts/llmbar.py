"""LLMBar's verdicts: two outputs with a gold label, judged in both orders.

Its repository has `Dataset/LLMBar/SUBSET/evaluators/MODEL/METHOD/result.json`. Other files are
named after the judge, and their folder (or the one above `result`) after the subset.
"""

from pathlib import Path

from salsa_cli.evaluation.verdicts.rows import StoredRow, stem
from salsa_cli.evaluation.verdicts.verdict import Order, Verdict

COLUMNS = frozenset({"i", "label", "order_12", "order_21"})
RESULT = frozenset({"label", "results", "output_1", "output_2"})
GOLD = "label"

_ORDERS: tuple[tuple[str, Order], ...] = (("swap = False", "ab"), ("swap = True", "ba"))

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


def result(row: StoredRow) -> list[Verdict]:
    """The gold label and the games of a row of `result.json`."""
    subset, judge = _place(row)
    question = f"{subset}/{row.index}"
    games = row.get("results")
    if not isinstance(games, list) or not games or not all(isinstance(g, dict) for g in games):
        raise row.error(f"column 'results' is {games!r:.40}; expected a list of games")
    label = Verdict(
        question=question,
        judge=GOLD,
        a="output_1",
        b="output_2",
        outcome=_OUTCOMES[row.choice("label", (1, 2, "1", "2"))],
        category=subset,
    )
    return [
        label,
        *(
            _verdict(row, question, judge, subset, name, order, both.get(name))
            for both in games
            for name, order in _ORDERS
            if name in both
        ),
    ]


def _game(row: StoredRow, question: str, subset: str, name: str, order: Order) -> Verdict:
    return _verdict(row, question, stem(row.source), subset, name, order, row.get(name))


def _verdict(
    row: StoredRow,
    question: str,
    judge: str,
    subset: str,
    name: str,
    order: Order,
    game: object,
) -> Verdict:
    known = isinstance(game, dict) and not isinstance(game.get("winner", ""), dict | list | bool)
    if not isinstance(game, dict) or not known or game.get("winner") not in _OUTCOMES:
        raise row.error(f"column '{name}' is {game!r:.40}; expected a 'winner' of 1, 2 or none")
    outcome = _OUTCOMES[game.get("winner")]
    written = game.get("completion")
    text = written[0] if isinstance(written, list) and written else written
    return Verdict(
        question=question,
        judge=judge,
        a="output_1",
        b="output_2",
        order=order,
        outcome=outcome,
        category=subset,
        invalid="the judge's text contains no verdict" if outcome is None else None,
        text=text if isinstance(text, str) else None,
    )


def _place(row: StoredRow) -> tuple[str, str]:
    """The subset and the judge, from the folders of the repository or the name of the file."""
    parts = Path(row.source.name).absolute().parts
    if "evaluators" in parts[1:-3]:
        at = parts.index("evaluators")
        return parts[at - 1], "/".join(parts[at + 1 : -1])
    return _subset(row.source.name), stem(row.source)


def _subset(source: str) -> str:
    folder = Path(source).absolute().parent
    return (folder.parent if folder.name == "result" else folder).name
