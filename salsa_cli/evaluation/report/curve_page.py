"""`report.html` of curves side by side."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from salsa_cli import pages
from salsa_cli.config.eval import EvalConfig
from salsa_cli.evaluation.results.curve_results import Curve, CurveResult
from salsa_cli.evaluation.run_logs import Figure, RunLog
from salsa_cli.formatting import counted
from salsa_cli.pages.charts import Line, LineChart, Points, ScatterChart
from salsa_cli.pages.scales import Axis
from salsa_cli.records import to_json, write_text
from salsa_cli.runs import provenance

FILE = "report.html"

_MOST_PROMPTS, _MOST_ARMS = 12, 6
_LONGEST_TEXT = 3000
_UPDATES = Axis("update", unit="count")

_AXES = {
    "reward": ("Reward", Axis("mean")),
    "watched": ("Watched reward", Axis("mean")),
    "watch": ("Watched reward", Axis("mean")),
    "objective": ("Objective", Axis("reward - beta * penalty")),
    "kl": ("KL to the reference", Axis("nats per answer")),
    "kl_anchors": ("KL", Axis("nats per answer")),
    "length": ("Length", Axis("tokens per answer")),
    "finished": ("Answers with an end token", Axis("share", unit="percent", low=0.0, high=1.0)),
    "entropy": ("Entropy", Axis("nats per token")),
}
"""Titles and axes by the key of a figure, in the order of the page."""


FILES = {"results.json": "all curves of this page", **provenance.RECORD}
"""Data files next to the page."""


def write(
    folder: Path, config: EvalConfig, result: CurveResult, logs: Mapping[str, Sequence[RunLog]]
) -> None:
    """Write the page into `folder`."""
    page = provenance.completed(build(result, logs), "eval", config, folder, FILES)
    write_text(folder / FILE, pages.render(page))


def build(result: CurveResult, logs: Mapping[str, Sequence[RunLog]]) -> pages.Page:
    """The page, without how it was made: figures at the end, curves, settings, samples."""
    figures = dict.fromkeys(f for runs in logs.values() for one in runs for f in one.series)
    held_out = [figure for figure in figures if figure.held_out]
    training = [figure for figure in figures if not figure.held_out]
    runs = sum(len(arm.runs) for arm in result.arms)
    ends = result.ends()
    blocks: list[pages.Block] = [
        pages.KeyFigures(
            [
                pages.KeyFigure(
                    f"{arm.arm}: reward at the end",
                    f"{arm.reward:.3f}",
                    f"{arm.low:.3f} to {arm.high:.3f} in {len(arm.runs)} runs"
                    if len(arm.runs) > 1
                    else "one run",
                )
                for arm in result.arms
            ]
        ),
        *(pages.Callout("Note:", text, "note") for text in result.remarks),
        pages.Prose(_BANDS),
        *_section("On held-out prompts", [_chart(result, one) for one in _ordered(held_out)]),
        *_section(
            "In training",
            [*(_chart(result, one) for one in _ordered(training)), _reward_against_kl(result)],
        ),
        pages.Heading("Last updates"),
        pages.DataTable(ends.columns, ends.rows, caption=_LAST),
        *_settings(result),
        *_samples(logs),
    ]
    return pages.Page(
        f"salsa eval: {Path(result.output).name}",
        blocks,
        subtitle=f"Curves of {counted(runs, 'run')} in {counted(len(result.arms), 'arm')}, as "
        "they were logged",
    )


_BANDS = (
    "A line is the mean over the runs of an arm, at the updates that all of them have; its band "
    "goes from the lowest run to the highest. A single run has a band only on held-out prompts: "
    "the 95% interval of its mean over them."
)
_LAST = "Means over the last five updates of every run, and over the runs"


def _section(title: str, charts: Sequence[pages.Block]) -> list[pages.Block]:
    return [pages.Heading(title), pages.Grid(charts)] if charts else []


def _ordered(figures: Iterable[Figure]) -> list[Figure]:
    keys = list(_AXES)
    return sorted(figures, key=lambda figure: (keys.index(figure.key), figure.of))


def _chart(result: CurveResult, figure: Figure) -> LineChart:
    title, axis = _AXES[figure.key]
    if figure.of and figure.key in ("kl", "kl_anchors"):
        title = f"KL to {_short(figure.of)}"
    elif figure.of:
        title = f"{title}: {_short(figure.of)}"
    note = "Each run's own reference" if figure == Figure("kl") else ""
    return LineChart(title, _UPDATES, axis, list(_lines(result, figure)), note=note)


def _lines(result: CurveResult, figure: Figure) -> Iterator[Line]:
    """A line for every arm, an empty one where it has no such curve: an arm keeps its colour."""
    found = {curve.arm: curve for curve in result.curves if curve.figure == str(figure)}
    for arm in result.arms:
        curve = found.get(arm.arm)
        if curve is None:
            yield Line(f"{arm.arm} (not logged)", [], [])
        elif figure.key == "finished":  # the ends of an interval may not be shares
            low, high = (end and [min(1.0, max(0.0, x)) for x in end] for end in _band(curve))
            yield Line(arm.arm, curve.update, curve.mean, low, high)
        else:
            yield Line(arm.arm, curve.update, curve.mean, *_band(curve))


def _band(curve: Curve) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    return curve.low, curve.high


def _reward_against_kl(result: CurveResult) -> ScatterChart:
    by = {(curve.arm, curve.figure): curve for curve in result.curves}
    points = [
        _points(arm.arm, by.get((arm.arm, "kl")), by.get((arm.arm, "reward")))
        for arm in result.arms
    ]
    axes = Axis("KL to the reference, nats per answer"), Axis("reward")
    note = "Each point is an update, the mean over the runs."
    return ScatterChart("Reward against KL", *axes, points, note=note)


def _points(arm: str, kl: Curve | None, reward: Curve | None) -> Points:
    if kl is None or reward is None:
        return Points(arm, [], [])
    rewards = dict(zip(reward.update, reward.mean, strict=True))
    shared = [
        (nats, rewards[update])
        for update, nats in zip(kl.update, kl.mean, strict=True)
        if update in rewards
    ]
    labels = ["" for _ in shared[1:]] + [arm for _ in shared[:1]]
    return Points(arm, [x for x, _ in shared], [y for _, y in shared], labels)


def _settings(result: CurveResult) -> list[pages.Block]:
    heading = pages.Heading("Settings that differ")
    if not result.differences:
        return [heading, pages.Prose("None other than the seed, according to salsa.json.")]
    table = result.settings()
    seeds = (
        "seed",
        *(", ".join("?" if one is None else str(one) for one in arm.seeds) for arm in result.arms),
    )
    rows = [*table.rows, seeds]
    return [heading, pages.DataTable(table.columns, rows, names=len(table.columns))]


def _samples(logs: Mapping[str, Sequence[RunLog]]) -> list[pages.Block]:
    """The latest answers of the arms to the same prompts, side by side."""
    latest = {arm: _latest(runs) for arm, runs in logs.items()}
    counts = [(prompt, sum(prompt in one for one in latest.values())) for prompt in _all(latest)]
    shared = [prompt for prompt, arms in counts if arms == len(latest)]
    if not shared:
        return []
    shared.sort(key=lambda prompt: -min(one[prompt][1]["update"] for one in latest.values()))
    blocks: list[pages.Block] = [
        pages.Heading("The same prompts"),
        pages.Prose(
            "The latest logged answer of each arm to prompts that all of them logged; the updates "
            "need not be the same."
        ),
    ]
    chosen = {"latest": list(range(len(shared)))[:_MOST_PROMPTS]}
    for arm in list(latest)[:_MOST_ARMS]:
        rewards = [latest[arm][prompt][1].get("reward") for prompt in shared]
        known = [(reward, n) for n, reward in enumerate(rewards) if isinstance(reward, int | float)]
        chosen[f"lowest reward of {arm}"] = [n for _, n in sorted(known)[: _MOST_PROMPTS // 2]]
    shown = sorted({n for one in chosen.values() for n in one})
    choices = [
        pages.Choice(name, {shown.index(n) for n in one}) for name, one in chosen.items() if one
    ]
    quotes = [
        pages.Quotes(
            _cut(_prompt_text(shared[n], latest)),
            [_quote(arm, *one[shared[n]]) for arm, one in latest.items()],
        )
        for n in shown
    ]
    return [*blocks, pages.Choices("Prompts", choices, quotes)]


_Sample = tuple[str, Mapping[str, Any]]
"""The name of the run, and its row."""


def _latest(runs: Sequence[RunLog]) -> dict[str, _Sample]:
    """By prompt, the sample of the latest update; of the first run among equals."""
    found: dict[str, _Sample] = {}
    for one in runs:
        for row in one.samples:
            key = to_json(row["prompt"])
            if key not in found or row["update"] > found[key][1]["update"]:
                found[key] = (one.name, row)
    return found


def _all(latest: Mapping[str, Mapping[str, _Sample]]) -> list[str]:
    return list(dict.fromkeys(prompt for one in latest.values() for prompt in one))


def _prompt_text(key: str, latest: Mapping[str, Mapping[str, _Sample]]) -> str:
    prompt = next(one[key] for one in latest.values() if key in one)[1]["prompt"]
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _quote(arm: str, run: str, row: Mapping[str, Any]) -> pages.Quote:
    name = arm if run == arm else f"{arm} ({run})"
    facts = [
        (key, f"{row[key]:.3f}")
        for key in ("reward", "kl")
        if isinstance(row.get(key), int | float)
    ]
    facts += [] if row.get("finished", True) else [("cut off", "")]
    return pages.Quote(f"{name}, update {row['update']}", _cut(row["answer"]), facts)


def _short(name: str) -> str:
    """The last part of a path; `reference` and `start` as they are."""
    return f"the {name}" if name in ("reference", "start") else name.rstrip("/").split("/")[-1]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ... (cut)"
