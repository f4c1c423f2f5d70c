"""Fits one reward model to pairs: batches, loss, optimiser steps, checkpoints."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from salsa_cli.config.comparison import result_settings
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.data import stable_seed
from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import SalsaError
from salsa_cli.formatting import counted, verb
from salsa_cli.maths import preference
from salsa_cli.models import forward, learners
from salsa_cli.models.learners import Learner
from salsa_cli.models.loading import RewardModel
from salsa_cli.models.tokenization import Tokens, pad_right
from salsa_cli.records import to_json
from salsa_cli.reward_models import pairs
from salsa_cli.reward_models.assessment import PairScores
from salsa_cli.reward_models.pairs import EncodedPair
from salsa_cli.reward_models.plan import TrainingRun
from salsa_cli.runs import checkpoints, interrupts, run_folder
from salsa_cli.runs.events import Advanced, Measured, Note, Report, Working, silent

METRICS = "metrics.jsonl"

Scoring = Callable[[Tokens], torch.Tensor]
"""Raw scores `[B]` of rows `[B, T]`: the forward pass of a reward model."""


@dataclass(frozen=True)
class Member:
    """One reward model of a run: its place in the ensemble, and the seed of its head and order."""

    number: int
    seed: int


@dataclass(frozen=True)
class Progress:
    """How far a run has come: members before `member` are written, which itself took `step` steps.

    Attributes:
        learner: weights and optimiser state of that member; None before its first step.
    """

    member: int = 0
    step: int = 0
    learner: dict[str, Any] | None = None

    def steps_done(self, steps: int) -> int:
        """Optimiser steps of all members so far, where each member takes `steps`."""
        return self.member * steps + self.step

    def checkpoint_number(self, steps: int) -> int:
        """The number that orders checkpoints: steps taken plus members written.

        Writing a member counts as one, so that the checkpoint behind it comes after that of the
        member's last step. `member` and `step` themselves are stored in the checkpoint.
        """
        return self.steps_done(steps) + self.member


def members(config: TrainRMConfig) -> list[Member]:
    """The models to train. The first has the run's own seed, as the model of a single run."""
    return [
        Member(number, stable_seed(config.seed, "member", number) if number else config.seed)
        for number in range(config.ensemble)
    ]


def fit(
    reward: RewardModel, member: Member, progress: Progress, run: TrainingRun, report: Report
) -> None:
    """Maximise the Bradley-Terry likelihood of the training pairs, from `progress` on."""
    config, runtime, training = run.config, run.runtime, run.plan.training
    learner = Learner(
        "reward model",
        reward.model,
        forward.last_scores,
        config.learning_rate,
        config.max_grad_norm,
        runtime,
    )
    if progress.learner is not None:
        learner.restore(progress.learner)
    steps = step_count(training, config)
    report_step = _step_reporter(report, member, config)
    with interrupts.deferred_interrupts(report) as held:
        for step, batch in _batches(training, member, progress.step, config):
            began = time.perf_counter()
            row = accumulate_gradients(
                reward, learner.network, batch, step, config, runtime, report
            )
            share = learners.warmed_up(step, steps, config.warmup, schedule=config.schedule)
            norm = learner.step(share)
            spent = time.perf_counter() - began
            values = {**row, "grad_norm": norm, "learning_rate": share * config.learning_rate}
            report_step(step + 1, steps, values, len(batch), spent)
            held.agree(runtime)
            due = (step + 1) % config.save_every == 0 or step + 1 == steps
            if due or held.pending:
                save(Progress(member.number, step + 1, learner.state()), steps, run)
                held.raise_pending()
    learner.follow(torch.float32)


def accumulate_gradients(
    reward: RewardModel,
    network: Scoring,
    batch: Sequence[EncodedPair],
    step: int,
    config: TrainRMConfig,
    runtime: Runtime,
    report: Report = silent,
) -> dict[str, float]:
    """Accumulate the gradient of one batch, the mean over its pairs; returns its metrics.

    Each process computes its part of the batch; the metrics are those of the whole batch.

    Raises:
        SalsaError: a score is NaN or infinite; names the rows.
    """
    found, padded = torch.empty(0, 2, device=runtime.device), 0
    places: list[int] = []
    for number, part in enumerate(_passes(batch, config, runtime)):
        if number:  # more than one pass
            report(Working("pairs of the step", number * config.forward_size, len(batch)))
        # Every process makes the same number of passes; a pass without pairs has weight 0.
        given = [batch[place] for place in part] or batch[:1]
        chosen, rejected = score_batch(reward, network, given, runtime)
        losses = _losses(chosen, rejected, given, config)
        torch.autograd.backward(losses.sum() * (len(part) / len(given)) / len(batch))
        if part:
            found = torch.cat([found, torch.stack([chosen, rejected], dim=1).detach()])
            places += part
            padded += 2 * len(part) * max(pair.length for pair in given)
    scores = runtime.whole(found, torch.tensor(places, dtype=torch.long), len(batch))
    chosen, rejected = scores.unbind(1)
    losses = _losses(chosen, rejected, batch, config)
    _check_finite(losses, batch, step, config)
    tokens = sum(len(pair.chosen) + len(pair.rejected) for pair in batch)
    measured = {
        "loss": losses,
        "accuracy": preference.outcomes(chosen, rejected),
        "margin": chosen - rejected,
        "score": (chosen + rejected) / 2,
    }
    return {
        **{name: float(values.double().mean()) for name, values in measured.items()},
        "tokens": tokens,
        "padding": 1 - tokens / int(runtime.total(torch.tensor(padded, device=runtime.device))),
    }


def score_batch(
    reward: RewardModel, network: Scoring, batch: Sequence[EncodedPair], runtime: Runtime
) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw scores `[B]` in float32 of the chosen and the rejected answers, in one forward pass."""
    rows = [pair.chosen for pair in batch] + [pair.rejected for pair in batch]
    with runtime.autocast():
        scores = network(pad_right(rows, reward.pad_id).to(runtime.device))
    chosen, rejected = torch.split(scores, len(batch))
    return chosen, rejected


@torch.no_grad()
def score_pairs(
    reward: RewardModel,
    given: Sequence[EncodedPair],
    stage: str,
    config: TrainRMConfig,
    runtime: Runtime,
    report: Report,
) -> PairScores:
    """Raw scores of many pairs, in their order.

    Raises:
        SalsaError: a score is NaN or infinite; names the rows.
    """
    mine = runtime.part(torch.arange(len(given))).tolist()
    plain = partial(forward.last_scores, reward.model)
    found = torch.empty(0, 2, dtype=torch.float64)
    places: list[int] = []
    for order, part in pairs.sorted_batches([given[place] for place in mine], config.forward_size):
        both = torch.stack(score_batch(reward, plain, part, runtime), dim=1)
        found = torch.cat([found, both.double().cpu()])
        places += [mine[place] for place in order]
        # The other processes have scored about as many.
        done = min(len(given), len(places) * runtime.processes)
        report(Advanced(stage, done, len(given), "pairs"))
    scores = runtime.whole(found, torch.tensor(places, dtype=torch.long), len(given))
    _check_finite(scores.sum(1), given, None, config)
    return PairScores(*scores.T.numpy())


def step_count(training: Sequence[EncodedPair], config: TrainRMConfig) -> int:
    """Optimiser steps that one member takes."""
    return config.epochs * len(_epoch(training, config, 0, 0))


def save(progress: Progress, steps: int, run: TrainingRun) -> None:
    """Save everything that the next step depends on, in the main process; the others wait.

    Args:
        progress: the state to save.
        steps: optimiser steps of one member.
        run: the training run.

    Raises:
        SalsaError: it cannot be written; the checkpoint before it is kept.
    """
    content = {
        "settings": to_json(result_settings(run.config)),
        "inputs": to_json(run.inputs),
        "member": progress.member,
        "step": progress.step,
        "learner": progress.learner,
    }
    with run.runtime.main_first():
        if run.runtime.main:
            number = progress.checkpoint_number(steps)
            checkpoints.save_checkpoint(run.folder, number, content)


def restore(run: TrainingRun, steps: int, report: Report) -> Progress:
    """The progress of the run in this folder; rows of metrics after it are removed."""
    config, folder = run.config, run.folder
    saved = checkpoints.latest_checkpoint(folder)
    if saved is None:
        if config.resume:
            report(Note("no checkpoint to resume from; starting from the beginning"))
        return Progress()
    state = checkpoints.load_checkpoint(saved)
    inputs = json.loads(state["inputs"]) if "inputs" in state else run.inputs  # of before 0.2.0
    settings = json.loads(state["settings"])
    checkpoints.check_same_settings(saved.file, settings, inputs, config)
    checkpoints.check_same_inputs(saved.file, inputs, run.inputs)
    progress = Progress(state["member"], state["step"], state["learner"])
    if run.runtime.main:
        run_folder.keep_rows(folder / METRICS, progress.steps_done(steps))
    of = f" of member {progress.member}" if config.ensemble > 1 else ""
    report(Note(f"resumed after step {progress.step}{of}"))
    return progress


def _passes(
    batch: Sequence[EncodedPair], config: TrainRMConfig, runtime: Runtime
) -> Iterator[list[int]]:
    """Indices into the batch for each forward pass of this process, the same number everywhere."""
    mine = runtime.part(torch.arange(len(batch))).tolist()
    count = 0
    for order, _ in pairs.sorted_batches([batch[place] for place in mine], config.forward_size):
        count += 1
        yield [mine[place] for place in order]
    most = -(-len(batch) // runtime.processes)  # pairs that the first process has
    yield from [[]] * (-(-most // config.forward_size) - count)


def _losses(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    batch: Sequence[EncodedPair],
    config: TrainRMConfig,
) -> torch.Tensor:
    """Losses `[B]` of pairs with scores `[B]`."""
    margin = torch.tensor([pair.margin for pair in batch], device=chosen.device)
    losses = preference.loss(chosen, rejected, margin, config.label_smoothing)
    if config.center:
        losses = losses + config.center * preference.centering(chosen, rejected)
    return losses


def _batches(
    training: Sequence[EncodedPair], member: Member, first: int, config: TrainRMConfig
) -> Iterator[tuple[int, list[EncodedPair]]]:
    """The batches from step `first` on, each with its step."""
    step = 0
    seed = stable_seed(member.seed, "pairs")
    for epoch in range(config.epochs):
        for places in _epoch(training, config, seed, epoch):
            if step >= first:
                yield step, [training[place] for place in places]
            step += 1


def _epoch(
    training: Sequence[EncodedPair], config: TrainRMConfig, seed: int, epoch: int
) -> list[list[int]]:
    lengths = [pair.length for pair in training]
    return pairs.epoch_batches(lengths, config.batch_size, seed, epoch)


def _step_reporter(
    report: Report, member: Member, config: TrainRMConfig
) -> Callable[[int, int, dict[str, float], int, float], None]:
    """A function that reports one step: a row of metrics, and the progress bar."""
    single = config.ensemble == 1
    stage = "train-rm" if single else f"train-rm {member.number + 1}/{config.ensemble}"
    label = {} if single else {"member": member.number}

    def listen(step: int, steps: int, values: dict[str, float], count: int, seconds: float) -> None:
        report(Measured({"step": step, **label, **values, "time": {"step": seconds}}))
        shown = {name: values[name] for name in ("loss", "accuracy", "margin")}
        report(Advanced(stage, step, steps, "steps", {**shown, "pairs/s": count / seconds}))

    return listen


def _check_finite(
    values: torch.Tensor, batch: Sequence[EncodedPair], step: int | None, config: TrainRMConfig
) -> None:
    finite = values.detach().isfinite().tolist()
    if all(finite):
        return
    rows = [pair.row for pair, fine in zip(batch, finite, strict=True) if not fine]
    if step is None:
        raise SalsaError(
            f"the scores of {counted(len(rows), 'pair')} {verb(len(rows), 'are')} NaN or "
            f"infinite (rows {_first_rows(rows)}): the "
            "training diverged. Try a lower --learning-rate"
        )
    where = (
        f"{config.data}: the loss is NaN or infinite at step {step + 1} (rows {_first_rows(rows)})"
    )
    if step == 0:
        raise SalsaError(
            f"{where}, before any weight was changed: the scores of {config.model} itself are not "
            "finite. Check its weights for NaN; `salsa soup` names the tensor"
        )
    raise SalsaError(
        f"{where}, and the step was skipped. These rows are rarely the cause: try a lower "
        "--learning-rate"
    )


def _first_rows(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
