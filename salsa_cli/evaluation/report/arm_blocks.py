"""Arms on the page: scores with intervals over runs and prompts, and their differences."""

from collections.abc import Sequence

from salsa_cli import pages
from salsa_cli.evaluation.results import arm_tables
from salsa_cli.evaluation.results.arm_results import WIN_RATE, ArmPairRow, ArmResults
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.pages.charts import Estimate, IntervalChart
from salsa_cli.pages.scales import Axis

_MOST, _MOST_ROWS = 6, 12
_NOTE = "95% intervals over runs and prompts"


def blocks(arms: ArmResults) -> list[pages.Block]:
    """Sentences, charts and tables; nothing where single models are compared."""
    if not arms.rows and not arms.pairs:
        return []
    charts: list[pages.Block] = []
    for judge in dict.fromkeys(row.judge for row in arms.rows):
        rows = [row for row in arms.rows if row.judge == judge]
        estimates = [Estimate(r.arm, r.score, r.low, r.high) for r in rows]
        title = f"Scores by {short_name(judge)}"
        charts.append(IntervalChart(title, Axis("mean score"), estimates, note=_NOTE))
    rates: list[pages.Block] = []
    for judge in dict.fromkeys(row.judge for row in arms.pairs if row.measure == WIN_RATE):
        rates.append(_rates([r for r in arms.pairs if (r.judge, r.measure) == (judge, WIN_RATE)]))
    found: list[pages.Block] = [pages.Heading("Arms"), *told(arms.sentences)]
    if arms.remarks:
        found.append(pages.Prose("\n\n".join(arms.remarks)))
    found += [pages.Grid(some) for some in (charts, rates) if some]
    if arms.rows:
        cells = [arm_tables.arm_cells(row) for row in arms.rows]
        found.append(pages.DataTable(arm_tables.ARM_COLUMNS, cells, names=2))
    if arms.pairs:
        cells = [arm_tables.pair_cells(row) for row in arms.pairs]
        table = pages.DataTable(arm_tables.PAIR_COLUMNS, cells, names=4)
        found += folded(f"All {len(cells)} differences", table)
    found.append(pages.Details("Two-level bootstrap", [_bootstraps(arms)]))
    return found


def told(sentences: Sequence[str]) -> list[pages.Block]:
    """Sentences as paragraphs; the rest of many behind a fold."""
    found: list[pages.Block] = []
    if shown := sentences[:_MOST]:
        found.append(pages.Prose("\n\n".join(shown)))
    if rest := sentences[_MOST:]:
        found.append(pages.Details(f"{len(rest)} more", [pages.Prose("\n\n".join(rest))]))
    return found


def folded(summary: str, table: pages.DataTable) -> list[pages.Block]:
    """A table, behind a fold if it is long."""
    return [table] if len(table.rows) <= _MOST_ROWS else [pages.Details(summary, [table])]


def figures(result: EvalResult) -> pages.KeyFigures:
    """The first two differences between arms, or the arms' scores, and the number of prompts."""
    rows = [
        pages.KeyFigure(
            f"{row.measure} by {short_name(row.judge)}: {row.a} and {row.b}", *row.amounts()
        )
        for row in result.arms.pairs[:2]
    ] or [
        pages.KeyFigure(
            f"score of {row.arm} by {short_name(row.judge)}", *arm_tables.arm_cells(row)[2:4]
        )
        for row in result.arms.rows[:2]
    ]
    return pages.KeyFigures([*rows, pages.KeyFigure("prompts", f"{result.prompts:,}")])


def _rates(rows: list[ArmPairRow]) -> IntervalChart:
    estimates = [
        Estimate(f"{row.a} / {row.b}", 0.5 + row.difference, 0.5 + row.low, 0.5 + row.high)
        for row in rows
    ]
    axis = Axis("win rate of the first", unit="percent", low=0.0, high=1.0)
    title = f"Win rates by {short_name(rows[0].judge)}"
    return IntervalChart(title, axis, estimates, reference=0.5, note=_NOTE)


def _bootstraps(arms: ArmResults) -> pages.DataTable:
    """The t-intervals next to the bootstrap's, which are too narrow with few runs."""
    rows = [
        (
            row.a,
            row.b,
            short_name(row.judge),
            row.measure,
            f"{row.low:+.3f} to {row.high:+.3f}",
            "one run a side"
            if row.bootstrap_low is None or row.bootstrap_high is None
            else f"{row.bootstrap_low:+.3f} to {row.bootstrap_high:+.3f}",
        )
        for row in arms.pairs
    ]
    return pages.DataTable(
        ("a", "b", "judge", "measure", "t-interval", "bootstrap over runs, then prompts"),
        rows,
        names=4,
        caption="Differences. The bootstrap is too narrow with fewer than about eight runs",
    )
