"""Invalid verdicts: the limit on their share, and their reasons."""

from collections.abc import Mapping, Sequence

from salsa_cli import formatting
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.results.win_rates import PairRow, ScoreRow
from salsa_cli.evaluation.verdicts.verdict import CUT, NO_ANSWER

_MOST_REASONS = 3
_LOWEST_GRADE, _HIGHEST_GRADE = 1.0, 10.0


def refuse(pairs: Sequence[PairRow], scores: Sequence[ScoreRow], most: float, remedy: str) -> None:
    """Fail if too many verdicts of a judge are invalid, and name the bounds of the rate.

    Args:
        most: the largest share of a judge's judgements on a pair, or of its grades of a model,
            that may be invalid.
        remedy: what to do about it.

    Raises:
        SalsaError: names every pair or model above that share, and the reasons.
    """
    lines = [_pair(row) for row in pairs if _failed(row.reasons) > most * row.judgements]
    lines += [_grades(row) for row in scores if row.invalid > most * (row.n + row.invalid)]
    if lines:
        reasons = [reason for row in pairs for reason in row.reasons]
        reasons += [reason for row in scores for reason in row.reasons]
        cut = any(reason.startswith((CUT, NO_ANSWER)) for reason in reasons)
        larger = ", with a larger --judge-tokens for those that were cut off" if cut else ""
        ending = f"That is more than --max-invalid {most:g}. {remedy}{larger}"
        raise SalsaError("\n".join([*lines, ending]))


def counted(reasons: Mapping[str, int]) -> str:
    """The reasons with their counts as text; the rarest are summed up."""
    parts = [f"{_times(n)}: {reason}" for reason, n in list(reasons.items())[:_MOST_REASONS]]
    if rest := sum(list(reasons.values())[_MOST_REASONS:]):
        parts.append(f"{_times(rest)}: other reasons")
    return "; ".join(parts)


def _pair(row: PairRow) -> str:
    assert row.worst is not None and row.best is not None
    return (
        f"{row.judge}: {_failed(row.reasons)} of "
        f"{formatting.counted(row.judgements, 'judgement')} of {row.a} against {row.b} "
        f"{formatting.verb(_failed(row.reasons), 'are')} invalid ({counted(row.reasons)}); the "
        "win rate is between "
        f"{row.worst:.1%} and {row.best:.1%}"
    )


def _grades(row: ScoreRow) -> str:
    known = row.score * row.n if row.n else 0.0
    low, high = (
        (known + row.invalid * grade) / (row.n + row.invalid)
        for grade in (_LOWEST_GRADE, _HIGHEST_GRADE)
    )
    return (
        f"{row.judge}: {row.invalid} of "
        f"{formatting.counted(row.n + row.invalid, 'judgement')} of {row.model} "
        f"{formatting.verb(row.invalid, 'are')} invalid ({counted(row.reasons)}); the mean grade "
        f"is between {low:.2f} and {high:.2f}"
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _failed(reasons: Mapping[str, int]) -> int:
    return sum(reasons.values())
