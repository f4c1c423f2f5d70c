"""The figures of an evaluation as tables of text, for the terminal and for Markdown."""

from collections.abc import Iterator, Sequence

from salsa_cli.evaluation.results.style_control import Controlled
from salsa_cli.evaluation.results.win_rates import PairRow, RatingRow, ScoreRow
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.formatting import figure
from salsa_cli.runs.events import Table


def pairs(rows: Sequence[PairRow]) -> Table:
    """Win rates, the best first if all models are compared with one."""
    return Table(
        ("a", "b", "judge", "a wins", "95% interval", "wins", "ties", "losses"),
        [
            (
                row.a,
                row.b,
                short_name(row.judge),
                share(row.win_rate),
                interval(row),
                str(row.wins),
                str(row.ties),
                str(row.losses),
            )
            for row in ranked(rows)
        ],
        names=3,
    )


def scores(rows: Sequence[ScoreRow]) -> Table:
    """Mean scores."""
    return Table(
        ("model", "judge", "score", "95% interval", "n"),
        [
            (
                row.model,
                short_name(row.judge),
                figure(row.score) if row.n else "none",
                f"{figure(row.low)} to {figure(row.high)}" if row.n else "",
                str(row.n),
            )
            for row in rows
        ],
        names=2,
    )


def titled(
    paired: Sequence[PairRow],
    rated: Sequence[RatingRow],
    scored: Sequence[ScoreRow],
    controlled: Sequence[Controlled],
) -> Iterator[tuple[str, Table]]:
    """Every table that there is, under its title; of many models, ratings and scores first."""
    if scored:
        judges = list(dict.fromkeys(row.judge for row in scored))
        best_first = sorted(scored, key=lambda row: (judges.index(row.judge), -row.score))
        yield "Mean scores", scores(best_first)
    if rated:
        yield "Bradley-Terry ratings", _ratings(rated)
    if paired:
        yield "Win rates", pairs(paired)
    if rows := [row for one in controlled for row in one.rows]:
        yield (
            "Win rates at equal style",
            Table(
                ("model", "against", "judge", "at equal", "wins", "95% interval"),
                [
                    (
                        row.model,
                        row.baseline,
                        short_name(row.judge),
                        row.control,
                        share(row.win_rate),
                        f"{row.low:.1%} to {row.high:.1%}",
                    )
                    for row in rows
                ],
                names=4,
            ),
        )


def ranked(rows: Sequence[PairRow]) -> list[PairRow]:
    """Best first if all are compared with one model, else in the given order."""
    if len({row.b for row in rows}) > 1:
        return list(rows)
    judges = list(dict.fromkeys(row.judge for row in rows))
    return sorted(rows, key=lambda row: (judges.index(row.judge), -row.win_rate))


def share(value: float) -> str:
    """A rate as text; "none" where nothing was counted."""
    return f"{value:.1%}" if value == value else "none"


def interval(row: PairRow) -> str:
    """The interval of a rate as text; nothing where nothing was counted."""
    return f"{row.low:.1%} to {row.high:.1%}" if row.n else ""


def _ratings(rows: Sequence[RatingRow]) -> Table:
    return Table(
        ("model", "judge", "log-odds", "win rate", "95% interval"),
        [
            (
                row.model,
                short_name(row.judge),
                f"{row.strength:+.2f}",
                share(row.win_rate),
                f"{row.low:.1%} to {row.high:.1%}",
            )
            for row in rows
        ],
        names=2,
    )
