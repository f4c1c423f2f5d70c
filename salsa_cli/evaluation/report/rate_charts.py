"""Win rates on the page: charts with intervals, and the table of all figures."""

from collections.abc import Sequence

from salsa_cli import pages
from salsa_cli.evaluation.results.tables import interval, ranked, share
from salsa_cli.evaluation.results.win_rates import PairRow
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.pages.charts import Estimate, IntervalChart
from salsa_cli.pages.scales import Axis

NOTE = (
    "95% intervals by bootstrap over the prompts; an interval that contains 50% is not significant"
)

MOST_IN_CHART = 40


def charts(title: str, rows: Sequence[PairRow], note: str) -> list[pages.Block]:
    """Win rates with intervals, the best first; one chart per judge if there are many."""
    shown = [row for row in rows if row.n]
    judges = list(dict.fromkeys(row.judge for row in shown))
    groups = (
        [shown]
        if len(shown) <= MOST_IN_CHART
        else [[row for row in shown if row.judge == judge] for judge in judges]
    )
    one_rival = len({row.b for row in shown}) == 1
    ranking = one_rival and not any(row.category for row in shown)
    found: list[pages.Block] = []
    for group in groups:
        ordered = sorted(group, key=lambda row: -row.win_rate) if ranking else group
        estimates = [
            Estimate(_label(row, one_rival), row.win_rate, row.low, row.high, short_name(row.judge))
            for row in ordered[:MOST_IN_CHART]
        ]
        label = f"win rate vs. {group[0].b}" if one_rival else "win rate of the first"
        axis = Axis(label, unit="percent", low=0.0, high=1.0)
        left_out = (
            f"the {'best' if ranking else 'first'} {MOST_IN_CHART} of {len(ordered)}; "
            if len(ordered) > MOST_IN_CHART
            else ""
        )
        found.append(IntervalChart(title, axis, estimates, reference=0.5, note=f"{left_out}{note}"))
    return found


def table(rows: Sequence[PairRow]) -> pages.DataTable:
    """All figures of some pairs."""
    cells = [
        (
            row.a,
            row.b,
            short_name(row.judge),
            share(row.win_rate),
            interval(row),
            f"{row.wins} / {row.ties} / {row.losses}",
            str(row.invalid),
            p_value(row.p_value),
            p_value(row.p_holm),
        )
        for row in ranked(rows)
    ]
    columns = ("a", "b", "judge", "a wins", "95% interval", "w / t / l")
    return pages.DataTable((*columns, "failed", "p", "p (Holm)"), cells, names=3)


def p_value(value: float) -> str:
    """A p-value as text."""
    return f"{value:.4f}" if value >= 1e-4 else "< 0.0001"


def _label(row: PairRow, one_rival: bool) -> str:
    name = row.a if one_rival else f"{row.a} / {row.b}"
    return f"{name} ({row.category})" if row.category else name
