"""`report.html` of a probe: the line between two models, and how far apart they are."""

from pathlib import Path
from typing import Literal

from salsa_cli import pages
from salsa_cli.config.soup import SoupConfig
from salsa_cli.evaluation.probe_result import COLUMNS, LinePoint, ProbeResult, line_rows
from salsa_cli.formatting import counted, figure
from salsa_cli.pages.charts import Line, LineChart
from salsa_cli.pages.scales import Axis
from salsa_cli.records import write_text
from salsa_cli.runs import provenance

FILE = "report.html"
_ALPHA = Axis("alpha", low=0, high=1)


FILES = {"probe.json": "all figures of this page", **provenance.RECORD}
"""Data files next to the page."""


def write(folder: Path, config: SoupConfig, result: ProbeResult) -> None:
    """Write the page of a probe."""
    found = provenance.completed(page(result), "soup", config, folder, FILES)
    write_text(folder / FILE, pages.render(found))


def page(result: ProbeResult) -> pages.Page:
    """The page of a probe, without how it was made."""
    a, b = result.models
    kind: Literal["note", "warning"] = "note" if result.verdict == "good" else "warning"
    verdict, _, reason = result.sentence().partition(": ")
    staircase = result.staircase()
    return pages.Page(
        f"salsa soup --probe: {a} and {b}",
        (
            pages.Callout(f"{verdict.capitalize()}:", reason, kind),
            pages.Callout("The cutoffs.", result.cutoff(), "note"),
            *([pages.Callout("Shortened.", cut)] if (cut := result.shortened()) else []),
            *([pages.Callout("A staircase.", staircase)] if staircase else []),
            pages.KeyFigures(
                (
                    pages.KeyFigure(
                        "barrier, nats per token",
                        figure(result.barrier),
                        f"at alpha {result.barrier_alpha:g}, standard error {result.error_text}",
                    ),
                    pages.KeyFigure(
                        "loss, better model - soup, nats per token",
                        figure(result.gain),
                        "alpha 0.5; above 0: the soup predicts the texts better",
                    ),
                    pages.KeyFigure(
                        "KL(A||soup), nats per token", figure(result.middle.kl_a), "alpha 0.5"
                    ),
                    pages.KeyFigure(
                        "KL(B||soup), nats per token", figure(result.middle.kl_b), "alpha 0.5"
                    ),
                )
            ),
            pages.Grid((_likelihood(result.line), _divergence(result.line))),
            pages.DataTable(
                COLUMNS, line_rows(result.line), caption="Per token and per answer, in nats"
            ),
            _groups(result),
        ),
        subtitle=f"A = {a}, B = {b}; {counted(result.texts, 'text')}, {result.tokens:,} tokens",
    )


def _likelihood(line: tuple[LinePoint, ...]) -> LineChart:
    ends = line[0].nll, line[-1].nll
    return LineChart(
        "Held-out text",
        _ALPHA,
        Axis("negative log-likelihood, nats per token"),
        (
            Line("soup", [one.alpha for one in line], [one.nll for one in line]),
            Line("straight line", [0.0, 1.0], list(ends)),
        ),
        note="A soup above the straight line between the models is a barrier.",
    )


def _divergence(line: tuple[LinePoint, ...]) -> LineChart:
    alphas = [one.alpha for one in line]
    return LineChart(
        "How far the soup is from its ingredients",
        _ALPHA,
        Axis("KL, nats per token"),
        (
            Line("from A", alphas, [one.kl_a for one in line]),
            Line("from B", alphas, [one.kl_b for one in line]),
        ),
    )


def _groups(result: ProbeResult) -> pages.DataTable:
    with_base = any(one.cosine_of_changes is not None for one in result.groups)
    columns = ("weights", "parameters", "cosine", "relative distance")
    rows = [
        (
            one.group,
            f"{one.parameters:,}",
            f"{one.cosine:.6f}",
            figure(one.relative_distance),
            *((f"{one.cosine_of_changes or 0:.4f}",) if with_base else ()),
        )
        for one in result.groups
    ]
    more = ("cosine of changes",) if with_base else ()
    return pages.DataTable((*columns, *more), rows, caption="Distances by group of layers")
