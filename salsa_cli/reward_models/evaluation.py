"""`salsa train-rm` without `--data`: evaluate an existing reward model on held-out pairs.

Nothing is trained. Scores are computed as in `ppo` and `eval`, in the device's data type.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from salsa_cli import data
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.errors import SalsaError, os_errors
from salsa_cli.formatting import counted
from salsa_cli.models import assembly, loading, shapes
from salsa_cli.models.backbones import Placement
from salsa_cli.records import JSON, read_json, write_json
from salsa_cli.reward_models import fitting, held_out, pair_data, report_page, rewards, worst_pairs
from salsa_cli.reward_models.assessment import PairScores
from salsa_cli.reward_models.held_out import REFERENCE_PAIRS, SCORES, HeldOutAssessment
from salsa_cli.reward_models.plan import EvaluationPlan
from salsa_cli.reward_models.report_page import EvaluationReport
from salsa_cli.reward_models.results import EvaluatedModelResult, evaluated
from salsa_cli.reward_models.rewards import RewardScale
from salsa_cli.runs import run_folder
from salsa_cli.runs.events import DryRun, Note, Report, Result, Warned, Working
from salsa_cli.weights import folders, weight_files

RECORD = "salsa.json"
EVALUATION = "evaluation.json"


def run(config: TrainRMConfig, report: Report) -> Result:
    """Evaluate the reward model `config.model` and write the results to `config.output`."""
    began = time.monotonic()
    resumed = config.resume and not config.force
    if resumed and (done := run_folder.finished(RECORD, config)) is not None:
        report(Note(f"{config.output} is already complete; nothing to do"))
        return EvaluatedModelResult.restored(done)
    run_folder.check_output(config.output, config.force)
    plan = prepare(config, report)
    run_folder.check_output(config.output, config.force, plan.models)
    if config.dry_run:
        return _dry_run(plan)
    with run_folder.draft(config.output, force=config.force) as folder:
        runtime = start_runtime(config.device)
        scores = [score(one, plan, config, runtime, report) for one in plan.models]
        measured = tuple(held_out.scale_of(one) for one in scores)
        stored = [rewards.stored_scale(one) for one in plan.models]
        scales = (
            measured if config.store_scale else [one or RewardScale(0.0, 1.0) for one in stored]
        )
        found = held_out.assess(plan.pairs, scores, scales)
        result = EvaluatedModelResult(
            output=str(config.output),
            pairs=0,
            dropped=plan.source.left_out,
            truncated=len(plan.source.cut),
            **evaluated(found.together, found.members),
            seconds=time.monotonic() - began,
            scales=measured,
        )
        write(folder, plan, scores, stored, found, config, result)
    if config.store_scale:
        store_scales(plan, measured, report)
    elif None in stored:
        report(
            Note(
                f"{config.model} stores no mean and standard deviation of its scores, so ppo and "
                "eval use raw scores; --store-scale stores the measured ones"
            )
        )
    return result


def prepare(config: TrainRMConfig, report: Report) -> EvaluationPlan:
    """Find the model or the ensemble, read and encode the pairs.

    Raises:
        SalsaError: an input is missing or malformed, or no pair is left.
    """
    found = folders.members(Path(config.model)) or (loading.find(config.model),)
    for folder in found:
        if not assembly.has_score_head(folder):
            raise SalsaError(
                f"{folder} is not a reward model: its files have no head with a single score. "
                "Expected a reward model to evaluate, or --data with pairs to train one"
            )
    if config.store_scale and not Path(config.model).is_dir():
        raise SalsaError(
            f"--store-scale writes to {config.model}, which is not a local folder; download it "
            "first"
        )
    for text in _trained_on(config):
        report(Warned(text))
    tokenizer = loading.load_tokenizer(found[0])
    limit = min(config.max_length, shapes.context_length(found[0]) or config.max_length)
    pairs = pair_data.load_held_out(found[0], tokenizer, limit, config, report)
    for folder in found:
        pair_data.check_lengths(folder, tokenizer, pairs.kept)
    return EvaluationPlan(found, pairs)


def score(
    folder: Path, plan: EvaluationPlan, config: TrainRMConfig, runtime: Runtime, report: Report
) -> PairScores:
    """Raw scores of all pairs, by one model."""
    report(Working(f"loading {folder}"))
    reward = loading.load_reward_model(folder, Placement(runtime.frozen_dtype, runtime.device))
    stage = "evaluation" if len(plan.models) == 1 else f"evaluation by {folder.name}"
    return fitting.score_pairs(reward, plan.pairs, stage, config, runtime, report)


def write(
    folder: Path,
    plan: EvaluationPlan,
    scores: Sequence[PairScores],
    stored: Sequence[RewardScale | None],
    found: HeldOutAssessment,
    config: TrainRMConfig,
    result: EvaluatedModelResult,
) -> None:
    """Write evaluation, scores, report and record."""
    evaluation: dict[str, object] = {"evaluation": asdict(found.together)}
    if len(plan.models) > 1:
        evaluation["members"] = [asdict(one) for one in found.members]
    evaluation["scales"] = [
        {"measured": asdict(one), "stored": None if kept is None else asdict(kept)}
        for one, kept in zip(result.scales, stored, strict=True)
    ]
    tokenizer = loading.load_tokenizer(plan.models[0])
    looked = worst_pairs.look(plan.pairs, scores, found.scales, tokenizer)
    evaluated_report = EvaluationReport(config, plan.source, found, looked, result.scales)
    made = run_folder.made_by(
        "train-rm",
        config,
        _inputs(config, plan),
        result=dict(result.record()),
        dropped=[asdict(one) for one in plan.source.dropped],
        cut=plan.source.cut,
        warnings=plan.source.warnings,
    )
    with os_errors(folder, "write"):
        for number, one in enumerate(scores):
            place = folder if len(scores) == 1 else folder / f"member-{number}"
            place.mkdir(exist_ok=True)
            held_out.write_scores(place / SCORES, plan.pairs, one)
        write_json(folder / EVALUATION, evaluation)
        run_folder.write_record(folder, RECORD, made)
        report_page.write(folder, evaluated_report)


def store_scales(plan: EvaluationPlan, measured: Sequence[RewardScale], report: Report) -> None:
    """Store the measured scales in the models' folders, each file atomically."""
    if len(plan.pairs) < REFERENCE_PAIRS:
        report(
            Warned(
                f"the scale was measured on {counted(len(plan.pairs), 'pair')}; {REFERENCE_PAIRS} "
                "or more give a stable one"
            )
        )
    for folder, scale in zip(plan.models, measured, strict=True):
        path = folders.reward_scale_file(folder)
        with os_errors(path, "write"):
            folders.store_reward_scale(folder, asdict(scale))
        report(Note(f"{path} now stores the measured scale"))


def _inputs(config: TrainRMConfig, plan: EvaluationPlan) -> Mapping[str, JSON]:
    source = str(config.eval_data)
    ensemble = len(plan.models) > 1
    return {
        "model": folders.describe(Path(config.model) if ensemble else plan.models[0]),
        "eval_data": folders.describe_files(source, data.local_files(source)),
    }


def _trained_on(config: TrainRMConfig) -> Iterator[str]:
    """A warning if the model's record says that it was trained on the held-out files."""
    place = Path(config.model) / RECORD
    made = read_json(place) if place.is_file() else {}
    inputs = made.get("inputs") if isinstance(made, dict) else None
    learnt = inputs.get("data") if isinstance(inputs, dict) else None
    known = learnt.get("sha256") if isinstance(learnt, dict) else None
    if not isinstance(known, dict):
        return
    for path in data.local_files(str(config.eval_data)):
        if weight_files.digest(path) in known.values():
            yield (
                f"{path} is the data that {config.model} was trained on; the accuracy says little "
                "about other pairs"
            )


def _dry_run(plan: EvaluationPlan) -> DryRun:
    return DryRun(
        {
            "models to evaluate": len(plan.models),
            "held-out pairs": len(plan.pairs),
            "dropped pairs": plan.source.left_out,
            "longest pair, tokens": max(pair.length for pair in plan.pairs),
        }
    )
