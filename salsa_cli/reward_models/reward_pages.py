"""What a person reads of a trained reward model: `report.html`, and the model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salsa_cli import pages
from salsa_cli.maths import statistics
from salsa_cli.maths.calibration import ReliabilityBin
from salsa_cli.pages.charts import Bin, Estimate, IntervalChart, Line, LineChart, ReliabilityChart
from salsa_cli.pages.scales import Axis
from salsa_cli.records import to_json
from salsa_cli.reports import figure
from salsa_cli.reward_models.assessment import Assessment, Group
from salsa_cli.reward_models.pairs import Dropped
from salsa_cli.reward_models.train_rm_config import TrainRMConfig
from salsa_cli.rewards import Scale
from salsa_cli.settings import record

_POINTS = 80
"""Points of a curve: each is the mean of the steps that fall on it."""

BIASED = 0.5
"""Correlation of score with length from which on a reader is warned."""


@dataclass(frozen=True)
class Trained:
    """All that is known of a finished run."""

    config: TrainRMConfig
    pairs: int
    dropped: Mapping[str, Sequence[Dropped]]
    together: Assessment
    members: Sequence[Assessment]
    metrics: Sequence[Mapping[str, Any]]


def report(trained: Trained) -> str:
    """The report as one HTML page."""
    blocks: list[pages.Block] = [_key_figures(trained), *_callouts(trained.together)]
    blocks += [pages.Heading("Training"), pages.Grid(_curves(trained))]
    blocks += [pages.Heading("Held-out pairs"), pages.Grid(_charts(trained))]
    blocks += [*_sections(trained.together), *_dropped(trained)]
    settings = to_json(record(trained.config), indent=2)
    blocks.append(pages.Details("Settings", [pages.Code(settings)]))
    many = f", an ensemble of {len(trained.members)}" if len(trained.members) > 1 else ""
    subtitle = f"a reward model of {trained.config.model}{many}, by salsa train-rm"
    return pages.render(pages.Page(str(trained.config.output), blocks, subtitle))


def model_card(trained: Trained, member: Assessment, scale: Scale, name: str) -> str:
    """README.md of one model: what it is, what it is worth, and how to use it."""
    config, accuracy = trained.config, member.accuracy
    held_out = config.eval_data or f"{config.held_out_share:g} of {config.data}, by prompt"
    categories = "".join(
        f"| {one.name} | {one.n} | {one.accuracy:.1%} | {one.low:.1%} to {one.high:.1%} |\n"
        for one in (accuracy, *member.categories)
    )
    return f"""---
base_model:
- {config.model}
library_name: transformers
pipeline_tag: text-classification
tags:
- reward-model
- salsa
---

# A reward model

Trained from {config.model} by `salsa train-rm` on {trained.pairs} preference pairs of
{config.data}, with the likelihood of Bradley and Terry: the probability that one answer is
preferred to another is sigmoid(score of the one - score of the other).

## What it is worth

On held-out pairs ({held_out}); a tie counts as half, intervals are Wilson's at 95 %:

| pairs | n | accuracy | interval |
|---|---|---|---|
{categories}
Mean lead of the better answer {figure(member.margin)}; expected calibration error
{member.calibration_error:.1%}. It knows what its data prefer, and nothing else.

## How to use it

A higher score is better. The end token belongs to a finished answer.

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
text = prompt + answer + tokenizer.eos_token
raw = model(**tokenizer(text, return_tensors="pt")).logits[0, 0]
score = (raw {-scale.mean:+.9g}) / {scale.std:.9g}  # mean 0, standard deviation 1 on its data
```

A conversation goes through the chat template first (`add_generation_prompt=True`); the answer and
the end token follow. `salsa ppo --reward` and `salsa eval --judge rm:` do all of this.
"""


def _key_figures(trained: Trained) -> pages.KeyFigures:
    found, whole = trained.together, trained.together.accuracy
    interval = f"{whole.low:.1%} to {whole.high:.1%} (95 %)"
    figures = [
        pages.KeyFigure("held-out accuracy", f"{whole.accuracy:.1%}", interval),
        pages.KeyFigure("held-out pairs", f"{whole.n:,}", f"{whole.ties} ties, counted as half"),
        pages.KeyFigure("calibration error", f"{found.calibration_error:.1%}", "0 is best"),
        pages.KeyFigure("mean lead", figure(found.margin), "of the better answer's score"),
        pages.KeyFigure("training pairs", f"{trained.pairs:,}"),
    ]
    if found.disagreement is not None:
        alike = found.disagreement.unanimous
        figures.append(pages.KeyFigure("members agree", f"{alike:.1%}", "of the pairs"))
    return pages.KeyFigures(figures)


def _callouts(found: Assessment) -> list[pages.Block]:
    blocks: list[pages.Block] = []
    whole = found.accuracy
    if whole.low <= 0.5 <= whole.high:
        text = f"{whole.n} pairs do not tell this accuracy from guessing."
        blocks.append(pages.Callout("Nothing is proven.", text))
    bias = found.length.correlation
    if bias is not None and bias > BIASED:
        text = (
            f"The lead in score and the lead in length correlate by {bias:.2f}. PPO will find that "
            "out; look at the accuracy where the longer answer is the worse one."
        )
        blocks.append(pages.Callout("Length bias.", text))
    return blocks


def _curves(trained: Trained) -> list[pages.Block]:
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
    """Steps and values, neighbours averaged to `_POINTS` points at most."""
    width = -(-len(rows) // _POINTS)
    parts = [rows[first : first + width] for first in range(0, len(rows), width)]
    steps = [float(part[-1]["step"]) for part in parts]
    return steps, [sum(row[name] for row in part) / len(part) for part in parts]


def _charts(trained: Trained) -> list[pages.Block]:
    found = trained.together
    charts: list[pages.Block] = [
        ReliabilityChart(
            "Calibration",
            [_bin(one) for one in found.reliability],
            x_label="probability that the preferred answer is better",
            y_label="share in which it is",
            note=f"Expected calibration error {found.calibration_error:.1%}.",
        )
    ]
    if len(trained.members) > 1:
        groups = [found.accuracy, *(member.accuracy for member in trained.members)]
        names = ["mean of all", *(f"member {n}" for n in range(len(trained.members)))]
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
    return [pages.Table(("section", "pairs", "score"), rows, caption=caption)]


def _dropped(trained: Trained) -> list[pages.Block]:
    rows = [
        (Path(name).name, one.reason, str(len(one.rows)))
        for name, given in trained.dropped.items()
        for one in given
    ]
    if not rows:
        return []
    return [
        pages.Heading("Pairs left out"),
        pages.Table(("file", "reason", "pairs"), rows, names=2),
    ]
