"""Arena-Hard's games of a model against a baseline, v0.1 and v2.0.

The first game shows the baseline first, the second the model. Conventions of `show_result.py`:
v0.1 knows five labels and leaves out a game with another; v2.0 knows ten, and leaves out both games
of a row where one has none. What a judge writes between double brackets is a label as soon as it is
made of A, B, <, > and =; a score of other letters was written by no judge, and is an error.
"""

import re
from collections.abc import Mapping
from typing import Any

from salsa_cli.evaluation.verdicts.labels import Label
from salsa_cli.evaluation.verdicts.rows import StoredRow
from salsa_cli.evaluation.verdicts.verdict import Verdict

V01 = frozenset({"question_id", "model", "judge", "games"})
V20 = frozenset({"uid", "category", "model", "judge", "games"})

UNKNOWN = "a label unknown to the benchmark"

V01_BASELINE = "gpt-4-0314"
V20_BASELINES = {
    "hard_prompt": "o3-mini-2025-01-31",
    "coding": "o3-mini-2025-01-31",
    "math": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
    "arena-hard-v0.1": V01_BASELINE,
}


_WRITTEN = re.compile(r"[AB<>=]+")
_LABELS = {
    "A>>B": Label(1.0, True),
    "A>B": Label(1.0, False),
    "A=B": Label(0.5, False),
    "B>A": Label(0.0, False),
    "B>>A": Label(0.0, True),
}
_LABELS_V20 = _LABELS | {
    "A<<B": Label(0.0, True),
    "A<B": Label(0.0, False),
    "B=A": Label(0.5, False),
    "B<A": Label(1.0, False),
    "B<<A": Label(1.0, True),
}


def v01(row: StoredRow, baseline: str | None) -> list[Verdict]:
    """The games of one row; the baseline, which the file does not name, is gpt-4-0314."""
    return _games(row, "question_id", baseline or V01_BASELINE, _LABELS)


def v20(row: StoredRow, baseline: str | None) -> list[Verdict]:
    """The games of one row; its baseline, else the one named, else that of its category."""
    category = row.text("category")
    named = row.optional_text("baseline") or baseline or V20_BASELINES.get(category)
    if named is None:
        raise row.error(f"no baseline for category '{category}'; set it with --baseline")
    return _games(row, "uid", named, _LABELS_V20)


def _games(
    row: StoredRow, question: str, baseline: str, labels: Mapping[str, Label]
) -> list[Verdict]:
    games = row.get("games")
    if not isinstance(games, list) or not all(g is None or isinstance(g, dict) for g in games):
        raise row.error(f"column 'games' is {games!r:.40}; expected a list of games")
    for game in games:
        if game is not None and "score" not in game:
            raise row.error(f"a game without 'score'; it has {', '.join(game) or 'nothing'}")
    return [
        _game(row, row.identifier(question), baseline, index, game, labels)
        for index, game in enumerate(games or [None])
    ]


def _game(
    row: StoredRow,
    question: str,
    baseline: str,
    index: int,
    game: Mapping[str, Any] | None,
    labels: Mapping[str, Label],
) -> Verdict:
    score = game["score"] if game else None
    if score is not None and not (isinstance(score, str) and _WRITTEN.fullmatch(score)):
        raise row.error(
            f"column 'games', game {index + 1}: the score is {score!r:.40}; expected one of "
            f"{', '.join(labels)}, or null if the judge gave none"
        )
    label = labels.get(score) if score is not None else None
    model_first = index % 2 == 1
    outcome = None if label is None else label.outcome if model_first else 1.0 - label.outcome
    return Verdict(
        question=question,
        judge=row.judge(),
        a=row.text("model"),
        b=baseline,
        order="ab" if model_first else "ba",
        outcome=outcome,
        strong=label is not None and label.strong,
        category=row.optional_text("category"),
        invalid=None if label else _reason(score),
        text=_text(game),
    )


def _reason(score: str | None) -> str:
    return "no label in the judge's text" if score is None else f"{UNKNOWN}: {score:.20}"


def _text(game: Mapping[str, Any] | None) -> str | None:
    judgment = game.get("judgment") if game else None
    if isinstance(judgment, dict):  # v2.0 keeps the judge's thoughts next to its answer
        judgment = judgment.get("answer")
    return judgment if isinstance(judgment, str) else None
