"""evalscope's arena: reviews with the games of a model against a baseline.

A review is a row of `reviews/.../*.jsonl`, with its battle in the metadata of its score. The label
of a game is of `model_a`, which was shown first, against `model_b`.
"""

from collections.abc import Mapping
from typing import Any

from salsa_cli.evaluation.verdicts import labels
from salsa_cli.evaluation.verdicts.rows import StoredRow, stem
from salsa_cli.evaluation.verdicts.verdict import Verdict

REVIEW = frozenset({"index", "sample_score"})
BATTLE = frozenset({"battle_result"})

_PATH = ("sample_score", "score", "metadata", "battle_result")


def battle(row: StoredRow) -> list[Verdict]:
    """The games of one review; the first names the model, the second shows the baseline first."""
    result = _battle(row)
    games = result.get("games")
    if not isinstance(games, list) or not games:
        raise row.error(f"'games' of the battle is {games!r:.40}; expected a list of games")
    first = games[0]
    model = first.get("model_a") if isinstance(first, dict) else None
    return [_game(row, game, model) for game in games]


def _game(row: StoredRow, game: object, model: object) -> Verdict:
    if not isinstance(game, dict) or not all(
        isinstance(game.get(name), str) and game[name] for name in ("model_a", "model_b")
    ):
        raise row.error(f"a game is {game!r:.60}; expected 'model_a', 'model_b' and 'judgment'")
    judgment = game.get("judgment")
    label = labels.parse_label(judgment) if isinstance(judgment, str) else None
    verdict = Verdict(
        question=str(row.get("index") if row.has("index") else row.index),
        judge=row.optional_text("judge") or stem(row.source),
        a=game["model_a"],
        b=game["model_b"],
        order="ab",
        outcome=None if label is None else label.outcome,
        strong=label is not None and label.strong,
        invalid="no label" if label is None else None,
    )
    return verdict if verdict.a == model else verdict.swapped


def _battle(row: StoredRow) -> Mapping[str, Any]:
    found: Any = row.get("battle_result")
    if found is None:
        found = row.source.rows[row.index]
        for name in _PATH:
            found = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise row.error("no 'battle_result' in the metadata of its score; expected one")
    return found
