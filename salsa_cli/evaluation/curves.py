"""`salsa eval RUN...` without prompts and judges: compare what runs of `salsa ppo` logged."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from salsa_cli.config.base import declared
from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import UsageError
from salsa_cli.evaluation import arms, run_logs
from salsa_cli.evaluation.report import curve_page
from salsa_cli.evaluation.results import curve_results, eval_result
from salsa_cli.evaluation.results.curve_results import ArmEnd, Curve, CurveResult
from salsa_cli.evaluation.run_logs import Figure, RunLog
from salsa_cli.records import JSON, read_json, write_json
from salsa_cli.runs import run_folder
from salsa_cli.runs.events import DryRun, Note, Report, Result

Logs = Mapping[str, Sequence[RunLog]]
"""The runs of every arm, by its name."""

_FREE = frozenset({"models", "output", "force", "resume", "dry_run", "seed", "device"})
"""Settings that may be given here; all others would have no effect."""

_PLACES = ("output", "seed", "device", "track", "run_name")
"""Settings of a run that say where it ran, and its seed, which has a line of its own."""


def run(config: EvalConfig, report: Report) -> Result:
    """Read the logs, and write `config.output`: report.html, results.json, salsa.json."""
    began = time.monotonic()
    _refuse_useless(config)
    if (done := _finished(config, report)) is not None:
        return done
    logs = {arm.name: run_logs.read(arm) for arm in arms.parse(config.models)}
    sources = [Path(one.source) for some in logs.values() for one in some]
    run_folder.check_output(config.output, config.force, sources)
    if config.dry_run:
        return DryRun({"arms": ", ".join(logs), "runs": len(sources)})
    result = compare(logs, str(config.output), began)
    with run_folder.draft(config.output, force=config.force) as folder:
        inputs: dict[str, JSON] = {
            "runs": {one.name: one.source for some in logs.values() for one in some}
        }
        made = eval_result.made_by(config, inputs)
        run_folder.write_record(folder, eval_result.RECORD, made)
        write_json(folder / eval_result.FILE, result.record())
        curve_page.write(folder, config, result, logs)
    return result


def compare(logs: Logs, output: str, began: float) -> CurveResult:
    """The curves of every figure, the ends, and the settings that differ."""
    figures = dict.fromkeys(f for some in logs.values() for one in some for f in one.series)
    found = [
        curve
        for figure in sorted(figures)
        for arm, runs in logs.items()
        if (curve := _curve(figure, arm, runs)) is not None
    ]
    settings = {
        arm: [{k: v for k, v in one.settings.items() if k not in _PLACES} for one in runs]
        for arm, runs in logs.items()
    }
    return CurveResult(
        output,
        tuple(_end(arm, runs) for arm, runs in logs.items()),
        curve_results.differences(settings),
        tuple(found),
        tuple(_remarks(logs)),
        time.monotonic() - began,
    )


def _curve(figure: Figure, arm: str, runs: Sequence[RunLog]) -> Curve | None:
    """The curve of an arm, if all of its runs logged the figure at one update or more."""
    series = [one.series[figure] for one in runs if figure in one.series]
    if len(series) < len(runs):
        return None
    values = [dict(zip(one.updates, one.values, strict=True)) for one in series]
    errors = None
    if len(runs) == 1 and series[0].errors is not None:
        errors = dict(zip(series[0].updates, series[0].errors, strict=True))
    found = curve_results.curve(str(figure), arm, values, errors)
    return found if found.update else None


def _end(arm: str, runs: Sequence[RunLog]) -> ArmEnd:
    def ends(key: str) -> list[float]:
        found = (one.series.get(Figure(key)) for one in runs)
        return [
            curve_results.last(dict(zip(one.updates, one.values, strict=True)))
            for one in found
            if one is not None
        ]

    rewards, kls, lengths = (ends(key) or [float("nan")] for key in ("reward", "kl", "length"))
    return ArmEnd(
        arm,
        tuple(one.name for one in runs),
        tuple(one.seed for one in runs),
        tuple(one.updates for one in runs),
        sum(rewards) / len(rewards),
        min(rewards),
        max(rewards),
        sum(kls) / len(kls),
        sum(lengths) / len(lengths),
    )


def _remarks(logs: Logs) -> list[str]:
    found = []
    for arm, runs in logs.items():
        lengths = {one.updates for one in runs}
        if len(lengths) > 1:
            found.append(
                f"{arm}: its runs have {min(lengths)} to {max(lengths)} updates; its curves end at "
                "the shortest run."
            )
        seeds = [one.seed for one in runs if one.seed is not None]
        if len(set(seeds)) < len(seeds):
            found.append(f"{arm}: two of its runs have the same seed.")
    found.append(
        "Training rewards are measured on each policy's own answers with the reward it was trained "
        "on; use --prompts and --judge to compare the policies."
    )
    return found


def _refuse_useless(config: EvalConfig) -> None:
    useless = [
        field.option
        for field in declared(EvalConfig)
        if field.name not in _FREE and getattr(config, field.name) != field.default
    ]
    if useless:
        raise UsageError(
            f"{', '.join(useless)} has no effect without --prompts and --judge, since only logged "
            "metrics are compared"
        )


def _finished(config: EvalConfig, report: Report) -> CurveResult | None:
    """The stored result, if a complete comparison is resumed."""
    if not config.resume or config.force:
        return None
    recorded = run_folder.finished(eval_result.RECORD, config)
    if recorded is None:
        return None
    report(Note(f"{config.output} is already complete; nothing to do"))
    return CurveResult.of(read_json(config.output / recorded["file"]))
