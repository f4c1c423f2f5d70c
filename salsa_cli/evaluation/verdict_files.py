"""`salsa eval --judgments`: count the verdicts of files, without asking a judge."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from salsa_cli import data
from salsa_cli.config import run_names
from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import UsageError
from salsa_cli.evaluation.questions import benchmarks
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.evaluation.report import disputed, report_page
from salsa_cli.evaluation.results import counting, eval_result, gate, style_control
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.results.style_control import Answers, StoredAnswer
from salsa_cli.evaluation.verdicts import formats, oddities
from salsa_cli.evaluation.verdicts.formats import Stored
from salsa_cli.formatting import counted
from salsa_cli.records import JSON, write_json
from salsa_cli.runs import run_folder
from salsa_cli.runs.events import DryRun, Note, Report, Result, Warned
from salsa_cli.weights import folders


def run(config: EvalConfig, report: Report) -> Result:
    """Read the files, count their verdicts, and write `config.output`."""
    began = time.monotonic()
    if (done := eval_result.finished(config, report)) is not None:
        return gate.gated(done, config)
    run_folder.check_output(config.output, config.force)
    questions = benchmarks.load(config.prompts) if config.prompts is not None else []
    files = categorised(formats.read(config.judgments, config.baseline, config.columns), questions)
    check_baseline(files, config)
    for line in _contents(files):
        report(Note(line))
    odd = oddities.remarks(files)
    for line in odd:
        report(Warned(line))
    if config.baseline is None and (assumed := _assumed_baselines(files)):
        report(
            Warned(f"{assumed} is assumed to be the baseline; choose another with --baseline NAME")
        )
    if config.dry_run:
        return DryRun(
            {
                "files": len(files),
                "verdicts": sum(len(one.verdicts) for one in files),
                "judges": ", ".join(dict.fromkeys(v.judge for one in files for v in one.verdicts)),
            }
        )
    answers = style_control.read(config.answers) or _outputs(files)
    counted = counting.count(
        files,
        answers,
        config,
        style_baseline=config.baseline,
        max_invalid=config.max_invalid,
        remedy="Increase it to count the others",
    )
    for line in counted.remarks:
        report(Note(line))
    result = replace(counted, remarks=(*counted.remarks, *odd), seconds=time.monotonic() - began)
    gate.first_rate(result, config)
    verdicts = [verdict for one in files for verdict in one.verdicts]
    with run_folder.draft(config.output, force=config.force) as folder:
        write(folder, config, result)
        report_page.write(
            folder,
            config,
            result,
            verdicts,
            answers,
            {**_prompts(answers), **disputed.asked(questions)},
        )
    return gate.gated(result, config)


def categorised(files: Sequence[Stored], questions: Sequence[Question]) -> list[Stored]:
    """The same verdicts with the categories that `--prompts` gives their questions."""
    categories = {one.id: one.category for one in questions if one.category is not None}
    return [
        replace(
            one,
            verdicts=[
                replace(verdict, category=categories[verdict.question])
                if verdict.question in categories
                else verdict
                for verdict in one.verdicts
            ],
        )
        for one in files
    ]


def check_baseline(files: Sequence[Stored], config: EvalConfig) -> None:
    """Refuse a baseline that is in no comparison.

    Raises:
        UsageError: names the models there are.
    """
    names = {
        name: None
        for one in files
        for verdict in one.verdicts
        if verdict.b is not None
        for name in (verdict.a, verdict.b)
    }
    if config.baseline is not None and config.baseline not in names:
        found = ", ".join(names) or "none: answers were graded individually"
        raise UsageError(f"--baseline {config.baseline}: no such model; expected one of {found}")


def write(folder: Path, config: EvalConfig, result: EvalResult) -> None:
    """Write results.json and salsa.json."""
    inputs: dict[str, JSON] = {
        "judgments": [
            folders.describe_files(name, data.local_files(name)) for name in config.judgments
        ],
        "prompts": config.prompts
        and folders.describe_files(config.prompts, data.local_files(config.prompts)),
        "answers": [
            folders.describe_files(one, data.local_files(run_names.split(one)[1]))
            for one in config.answers
        ],
    }
    run_folder.write_record(folder, eval_result.RECORD, eval_result.made_by(config, inputs))
    write_json(folder / eval_result.FILE, result.record())


def _outputs(files: Sequence[Stored]) -> Answers:
    """The answers that the files hold themselves, if they hold those of every model."""
    found: dict[str, dict[str, StoredAnswer]] = {}
    for one in files:
        for model, texts in one.outputs.items():
            answers = found.setdefault(model, {})
            for question, text in texts.items():
                answers[question] = StoredAnswer(style_control.of_text(text), (text,))
    compared = [v for one in files for v in one.verdicts if v.b is not None]
    whole = all(
        verdict.question in found.get(str(name), {})
        for verdict in compared
        for name in (verdict.a, verdict.b)
    )
    return found if whole else {}


def _prompts(answers: Answers) -> dict[str, tuple[str, ...]]:
    """The prompts stored with the answers, by question."""
    return {
        question: (answer.prompt,)
        for given in answers.values()
        for question, answer in given.items()
        if answer.prompt is not None
    }


def _contents(files: Sequence[Stored]) -> list[str]:
    """One line per format: how many verdicts were read."""
    counts: dict[str, tuple[int, int]] = {}
    for one in files:
        known, verdicts = counts.get(one.format, (0, 0))
        counts[one.format] = (known + 1, verdicts + len(one.verdicts))
    return [
        f"{name}: {counted(verdicts, 'verdict')} in {counted(known, 'file')}"
        for name, (known, verdicts) in counts.items()
    ]


def _assumed_baselines(files: Sequence[Stored]) -> str:
    """The baselines that Arena-Hard v0.1 assumes because its files name none."""
    names = {
        str(verdict.b)
        for one in files
        if one.format == "Arena-Hard v0.1"
        for verdict in one.verdicts
    }
    return ", ".join(sorted(names))
