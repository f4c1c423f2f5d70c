"""`salsa train-rm`: a reward model from preference pairs, by the Bradley-Terry likelihood."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from salsa_cli import data, folders, models, optimisation, runs, runtime
from salsa_cli.configs import TrainRMConfig
from salsa_cli.data import Preference, stable_seed
from salsa_cli.errors import SalsaError
from salsa_cli.maths import preference, statistics
from salsa_cli.maths.statistics import Interval
from salsa_cli.models import RewardModel
from salsa_cli.optimisation import Learner
from salsa_cli.records import JSON, to_json
from salsa_cli.reports import (
    Advanced,
    DryRun,
    Measured,
    Note,
    Report,
    Result,
    Table,
    Warned,
    both,
    duration,
    metrics_file,
)
from salsa_cli.runtime import Runtime
from salsa_cli.settings import record
from salsa_cli.tokens import Answer, Tokenizer, scored_ids, template_warning

RECORD = "salsa.json"

REFERENCE_PAIRS = 256
"""Pairs whose scores make the scale; fewer would leave the deviation to chance."""


@dataclass(frozen=True)
class TrainRMResult:
    """What a trained reward model came to; accuracy is the share of held-out pairs it orders."""

    output: str
    pairs: int
    eval_pairs: int
    eval_accuracy: float
    eval_low: float
    eval_high: float
    seconds: float

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints."""
        return asdict(self)

    def summary(self) -> tuple[str, Table | None]:
        """One paragraph: accuracy with its interval, what it was measured on, the time."""
        return (
            f"{self.output}: orders {self.eval_accuracy:.1%} of {self.eval_pairs} held-out pairs "
            f"(95 % interval {self.eval_low:.1%} to {self.eval_high:.1%}); "
            f"trained on {self.pairs} pairs in {duration(self.seconds)}"
        ), None


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a prompt with its better and with its worse answer."""

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the longer one."""
        return max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Plan:
    """What the configuration names, found, checked and encoded."""

    model: Path
    training: tuple[EncodedPair, ...]
    held_out: tuple[EncodedPair, ...]


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the raw scores on reference answers."""

    mean: float
    std: float


def run(config: TrainRMConfig, report: Report) -> Result:
    """Train a reward model and write it to `config.output`."""
    began = time.monotonic()
    if config.resume and (done := runs.finished(config.output, RECORD)) is not None:
        report(Note(f"{config.output} is complete; nothing is left to do"))
        return TrainRMResult(**done)
    runs.check_output(config.output, config.force)
    plan = prepare(config, report)
    if config.dry_run:
        return DryRun(
            {
                "model": str(plan.model),
                "training pairs": len(plan.training),
                "held-out pairs": len(plan.held_out),
                "longest pair, tokens": max(pair.length for pair in plan.training),
                "steps": _steps(config, plan),
            }
        )
    with runs.resumable(config.output, force=config.force, resume=config.resume) as folder:
        device = runtime.start(config.device)
        reward = models.new_reward_model(plan.model, device.device, config.seed)
        train(reward, plan, config, device, folder, report)
        accuracy = evaluate(reward, plan.held_out, config, device, report)
        scale = measure_scale(reward, plan, config, device)
        result = TrainRMResult(
            output=str(config.output),
            pairs=len(plan.training),
            eval_pairs=len(plan.held_out),
            eval_accuracy=accuracy.estimate,
            eval_low=accuracy.low,
            eval_high=accuracy.high,
            seconds=time.monotonic() - began,
        )
        save(reward, scale, plan, config, result, folder)
    return result


def prepare(config: TrainRMConfig, report: Report) -> Plan:
    """Find the model, read the pairs, split and encode them."""
    model = folders.resolve(config.model)
    pairs = data.preferences(data.read(config.data))
    if config.eval_data is not None:
        training, held_out = pairs, data.preferences(data.read(config.eval_data))
    else:
        training, held_out = _split(pairs, config)
    tokenizer = models.load_tokenizer(model)
    if warning := template_warning(model, tokenizer, [pair.prompt for pair in pairs]):
        report(Warned(warning))
    encoded = tuple(
        _encode(tokenizer, part, name, config, report)
        for part, name in ((training, "training"), (held_out, "held-out"))
    )
    return Plan(model, *encoded)


def train(
    reward: RewardModel,
    plan: Plan,
    config: TrainRMConfig,
    device: Runtime,
    folder: Path,
    report: Report,
) -> None:
    """Maximise the Bradley-Terry likelihood of the training pairs."""
    learner = Learner("reward model", reward.model, config.learning_rate, config.max_grad_norm)
    first = restore(folder, config, learner, report)
    listen = both(report, metrics_file(folder / "metrics.jsonl"))
    steps = _steps(config, plan)
    for step in range(first, steps):
        began = time.perf_counter()
        chosen = data.batch_indices(
            len(plan.training), _batch_size(config, plan), stable_seed(config.seed, "pairs"), step
        )
        row = learn(reward, [plan.training[i] for i in chosen], learner, config, device)
        norm = learner.step(optimisation.warmed_up(step, steps, config.warmup))
        listen(
            Measured(
                {
                    "step": step + 1,
                    **row,
                    "grad_norm": norm,
                    "time": {"step": time.perf_counter() - began},
                }
            )
        )
        listen(Advanced("train-rm", step + 1, steps, "steps", row))
        if (step + 1) % config.save_every == 0 and step + 1 < steps:
            state = {"settings": to_json(_identity(config)), "learner": learner.state()}
            runs.save_checkpoint(folder, step + 1, state)


def learn(
    reward: RewardModel,
    pairs: Sequence[EncodedPair],
    learner: Learner,
    config: TrainRMConfig,
    device: Runtime,
) -> dict[str, float]:
    """Gather the gradient of one batch: one forward pass over both answers of every pair."""
    chosen, rejected = _scores(reward, pairs, device)
    loss = preference.loss(chosen, rejected, label_smoothing=config.label_smoothing).mean()
    torch.autograd.backward(loss)
    with torch.no_grad():
        return {
            "loss": float(loss),
            "accuracy": float(preference.outcomes(chosen, rejected).mean()),
            "margin": float((chosen - rejected).mean()),
        }


@torch.no_grad()
def evaluate(
    reward: RewardModel,
    pairs: Sequence[EncodedPair],
    config: TrainRMConfig,
    device: Runtime,
    report: Report,
) -> Interval:
    """The share of the held-out pairs that are ordered rightly, ties as half."""
    right, done = 0.0, 0
    for batch in _batches(pairs, config):
        right += float(preference.outcomes(*_scores(reward, batch, device)).sum())
        done += len(batch)
        report(Advanced("evaluation", done, len(pairs), "pairs"))
    return statistics.wilson_interval(right, len(pairs))


@torch.no_grad()
def measure_scale(reward: RewardModel, plan: Plan, config: TrainRMConfig, device: Runtime) -> Scale:
    """Mean and spread of the scores of answers, held-out ones first, training ones if few."""
    pairs = (plan.held_out + plan.training)[: max(REFERENCE_PAIRS, len(plan.held_out))]
    parts = [part for batch in _batches(pairs, config) for part in _scores(reward, batch, device)]
    mean, std = statistics.mean_and_std(torch.cat(parts).double().cpu().numpy())
    return Scale(mean, std or 1.0)


def _batches(
    pairs: Sequence[EncodedPair], config: TrainRMConfig
) -> Iterator[Sequence[EncodedPair]]:
    for first in range(0, len(pairs), config.batch_size):
        yield pairs[first : first + config.batch_size]


def restore(folder: Path, config: TrainRMConfig, learner: Learner, report: Report) -> int:
    """Take over the newest checkpoint of the folder, if any; returns the steps it covers."""
    saved = runs.latest_checkpoint(folder)
    if saved is None:
        return 0
    state = runs.load_checkpoint(saved)
    runs.check_same_settings(saved, state["settings"], _identity(config))
    learner.restore(state["learner"])
    runs.keep_rows(folder / "metrics.jsonl", saved.step)
    report(Note(f"resumed after step {saved.step}"))
    return saved.step


def save(
    reward: RewardModel,
    scale: Scale,
    plan: Plan,
    config: TrainRMConfig,
    result: TrainRMResult,
    folder: Path,
) -> None:
    """The model as an ordinary folder, its scale in config.json, and how it was made."""
    reward.model.config.salsa_reward = asdict(scale)
    inputs: dict[str, JSON] = {
        "model": folders.describe(plan.model),
        "data": folders.describe_files(config.data, data.local_files(config.data)),
    }
    if config.eval_data is not None:
        inputs["eval_data"] = folders.describe_files(
            config.eval_data, data.local_files(config.eval_data)
        )
    made: dict[str, Any] = runs.made_by("train-rm", config, inputs, result=dict(result.record()))
    runs.drop_checkpoints(folder)
    runs.write_record(folder, RECORD, made)
    folders.copy_tokenizer(plan.model, folder)
    models.save_model(reward.model, folder, like=plan.model)


def _scores(
    reward: RewardModel, pairs: Sequence[EncodedPair], device: Runtime
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    with device.autocast():
        scores = reward.score_ids(rows)
    chosen, rejected = torch.split(scores, len(pairs))
    return chosen, rejected


def _split(
    pairs: Sequence[Preference], config: TrainRMConfig
) -> tuple[list[Preference], list[Preference]]:
    if len(pairs) < 2:
        raise SalsaError(
            f"{config.data} has one pair; expected two or more, to train on and to hold out"
        )
    count = min(max(1, round(config.eval_share * len(pairs))), len(pairs) - 1)
    order = data.epoch_order(len(pairs), stable_seed(config.seed, "held-out"), 0)
    return [pairs[i] for i in order[count:]], [pairs[i] for i in order[:count]]


def _encode(
    tokenizer: Tokenizer,
    pairs: Sequence[Preference],
    name: str,
    config: TrainRMConfig,
    report: Report,
) -> tuple[EncodedPair, ...]:
    encoded = [
        EncodedPair(
            tuple(scored_ids(tokenizer, pair.prompt, Answer(pair.chosen))),
            tuple(scored_ids(tokenizer, pair.prompt, Answer(pair.rejected))),
        )
        for pair in pairs
    ]
    kept = tuple(pair for pair in encoded if pair.length <= config.max_length)
    if not kept:
        raise SalsaError(
            f"no {name} pair fits into --max-length {config.max_length}; "
            f"the shortest has {min(pair.length for pair in encoded)} tokens"
        )
    if len(kept) < len(encoded):
        report(
            Warned(
                f"{len(encoded) - len(kept)} of {len(encoded)} {name} pairs are left out: "
                f"longer than --max-length {config.max_length} tokens"
            )
        )
    return kept


def _identity(config: TrainRMConfig) -> dict[str, JSON]:
    """The settings that a resumed run must share; where and how often it saves may vary."""
    return {n: v for n, v in record(config).items() if n not in ("output", "save_every")}


def _batch_size(config: TrainRMConfig, plan: Plan) -> int:
    return min(config.batch_size, len(plan.training))


def _steps(config: TrainRMConfig, plan: Plan) -> int:
    return max(1, config.epochs * len(plan.training) // _batch_size(config, plan))
