"""Evaluate the policy on held-out prompts while it is trained: same prompts, same seeds each time.

The figures are those that `salsa eval` finds for a snapshot with the same seed, length and
temperature: the policy computes as it would be saved and loaded. Answers are sampled in this
process even if a server samples those that are trained on: the server's draws depend on the batch.
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError
from salsa_cli.generation import divergence, rollouts
from salsa_cli.generation.rollouts import OwnSampler
from salsa_cli.models import saving
from salsa_cli.models.backbones import Placement
from salsa_cli.models.forward import Module
from salsa_cli.rl import experience, references
from salsa_cli.rl.actors import Actors, on_device
from salsa_cli.rl.experience import AnswerBatch, ScoredBatch
from salsa_cli.rl.held_out_metrics import HeldOutFigure, HeldOutMetrics
from salsa_cli.rl.metrics import HELD_OUT_STAGE, UpdateMetrics
from salsa_cli.rl.run import Run
from salsa_cli.runs.events import Working

START = "start"
"""Name of the anchor that is the initial policy."""


def is_due(update: int, config: PPOConfig) -> bool:
    """Whether the policy is evaluated after `update` updates; 0 is before the first one."""
    if config.eval_prompts is None:
        return False
    return update % config.evaluation_period == 0 or update == config.updates


def count(config: PPOConfig) -> int:
    """Number of evaluations of a whole run."""
    return sum(is_due(update, config) for update in range(config.updates + 1))


@dataclass(frozen=True)
class HeldOutEvaluation:
    """What an evaluation found, and the seconds it took."""

    metrics: HeldOutMetrics
    seconds: float


def evaluate(update: int, kl_coef: float, actors: Actors, run: Run) -> HeldOutEvaluation | None:
    """Evaluate the policy after `update` updates; None where that is not due.

    Every process must call it.
    """
    if not is_due(update, run.config):
        return None
    began = time.perf_counter()
    return HeldOutEvaluation(measure(kl_coef, actors, run), time.perf_counter() - began)


def added(
    metrics: UpdateMetrics, start: HeldOutEvaluation | None, now: HeldOutEvaluation | None
) -> UpdateMetrics:
    """The metrics of an update with its evaluation, and the first ones with that of the start."""
    if metrics.update > 1:
        start = None
    seconds = [one.seconds for one in (start, now) if one is not None]
    if not seconds:
        return metrics
    return replace(
        metrics,
        heldout=None if now is None else now.metrics,
        heldout_start=None if start is None else start.metrics,
        time={**metrics.time, HELD_OUT_STAGE: sum(seconds)},
    )


@dataclass(frozen=True)
class _AnswerKLs:
    """KLs of the answers in nats: `anchors` `[N]` by name at temperature 1, and the penalised one.

    `penalised` `[N]` is the mean over the references at the sampling temperature.
    """

    anchors: Mapping[str, torch.Tensor]
    penalised: torch.Tensor


def measure(kl_coef: float, actors: Actors, run: Run) -> HeldOutMetrics:
    """Evaluate the policy as it is now. Every process must call it; training is not disturbed.

    Args:
        kl_coef: the coefficient of the penalty in the objective.

    Raises:
        SalsaError: a reward is NaN or infinite.
    """
    config = run.config
    dtype, like = run.runtime.frozen_dtype, run.plan.policy
    with _random_state_kept():
        with saving.as_saved(actors.policy.model, dtype, like=like):
            answered = _answers(actors, run)
            with on_device(actors, "ref"):
                kls = _measure_kls(answered, actors, run)
        with on_device(actors, "reward", "watch"):
            scored = [experience.score_answers(one, actors, run) for one in answered]
    _check_finite(scored)
    reward = torch.cat([one.trained for one in scored]).double()
    penalised = kls.penalised.to(reward.device)
    objective = None if config.penalty == "chi2" else reward - kl_coef * penalised
    ensemble = config.reward if len(config.reward) > 1 else ()
    return HeldOutMetrics(
        prompts=len(reward),
        reward=_figure(reward),
        rewards=_named(ensemble, [one.scores.members for one in scored]),
        watch=_named(
            config.watch_reward, [one.watched for one in scored if one.watched is not None]
        ),
        kl={name: _figure(values) for name, values in kls.anchors.items()},
        objective=None if objective is None else _figure(objective),
        length=_figure(torch.cat([one.sampled.lengths for one in answered])),
        finished=_figure(torch.cat([one.sampled.finished for one in answered])),
    )


def _answers(actors: Actors, run: Run) -> list[AnswerBatch]:
    """The policy's answers, in batches of at most `--batch-size` to prompts of similar length."""
    held = run.plan.held_out
    assert held is not None
    config, seeds = run.config, held.seeds(run.config.seed)
    sample = OwnSampler("auto" if config.server is not None else config.generator)
    order = sorted(range(len(seeds)), key=lambda row: len(held.ids[row]), reverse=True)
    batches = []
    for rows in np.array_split(np.asarray(order), -(-len(order) // config.batch_size)):
        sampled = experience.sample_in_parts(
            [held.ids[row] for row in rows], [seeds[row] for row in rows], sample, actors, run
        )
        texts = tuple(rollouts.texts(actors.policy, sampled))
        batches.append(AnswerBatch(tuple(held.prompts[row] for row in rows), sampled, texts))
    return batches


def _measure_kls(answered: Sequence[AnswerBatch], actors: Actors, run: Run) -> _AnswerKLs:
    """The exact KLs of all answers; each process computes its part."""
    plan, config, runtime = run.plan, run.config, run.runtime
    names = references.names(plan.references)
    models = [*actors.references]
    twin = _twin_of_start(run)
    if twin is None:
        source = actors.shared.borrow
        placement = Placement(runtime.frozen_dtype, runtime.device, source)
        ((_, start),) = references.loaded_in_turn({START: plan.policy}, placement)
        models.append(start.model)
    at_one = _kls_to(models, 1.0, answered, actors, run)
    held = at_one[:, : len(names)]
    if config.temperature != 1.0 and config.penalty != "chi2":
        held = _kls_to(actors.references, config.temperature, answered, actors, run)
    by_name = dict(zip([*names, START], at_one.T, strict=False))
    return _AnswerKLs(
        by_name if twin is None else {**by_name, START: by_name[twin]}, held.mean(dim=1)
    )


def _kls_to(
    models: Sequence[Module],
    temperature: float,
    answered: Sequence[AnswerBatch],
    actors: Actors,
    run: Run,
) -> torch.Tensor:
    """KLs `[N, M]` of the answers of all batches to each model."""
    return torch.cat([_batch_kls(models, temperature, one, actors, run) for one in answered])


def _batch_kls(
    models: Sequence[Module], temperature: float, batch: AnswerBatch, actors: Actors, run: Run
) -> torch.Tensor:
    runtime, sampled = run.runtime, batch.sampled
    rows = runtime.part(torch.arange(len(batch.answers)))
    prompts, responses = (
        [tokens.ids[row][tokens.mask[row]].tolist() for row in rows.tolist()]
        for tokens in (sampled.prompts, sampled.responses)
    )
    found = torch.zeros((len(rows), len(models)), dtype=torch.float64)
    done = 0
    for places in divergence.passes(responses):
        run.report(Working("KL of held-out answers", done, len(rows)))
        found[places] = divergence.answer_kls(
            actors.policy.model,
            models,
            [prompts[place] for place in places],
            [responses[place] for place in places],
            temperature=temperature,
            runtime=runtime,
        )
        done += len(places)
    return runtime.whole(found, rows, len(batch.answers))


def _twin_of_start(run: Run) -> str | None:
    """The reference that is the start itself, and does not move."""
    if run.config.ref_update != "none":
        return None
    pairs = zip(references.names(run.plan.references), run.plan.references, strict=True)
    start = run.plan.policy.resolve()
    return next(
        (name for name, one in pairs if [path.resolve() for path in one.folders] == [start]), None
    )


def _named(names: Sequence[str], parts: Sequence[torch.Tensor]) -> Mapping[str, HeldOutFigure]:
    """A figure for each row of `[M, N]`, which is given in parts; empty without names."""
    if not names:
        return {}
    return {
        name: _figure(row) for name, row in zip(names, torch.cat(list(parts), dim=1), strict=True)
    }


def _figure(values: torch.Tensor) -> HeldOutFigure:
    return HeldOutFigure.of(values.double().cpu().numpy())


def _check_finite(scored: Sequence[ScoredBatch]) -> None:
    bad = sum(int((~torch.isfinite(one.trained)).sum()) for one in scored)
    if bad:
        raise SalsaError(f"{bad} rewards of held-out answers are NaN or infinite")


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the global generators after the block: a reward function may draw from them."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.is_available()
    devices = torch.cuda.get_rng_state_all() if on_gpu else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if on_gpu:
            torch.cuda.set_rng_state_all(devices)
