"""`salsa train-rm`: reward models from preference pairs, by the Bradley-Terry likelihood."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from salsa_cli import data
from salsa_cli.config.options import record
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.data import stable_seed
from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.errors import SalsaError, os_errors
from salsa_cli.models import loading, lora, saving, shapes
from salsa_cli.models.loading import RewardModel
from salsa_cli.models.lora import Adapters
from salsa_cli.models.tokens import padding_token
from salsa_cli.records import JSON, read_rows, write_json, write_text
from salsa_cli.reward_models import (
    fitting,
    forecast,
    held_out,
    model_card,
    pair_data,
    report_page,
    rewards,
)
from salsa_cli.reward_models.assessment import PairScores
from salsa_cli.reward_models.fitting import Member, Progress
from salsa_cli.reward_models.held_out import REFERENCE_PAIRS, SCORES, HeldOutAssessment
from salsa_cli.reward_models.pair_data import SourcePairs
from salsa_cli.reward_models.pairs import EncodedPair
from salsa_cli.reward_models.report_page import TrainingReport
from salsa_cli.reward_models.results import TrainRMResult, evaluated
from salsa_cli.reward_models.rewards import RewardScale
from salsa_cli.runs import checkpoints, run_folder, tracking
from salsa_cli.runs.events import DryRun, Note, Report, Result, both, metrics_file, silent
from salsa_cli.runs.tracking import TrackedRun
from salsa_cli.text import amount, duration
from salsa_cli.weights import folders

RECORD = "salsa.json"
EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class TrainingPlan:
    """What the configuration names, found, checked and encoded."""

    model: Path
    training: tuple[EncodedPair, ...]
    held_out: tuple[EncodedPair, ...]
    sources: tuple[SourcePairs, ...]
    warnings: tuple[str, ...]


def run(config: TrainRMConfig, report: Report) -> Result:
    """Train one reward model or several and write them to `config.output`."""
    began = time.monotonic()
    resumed = config.resume and not config.force
    if (
        resumed
        and (done := run_folder.finished(config.output, RECORD, config, fitting.MANNER)) is not None
    ):
        report(Note(f"{config.output} is complete; nothing is left to do"))
        return TrainRMResult.restored(done)
    tracking.check(config.track)
    run_folder.check_output(config.output, config.force)
    runtime = start_runtime(config.device, shard=config.shard)
    with runtime.main_first():
        plan = prepare(config, report)
        run_folder.check_output(config.output, config.force, (plan.model,))
    spread = runtime.processes if runtime.sharding is not None else 1
    width = runtime.frozen_dtype.itemsize
    parts = forecast.memory(plan.model, plan.training, config, width, spread)
    if config.dry_run:
        return _dry_run(config, plan, parts, runtime)
    forecast.check_memory(parts, runtime.memory)
    inputs = runtime.from_main(lambda: _inputs(config, plan))
    with (
        runtime.held_by_main(
            lambda: run_folder.resumable(config.output, force=config.force, resume=config.resume),
            run_folder.partial_folder(config.output),
        ) as folder,
        runtime.together(),
    ):
        steps = fitting.step_count(plan.training, config)
        begun = fitting.restore(folder, steps, config, runtime, report)
        told = TrackedRun("salsa-train-rm", config.output.name, record(config), begun.rows(steps))
        with runtime.held_by_main(
            lambda: tracking.tracking(config.track, folder, told, report), silent
        ) as track:
            for member in fitting.members(config)[begun.member :]:
                train(member, begun, plan, config, runtime, folder, both(report, track))
                # All of the member is written: a run resumed from here starts the next one.
                begun = Progress(member.number + 1)
                fitting.save(folder, begun, steps, config, runtime)

        def conclude() -> TrainRMResult:
            found = evaluate(config, plan, folder)
            result = _result(config, plan, found, time.monotonic() - began)
            write(folder, inputs, plan, found, config, result)
            return result

        return runtime.from_main(conclude)


def prepare(config: TrainRMConfig, report: Report) -> TrainingPlan:
    """Find the model, read the pairs, drop what teaches nothing, split and encode them.

    Raises:
        SalsaError: an input is missing or wrong, or no pair is left.
    """
    model = folders.resolve(config.model)
    tokenizer = loading.load_tokenizer(model)
    pad = tokenizer.get_vocab()[padding_token(model, tokenizer, config.pad_token)]
    if pad >= (size := shapes.vocabulary_size(model)):
        raise SalsaError(
            f"{model} pads with token {pad} and knows {size} tokens; name another with --pad-token"
        )
    if config.lora_rank is not None:
        lora.check_rank(config.lora_rank, shapes.shape(model).hidden)
    limit = min(config.max_length, shapes.context_length(model) or config.max_length)
    if limit < config.max_length:
        report(Note(f"{model} reads {limit} tokens; longer pairs count as too long"))
    given = pair_data.load(model, tokenizer, limit, config, report)
    return TrainingPlan(model, given.training, given.held_out, given.sources, given.warnings)


def train(
    member: Member,
    begun: Progress,
    plan: TrainingPlan,
    config: TrainRMConfig,
    runtime: Runtime,
    folder: Path,
    report: Report,
) -> None:
    """Train one model from where `begun` says, score the held-out pairs, and write it."""
    reward = loading.new_reward_model(plan.model, runtime.device, member.seed, config.pad_token)
    adapted = _prepare_training(reward, member, config)
    listen = both(report, metrics_file(folder / fitting.METRICS)) if runtime.main else silent
    fitting.fit(reward, plan.training, member, begun, config, runtime, folder, listen)
    if adapted is not None and config.lora_save == "merged":
        adapted.merge()
    scores = fitting.score_pairs(reward, plan.held_out, "evaluation", config, runtime, report)
    scale = measure_scale(reward, plan, scores, config, runtime, report)
    runtime.from_main(lambda: write_member(member, reward, scores, scale, plan, config, folder))


def write_member(
    member: Member,
    reward: RewardModel,
    scores: PairScores,
    scale: RewardScale,
    plan: TrainingPlan,
    config: TrainRMConfig,
    folder: Path,
) -> None:
    """One trained model, with the scores that it gave to the held-out pairs."""
    place = _place(folder, member.number, config)
    with os_errors(place, "write"):
        place.mkdir(exist_ok=True)
        save_model(reward, scale, plan, place, config)
        held_out.write_scores(place / SCORES, plan.held_out, scores)


def _prepare_training(
    reward: RewardModel, member: Member, config: TrainRMConfig
) -> Adapters | None:
    """Put in what the training needs; returns the adapters, where there are any."""
    adapted = None
    if config.lora_rank is not None:
        seed = stable_seed(member.seed, "adapters")
        adapted = lora.add(reward.model, config.lora_rank, seed)
    if config.gradient_checkpointing:
        loading.checkpoint_activations(reward.model)
    return adapted


def measure_scale(
    reward: RewardModel,
    plan: TrainingPlan,
    scores: PairScores,
    config: TrainRMConfig,
    runtime: Runtime,
    report: Report,
) -> RewardScale:
    """Mean and spread of the scores of answers, held-out ones first, training ones if few."""
    missing = plan.training[: max(0, REFERENCE_PAIRS - len(plan.held_out))]
    if not missing:
        return held_out.scale_of(scores)
    more = fitting.score_pairs(reward, missing, "normalisation", config, runtime, report)
    return held_out.scale_of(scores, more)


def save_model(
    reward: RewardModel, scale: RewardScale, plan: TrainingPlan, folder: Path, config: TrainRMConfig
) -> None:
    """The model as an ordinary folder, or its adapter as one of PEFT's, with the scale."""
    folders.copy_tokenizer(plan.model, folder)
    folders.name_pad_token(folder, str(reward.tokenizer.pad_token))
    if config.lora_save == "adapter":
        lora.save(reward.model, folder, config.model)
    else:
        saving.save_model(reward.model, folder, like=plan.model)
    folders.store_reward_scale(folder, asdict(scale))


def evaluate(config: TrainRMConfig, plan: TrainingPlan, folder: Path) -> HeldOutAssessment:
    """Assess the models by the scores that their training wrote."""
    places = [_place(folder, number, config) for number in range(config.ensemble)]
    scores = [held_out.read_scores(place / SCORES) for place in places]
    scales = [rewards.stored_scale(place) or RewardScale(0.0, 1.0) for place in places]
    return held_out.assess(plan.held_out, scores, scales)


def write(
    folder: Path,
    inputs: Mapping[str, JSON],
    plan: TrainingPlan,
    found: HeldOutAssessment,
    config: TrainRMConfig,
    result: TrainRMResult,
) -> None:
    """Evaluation, report, cards and record; the checkpoints go last, when nothing can fail."""
    evaluation: dict[str, object] = {"evaluation": asdict(found.together)}
    if config.ensemble > 1:
        evaluation["members"] = [asdict(one) for one in found.members]
    made = run_folder.made_by(
        "train-rm",
        config,
        inputs,
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
        read_rows(folder / fitting.METRICS),
    )
    template = loading.load_tokenizer(plan.model).chat_template
    with os_errors(folder, "write"):
        write_json(folder / EVALUATION, evaluation)
        write_text(folder / "report.html", report_page.training_report(trained))
        for number, (one, scale) in enumerate(zip(found.members, found.scales, strict=True)):
            name = str(_place(config.output, number, config))
            card = model_card.write(trained, one, scale, name, template)
            write_text(_place(folder, number, config) / "README.md", card)
        run_folder.write_record(folder, RECORD, made)
    checkpoints.drop_checkpoints(folder)


def _place(folder: Path, number: int, config: TrainRMConfig) -> Path:
    """The folder of one model: of an ensemble's member, or the run's own."""
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
    """What would be done; the time is measured on the model itself, where it fits."""
    steps = fitting.step_count(plan.training, config)
    took = "unknown, since it does not fit into memory"
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
            "time of training, about": took,
            **{f"memory of {name}": amount(size, "B") for name, size in parts.items()},
            "memory in all": amount(sum(parts.values()), "B"),
            "memory of the device": amount(runtime.memory, "B"),
            "disk": amount(forecast.disk(plan.model, config), "B"),
            "disk free": amount(folders.free_space(config.output), "B"),
        }
    )
