"""Charts of reward against KL, and of the rewards of soups."""

from pathlib import Path

from salsa_cli import pages
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.pages.charts import Line, LineChart, Points, ScatterChart
from salsa_cli.pages.scales import Axis


def blocks(result: EvalResult) -> list[pages.Block]:
    """The KL-reward plane for each anchor and judge, the line, and the triangle as a table."""
    charts: list[pages.Block] = []
    judges = list(dict.fromkeys(row.judge for row in result.scores))
    for anchor in dict.fromkeys(row.anchor for row in result.kl):
        distances = {row.model: row.kl for row in result.kl if row.anchor == anchor}
        for judge in judges:
            scored = [r for r in result.scores if r.judge == judge and r.model in distances]
            points = Points(
                short_name(judge),
                [distances[row.model] for row in scored],
                [row.score for row in scored],
                [row.model for row in scored],
            )
            title = f"Score by {short_name(judge)} and distance from {anchor}"
            charts.append(
                ScatterChart(title, Axis(f"KL to {anchor}, nats"), Axis("mean score"), [points])
            )
    for judge in dict.fromkeys(row.judge for row in result.line):
        rows = [row for row in result.line if row.judge == judge]
        line = Line(
            short_name(judge),
            [row.weights[1] for row in rows],
            [row.score for row in rows],
            [row.low for row in rows],
            [row.high for row in rows],
        )
        title = f"Soups on the line, by {short_name(judge)}"
        names = [Path(name).name for name in rows[0].models]
        axis = Axis(f"share of {names[1]} (0 is {names[0]})")
        charts.append(LineChart(title, axis, Axis("mean score"), [line]))
    found: list[pages.Block] = []
    if charts:
        found = [pages.Heading("Where the models are"), pages.Grid(charts)]
    if result.plane:
        names = [Path(name).name for name in result.plane[0].models]
        table = [
            (
                *(f"{weight:.2f}" for weight in row.weights),
                short_name(row.judge),
                f"{row.score:.3f}",
                f"{row.low:.3f} to {row.high:.3f}",
            )
            for row in sorted(result.plane, key=lambda row: -row.score)
        ]
        caption = "Soups of three, the best first"
        columns = (*names, "judge", "mean score", "95 % interval")
        found.append(pages.DataTable(columns, table, names=0, caption=caption))
    return found
