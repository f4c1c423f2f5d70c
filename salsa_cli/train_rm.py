"""`salsa train-rm`: reward models from preference pairs, by the Bradley-Terry likelihood."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from salsa_cli import data, folders, lora, models, runs, runtime
from salsa_cli.data import stable_seed
from salsa_cli.errors import os_errors
from salsa_cli.lora import Adapters
from salsa_cli.maths import statistics
from salsa_cli.models import RewardModel
from salsa_cli.records import JSON, read_json, read_rows, to_json, write_json, write_text
from salsa_cli.reports import (
    DryRun,
    Note,
    Report,
    Result,
    Table,
    both,
    duration,
    metrics_file,
)
from salsa_cli.reward_models import assessment, fitting, reward_data, reward_pages
from salsa_cli.reward_models.assessment import Assessment, Group, PairScores
from salsa_cli.reward_models.fitting import Begun, Member
from salsa_cli.reward_models.pairs import Dropped, EncodedPair
from salsa_cli.reward_models.reward_pages import Trained
from salsa_cli.reward_models.train_rm_config import TrainRMConfig
from salsa_cli.rewards import Scale
from salsa_cli.runtime import Runtime
from salsa_cli.tokens import padding_token

RECORD = "salsa.json"
EVALUATION = "evaluation.json"
SCORES = "eval_scores.jsonl"

REFERENCE_PAIRS = 256
"""Pairs whose scores make the scale; fewer would leave the deviation to chance."""


@dataclass(frozen=True)
class TrainRMResult:
    """What a trained reward model came to; accuracy is the share of held-out pairs it orders.

    `dropped` counts the rows of both files that were left out, `truncated` those of which an
    answer was cut; `members` are the accuracies of the members of an ensemble, whose mean score
    the other figures describe.
    """

    output: str
    pairs: int
    dropped: int
    eval_pairs: int
    eval_accuracy: float
    eval_low: float
    eval_high: float
    eval_ties: int
    eval_margin: float
    eval_calibration_error: float
    members: tuple[float, ...]
    seconds: float
    truncated: int = 0

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints."""
        return asdict(self)

    def summary(self) -> tuple[str, Table | None]:
        """One paragraph: accuracy with its interval, what it was measured on, the time."""
        what = f"mean of {len(self.members)} models orders" if len(self.members) > 1 else "orders"
        ties = f", {self.eval_ties} of them ties" if self.eval_ties else ""
        lines = [
            f"{self.output}: {what} {self.eval_accuracy:.1%} of {self.eval_pairs} held-out pairs"
            f"{ties} (95 % interval {self.eval_low:.1%} to {self.eval_high:.1%}); "
            f"trained on {self.pairs} pairs in {duration(self.seconds)}"
        ]
        if len(self.members) > 1:
            lines.append("each alone: " + ", ".join(f"{one:.1%}" for one in self.members))
        if self.eval_low <= 0.5 <= self.eval_high:
            lines.append(f"{self.eval_pairs} pairs do not tell this accuracy from guessing.")
        return "\n".join(lines), None


@dataclass(frozen=True)
class Plan:
    """What the configuration names, found, checked and encoded."""

    model: Path
    training: tuple[EncodedPair, ...]
    held_out: tuple[EncodedPair, ...]
    dropped: Mapping[str, tuple[Dropped, ...]]
    cut: Mapping[str, tuple[int, ...]]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """What the evaluation of a finished run found: of each member, and of all together."""

    members: tuple[Assessment, ...]
    scales: tuple[Scale, ...]
    together: Assessment


def run(config: TrainRMConfig, report: Report) -> Result:
    """Train one reward model or several and write them to `config.output`."""
    began = time.monotonic()
    resumed = config.resume and not config.force
    if resumed and (done := runs.finished(config.output, RECORD, config)) is not None:
        report(Note(f"{config.output} is complete; nothing is left to do"))
        return TrainRMResult(**{**done, "members": tuple(done["members"])})
    runs.check_output(config.output, config.force)
    plan = prepare(config, report)
    runs.check_output(config.output, config.force, (plan.model,))
    if config.dry_run:
        return _dry_run(config, plan)
    inputs = _inputs(config, plan)
    with runs.resumable(config.output, force=config.force, resume=config.resume) as folder:
        device = runtime.start(config.device)
        steps = fitting.step_count(plan.training, config)
        begun = fitting.restore(folder, steps, config, report)
        for member in fitting.members(config)[begun.member :]:
            train(member, begun, plan, config, device, folder, report)
            # All of the member is written: a run that is resumed from here starts the next one.
            begun = Begun(member.number + 1)
            fitting.save(folder, begun, steps, config)
        found = evaluate(config, plan, folder)
        result = _result(config, plan, found, time.monotonic() - began)
        write(folder, inputs, plan, found, config, result)
    return result


def prepare(config: TrainRMConfig, report: Report) -> Plan:
    """Find the model, read the pairs, drop what teaches nothing, split and encode them.

    Raises:
        SalsaError: an input is missing or wrong, or no pair is left.
    """
    model = folders.resolve(config.model)
    tokenizer = models.load_tokenizer(model)
    padding_token(model, tokenizer, config.pad_token)
    limit = min(config.max_length, models.context_length(model) or config.max_length)
    if limit < config.max_length:
        report(Note(f"{model} reads {limit} tokens; longer pairs count as too long"))
    return Plan(model, *reward_data.load(model, tokenizer, limit, config, report))


def train(
    member: Member,
    begun: Begun,
    plan: Plan,
    config: TrainRMConfig,
    device: Runtime,
    folder: Path,
    report: Report,
) -> None:
    """Train one model from where `begun` says, score the held-out pairs, and write it."""
    reward = models.new_reward_model(plan.model, device.device, member.seed, config.pad_token)
    adapted = _prepare_training(reward, member, config)
    listen = both(report, metrics_file(folder / fitting.METRICS))
    fitting.fit(reward, plan.training, member, begun, config, device, folder, listen)
    if adapted is not None:
        adapted.merge()
    scores = fitting.score_all(reward, plan.held_out, "evaluation", config, device, report)
    scale = measure_scale(reward, plan, scores, config, device, report)
    place = _place(folder, member.number, config)
    with os_errors(place, "write"):
        place.mkdir(exist_ok=True)
        save_model(reward, scale, plan, place)
        rows = [
            {"row": pair.row, "category": pair.category, "chosen": better, "rejected": worse}
            for pair, better, worse in zip(
                plan.held_out, scores.chosen.tolist(), scores.rejected.tolist(), strict=True
            )
        ]
        write_text(place / SCORES, "".join(to_json(row) + "\n" for row in rows))


def _prepare_training(
    reward: RewardModel, member: Member, config: TrainRMConfig
) -> Adapters | None:
    """Put in what the training needs; returns the adapters, where there are any."""
    adapted = None
    if config.lora_rank is not None:
        seed = stable_seed(member.seed, "adapters")
        adapted = lora.add(reward.model, config.lora_rank, seed)
    if config.gradient_checkpointing:
        models.checkpoint_activations(reward.model)
    return adapted


def measure_scale(
    reward: RewardModel,
    plan: Plan,
    held_out: PairScores,
    config: TrainRMConfig,
    device: Runtime,
    report: Report,
) -> Scale:
    """Mean and spread of the scores of answers, held-out ones first, training ones if few."""
    parts = [held_out.chosen, held_out.rejected]
    if missing := plan.training[: max(0, REFERENCE_PAIRS - len(plan.held_out))]:
        more = fitting.score_all(reward, missing, "normalisation", config, device, report)
        parts += [more.chosen, more.rejected]
    mean, std = statistics.mean_and_std(np.concatenate(parts))
    return Scale(mean, std or 1.0)


def save_model(reward: RewardModel, scale: Scale, plan: Plan, folder: Path) -> None:
    """The model as an ordinary folder, its scale in config.json."""
    reward.model.config.salsa_reward = asdict(scale)
    folders.copy_tokenizer(plan.model, folder)
    folders.name_pad_token(folder, str(reward.tokenizer.pad_token))
    models.save_model(reward.model, folder, like=plan.model)


def evaluate(config: TrainRMConfig, plan: Plan, folder: Path) -> Found:
    """Assess the models by the scores that their training wrote."""
    places = [_place(folder, number, config) for number in range(config.ensemble)]
    scores = [_read_scores(place) for place in places]
    scales = tuple(Scale(**read_json(p / "config.json")["salsa_reward"]) for p in places)
    members = tuple(assessment.assess(plan.held_out, one) for one in scores)
    if config.ensemble == 1:
        return Found(members, scales, members[0])
    together = assessment.assess_ensemble(plan.held_out, scores, scales)
    return Found(members, scales, together)


def write(
    folder: Path,
    inputs: Mapping[str, JSON],
    plan: Plan,
    found: Found,
    config: TrainRMConfig,
    result: TrainRMResult,
) -> None:
    """Evaluation, report, cards and record; the checkpoints go last, when nothing can fail."""
    evaluation: dict[str, object] = {"evaluation": asdict(found.together)}
    if config.ensemble > 1:
        evaluation["members"] = [asdict(one) for one in found.members]
    dropped = {name: [asdict(one) for one in given] for name, given in plan.dropped.items()}
    made = runs.made_by(
        "train-rm",
        config,
        inputs,
        result=dict(result.record()),
        dropped=dropped,
        cut={name: rows for name, rows in plan.cut.items() if rows},
        warnings=plan.warnings,
    )
    trained = Trained(
        config,
        len(plan.training),
        plan.dropped,
        found.together,
        found.members,
        read_rows(folder / fitting.METRICS),
    )
    with os_errors(folder, "write"):
        write_json(folder / EVALUATION, evaluation)
        write_text(folder / "report.html", reward_pages.report(trained))
        for number, (one, scale) in enumerate(zip(found.members, found.scales, strict=True)):
            card = reward_pages.model_card(
                trained, one, scale, str(_place(config.output, number, config))
            )
            write_text(_place(folder, number, config) / "README.md", card)
        runs.write_record(folder, RECORD, made)
    runs.drop_checkpoints(folder)


def _place(folder: Path, number: int, config: TrainRMConfig) -> Path:
    """The folder of one model: of an ensemble's member, or the run's own."""
    return folder if config.ensemble == 1 else folder / str(number)


def _read_scores(folder: Path) -> PairScores:
    rows = read_rows(folder / SCORES)
    return PairScores(
        np.array([row["chosen"] for row in rows]), np.array([row["rejected"] for row in rows])
    )


def _inputs(config: TrainRMConfig, plan: Plan) -> dict[str, JSON]:
    inputs: dict[str, JSON] = {"model": folders.describe(plan.model)}
    for name, source in (("data", config.data), ("eval_data", config.eval_data)):
        if source is not None:
            inputs[name] = folders.describe_files(source, data.local_files(source))
    return inputs


def _result(config: TrainRMConfig, plan: Plan, found: Found, seconds: float) -> TrainRMResult:
    whole: Group = found.together.accuracy
    return TrainRMResult(
        output=str(config.output),
        pairs=len(plan.training),
        dropped=sum(len(one.rows) for given in plan.dropped.values() for one in given),
        eval_pairs=whole.n,
        eval_accuracy=whole.accuracy,
        eval_low=whole.low,
        eval_high=whole.high,
        eval_ties=whole.ties,
        eval_margin=found.together.margin,
        eval_calibration_error=found.together.calibration_error,
        members=tuple(one.accuracy.accuracy for one in found.members),
        seconds=seconds,
        truncated=sum(map(len, plan.cut.values())),
    )


def _dry_run(config: TrainRMConfig, plan: Plan) -> DryRun:
    steps = fitting.step_count(plan.training, config)
    return DryRun(
        {
            "model": str(plan.model),
            "models to train": config.ensemble,
            "training pairs": len(plan.training),
            "held-out pairs": len(plan.held_out),
            "dropped pairs": sum(len(d.rows) for given in plan.dropped.values() for d in given),
            "longest pair, tokens": max(pair.length for pair in plan.training),
            "steps": steps * config.ensemble,
        }
    )
