"""`report.html` of a PPO run: its curves, its warnings and samples of its answers.

Made from its settings and its log files alone, so a run that was stopped has one too.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

from salsa_cli import pages
from salsa_cli.config.command_line import resume_line
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.formatting import counted, duration
from salsa_cli.pages.charts import Histogram, Line, LineChart, Points, Rule, Sample, ScatterChart
from salsa_cli.pages.scales import Axis, Unit, number
from salsa_cli.records import write_text
from salsa_cli.rl import monitors
from salsa_cli.rl.best import BestUpdate
from salsa_cli.rl.held_out_metrics import HeldOutFigure, HeldOutMetrics
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.rl.monitors import Alarm, History
from salsa_cli.runs import provenance, stops

FILE = "report.html"

REWARDS = "rewards.jsonl"
"""One row per update: the rewards of all its answers."""

FILES = {
    "metrics.jsonl": "one row per update",
    "samples.jsonl": "sample answers",
    REWARDS: "rewards of all answers",
    **provenance.RECORD,
}
"""Data files next to the page."""

_LAST = 5
"""Updates whose mean stands for the end of a run."""
_PARTS = 5
"""Places of a run from which answers are shown first."""
_EXTREMES = 10
"""Answers at either end of the reward."""
_SAMPLES = 120
"""Sample answers on the page, evenly over the run."""
_POINTS = 300
"""Points of a scatter chart."""
_ENOUGH = 256
"""Answers that a histogram is made of at least, if the run has them in a fifth of its updates."""

_UPDATES = Axis("update", unit="count")

Figure = Callable[[UpdateMetrics], float]

_Evaluated = tuple[int, HeldOutMetrics]
"""Updates that a policy had, and its figures on held-out prompts."""


@dataclass(frozen=True)
class LoggedRun:
    """What a run has logged so far, oldest first.

    Attributes:
        samples: rows of samples.jsonl: update, prompt, answer, finished, reward, kl.
        rewards: rows of rewards.jsonl: update, rewards.
        kept: the best update, if its policy is kept.
    """

    history: History
    samples: Sequence[Mapping[str, Any]] = ()
    rewards: Sequence[Mapping[str, Any]] = ()
    kept: BestUpdate | None = None

    @classmethod
    def read(cls, folder: Path) -> "LoggedRun":
        """The log files of a run; those that it does not have are empty."""
        return cls(
            [UpdateMetrics.of(row) for row in _whole_rows(folder / "metrics.jsonl")],
            list(_whole_rows(folder / "samples.jsonl")),
            list(_whole_rows(folder / REWARDS)),
            BestUpdate.read(folder),
        )


def write(folder: Path, config: PPOConfig) -> None:
    """Write the report of the run in `folder`, atomically."""
    log = LoggedRun.read(folder)
    found = page(config.output.name, log)
    if len(log.history) < config.updates and stops.read(folder) is None:
        found = replace(found, blocks=(*_unfinished(log.history, config), *found.blocks))
    whole = provenance.completed(found, "ppo", config, folder, FILES)
    write_text(folder / FILE, pages.render(whole))


def _unfinished(history: History, config: PPOConfig) -> list[pages.Block]:
    """How far the run was, for a reader of the page who finds it killed."""
    updates = counted(config.updates, "update")
    text = f"Written after {len(history):,} of {updates}, while the run went on."
    return [
        pages.Callout("This run is not finished.", text, "note"),
        pages.Details(
            "If it is no longer running: how to go on",
            [pages.Code(resume_line("ppo", config, {}))],
        ),
    ]


def page(name: str, log: LoggedRun) -> pages.Page:
    """The page of a run, without how it was made."""
    title, history = f"salsa ppo: {name}", log.history
    if not history:
        return pages.Page(title, (pages.Prose("No update is finished yet."),))
    alarms = monitors.alarms(history)
    return pages.Page(
        title,
        (
            _figures(history),
            *_warnings(alarms),
            pages.Heading("Behaviour of the policy"),
            pages.Grid([*_behaviour(history, alarms), *_distribution(log.rewards)]),
            *_held_out(history, alarms, log.kept),
            pages.Heading("Optimisation"),
            pages.Grid(_optimisation(history, alarms)),
            pages.Heading("Samples"),
            *_said(log.samples),
        ),
        subtitle=_subtitle(history),
    )


def prompt_text(prompt: str | Sequence[Mapping[str, str]]) -> str:
    """A prompt for a reader: the text, or the messages of a conversation with their roles."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _subtitle(history: History) -> str:
    answers = sum(round(m.tokens / m.length) for m in history if m.length > 0)
    seconds = sum(sum(m.time.values()) for m in history)
    tokens = sum(m.tokens for m in history)
    return (
        f"{counted(len(history), 'update')}, {counted(answers, 'answer')}, {tokens:,} tokens in "
        f"{duration(seconds)} of computing: {tokens / seconds if seconds else 0:,.0f} tokens/s"
        f"{_stated(history)}"
    )


def _figures(history: History) -> pages.KeyFigures:
    last = history[-_LAST:]
    over = f"mean of the last {counted(len(last), 'update')}; " if len(last) > 1 else ""

    def figure(name: str, of: Figure, unit: Unit = "number") -> pages.KeyFigure:
        start = f"{over}{number(of(history[0]), unit)} at the start"
        return pages.KeyFigure(name, number(fmean(map(of, last)), unit), start)

    return pages.KeyFigures(
        (
            figure("reward", lambda m: m.reward),
            *(figure(n, lambda m, n=n: m.watched[n]) for n in history[0].watched),  # type: ignore[misc]
            figure(f"KL to the reference, nats{_tempered(history)}", lambda m: m.kl),
            figure("objective", lambda m: m.objective),
            figure("length, tokens", lambda m: m.length),
            figure("finished", lambda m: m.finished, "percent"),
        )
    )


def _tempered(history: History) -> str:
    """The temperature of the policies in all KLs, where it is not 1."""
    found = history[-1].temperature
    return "" if found is None or found == 1 else f" at temperature {found:g}"


def _stated(history: History) -> str:
    at = _tempered(history)
    return f". KLs, penalties and entropies are those of the policies{at}" if at else ""


def _warnings(alarms: Sequence[Alarm]) -> list[pages.Block]:
    if not alarms:
        return [pages.Callout("No warning.", "No monitor raised a warning.", "note")]
    return [pages.Callout(f"{a.name}, update {a.update}:", a.text) for a in alarms]


def _behaviour(history: History, alarms: Sequence[Alarm]) -> list[pages.Block]:
    start = history[0]
    charts: list[pages.Block] = [_reward(history)]
    if start.watched:
        lines = [_line(name, history, lambda m, n=name: m.watched[n]) for name in start.watched]  # type: ignore[misc]
        marks = _marks(alarms, "reward-hacking")
        charts.append(
            LineChart(("Rewards that are not trained on"), _UPDATES, Axis("mean"), lines, marks)
        )
    return [
        *charts,
        LineChart(
            "Objective",
            _UPDATES,
            Axis("reward - beta * penalty"),
            [_line("", history, lambda m: m.objective)],
            [Rule("y", start.objective, "start"), *_marks(alarms, "objective-below-start")],
        ),
        _divergences(history, alarms),
        *_untempered(history),
        _reward_against_kl(history),
        _curve(
            "Length", "tokens per answer", history, lambda m: m.length,
            _marks(alarms, "length-collapse", "length-bias", "cheap-stopping"),
        ),
        _curve(
            "Answers with an end token", "share", history, lambda m: m.finished,
            _marks(alarms, "missing-end"), Axis("share", unit="percent", low=0, high=1),
        ),
        _curve(
            "Entropy", "nats per token", history, lambda m: m.entropy,
            _marks(alarms, "entropy-collapse"),
        ),
    ]  # fmt: skip


def _reward(history: History) -> LineChart:
    """The trained reward with the interval of its mean, and the members of an ensemble."""
    errors = [1.96 * m.reward_std / sqrt(max(1.0, m.tokens / max(m.length, 1.0))) for m in history]
    ensemble = bool(history[0].rewards)
    band = Line(
        "what trains" if ensemble else "",
        [m.update for m in history],
        [m.reward for m in history],
        [m.reward - error for m, error in zip(history, errors, strict=True)],
        [m.reward + error for m, error in zip(history, errors, strict=True)],
    )
    members = [_line(name, history, lambda m, n=name: m.rewards[n]) for name in history[0].rewards]  # type: ignore[misc]
    note = "The band is the 95% interval of the mean over an update's answers."
    return LineChart("Reward", _UPDATES, Axis("mean"), [band, *members], note=note)


def _divergences(history: History, alarms: Sequence[Alarm]) -> LineChart:
    """KL to the reference in every update, and to each anchor where it was measured."""
    measured = [m for m in history if m.kl_anchors]
    names = [name for name in measured[0].kl_anchors if name != "reference"] if measured else []
    # The start often is an ingredient too: one line under both names.
    series: dict[tuple[float, ...], list[str]] = {}
    for name in names:
        series.setdefault(tuple(m.kl_anchors[name] for m in measured), []).append(name)
    updates = [m.update for m in measured]
    anchors = [Line(f"to {', '.join(same)}", updates, nats) for nats, same in series.items()]
    reference = _line("to the reference", history, lambda m: m.kl)
    return LineChart(
        f"KL to the anchors{_tempered(history)}",
        _UPDATES,
        Axis("nats per answer"),
        [reference, *anchors],
        _marks(alarms, "kl-acceleration"),
        note="A KL that is not zero at the start is normal: the policy does not start there.",
    )


def _untempered(history: History) -> list[pages.Block]:
    """The same divergences of the policies at temperature 1, where answers are drawn at another."""
    measured = [m for m in history if m.kl_at_temperature_1]
    if not measured:
        return []
    names = list(measured[0].kl_at_temperature_1 or {})

    def line(name: str) -> Line:
        found = [(m.update, (m.kl_at_temperature_1 or {})[name]) for m in measured]
        updates, nats = zip(*found, strict=True)
        return Line(f"to {'the reference' if name == 'reference' else name}", updates, nats)

    note = "Exact over the vocabulary at each token of the same answers."
    title = "KL to the anchors at temperature 1"
    return [LineChart(title, _UPDATES, Axis("nats per answer"), list(map(line, names)), note=note)]


def _distribution(rows: Sequence[Mapping[str, Any]]) -> list[pages.Block]:
    """The rewards of the answers at the start and at the end of the run."""
    if len(rows) < 2:
        return []
    answers = max(1, len(rows[0]["rewards"]))
    width = max(1, min(len(rows) // 5, -(-_ENOUGH // answers)))
    samples = [
        Sample(_updates(part), [reward for row in part for reward in row["rewards"]])
        for part in (rows[:width], rows[-width:])
    ]
    return [Histogram("Rewards at the start and at the end", Axis("reward"), samples)]


def _updates(rows: Sequence[Mapping[str, Any]]) -> str:
    first, last = rows[0]["update"], rows[-1]["update"]
    return f"update {first:,}" if first == last else f"updates {first:,} to {last:,}"


def _reward_against_kl(history: History) -> ScatterChart:
    """One point an update, by the third of the run, with the updates that begin and end a third."""
    every = -(-len(history) // _POINTS)
    history = history[::every] if every > 1 else history
    size = -(-len(history) // 3)
    thirds = [history[first : first + size] for first in range(0, len(history), size)]
    names = ("first third", "second third", "last third")
    points = [
        Points(
            name if len(thirds) > 1 else "",
            [m.kl for m in third],
            [m.reward for m in third],
            [str(m.update) if m in (third[0], history[-1]) else "" for m in third],
        )
        for name, third in zip(names, thirds, strict=False)
    ]
    point = "Each point is an update" if every == 1 else f"One update in {every} is a point"
    note = f"{point}. KL that grows without more reward is wasted."
    label = f"KL to the reference, nats per answer{_tempered(history)}"
    axes = Axis(label), Axis("reward")
    return ScatterChart("Reward against KL", *axes, points, note=note)


def _held_out(
    history: History, alarms: Sequence[Alarm], kept: BestUpdate | None
) -> list[pages.Block]:
    """The figures on held-out prompts, by the updates that the policy had."""
    start = history[0].heldout_start
    measured: list[_Evaluated] = [(0, start)] if start is not None else []
    measured += [(m.update, m.heldout) for m in history if m.heldout is not None]
    if not measured:
        return []
    rules = _marks(alarms, "heldout-fall")
    if kept is not None:
        rules.append(Rule("x", kept.update, f"best by {kept.by}"))
    _, first = measured[0]
    charts: list[pages.Block] = [
        _evaluations("Reward, held out", "mean", measured, {"": lambda m: m.reward}, rules)
    ]
    if first.watch:
        watched = {name: partial(_watched, name=name) for name in first.watch}
        charts.append(_evaluations("Watched rewards, held out", "mean", measured, watched, rules))
    to_anchors = {f"to {_anchor(name)}": partial(_kl, name=name) for name in first.kl}
    charts += [
        _evaluations("KL, held out", "nats per answer, temperature 1", measured, to_anchors, rules),
        _evaluations("Length, held out", "tokens per answer", measured, {"": lambda m: m.length}),
        _evaluations(
            "Answers with an end token, held out", "share", measured, {"": lambda m: m.finished}
        ),
    ]
    note = (
        f"{counted(first.prompts, 'prompt')} not trained on, with the same seeds each time; each "
        "point is the policy after that many updates. Bands are 95% intervals of the means."
    )
    return [
        pages.Heading("Held-out prompts"),
        pages.Prose(note),
        pages.Grid(charts),
    ]


def _anchor(name: str) -> str:
    return f"the {name}" if name in ("reference", "start") else name


def _watched(metrics: HeldOutMetrics, *, name: str) -> HeldOutFigure:
    return metrics.watch[name]


def _kl(metrics: HeldOutMetrics, *, name: str) -> HeldOutFigure:
    return metrics.kl[name]


def _evaluations(
    title: str,
    label: str,
    measured: Sequence[_Evaluated],
    lines: Mapping[str, Callable[[HeldOutMetrics], HeldOutFigure]],
    rules: Sequence[Rule] = (),
) -> LineChart:
    """One line for each figure, with the interval of its mean where that is known."""
    updates = [update for update, _ in measured]
    found = []
    for name, of in lines.items():
        figures = [of(one) for _, one in measured]
        means = [one.mean for one in figures]
        errors = [1.96 * one.standard_error for one in figures]
        if any(error != error for error in errors):
            found.append(Line(name, updates, means))
            continue
        low = [mean - error for mean, error in zip(means, errors, strict=True)]
        high = [mean + error for mean, error in zip(means, errors, strict=True)]
        found.append(Line(name, updates, means, low, high))
    return LineChart(title, _UPDATES, Axis(label), found, rules)


def _optimisation(history: History, alarms: Sequence[Alarm]) -> list[pages.Block]:
    has_critic = history[0].critic_grad_norm is not None
    shares = [_line("policy", history, lambda m: m.clip_share)]
    norms = [_line("policy", history, lambda m: m.policy_grad_norm)]
    if has_critic:
        shares.append(_line("critic", history, lambda m: m.value_clip_share or 0.0))
        norms.append(_line("critic", history, lambda m: m.critic_grad_norm or 0.0))
    found: list[pages.Block] = [
        LineChart(
            "Clipped tokens",
            _UPDATES,
            Axis("share", unit="percent", low=0),
            shares,
            _marks(alarms, "clipping"),
        ),
        LineChart(
            "Gradient norm", _UPDATES, Axis("norm before clipping", kind="log"), norms
        ),
        _curve("Step", "KL of new from old, nats per token", history, lambda m: m.approx_kl),
        _curve(
            "Length and reward", "correlation", history, lambda m: m.length_reward_correlation,
            _marks(alarms, "length-bias"), Axis("correlation", low=-1, high=1),
        ),
    ]  # fmt: skip
    if has_critic:
        rules = [Rule("y", 0, "a constant"), *_marks(alarms, "weak-critic")]
        label = "explained variance"
        found.append(_curve("Critic", label, history, lambda m: m.explained_variance or 0.0, rules))
    if history[0].groups:
        found.append(
            _curve(
                "Prompts whose answers have equal rewards", "share", history,
                lambda m: m.equal_share or 0.0, _marks(alarms, "equal-groups"),
                Axis("share", unit="percent", low=0, high=1),
            )
        )  # fmt: skip
    if len({m.kl_coef for m in history}) > 1:
        found.append(_curve("Weight of the penalty", "beta", history, lambda m: m.kl_coef))
    if any(m.penalty != m.kl for m in history):
        found.append(_curve("Penalty", "an answer", history, lambda m: m.penalty))
    if history[0].sampler_mismatch is not None:
        label = "difference of log-probabilities, nats per token"
        found.append(
            _curve("Sampler and policy", label, history, lambda m: m.sampler_mismatch or 0.0)
        )
    return found


def _curve(
    title: str,
    label: str,
    history: History,
    of: Figure,
    rules: Sequence[Rule] = (),
    axis: Axis | None = None,
) -> LineChart:
    return LineChart(title, _UPDATES, axis or Axis(label), [_line("", history, of)], rules)


def _line(name: str, history: History, of: Figure) -> Line:
    return Line(name, [m.update for m in history], [of(m) for m in history])


def _marks(alarms: Sequence[Alarm], *names: str) -> list[Rule]:
    return [Rule("x", a.update, a.name) for a in alarms if a.name in names]


def _said(samples: Sequence[Mapping[str, Any]]) -> list[pages.Block]:
    """Sample answers to choose from: all over the run at first, then the extremes of the reward."""
    if not samples:
        return [pages.Prose("There are no samples.")]
    updates = sorted({row["update"] for row in samples})
    late = {row["update"] for row in samples if row["update"] >= updates[len(updates) * 2 // 3]}
    every = -(-len(samples) // _SAMPLES)
    spread = {updates[round(i * (len(updates) - 1) / (_PARTS - 1))] for i in range(_PARTS)}
    ranked = sorted(
        (n for n, row in enumerate(samples) if row["update"] in late),
        key=lambda n: (-samples[n]["reward"], n),
    )
    chosen = {
        "over the run": [n for n, row in enumerate(samples) if row["update"] in spread],
        "highest reward in the last third": ranked[:_EXTREMES],
        "lowest reward in the last third": ranked[::-1][:_EXTREMES],
        "cut at the length limit": [n for n, row in enumerate(samples) if not row["finished"]],
        "all" if every == 1 else f"one in {every} of {len(samples):,}": list(
            range(0, len(samples), every)
        ),
    }
    chosen["cut at the length limit"] = chosen["cut at the length limit"][-_SAMPLES // 4 :]
    shown = sorted({n for one in chosen.values() for n in one})
    choices = [
        pages.Choice(name, {shown.index(n) for n in one}) for name, one in chosen.items() if one
    ]
    return [pages.Choices("Sample answers", choices, [_quotes(samples[n]) for n in shown])]


def _quotes(row: Mapping[str, Any]) -> pages.Quotes:
    end = "" if row["finished"] else ", cut at the length limit"
    facts = [(name, number(row[key])) for name, key in (("reward", "reward"), ("KL", "kl"))]
    quote = pages.Quote(f"Answer{end}", row["answer"], facts)
    return pages.Quotes(prompt_text(row["prompt"]), (quote,), title=f"Update {row['update']}")


def _whole_rows(path: Path) -> Iterable[Mapping[str, Any]]:
    """Rows of a JSON Lines file; a last line that was cut off in the middle is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].split("\n") if line]
