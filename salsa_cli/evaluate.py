"""`salsa eval`: compare models by the verdicts of judges."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from salsa_cli.config.eval import EvalConfig
from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.evaluation import answers, best_of, distances, dry_run, landscape, names, planning
from salsa_cli.evaluation.distances import Distances
from salsa_cli.evaluation.judges import prompts, scoring, writing
from salsa_cli.evaluation.judges.local import LocalWriter
from salsa_cli.evaluation.judges.scoring import Scored
from salsa_cli.evaluation.judges.writing import Writer
from salsa_cli.evaluation.planning import EvalPlan
from salsa_cli.evaluation.questions import answer_files
from salsa_cli.evaluation.questions.answer_files import Replies, Reply
from salsa_cli.evaluation.report import disputed, report_page
from salsa_cli.evaluation.results import (
    arm_results,
    counting,
    eval_result,
    frontier,
    gate,
    soup_gains,
    style_control,
    win_rates,
)
from salsa_cli.evaluation.results.eval_result import AnswerRow, KLRow, SoupRow
from salsa_cli.evaluation.results.style_control import StoredAnswer
from salsa_cli.evaluation.results.win_rates import Resampling
from salsa_cli.evaluation.verdicts.verdict import Verdict, to_row
from salsa_cli.formatting import counted
from salsa_cli.maths import statistics
from salsa_cli.records import read_json, to_json, write_json
from salsa_cli.runs import checkpoints, run_folder
from salsa_cli.runs.events import DryRun, Note, Report, Result, Warned, Working
from salsa_cli.runs.unfinished import working_folder

LINE_POINTS, PLANE_POINTS = 11, 5
MAX_INVALID = 0.05


def run(config: EvalConfig, report: Report) -> Result:
    """Generate answers, judge them, count the verdicts, and write `config.output`.

    Returns:
        Win rates and scores; in a `GateFailed` if they are below `--fail-under`; or the plan of a
        dry run.

    Raises:
        SalsaError: a model, a judge or the prompts cannot be used, a judge failed, or the output
            exists.
    """
    began = time.monotonic()
    if (done := eval_result.finished(config, report)) is not None:
        return gate.gated(done, config)
    run_folder.check_output(config.output, config.force)
    plan = planning.prepare(config)
    run_folder.check_output(config.output, config.force, plan.read)
    gate.check([arm.name for arm in plan.arms], [judge.scores for judge in plan.judges], config)
    for text in planning.warnings(plan, config):
        report(Warned(text))
    if config.dry_run:
        return DryRun(dry_run.facts(plan, config))
    with working_folder("eval", config, report, resume=config.resume, kept=_kept) as folder:
        begin(folder, plan, config)
        runtime = start_runtime(config.device)
        answered = answer(folder, plan, config, runtime, report)
        scored, verdicts = judge(folder, plan, answered, config, runtime, report)
        report(Working("computing the intervals"))
        texts, gradings = _texts(answered), _gradings(scored)
        counted = counting.count(
            [win_rates.as_stored(verdicts)],
            texts,
            config,
            gradings=gradings,
            style_baseline=plan.style_baseline(config.baseline),
            max_invalid=MAX_INVALID if config.max_invalid is None else config.max_invalid,
            remedy="--resume requests the missing ones again",
        )
        kls = distances.measure(
            plan.models,
            plan.anchors,
            plan.questions,
            answered,
            folder / "kl.jsonl",
            runtime,
            report,
        )
        line, plane = landscapes(folder, plan, config, runtime, report)
        best_of_rows, against_best_of = best_of.estimate(
            plan.models,
            plan.questions,
            answered,
            plan.judges,
            scored,
            config,
            planning.generation(config),
            folder,
            runtime,
            report,
        )
        report(Working("comparing the arms"))
        result = replace(
            counted,
            prompts=len(plan.questions),
            answers=tuple(_describe(name, given) for name, given in answered.items()),
            kl=_kl_rows(plan, kls, config),
            line=line,
            plane=plane,
            best_of=best_of_rows,
            against_best_of=against_best_of,
            arms=arm_results.of(plan.arms, verdicts, gradings, config),
            frontier=frontier.of(
                plan.arms, arm_results.scores_by_judge([*gradings, *verdicts]), kls, config
            ),
            remarks=(*counted.remarks, *_wording(plan), *planning.warnings(plan, config)),
            seconds=time.monotonic() - began,
        )
        for name, given in plan.given.items():
            answer_files.write(_answers_file(folder, plan, name), plan.questions, given)
        _write_rows(folder / "judgments.jsonl", [to_row(verdict) for verdict in verdicts])
        write_json(folder / eval_result.FILE, result.record())
        report(Working("writing report.html"))
        graded = [verdict for verdict in gradings if len(plan.names) == 1]
        report_page.write(
            folder,
            config,
            result,
            [*verdicts, *graded],
            texts,
            disputed.asked(plan.questions),
        )
    return gate.gated(result, config)


def begin(folder: Path, plan: EvalPlan, config: EvalConfig) -> None:
    """Write salsa.json; refuse to resume a run that was started with other settings."""
    path = folder / "salsa.json"
    inputs = planning.inputs(plan, config)
    if path.exists():
        before = read_json(path)
        settings = planning.with_larger_limit(before["settings"], config)
        checkpoints.check_same_settings(path, settings, before["inputs"], config)
        checkpoints.check_same_inputs(path, before["inputs"], inputs)
    run_folder.write_record(folder, path.name, eval_result.made_by(config, inputs))
    (folder / "answers").mkdir(exist_ok=True)


def answer(
    folder: Path, plan: EvalPlan, config: EvalConfig, runtime: Runtime, report: Report
) -> dict[str, Replies]:
    """The answers of every model, generated (into answers/NAME.jsonl) or given."""
    how = planning.generation(config)
    made = {
        name: answers.generate(
            name, path, plan.questions, how, _answers_file(folder, plan, name), runtime, report
        )
        for name, path in plan.models.items()
    }
    return {**made, **plan.given}


def judge(
    folder: Path,
    plan: EvalPlan,
    answered: Mapping[str, Replies],
    config: EvalConfig,
    runtime: Runtime,
    report: Report,
) -> tuple[list[Scored], list[Verdict]]:
    """Ask every judge: the scores of scoring judges, and the verdicts of all judges."""
    scored: list[Scored] = []
    verdicts: list[Verdict] = []
    for spec in plan.judges:
        if spec.scores:
            scored.append(
                scoring.score(
                    spec,
                    plan.questions,
                    answered,
                    batch_size=config.batch_size,
                    runtime=runtime,
                    report=report,
                )
            )
            verdicts += scoring.verdicts(scored[-1], plan.pairs(config.baseline))
        else:
            writer = plan.apis.get(spec.name) or LocalWriter(
                spec.name, Path(spec.source), config.batch_size, runtime, report
            )
            verdicts += ask(writer, folder, plan, answered, config, report)
    return scored, verdicts


def ask(
    writer: Writer,
    folder: Path,
    plan: EvalPlan,
    answered: Mapping[str, Replies],
    config: EvalConfig,
    report: Report,
) -> list[Verdict]:
    """The verdicts of an LLM judge; reports a forecast of the calls first."""
    sampling = planning.sampling(config)
    store = planning.store(folder, config)
    tasks = planning.tasks(writer, plan, answered, config)
    forecast = planning.forecast(writer.name, tasks, store, config)
    report(Note(str(forecast)))
    if writer.name in plan.apis and config.max_calls is not None:
        plan.apis[writer.name].check_budget(forecast.calls)
    return writing.judge(
        writer, tasks, sampling, grading=config.grading, store=store, report=report
    )


def landscapes(
    folder: Path, plan: EvalPlan, config: EvalConfig, runtime: Runtime, report: Report
) -> tuple[tuple[SoupRow, ...], tuple[SoupRow, ...]]:
    """Mean rewards of the soups on the line, and of those in the triangle."""
    scoring_judges = [judge for judge in plan.judges if judge.scores]

    def rows(paths: Sequence[Path], grid: Sequence[tuple[float, ...]]) -> tuple[SoupRow, ...]:
        if not paths:
            return ()
        soups = landscape.rewards_of(
            paths,
            grid,
            plan.questions,
            scoring_judges,
            planning.generation(config),
            folder / "soups.jsonl",
            runtime,
            report,
        )
        names = tuple(str(path) for path in paths)
        drawn = Resampling(config.seed, config.draws)
        return tuple(
            row
            for judge in scoring_judges
            for row in soup_gains.rows(
                names,
                judge.name,
                {soup.weights: soup.rewards for soup in soups if soup.judge == judge.name},
                drawn,
            )
        )

    return (
        rows(plan.line, landscape.line(config.points or LINE_POINTS)),
        rows(plan.plane, landscape.triangle(config.points or PLANE_POINTS)),
    )


def _kl_rows(plan: EvalPlan, measured: Distances, config: EvalConfig) -> tuple[KLRow, ...]:
    """The mean KL of each model to each anchor, in the order of the models."""
    return tuple(
        KLRow(
            name,
            anchor,
            *_mean(list(of_models[name].values()), config),
            n=len(of_models[name]),
            temperature=distances.TEMPERATURE,
        )
        for name in plan.models
        for anchor, of_models in measured.items()
        if name in of_models
    )


def _wording(plan: EvalPlan) -> tuple[str, ...]:
    """Which wording LLM judges were asked in, if it is not salsa's own."""
    writes = any(not judge.scores for judge in plan.judges)
    own = plan.judge_prompt.name == prompts.OWN
    return (f"Prompt of the LLM judges: {plan.judge_prompt.name}.",) if writes and not own else ()


def _gradings(scored: Sequence[Scored]) -> list[Verdict]:
    """Each score as a verdict on a single answer."""
    return [
        Verdict(
            question=turn.question.id,
            judge=one.judge,
            a=model,
            turn=turn.number,
            score_a=score,
            category=turn.question.category,
        )
        for one in scored
        for model, scores in one.scores.items()
        for turn, score in zip(one.turns, scores, strict=True)
    ]


def _texts(answered: Mapping[str, Replies]) -> dict[str, dict[str, StoredAnswer]]:
    """The answers in the form that the report and style control use."""
    return {
        name: {
            question: StoredAnswer(
                style_control.of_text("\n".join(reply.text for reply in replies), _tokens(replies)),
                tuple(reply.text for reply in replies),
            )
            for question, replies in given.items()
        }
        for name, given in answered.items()
    }


def _tokens(replies: Sequence[Reply]) -> int | None:
    counts = [reply.tokens for reply in replies if reply.tokens is not None]
    return sum(counts) if len(counts) == len(replies) else None


def _answers_file(folder: Path, plan: EvalPlan, name: str) -> Path:
    return folder / "answers" / f"{names.file_names(plan.names)[name]}.jsonl"


def _write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")


def _describe(name: str, given: Replies) -> AnswerRow:
    replies = [reply for turns in given.values() for reply in turns]
    lengths = [reply.tokens for reply in replies if reply.tokens is not None]
    finished = sum(reply.finished for reply in replies) / len(replies)
    return AnswerRow(name, sum(lengths) / len(lengths) if lengths else None, finished)


def _mean(values: Sequence[float], config: EvalConfig) -> tuple[float, float, float]:
    """The mean over prompts with its bootstrap interval."""
    interval = statistics.bootstrap_interval(values, config.seed, config.draws, win_rates.LEVEL)
    return interval.estimate, interval.low, interval.high


def _kept(folder: Path) -> str | None:
    """What an unfinished run has already produced, in words; None if nothing."""
    made = sum(_lines(path) for path in (folder / "answers").glob("*.jsonl"))
    judged = _lines(folder / "judge_texts.jsonl")
    soups = _lines(folder / "soups.jsonl")
    samples = _lines(folder / best_of.FILE)
    if not (made or judged or soups or samples):
        return None
    kept = f"{counted(made, 'answer')} and {counted(judged, 'judgement')}"
    kept += f", and the rewards of {counted(soups, 'soup')}" if soups else ""
    return f"{kept}, and {counted(samples, 'sample')} for best of N" if samples else kept


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
