"""FastChat's judgments of MT-Bench and its kin: single grading and pairs in both orders.

Conventions of `show_result.py`: a score of -1 is no score; a pair of which one game ended in
`error` does not count.
"""

from salsa_cli.evaluation.verdicts.rows import StoredRow
from salsa_cli.evaluation.verdicts.verdict import Order, Verdict

SINGLE = frozenset({"question_id", "model", "judge", "score"})
PAIR = frozenset({"question_id", "model_1", "model_2", "judge", "g1_winner", "g2_winner"})

# As newer files have them.
SINGLE_OF_MODEL = SINGLE - {"judge"} | {"judge_model"}
PAIR_OF_MODEL = PAIR - {"judge"} | {"judge_model"}

VOTE = frozenset({"question_id", "model_a", "model_b", "judge", "winner"})

_FAILED = -1
_VOTES = {
    "model_a": 1.0,
    "model_b": 0.0,
    "tie": 0.5,
    "tie (inconsistent)": 0.5,
    "tie (bothbad)": 0.5,
}
_OUTCOMES = {"model_1": 1.0, "model_2": 0.0, "tie": 0.5, "error": None}


def single(row: StoredRow) -> list[Verdict]:
    """One answer with its score."""
    score = row.number("score")
    failed = score == _FAILED
    return [
        Verdict(
            question=row.identifier("question_id"),
            judge=row.judge(),
            a=row.text("model"),
            turn=row.turn(),
            score_a=None if failed else float(score),
            category=row.optional_text("category"),
            invalid="no rating in the judge's text" if failed else None,
            text=row.optional_text("judgment"),
        )
    ]


def pair(row: StoredRow) -> list[Verdict]:
    """Two games: model_1 is shown first in the first, model_2 in the second."""
    games: tuple[tuple[str, Order], ...] = (("g1", "ab"), ("g2", "ba"))
    return [_game(row, name, order) for name, order in games]


def vote(row: StoredRow) -> list[Verdict]:
    """One vote on two answers, as mt_bench_human_judgments and the Arena have them."""
    return [
        Verdict(
            question=row.identifier("question_id"),
            judge=row.judge(),
            a=row.text("model_a"),
            b=row.text("model_b"),
            turn=row.turn(),
            outcome=_VOTES[row.choice("winner", _VOTES)],
        )
    ]


def _game(row: StoredRow, name: str, order: Order) -> Verdict:
    outcome = _OUTCOMES[row.choice(f"{name}_winner", _OUTCOMES)]
    return Verdict(
        question=row.identifier("question_id"),
        judge=row.judge(),
        a=row.text("model_1"),
        b=row.text("model_2"),
        turn=row.turn(),
        order=order,
        outcome=outcome,
        category=row.optional_text("category"),
        invalid="the judge's text contains no verdict" if outcome is None else None,
        text=row.optional_text(f"{name}_judgment"),
    )
