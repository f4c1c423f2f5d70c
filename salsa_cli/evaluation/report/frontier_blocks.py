"""The frontier on the page: score against KL, a curve an arm, and who is ahead where."""

from salsa_cli import pages
from salsa_cli.evaluation.report import arm_blocks
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.results.frontier import Frontier
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.pages.charts import Line, LineChart, Rule
from salsa_cli.pages.scales import Axis


def blocks(result: EvalResult) -> list[pages.Block]:
    """A chart for each judge and anchor, sentences, and the differences as a table."""
    found = result.frontier
    if not found.curves:
        return []
    keys = dict.fromkeys((curve.judge, curve.anchor) for curve in found.curves)
    table = [
        (
            row.pair.a,
            row.pair.b,
            short_name(row.pair.judge),
            row.pair.measure,
            *row.pair.amounts(),
            row.pair.runs,
            f"{row.pair.p_holm:.3f}" if row.pair.p_holm >= 0.001 else "< 0.001",
        )
        for row in found.rows
    ]
    columns = ("a", "b", "judge", "measure", "a - b", "95% interval", "runs", "p (Holm)")
    return [
        pages.Heading("Score against KL"),
        pages.Prose(
            "Each curve is the mean over the runs of an arm, linear between their snapshots; the "
            "band goes from the lowest run to the highest. KL is exact over the vocabulary, at "
            "temperature 1, summed over an answer. Dashed lines are where the arms are compared at "
            "equal KL."
        ),
        pages.Grid([_chart(result, judge, anchor) for judge, anchor in keys]),
        *arm_blocks.told(found.sentences),
        *(
            arm_blocks.folded(
                f"All {len(table)} comparisons at equal KL and at equal score",
                pages.DataTable(columns, table, names=4),
            )
            if table
            else []
        ),
        pages.Details("All points", [_points(found)]),
    ]


def _chart(result: EvalResult, judge: str, anchor: str) -> LineChart:
    lines = [
        Line(curve.arm, curve.kl, curve.score, curve.low, curve.high)
        for curve in result.frontier.curves
        if (curve.judge, curve.anchor) == (judge, anchor) and curve.kl
    ]
    # Best of n of the anchor itself: its bound is a KL to the anchor.
    for model in dict.fromkeys(row.model for row in result.best_of):
        rows = [row for row in result.best_of if row.model == model and row.judge == judge]
        if model == anchor and rows:
            scores = [row.score for row in rows]
            lines.append(Line(f"best of n of {model}", [row.kl for row in rows], scores))
    levels = dict.fromkeys(
        row.level
        for row in result.frontier.rows
        if row.at == "KL" and (row.pair.judge, row.anchor) == (judge, anchor)
    )
    rules = [Rule("x", level) for level in levels]
    title = f"Score by {short_name(judge)}"
    axis = Axis(f"KL to {anchor}, nats per answer")
    return LineChart(title, axis, Axis("mean score"), lines, rules)


def _points(found: Frontier) -> pages.DataTable:
    rows = [
        (
            point.model,
            short_name(point.judge),
            point.anchor,
            f"{point.kl:.3f}",
            f"{point.score:.3f}",
        )
        for point in found.points
    ]
    return pages.DataTable(("model", "judge", "anchor", "KL, nats", "mean score"), rows, names=3)
