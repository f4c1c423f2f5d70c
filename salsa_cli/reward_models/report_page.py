"""`report.html` of a reward model: of its training, or of its evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salsa_cli import pages
from salsa_cli.config.record import record
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.formatting import figure
from salsa_cli.maths import statistics
from salsa_cli.maths.calibration import ReliabilityBin
from salsa_cli.pages.charts import Bin, Estimate, IntervalChart, Line, LineChart, ReliabilityChart
from salsa_cli.pages.scales import Axis
from salsa_cli.records import to_json
from salsa_cli.reward_models.assessment import Assessment, Group
from salsa_cli.reward_models.held_out import HeldOutAssessment
from salsa_cli.reward_models.pair_data import SourcePairs
from salsa_cli.reward_models.results import proves_nothing
from salsa_cli.reward_models.rewards import RewardScale

_POINTS = 80
"""Maximum points of a curve; each is the mean of several steps."""

BIASED = 0.5
"""Correlation of score and length above which the report warns."""

FEW = 16
"""Below this number of pairs the 95 % interval of a correlation of one half contains 0."""


@dataclass(frozen=True)
class TrainingReport:
    """The content of the report of a training run; `pairs` is the number of training pairs."""

    config: TrainRMConfig
    pairs: int
    sources: Sequence[SourcePairs]
    warnings: Sequence[str]
    found: HeldOutAssessment
    metrics: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class EvaluationReport:
    """The content of the report of an evaluation, with the scales that were measured."""

    config: TrainRMConfig
    source: SourcePairs
    found: HeldOutAssessment
    scales: Sequence[RewardScale]


def training_report(trained: TrainingReport) -> str:
    """The report of a training as one HTML page."""
    found = trained.found
    pairs = pages.KeyFigure("training pairs", f"{trained.pairs:,}")
    blocks: list[pages.Block] = [_key_figures(found, [pairs]), *_callouts(found.together)]
    blocks += [pages.Heading("Training"), pages.Grid(_curves(trained))]
    blocks += [pages.Heading("Held-out pairs"), pages.Grid(_charts(found))]
    blocks += [*_sections(found.together), *_data(trained.sources, trained.warnings)]
    return _page(trained.config, "a reward model of", found, blocks)


def evaluation_report(evaluated: EvaluationReport) -> str:
    """The report of an evaluation as one HTML page."""
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
    blocks += [pages.Heading("Held-out pairs"), pages.Grid(_charts(found))]
    source = evaluated.source
    blocks += [*_sections(found.together), *_data([source], source.warnings)]
    return _page(evaluated.config, "an evaluation of", found, blocks)


def _page(
    config: TrainRMConfig, what: str, found: HeldOutAssessment, blocks: list[pages.Block]
) -> str:
    settings = pages.Details("Settings", [pages.Code(to_json(record(config), indent=2))])
    many = f", an ensemble of {len(found.members)}" if len(found.members) > 1 else ""
    subtitle = f"{what} {config.model}{many}, by salsa train-rm"
    return pages.render(pages.Page(str(config.output), [*blocks, settings], subtitle))


def _key_figures(given: HeldOutAssessment, more: Sequence[pages.KeyFigure]) -> pages.KeyFigures:
    found, whole = given.together, given.together.accuracy
    interval = f"{whole.low:.1%} to {whole.high:.1%} (95 %)"
    lead = "of the better answer's score"
    if len(given.members) > 1:  # their raw scores have different scales
        lead += ", each member's divided by its deviation"
    figures = [
        pages.KeyFigure("held-out accuracy", f"{whole.accuracy:.1%}", interval),
        pages.KeyFigure("held-out pairs", f"{whole.n:,}", f"{whole.ties} ties, counted as half"),
        pages.KeyFigure("calibration error", f"{found.calibration_error:.1%}", "0 is best"),
        pages.KeyFigure("mean lead", figure(found.margin), lead),
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
        blocks.append(pages.Callout("Nothing is proven.", f"{proves_nothing(whole.n)}."))
    bias = found.length.correlation
    if bias is not None and bias > BIASED and whole.n >= FEW:
        text = (
            f"The lead in score and the lead in length correlate by {bias:.2f}. PPO will find that "
            "out; look at the accuracy where the longer answer is the worse one."
        )
        blocks.append(pages.Callout("Length bias.", text))
    return blocks


def _curves(trained: TrainingReport) -> list[pages.Block]:
    rows: dict[int, list[Mapping[str, Any]]] = {}
    for row in trained.metrics:
        rows.setdefault(row.get("member", 0), []).append(row)
    titles = (
        ("loss", "Loss", "mean loss of a pair"),
        ("accuracy", "Training accuracy", "share ordered rightly"),
        ("margin", "Lead of the better answer", "difference of scores"),
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


def _charts(given: HeldOutAssessment) -> list[pages.Block]:
    found = given.together
    charts: list[pages.Block] = [
        ReliabilityChart(
            "Calibration",
            [_bin(one) for one in found.reliability],
            x_label="probability that the preferred answer is better",
            y_label="share in which it is",
            note=f"Expected calibration error {found.calibration_error:.1%}.",
        )
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
    caption = "Scores by the rules of RewardBench"
    return [pages.DataTable(("section", "pairs", "score"), rows, caption=caption)]


def _data(sources: Sequence[SourcePairs], warnings: Sequence[str]) -> list[pages.Block]:
    """How many pairs of each source were dropped or cut, and the warnings about the data."""
    rows = [
        (Path(source.name).name, one.reason, str(len(one.rows)))
        for source in sources
        for one in source.dropped
    ]
    rows += [(Path(one.name).name, "answer cut", str(len(one.cut))) for one in sources if one.cut]
    blocks: list[pages.Block] = []
    if rows:
        table = pages.DataTable(("file", "reason", "pairs"), rows, names=2)
        blocks += [pages.Heading("Pairs left out or cut"), table]
    if warnings:
        blocks.append(pages.Details("Warnings", [pages.Prose("\n\n".join(warnings))]))
    return blocks
