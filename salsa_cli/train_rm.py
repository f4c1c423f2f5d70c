"""`salsa train-rm`: reward models from preference pairs, by the Bradley-Terry likelihood."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from salsa_cli import data
from salsa_cli.config.record import record
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.data import stable_seed
from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.errors import SalsaError, os_errors
from salsa_cli.formatting import amount, duration
from salsa_cli.models import loading, lora, saving, shapes
from salsa_cli.models.activation_memory import Machine
from salsa_cli.models.loading import RewardModel
from salsa_cli.models.lora import Adapters
from salsa_cli.models.tokenization import padding_token
from salsa_cli.records import JSON, read_rows, write_json, write_text
from salsa_cli.reward_models import (
    fitting,
    forecast,
    held_out,
    model_card,
    pair_data,
    report_page,
    rewards,
    worst_pairs,
)
from salsa_cli.reward_models.assessment import PairScores
from salsa_cli.reward_models.fitting import Member, Progress
from salsa_cli.reward_models.held_out import REFERENCE_PAIRS, SCORES, HeldOutAssessment
from salsa_cli.reward_models.plan import TrainingPlan, TrainingRun
from salsa_cli.reward_models.report_page import TrainingReport
from salsa_cli.reward_models.results import TrainRMResult, evaluated
from salsa_cli.reward_models.rewards import RewardScale
from salsa_cli.runs import checkpoints, run_folder, tracking
from salsa_cli.runs.events import DryRun, Note, Report, Result, Working, both, metrics_file, silent
from salsa_cli.runs.tracking import TrackedRun
from salsa_cli.runs.unfinished import working_folder
from salsa_cli.weights import folders

RECORD = "salsa.json"
EVALUATION = "evaluation.json"


def run(config: TrainRMConfig, report: Report) -> Result:
    """Train one reward model or several and write them to `config.output`.

    Returns:
        Accuracy and scale of what was trained, or the plan of a dry run.

    Raises:
        SalsaError: a model or the pairs cannot be used, the training diverged, or the output
            exists.
    """
    began = time.monotonic()
    resumed = config.resume and not config.force
    if resumed and (done := run_folder.finished(RECORD, config)) is not None:
        report(Note(f"{config.output} is already complete; nothing to do"))
        return TrainRMResult.restored(done)
    tracking.check(config.track)
    run_folder.check_output(config.output, config.force)
    runtime = start_runtime(config.device, shard=config.shard)
    with runtime.main_first():
        plan = prepare(config, report)
        run_folder.check_output(config.output, config.force, (plan.model,))
    machine = Machine.of(runtime)
    parts = forecast.memory(
        plan.model, plan.training, config, machine.frozen, machine.spread, machine.offloads
    )
    if config.dry_run:
        return _dry_run(config, plan, parts, runtime)
    forecast.check_memory(parts, runtime.memory)
    inputs = runtime.from_main(lambda: _inputs(config, plan))
    with (
        runtime.held_by_main(
            lambda: working_folder("train-rm", config, report, resume=config.resume),
            run_folder.partial_folder(config.output),
        ) as folder,
        runtime.together(),
    ):
        training = TrainingRun(plan, config, runtime, folder, inputs)
        train_members(training, report)

        def finish() -> TrainRMResult:
            found = evaluate(training)
            result = _result(config, plan, found, time.monotonic() - began)
            write(training, found, result)
            return result

        return runtime.from_main(finish)


def prepare(config: TrainRMConfig, report: Report) -> TrainingPlan:
    """Find the model; read, check, split and encode the pairs.

    Raises:
        SalsaError: an input is missing or wrong, or no pair is left.
    """
    model = folders.resolve(config.model)
    tokenizer = loading.load_tokenizer(model)
    pad = tokenizer.get_vocab()[padding_token(model, tokenizer, config.pad_token)]
    if pad >= (size := shapes.vocabulary_size(model)):
        raise SalsaError(
            f"{model} has pad token {pad} but only {size} tokens; choose another with --pad-token"
        )
    if note := shapes.dtype_note(model):
        report(Note(note))
    if config.lora_rank is not None:
        lora.check_rank(config.lora_rank, shapes.shape(model).hidden)
    limit = min(config.max_length, shapes.context_length(model) or config.max_length)
    if limit < config.max_length:
        report(Note(f"{model} has a context of {limit} tokens; longer pairs count as too long"))
    report(Working("reading and encoding the pairs"))
    given = pair_data.load(model, tokenizer, limit, config, report)
    pair_data.check_lengths(model, tokenizer, (*given.training, *given.held_out))
    return TrainingPlan(model, given.training, given.held_out, given.sources, given.warnings)


def train_members(run: TrainingRun, report: Report) -> None:
    """Train every model of the run that a resumed run does not have yet."""
    config, runtime = run.config, run.runtime
    steps = fitting.step_count(run.plan.training, config)
    progress = fitting.restore(run, steps, report)
    tracked = TrackedRun(
        "salsa-train-rm",
        config.run_name,
        config.output.name,
        record(config),
        progress.steps_done(steps),
    )
    with runtime.held_by_main(
        lambda: tracking.tracking(config.track, run.folder, tracked, report), silent
    ) as track:
        for member in fitting.members(config)[progress.member :]:
            train(member, progress, run, both(report, track))
            # The member is written in full: a run resumed from here starts with the next one.
            progress = Progress(member.number + 1)
            fitting.save(progress, steps, run)


def train(member: Member, progress: Progress, run: TrainingRun, report: Report) -> None:
    """Train one model from `progress` on, score the held-out pairs, and write it."""
    plan, config, runtime = run.plan, run.config, run.runtime
    report(Working(f"loading {plan.model}"))
    reward = loading.new_reward_model(plan.model, runtime.device, member.seed, config.pad_token)
    adapters = _prepare_training(reward, member, config)
    listen = both(report, metrics_file(run.folder / fitting.METRICS)) if runtime.main else silent
    fitting.fit(reward, member, progress, run, listen)
    if adapters is not None and config.lora_save == "merged":
        adapters.merge()
    scores = fitting.score_pairs(reward, plan.held_out, "evaluation", config, runtime, report)
    scale = measure_scale(reward, scores, run, report)
    report(Working("writing the model"))
    runtime.from_main(lambda: write_member(member, reward, scores, scale, run))


def write_member(
    member: Member, reward: RewardModel, scores: PairScores, scale: RewardScale, run: TrainingRun
) -> None:
    """Write one trained model with its scores of the held-out pairs."""
    folder = _member_folder(run.folder, member.number, run.config)
    with os_errors(folder, "write"):
        folder.mkdir(exist_ok=True)
        save_model(reward, scale, run, folder)
        held_out.write_scores(folder / SCORES, run.plan.held_out, scores)


def _prepare_training(
    reward: RewardModel, member: Member, config: TrainRMConfig
) -> Adapters | None:
    """Add LoRA adapters and gradient checkpointing where the settings ask for them."""
    adapters = None
    if config.lora_rank is not None:
        seed = stable_seed(member.seed, "adapters")
        adapters = lora.add(reward.model, config.lora_rank, seed)
    if config.gradient_checkpointing:
        loading.checkpoint_activations(reward.model)
    return adapters


def measure_scale(
    reward: RewardModel, scores: PairScores, run: TrainingRun, report: Report
) -> RewardScale:
    """Mean and standard deviation of the scores of answers.

    Of the held-out pairs, with training pairs added where they are fewer than `REFERENCE_PAIRS`.
    """
    plan = run.plan
    missing = plan.training[: max(0, REFERENCE_PAIRS - len(plan.held_out))]
    if not missing:
        return held_out.scale_of(scores)
    more = fitting.score_pairs(reward, missing, "normalisation", run.config, run.runtime, report)
    return held_out.scale_of(scores, more)


def save_model(reward: RewardModel, scale: RewardScale, run: TrainingRun, folder: Path) -> None:
    """Write the model as a Hugging Face folder, or its adapter as a PEFT folder, and the scale."""
    folders.copy_tokenizer(run.plan.model, folder)
    folders.name_pad_token(folder, str(reward.tokenizer.pad_token))
    if run.config.lora_save == "adapter":
        lora.save(reward.model, folder, run.config.model)
    else:
        saving.save_model(reward.model, folder, like=run.plan.model)
    folders.store_reward_scale(folder, asdict(scale))


def evaluate(run: TrainingRun) -> HeldOutAssessment:
    """Assess the trained models by their stored scores of the held-out pairs."""
    places = [_member_folder(run.folder, n, run.config) for n in range(run.config.ensemble)]
    scores = _scores(run)
    scales = [rewards.stored_scale(place) or RewardScale(0.0, 1.0) for place in places]
    return held_out.assess(run.plan.held_out, scores, scales)


def write(run: TrainingRun, found: HeldOutAssessment, result: TrainRMResult) -> None:
    """Write evaluation, report, model cards and record, then remove the checkpoints."""
    plan, config, folder = run.plan, run.config, run.folder
    tokenizer = loading.load_tokenizer(plan.model)
    evaluation: dict[str, object] = {"evaluation": asdict(found.together)}
    if config.ensemble > 1:
        evaluation["members"] = [asdict(one) for one in found.members]
    made = run_folder.made_by(
        "train-rm",
        config,
        run.inputs,
        result=dict(result.record()),
        dropped={given.name: [asdict(one) for one in given.dropped] for given in plan.sources},
        cut={given.name: given.cut for given in plan.sources if given.cut},
        warnings=plan.warnings,
    )
    trained = TrainingReport(
        config,
        len(plan.training),
        plan.sources,
        plan.warnings,
        found,
        worst_pairs.look(plan.held_out, _scores(run), found.scales, tokenizer),
        read_rows(folder / fitting.METRICS),
    )
    with os_errors(folder, "write"):
        write_json(folder / EVALUATION, evaluation)
        for number, (one, scale) in enumerate(zip(found.members, found.scales, strict=True)):
            name = config.push_to_hub or str(_member_folder(config.output, number, config))
            card = model_card.write(trained, one, scale, name, tokenizer.chat_template)
            write_text(_member_folder(folder, number, config) / "README.md", card)
        run_folder.write_record(folder, RECORD, made)
        report_page.write(folder, trained)
    checkpoints.drop_checkpoints(folder)


def _scores(run: TrainingRun) -> list[PairScores]:
    """The stored scores of the held-out pairs by each model."""
    places = [_member_folder(run.folder, n, run.config) for n in range(run.config.ensemble)]
    return [held_out.read_scores(place / SCORES) for place in places]


def _member_folder(folder: Path, number: int, config: TrainRMConfig) -> Path:
    """The folder of one model: a subfolder for a member of an ensemble, else the run's own."""
    return folder if config.ensemble == 1 else folder / str(number)


def _inputs(config: TrainRMConfig, plan: TrainingPlan) -> dict[str, JSON]:
    inputs: dict[str, JSON] = {"model": folders.describe(plan.model)}
    for name, source in (("data", config.data), ("eval_data", config.eval_data)):
        if source is not None:
            inputs[name] = folders.describe_files(source, data.local_files(source))
    return inputs


def _result(
    config: TrainRMConfig, plan: TrainingPlan, found: HeldOutAssessment, seconds: float
) -> TrainRMResult:
    return TrainRMResult(
        output=str(config.output),
        pairs=len(plan.training),
        dropped=sum(given.left_out for given in plan.sources),
        truncated=sum(len(given.cut) for given in plan.sources),
        **evaluated(found.together, found.members),
        seconds=seconds,
    )


def _dry_run(
    config: TrainRMConfig, plan: TrainingPlan, parts: Mapping[str, int], runtime: Runtime
) -> DryRun:
    """What a run would do and take; its time is measured on the model where that fits."""
    steps = fitting.step_count(plan.training, config)
    took = "unknown, because it does not fit in memory"
    if sum(parts.values()) <= runtime.memory:
        reward = loading.new_reward_model(plan.model, runtime.device, config.seed, config.pad_token)
        _prepare_training(reward, fitting.members(config)[0], config)
        pace = forecast.seconds_per_pair(reward, plan.training, config, runtime)
        took = duration(pace * len(plan.training) * config.epochs * config.ensemble)
    return DryRun(
        {
            "model": str(plan.model),
            "models to train": config.ensemble,
            "training pairs": len(plan.training),
            "held-out pairs": len(plan.held_out),
            "dropped pairs": sum(given.left_out for given in plan.sources),
            "longest pair, tokens": max(pair.length for pair in plan.training),
            "steps": steps * config.ensemble,
            "training time, about": took,
            **{f"memory of {name}": amount(size, "B") for name, size in parts.items()},
            "memory in total": amount(sum(parts.values()), "B"),
            "memory of the device": amount(runtime.memory, "B"),
            "disk": amount(forecast.disk(plan.model, config), "B"),
            "disk free": amount(folders.free_space(config.output), "B"),
        }
    )
