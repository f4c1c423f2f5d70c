"""The best of n of a model, in the report: a curve for each judge, and who gains on it."""

from salsa_cli import pages
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.pages.charts import Line, LineChart, Rule
from salsa_cli.pages.scales import Axis


def blocks(result: EvalResult) -> list[pages.Block]:
    """Nothing without `--best-of`."""
    if not result.best_of:
        return []
    judges = list(dict.fromkeys(row.judge for row in result.best_of))
    found: list[pages.Block] = [
        pages.Heading("Best of n"),
        pages.Prose(
            f"The best of n answers by {short_name(result.best_of[0].chosen_by)}, estimated from "
            f"{result.best_of[0].samples} answers per prompt. Its KL to the model itself is at "
            "most log n - (n - 1) / n nats per answer."
        ),
        pages.Grid([_chart(result, judge) for judge in judges]),
    ]
    if result.against_best_of:
        rows = [
            (
                gap.model,
                f"best of {gap.n} of {gap.sampled}",
                short_name(gap.judge),
                f"{gap.difference:+.3f}",
                f"{gap.low:+.3f} to {gap.high:+.3f}",
            )
            for gap in result.against_best_of
        ]
        columns = ("model", "compared with", "judge", "difference", "95% interval")
        found.append(pages.DataTable(columns, rows, names=3))
    return found


def _chart(result: EvalResult, judge: str) -> LineChart:
    rows = [row for row in result.best_of if row.judge == judge]
    sampled = list(dict.fromkeys(row.model for row in rows))
    lines = []
    for model in sampled:
        own = [row for row in rows if row.model == model]
        lines.append(
            Line(
                f"best of n of {model}",
                [row.n for row in own],
                [row.score for row in own],
                [row.low for row in own],
                [row.high for row in own],
            )
        )
    rules = [
        Rule("y", score.score, score.model)
        for score in result.scores
        if score.judge == judge and score.model not in sampled
    ][:_MOST_RULES]
    title = f"By {short_name(judge)}"
    axis = Axis("n", kind="log", unit="count")
    return LineChart(title, axis, Axis("mean score"), lines, rules, note=_BANDS)


_BANDS = "Bands are 95% intervals over the prompts."


_MOST_RULES = 4
