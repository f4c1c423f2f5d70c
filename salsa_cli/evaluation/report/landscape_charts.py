"""Charts of reward against KL, and of the rewards of soups."""

from collections.abc import Sequence
from pathlib import Path

from salsa_cli import pages
from salsa_cli.evaluation.results.eval_result import EvalResult, SoupRow
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.pages.charts import Line, LineChart, Points, ScatterChart, TriangleChart
from salsa_cli.pages.scales import Axis

_GAINS = ("over the mean of the models", "over the best of them")
_CAPTION = (
    "The intervals over the best model hold for all soups of a judge at once, so they may be used "
    "to choose the best soup."
)


def blocks(result: EvalResult) -> list[pages.Block]:
    """The KL-reward plane for each anchor and judge, the line, the triangle."""
    charts: list[pages.Block] = []
    judges = list(dict.fromkeys(row.judge for row in result.scores))
    anchors = dict.fromkeys(row.anchor for row in result.kl)
    for anchor in () if result.frontier.curves else anchors:  # the frontier shows them better
        measured = [row for row in result.kl if row.anchor == anchor]
        distances = {row.model: row.kl for row in measured}
        label = f"KL to {anchor}, nats, {measured[0].at}"
        for judge in judges:
            scored = [r for r in result.scores if r.judge == judge and r.model in distances]
            points = Points(
                short_name(judge),
                [distances[row.model] for row in scored],
                [row.score for row in scored],
                [row.model for row in scored],
            )
            title = f"Score by {short_name(judge)} and distance from {anchor}"
            charts.append(ScatterChart(title, Axis(label), Axis("mean score"), [points]))
    for judge in dict.fromkeys(row.judge for row in result.line):
        on_line = [row for row in result.line if row.judge == judge]
        line = Line(
            short_name(judge),
            [row.weights[1] for row in on_line],
            [row.score for row in on_line],
            [row.low for row in on_line],
            [row.high for row in on_line],
        )
        title = f"Soups on the line, by {short_name(judge)}"
        names = [Path(name).name for name in on_line[0].models]
        axis = Axis(f"share of {names[1]} (0 is {names[0]})")
        note = "The band is the 95% interval of the mean over the prompts."
        charts.append(LineChart(title, axis, Axis("mean score"), [line], note=note))
    charts += [
        _triangle(judge, [row for row in result.plane if row.judge == judge])
        for judge in dict.fromkeys(row.judge for row in result.plane)
    ]
    found: list[pages.Block] = []
    if charts:
        found = [pages.Heading("Where the models are"), pages.Grid(charts)]
    for name, soups in (("Soups on the line", result.line), ("Soups of three", result.plane)):
        if soups:
            found.append(pages.Details(f"{name}, the best first", [_table(soups)]))
    return found


def _triangle(judge: str, rows: Sequence[SoupRow]) -> TriangleChart:
    first, second, third = (Path(name).name for name in rows[0].models)
    return TriangleChart(
        f"Soups of three, by {short_name(judge)}",
        (first, second, third),
        [row.weights for row in rows],
        [row.score for row in rows],
        "mean score",
        note="Each corner is a model alone; interpolated between the soups that were scored.",
    )


def _table(rows: Sequence[SoupRow]) -> pages.DataTable:
    names = [Path(name).name for name in rows[0].models]
    judges = list(dict.fromkeys(row.judge for row in rows))
    table = [
        (
            short_name(row.judge),
            *(f"{weight:.2f}" for weight in row.weights),
            f"{row.score:.3f}",
            f"{row.low:.3f} to {row.high:.3f}",
            _gain(row.gain, row.gain_low, row.gain_high) if 1.0 not in row.weights else "",
            _gain(row.over_best, row.over_best_low, row.over_best_high),
        )
        for row in sorted(rows, key=lambda row: (judges.index(row.judge), -row.score))
    ]
    columns = ("judge", *names, "mean score", "95% interval", *_GAINS)
    return pages.DataTable(columns, table, caption=_CAPTION)


def _gain(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return ""
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
