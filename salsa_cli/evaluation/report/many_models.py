"""The page of many models: all of them at a glance, then the baseline, then all pairs folded."""

from collections.abc import Sequence

from salsa_cli import pages
from salsa_cli.evaluation.report import rate_charts
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.results.tables import share
from salsa_cli.evaluation.results.win_rates import PairRow, RatingRow, ScoreRow
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.pages.charts import Estimate, IntervalChart
from salsa_cli.pages.scales import Axis

MANY = 7
"""From so many models on, pairs are no longer what a reader looks at first."""

MOST_IN_CHART = 40
_MOST_OPEN = 40


def applies(result: EvalResult) -> bool:
    """Whether so many models are compared that the page begins with all of them."""
    return len(_models(result)) >= MANY


def overview(result: EvalResult) -> list[pages.Block]:
    """Mean scores and ratings of all models: a chart for each judge, and one table."""
    charts: list[pages.Block] = []
    for judge in dict.fromkeys(row.judge for row in result.scores):
        scored = [row for row in result.scores if row.judge == judge and row.n]
        charts += [_score_chart(judge, scored)] if scored else []
    scoring = {row.judge for row in result.scores}
    for judge in dict.fromkeys(row.judge for row in result.ratings if row.judge not in scoring):
        charts.append(_rating_chart(judge, [r for r in result.ratings if r.judge == judge]))
    if not charts:
        return []
    table = _table(result)
    shown = table if len(table.rows) <= _MOST_OPEN else pages.Details("The numbers", [table])
    return [pages.Heading(f"All {len(_models(result))} models"), pages.Grid(charts), shown]


def rates(result: EvalResult, baseline: str | None) -> list[pages.Block]:
    """The pairs with the baseline in a chart and a table, and all others folded."""
    shared = {row.b for row in result.pairs}
    rival = next(iter(shared)) if len(shared) == 1 else baseline
    against = [row for row in result.pairs if row.b == rival]
    others = [row for row in result.pairs if row.b != rival]
    found: list[pages.Block] = []
    if against:
        found.append(pages.Heading(f"Win rates vs. {rival}"))
        charts = rate_charts.charts("Win rates", against, rate_charts.NOTE)
        found.append(pages.Grid(charts))
        found.append(_folded("The numbers", against))
    if others:
        count = f"{len(others):,} other pairs" if against else f"All {len(others):,} pairs"
        found += [] if against else [pages.Heading("Who wins")]
        found.append(pages.Details(count, [rate_charts.table(others)]))
    return found


def _folded(summary: str, rows: Sequence[PairRow]) -> pages.Block:
    table = rate_charts.table(rows)
    return table if len(rows) <= _MOST_OPEN else pages.Details(summary, [table])


def _models(result: EvalResult) -> list[str]:
    names = [name for row in result.pairs for name in (row.a, row.b)]
    return list(dict.fromkeys([*names, *(row.model for row in result.scores)]))


def _score_chart(judge: str, rows: Sequence[ScoreRow]) -> IntervalChart:
    best = sorted(rows, key=lambda row: -row.score)
    estimates = [Estimate(r.model, r.score, r.low, r.high) for r in best[:MOST_IN_CHART]]
    note = _note(len(rows))
    return IntervalChart(f"Mean score by {short_name(judge)}", Axis("score"), estimates, note=note)


def _rating_chart(judge: str, rows: Sequence[RatingRow]) -> IntervalChart:
    best = sorted(rows, key=lambda row: -row.win_rate)
    estimates = [Estimate(r.model, r.win_rate, r.low, r.high) for r in best[:MOST_IN_CHART]]
    return IntervalChart(
        f"Bradley-Terry rating by {short_name(judge)}",
        Axis("win rate", unit="percent", low=0.0, high=1.0),
        estimates,
        reference=0.5,
        note=_note(len(rows)),
    )


def _note(rows: int) -> str:
    left_out = f"the best {MOST_IN_CHART} of {rows}; " if rows > MOST_IN_CHART else ""
    return f"{left_out}95% intervals by bootstrap over the prompts"


def _table(result: EvalResult) -> pages.DataTable:
    """A row for each model and judge, the best first."""
    scores = {(row.judge, row.model): row for row in result.scores}
    ratings = {(row.judge, row.model): row for row in result.ratings}
    judges = list(dict.fromkeys(judge for judge, _ in (*scores, *ratings)))
    found: list[tuple[str, ...]] = []
    for judge in judges:
        models = [model for model in _models(result) if {(judge, model)} & {*scores, *ratings}]
        models.sort(
            key=lambda model: -_rank(scores.get((judge, model)), ratings.get((judge, model)))
        )
        found += [
            (
                model,
                short_name(judge),
                *_score_cells(scores.get((judge, model))),
                *_rating_cells(ratings.get((judge, model))),
            )
            for model in models
        ]
    columns = ("model", "judge", "mean score", "95% interval", "rating", "95% interval", "n")
    order = [0, 1, 2, 3, 5, 6, 4]  # n comes last
    rows = [tuple(row[place] for place in order) for row in found]
    return pages.DataTable(columns, rows, names=2)


def _rank(score: ScoreRow | None, rating: RatingRow | None) -> float:
    if score is not None and score.n:
        return score.score
    return rating.win_rate if rating is not None else float("-inf")


def _score_cells(row: ScoreRow | None) -> tuple[str, str, str]:
    if row is None:
        return "", "", ""
    if not row.n:
        return "none", "", "0"
    return f"{row.score:.3f}", f"{row.low:.3f} to {row.high:.3f}", str(row.n)


def _rating_cells(row: RatingRow | None) -> tuple[str, str]:
    return ("", "") if row is None else (share(row.win_rate), f"{row.low:.1%} to {row.high:.1%}")
