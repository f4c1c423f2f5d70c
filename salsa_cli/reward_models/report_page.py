"""`report.html` of a reward model: of its training, or of its evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salsa_cli import pages
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.formatting import figure
from salsa_cli.maths import statistics
from salsa_cli.maths.calibration import ReliabilityBin
from salsa_cli.pages.charts import (
    Bin,
    Estimate,
    Histogram,
    IntervalChart,
    Line,
    LineChart,
    ReliabilityChart,
    Sample,
)
from salsa_cli.pages.scales import Axis
from salsa_cli.records import write_text
from salsa_cli.reward_models.assessment import Assessment, Group
from salsa_cli.reward_models.held_out import HeldOutAssessment
from salsa_cli.reward_models.pair_data import SourcePairs
from salsa_cli.reward_models.results import proves_nothing
from salsa_cli.reward_models.rewards import RewardScale
from salsa_cli.reward_models.worst_pairs import ScoreReport, WorstPair
from salsa_cli.runs import provenance

FILE = "report.html"

FILES = {
    "evaluation.json": "accuracy, calibration and length bias on the held-out pairs",
    "eval_scores.jsonl": "scores of the held-out pairs",
    "*/eval_scores.jsonl": "scores of the held-out pairs by one member",
    "metrics.jsonl": "one row per optimiser step",
    **provenance.RECORD,
}
"""Data files next to the page."""

_POINTS = 80
"""Maximum points of a curve; each is the mean of several steps."""

BIASED = 0.5
"""Correlation of score and length above which the report warns."""

FEW = 16
"""Below this number of pairs the 95% interval of a correlation of one half contains 0."""


@dataclass(frozen=True)
class TrainingReport:
    """The content of the report of a training run; `pairs` is the number of training pairs."""

    config: TrainRMConfig
    pairs: int
    sources: Sequence[SourcePairs]
    warnings: Sequence[str]
    found: HeldOutAssessment
    scores: ScoreReport
    metrics: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class EvaluationReport:
    """The content of the report of an evaluation, with the scales that were measured."""

    config: TrainRMConfig
    source: SourcePairs
    found: HeldOutAssessment
    scores: ScoreReport
    scales: Sequence[RewardScale]


def write(folder: Path, report: TrainingReport | EvaluationReport) -> None:
    """Write the page; it links to the data files that are in the folder."""
    found = training_page(report) if isinstance(report, TrainingReport) else evaluation_page(report)
    page = provenance.completed(found, "train-rm", report.config, folder, FILES)
    write_text(folder / FILE, pages.render(page))


def training_page(trained: TrainingReport) -> pages.Page:
    """The page of a training, without how it was made."""
    found = trained.found
    pairs = pages.KeyFigure("training pairs", f"{trained.pairs:,}")
    blocks: list[pages.Block] = [_key_figures(found, [pairs]), *_callouts(found.together)]
    blocks += [pages.Heading("Training"), pages.Grid(_curves(trained))]
    blocks += [pages.Heading("Held-out pairs"), pages.Grid(_charts(found, trained.scores))]
    blocks += [*_sections(found.together), *_worst(trained.scores.worst)]
    blocks += _data(trained.sources, trained.warnings)
    return _page(trained.config, "a reward model of", found, blocks)


def evaluation_page(evaluated: EvaluationReport) -> pages.Page:
    """The page of an evaluation, without how it was made."""
    found, scales = evaluated.found, evaluated.scales
    raw = [
        pages.KeyFigure(
            "mean raw score" + (f" of member {number}" if len(scales) > 1 else ""),
            figure(scale.mean),
            f"standard deviation {figure(scale.std)}",
        )
        for number, scale in enumerate(scales)
    ]
    blocks: list[pages.Block] = [_key_figures(found, raw), *_callouts(found.together)]
    blocks += [pages.Heading("Held-out pairs"), pages.Grid(_charts(found, evaluated.scores))]
    source = evaluated.source
    blocks += [*_sections(found.together), *_worst(evaluated.scores.worst)]
    blocks += _data([source], source.warnings)
    return _page(evaluated.config, "an evaluation of", found, blocks)


def _page(
    config: TrainRMConfig, what: str, found: HeldOutAssessment, blocks: list[pages.Block]
) -> pages.Page:
    many = f", an ensemble of {len(found.members)}" if len(found.members) > 1 else ""
    title = f"salsa train-rm: {config.output.name}"
    return pages.Page(title, blocks, f"{what[0].upper()}{what[1:]} {config.model}{many}")


def _key_figures(given: HeldOutAssessment, more: Sequence[pages.KeyFigure]) -> pages.KeyFigures:
    found, whole = given.together, given.together.accuracy
    interval = f"{whole.low:.1%} to {whole.high:.1%} (95%)"
    lead = "chosen - rejected"
    if len(given.members) > 1:  # their raw scores have different scales
        lead += ", each member's divided by its standard deviation"
    figures = [
        pages.KeyFigure("held-out accuracy", f"{whole.accuracy:.1%}", interval),
        pages.KeyFigure("held-out pairs", f"{whole.n:,}", f"{whole.ties} ties, counted as half"),
        pages.KeyFigure("calibration error", f"{found.calibration_error:.1%}", "0 is best"),
        pages.KeyFigure("mean score difference", figure(found.margin), lead),
        *more,
    ]
    if found.disagreement is not None:
        alike = found.disagreement.unanimous
        figures.append(pages.KeyFigure("members agree", f"{alike:.1%}", "of the pairs"))
    return pages.KeyFigures(figures)


def _callouts(found: Assessment) -> list[pages.Block]:
    blocks: list[pages.Block] = []
    whole = found.accuracy
    if whole.low <= 0.5 <= whole.high:
        blocks.append(pages.Callout("Not significant.", f"{proves_nothing(whole.n)}."))
    bias = found.length.correlation
    if bias is not None and bias > BIASED and whole.n >= FEW:
        text = (
            f"The difference in score and the difference in length correlate by {bias:.2f}. PPO "
            "may exploit this; check the accuracy where the longer answer is the worse one."
        )
        blocks.append(pages.Callout("Length bias.", text))
    return blocks


def _curves(trained: TrainingReport) -> list[pages.Block]:
    rows: dict[int, list[Mapping[str, Any]]] = {}
    for row in trained.metrics:
        rows.setdefault(row.get("member", 0), []).append(row)
    titles = (
        ("loss", "Loss", "mean loss of a pair"),
        ("accuracy", "Training accuracy", "share ordered correctly"),
        ("margin", "Score difference, chosen - rejected", "score difference"),
    )
    return [
        LineChart(
            title,
            Axis("step", unit="count"),
            Axis(label, unit="percent" if name == "accuracy" else "number"),
            [
                Line(f"member {member}" if len(rows) > 1 else "", *_thinned(given, name))
                for member, given in rows.items()
            ],
        )
        for name, title, label in titles
    ]


def _thinned(
    rows: Sequence[Mapping[str, Any]], name: str
) -> tuple[list[float], list[float | None]]:
    """Steps and values, averaged over neighbours to at most `_POINTS` points."""
    width = -(-len(rows) // _POINTS)
    parts = [rows[first : first + width] for first in range(0, len(rows), width)]
    steps = [float(part[-1]["step"]) for part in parts]
    return steps, [sum(row[name] for row in part) / len(part) for part in parts]


def _charts(given: HeldOutAssessment, scores: ScoreReport) -> list[pages.Block]:
    found = given.together
    scale = "score" if len(given.members) == 1 else "normalised score, mean of the members"
    sides = [Sample("chosen", scores.chosen), Sample("rejected", scores.rejected)]
    charts: list[pages.Block] = [
        Histogram("Scores of chosen and rejected answers", Axis(scale), sides),
        ReliabilityChart(
            "Calibration",
            [_bin(one) for one in found.reliability],
            x_label="probability that the preferred answer is better",
            y_label="observed share",
            note=f"Expected calibration error {found.calibration_error:.1%}. {_BINS}",
        ),
    ]
    if len(given.members) > 1:
        groups = [found.accuracy, *(member.accuracy for member in given.members)]
        names = ["mean of all", *(f"member {n}" for n in range(len(given.members)))]
        charts.append(_accuracies("Accuracy of the members", groups, names))
    lengths = [g for g in (found.length.longer_better, found.length.longer_worse) if g is not None]
    if lengths:
        charts.append(_accuracies("Accuracy by length", lengths, [one.name for one in lengths]))
    if found.categories:
        names = [one.name for one in found.categories]
        charts.append(_accuracies("Accuracy by category", found.categories, names))
    return charts


_BINS = (
    "Points show how often the preferred answer is the chosen one, with 95% intervals; bars show "
    "the share of the pairs."
)


def _accuracies(title: str, groups: Sequence[Group], names: Sequence[str]) -> IntervalChart:
    rows = [
        Estimate(f"{name} ({one.n})", one.accuracy, one.low, one.high)
        for name, one in zip(names, groups, strict=True)
    ]
    return IntervalChart(title, Axis("accuracy", unit="percent"), rows, reference=0.5)


def _bin(part: ReliabilityBin) -> Bin:
    interval = statistics.wilson_interval(part.accuracy * part.n, part.n)
    return Bin(part.confidence, part.accuracy, interval.low, interval.high, part.n)


def _sections(found: Assessment) -> list[pages.Block]:
    if not found.sections:
        return []
    rows = [(one.name, str(one.n), f"{one.score:.1%}") for one in found.sections]
    caption = "RewardBench scores"
    return [pages.DataTable(("section", "pairs", "score"), rows, caption=caption)]


def _worst(worst: Sequence[WorstPair]) -> list[pages.Block]:
    """The pairs that are ranked most wrongly; long texts scroll."""
    if not worst:
        return []
    return [
        pages.Heading("Worst pairs"),
        pages.Prose(
            "The held-out pairs whose rejected answer leads by most. Read them: some are labelled "
            "wrongly, others show what the model rewards."
        ),
        pages.Grid([_pair(one) for one in worst]),
    ]


def _pair(one: WorstPair) -> pages.Quotes:
    category = f", {one.category}" if one.category is not None else ""
    return pages.Quotes(
        one.prompt,
        (
            pages.Quote("chosen", one.chosen, (("score", figure(one.chosen_score)),)),
            pages.Quote("rejected", one.rejected, (("score", figure(one.rejected_score)),)),
        ),
        f"Row {one.row}{category}: margin {figure(one.margin)}",
    )


def _data(sources: Sequence[SourcePairs], warnings: Sequence[str]) -> list[pages.Block]:
    """How many pairs of each source were dropped or cut, and the warnings about the data."""
    rows = [
        (Path(source.name).name, one.reason, str(len(one.rows)))
        for source in sources
        for one in source.dropped
    ]
    rows += [
        (Path(one.name).name, "answer truncated", str(len(one.cut))) for one in sources if one.cut
    ]
    blocks: list[pages.Block] = []
    if rows:
        table = pages.DataTable(("file", "reason", "pairs"), rows, names=2)
        blocks += [pages.Heading("Pairs dropped or truncated"), table]
    if warnings:
        blocks.append(pages.Details("Warnings", [pages.Prose("\n\n".join(warnings))]))
    return blocks
