"""`report.html` of an evaluation."""

from collections.abc import Sequence
from pathlib import Path

from salsa_cli import pages
from salsa_cli.config.eval import EvalConfig
from salsa_cli.evaluation.report import (
    arm_blocks,
    best_of_charts,
    cautions,
    disputed,
    frontier_blocks,
    landscape_charts,
    many_models,
    rate_charts,
)
from salsa_cli.evaluation.report.disputed import Prompts
from salsa_cli.evaluation.results.eval_result import EvalResult, estimate
from salsa_cli.evaluation.results.eval_result import judges as judge_names
from salsa_cli.evaluation.results.style_control import Answers
from salsa_cli.evaluation.results.tables import interval, share
from salsa_cli.evaluation.results.win_rates import PairRow
from salsa_cli.evaluation.verdicts.verdict import Verdict, short_name
from salsa_cli.formatting import counted
from salsa_cli.pages.charts import Estimate, IntervalChart
from salsa_cli.pages.scales import Axis
from salsa_cli.records import write_text
from salsa_cli.runs import provenance

FILE = "report.html"


FILES = {
    "results.json": "all figures of this page",
    "judgments.jsonl": "the verdicts",
    "kl.jsonl": "KL to the anchors, by answer",
    "soups.jsonl": "rewards of the soups",
    "best_of.jsonl": "scores for the best of N",
    "answers/*.jsonl": "answers",
    **provenance.RECORD,
}
"""Data files next to the page."""


def write(
    folder: Path,
    config: EvalConfig,
    result: EvalResult,
    verdicts: Sequence[Verdict],
    answers: Answers,
    prompts: Prompts,
) -> None:
    """Write the report into `folder`; `prompts` are the user turns by question."""
    page = provenance.completed(
        build(result, verdicts, answers, prompts, config.baseline), "eval", config, folder, FILES
    )
    write_text(folder / FILE, pages.render(page))


def build(
    result: EvalResult,
    verdicts: Sequence[Verdict],
    answers: Answers,
    prompts: Prompts,
    baseline: str | None = None,
) -> pages.Page:
    """The page, without how it was made.

    `baseline` is the model whose pairs come first where there are many.
    """
    many = many_models.applies(result)
    overview = many_models.overview(result) if many else []
    of_models = [
        *(many_models.rates(result, baseline) if many else [*_rates(result), *_scores(result)]),
        *_parts("By category", result.categories, ""),
        *_parts("By length", result.lengths, _OF_LENGTHS),
        *_controlled(result),
        *_orders(result),
    ]
    if result.of_arms:
        of_models, overview = [pages.Details("Run by run", [*overview, *of_models])], []
    blocks: list[pages.Block] = [
        arm_blocks.figures(result) if result.of_arms else _figures(result),
        *overview,
        *cautions.blocks(result),
        *arm_blocks.blocks(result.arms),
        *frontier_blocks.blocks(result),
        *of_models,
        *_judge_agreement(result),
        *landscape_charts.blocks(result),
        *best_of_charts.blocks(result),
        *disputed.blocks(verdicts, answers, prompts),
    ]
    return pages.Page(f"salsa eval: {Path(result.output).name}", blocks, subtitle=_subtitle(result))


def _subtitle(result: EvalResult) -> str:
    names = [*(row.judge for row in result.pairs), *(row.judge for row in result.scores)]
    judges = dict.fromkeys(map(short_name, names))
    return f"{counted(result.prompts, 'prompt')}, judged by {', '.join(judges) or 'no judge'}"


def _figures(result: EvalResult) -> pages.KeyFigures:
    figures: list[pages.KeyFigure] = []
    if len(result.pairs) == 1:
        (row,) = result.pairs
        figures = [
            pages.KeyFigure(f"{row.a} beats {row.b}", share(row.win_rate), interval(row)),
            pages.KeyFigure("p of the sign test", rate_charts.p_value(row.p_value)),
        ]
    elif result.pairs:
        others = [row for row in result.pairs if not row.of_itself]
        decided = sum(row.decided for row in others)
        figures = [pages.KeyFigure("significant differences", f"{decided} of {len(others)}")]
    elif scored := [row for row in result.scores if row.n]:
        best = max(scored, key=lambda row: row.score)
        between = f"{best.low:.2f} to {best.high:.2f}"
        figures = [pages.KeyFigure(f"best score: {best.model}", f"{best.score:.2f}", between)]
    failed = sum(row.invalid for row in result.pairs)
    failed += sum(row.invalid for row in result.scores)
    figures += [
        pages.KeyFigure("prompts", f"{result.prompts:,}"),
        pages.KeyFigure("without a valid verdict", f"{failed:,}"),
    ]
    return pages.KeyFigures(figures)


def _rates(result: EvalResult) -> list[pages.Block]:
    if not result.pairs:
        return []
    blocks: list[pages.Block] = [pages.Heading("Who wins")]
    blocks += rate_charts.charts("Win rates", result.pairs, rate_charts.NOTE)
    blocks.append(rate_charts.table(result.pairs))
    if result.ratings:
        ratings = [
            (
                row.model,
                short_name(row.judge),
                f"{row.strength:+.2f}",
                share(row.win_rate),
                f"{row.low:.1%} to {row.high:.1%}",
            )
            for row in result.ratings
        ]
        caption = "All pairs together: a Bradley-Terry fit, in each bootstrap draw"
        names = ("model", "judge", "log-odds", "win rate", "95% interval")
        blocks.append(pages.DataTable(names, ratings, names=2, caption=caption))
    return blocks


def _scores(result: EvalResult) -> list[pages.Block]:
    if not result.scores:
        return []
    charts: list[pages.Block] = []
    for judge in dict.fromkeys(row.judge for row in result.scores):
        rows = sorted(
            (r for r in result.scores if r.judge == judge and r.n), key=lambda r: -r.score
        )
        estimates = [Estimate(r.model, r.score, r.low, r.high) for r in rows]
        charts.append(
            IntervalChart(short_name(judge), Axis("mean score"), estimates, note=_OF_SCORES)
        )
    most = max(len(row.turns) for row in result.scores)
    most = most if most > 1 else 0  # a single turn has the score itself
    table = [
        (
            row.model,
            short_name(row.judge),
            f"{row.score:.3f}" if row.n else "none",
            f"{row.low:.3f} to {row.high:.3f}" if row.n else "",
            *(f"{turn:.3f}" for turn in row.turns[:most]),
            *("" for _ in range(most - len(row.turns))),
            str(row.n),
            str(row.invalid),
        )
        for row in result.scores
    ]
    turns = [f"turn {number}" for number in range(1, most + 1)]
    columns = ("model", "judge", "score", "95% interval", *turns, "n", "failed")
    return [
        pages.Heading("Scores"),
        pages.Grid(charts),
        pages.DataTable(columns, table, names=2),
    ]


_OF_SCORES = "95% intervals over the prompts"
_OF_LENGTHS = "prompts by the length of the first model's answer compared with that of the second"


def _parts(title: str, rows: Sequence[PairRow], note: str) -> list[pages.Block]:
    if not rows:
        return []
    table = [
        (
            row.a,
            row.b,
            short_name(row.judge),
            str(row.category),
            share(row.win_rate),
            interval(row),
            str(row.n),
        )
        for row in rows
    ]
    columns = ("a", "b", "judge", "part", "a wins", "95% interval", "n")
    blocks: list[pages.Block] = [pages.Heading(title)]
    if len(rows) <= rate_charts.MOST_IN_CHART:
        blocks += rate_charts.charts("Win rates", rows, note)
    blocks.append(pages.Details("The numbers", [pages.DataTable(columns, table, names=4)]))
    return blocks


def _controlled(result: EvalResult) -> list[pages.Block]:
    rows = [row for one in result.controlled for row in one.rows]
    left_out: list[pages.Block] = [
        pages.Callout("No rate:", one.separated, "note")
        for one in result.controlled
        if one.separated is not None
    ]
    if not rows:
        return [pages.Heading("At equal length and style"), *left_out] if left_out else []
    table = [
        (
            row.model,
            row.baseline,
            short_name(row.judge),
            row.control,
            share(row.win_rate),
            f"{row.low:.1%} to {row.high:.1%}",
        )
        for row in rows
    ]
    columns = ("model", "against", "judge", "at equal", "wins", "95% interval")
    return [
        pages.Heading("At equal length and style"),
        pages.Prose(
            "A joint fit of the strengths of the models and of the judge's preference for length, "
            "headers, lists and bold text."
        ),
        pages.DataTable(columns, table, names=4),
        *left_out,
    ]


def _orders(result: EvalResult) -> list[pages.Block]:
    rows = [
        (
            row.a,
            row.b,
            short_name(row.judge),
            f"{row.consistency:.1%}",
            f"{row.first_position:.1%}",
        )
        for row in result.pairs
        if row.consistency is not None and row.first_position is not None
    ]
    if not rows:
        return []
    columns = ("a", "b", "judge", "same verdict in both orders", "wins of the first answer")
    return [pages.Heading("Both orders"), pages.DataTable(columns, rows, names=3)]


def _judge_agreement(result: EvalResult) -> list[pages.Block]:
    blocks: list[pages.Block] = []
    if result.accuracies:
        rows = [
            (
                short_name(row.judge),
                f"{row.accuracy:.1%}",
                f"{row.low:.1%} to {row.high:.1%}",
                f"{row.alike} of {row.n}",
                str(row.invalid),
            )
            for row in result.accuracies
        ]
        columns = (
            "judge",
            "agrees with the label",
            "95% interval",
            "same in both orders",
            "failed",
        )
        blocks += [pages.Heading("Judges against labels"), pages.DataTable(columns, rows)]
    if result.agreements:
        pairs = [
            (
                judge_names(row),
                str(row.n),
                "" if row.raw is None else f"{row.raw:.1%}",
                estimate(row.kappa, row.kappa_low, row.kappa_high),
                estimate(row.alpha, row.alpha_low, row.alpha_high),
            )
            for row in result.agreements
        ]
        columns = ("judges", "n", "agree on", "Cohen's kappa", "Krippendorff's alpha")
        blocks += [pages.Heading("Judges against one another"), pages.DataTable(columns, pairs)]
    return blocks
