"""The experience of one update: answers, rewards, log-probabilities, values and KLs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch.nn import functional

from salsa_cli import data
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.data import Prompt, stable_seed
from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import SalsaError
from salsa_cli.generation import rollouts
from salsa_cli.generation.rollouts import OwnSampler, Rollout, Sampled, Sampler, ServerSampler
from salsa_cli.maths import advantages as adv
from salsa_cli.maths import importance, kl
from salsa_cli.maths.importance import Mismatch
from salsa_cli.models import lm_head, tokenization
from salsa_cli.models.backbones import Placement
from salsa_cli.models.forward import Module
from salsa_cli.models.tokenization import Answer, Tokens
from salsa_cli.reward_models.rewards import Ensemble, RewardScale, Scores
from salsa_cli.rl import batching, references
from salsa_cli.rl.actors import Actors, on_device
from salsa_cli.rl.run import Run
from salsa_cli.runs.events import Working

CALIBRATION = 256
"""Answers of the start policy that make the scale of a reward."""

MISMATCH_LIMIT = 0.2
"""Largest mean difference between the log-probabilities of sampler and trainer, nats per token.

Different kernels, or bfloat16 in place of float32, account for a few hundredths. Ten times that
changes the probability of an answer of twenty tokens by a factor of up to e^4. It means other
weights, another temperature or a quantised model, which importance weights hide but do not correct.
"""


@dataclass(frozen=True)
class AnswerBatch:
    """A batch of prompts with the policy's answers, as tokens and as text."""

    prompts: tuple[Prompt, ...]
    sampled: Sampled
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class ScoredBatch:
    """Rewards of a batch of answers.

    Attributes:
        trained: `[B]` what the policy is trained on.
        scores: as the rewards gave them.
        watched: `[N, B]` rewards that are only looked at; None where there are none.
    """

    trained: torch.Tensor
    scores: Scores
    watched: torch.Tensor | None


def generate_answers(
    purpose: str,
    step: int,
    seed: int,
    actors: Actors,
    run: Run,
) -> AnswerBatch:
    """The policy's answers to the prompts of one step; those of one prompt in consecutive rows.

    Args:
        purpose: names the stream of random numbers that the answers are drawn with.
        step: which batch of prompts.
        seed: orders the prompts.
    """
    plan, config, size = run.plan, run.config, run.config.group_size
    chosen = data.batch_indices(len(plan.prompts), config.batch_size // size, seed, step)
    indices = [index for index in chosen for _ in range(size)]
    prompts = [plan.prompt_ids[i] for i in indices]
    seeds = [stable_seed(config.seed, purpose, step, place) for place in range(len(indices))]
    sampled = sample_in_parts(prompts, seeds, _sampler(actors, config), actors, run, together=size)
    texts = tuple(rollouts.texts(actors.policy, sampled))
    return AnswerBatch(tuple(plan.prompts[i] for i in indices), sampled, texts)


def sample_in_parts(
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sample: Sampler,
    actors: Actors,
    run: Run,
    *,
    together: int = 1,
) -> Sampled:
    """One answer of the policy to each prompt; every process samples its part of them.

    Args:
        prompts: rows of token ids, at least `together` for each process.
        seeds: one per prompt.
        together: number of consecutive rows that one process samples.
    """
    config, runtime = run.config, run.runtime
    rows = torch.cat([*runtime.part(torch.arange(len(prompts)).view(-1, together))])
    mine = sample(
        actors.policy,
        [prompts[place] for place in rows],
        [seeds[place] for place in rows],
        length=config.response_length,
        temperature=config.temperature,
        runtime=runtime,
        report=run.report,
    )
    return _whole(mine, rows, prompts, actors.policy.pad_id, runtime)


def score_answers(answered: AnswerBatch, actors: Actors, run: Run) -> ScoredBatch:
    """Score the answers by all rewards."""
    config = run.config
    run.report(Working("rewards"))
    scores = actors.reward.score(answered.prompts, answered.answers)
    watched = None
    if actors.watched is not None:
        watched = actors.watched.raw(answered.prompts, answered.answers)
    sampled = answered.sampled
    shaped = shape_rewards(scores.total, sampled.finished.cpu(), sampled.lengths.cpu(), config)
    return ScoredBatch(shaped, scores, watched)


def shape_rewards(
    scores: torch.Tensor, finished: torch.Tensor, lengths: torch.Tensor, config: PPOConfig
) -> torch.Tensor:
    """The reward that is trained on `[B]`: clipped, then adjusted for long or unfinished answers.

    Args:
        scores: `[B]` of the reward models.
        finished: `[B]`, True where the answer has an end token.
        lengths: `[B]` tokens of the answers.
    """
    if config.reward_clip is not None:
        scores = scores.clamp(-config.reward_clip, config.reward_clip)
    if config.no_eos != "keep":
        value = config.no_eos_value
        assert value is not None  # checked by the configuration
        cut = scores - value if config.no_eos == "subtract" else torch.full_like(scores, value)
        scores = torch.where(finished, scores, cut)
    if config.overlong_penalty is None:
        return scores
    limit, buffer = config.response_length, config.overlong_tokens
    return scores + config.overlong_penalty * adv.soft_overlong_penalty(lengths, limit, buffer)


def compute_rollout(sampled: Sampled, scores: torch.Tensor, actors: Actors, run: Run) -> Rollout:
    """Add log-probabilities and values to the answers.

    The policy and the critic make the same passes as in the first epoch, so that the ratio there
    is exactly 1. With `--reuse-logprobs` it is 1 up to the rounding of generation.

    Args:
        sampled: the answers.
        scores: `[B]` their rewards.

    Raises:
        SalsaError: a score, a log-probability or a value is NaN or infinite, or another program
            sampled, and not from this policy.
    """
    config, runtime = run.config, run.runtime
    first = batching.first_passes(sampled, config, runtime)
    rollout = Rollout(
        sampled,
        _old_logprobs(sampled, first, actors, run),
        tuple(logprobs_under(one, sampled, run) for one in actors.references),
        None
        if actors.critic is None
        else rollouts.values(
            actors.critic.model, sampled, groups=first, runtime=runtime, report=run.report
        ),
        scores.to(runtime.device),
    )
    _check_finite(rollout)
    _check_sampler(rollout, config)
    return rollout


def _old_logprobs(
    sampled: Sampled, groups: Sequence[torch.Tensor], actors: Actors, run: Run
) -> torch.Tensor:
    """Log-probabilities `[B, R]` of the answers under the policy: of generation, or of a pass."""
    if sampled.own_logprobs is not None:
        # The trial of the head is made now, not in a pass that recomputes its layers.
        with run.runtime.autocast():
            lm_head.find_head(actors.policy.model)
        return sampled.own_logprobs
    return rollouts.logprobs(
        actors.policy.model,
        sampled,
        temperature=run.config.temperature,
        groups=groups,
        runtime=run.runtime,
        report=run.report,
    )


def mismatch(rollout: Rollout) -> Mismatch | None:
    """How much the sampler differs from the policy; None where the policy itself sampled."""
    theirs = rollout.sampled.sampler_logprobs
    if theirs is None:
        return None
    return importance.mismatch(rollout.logprobs, theirs, rollout.mask)


def logprobs_under(model: Module, sampled: Sampled, run: Run) -> torch.Tensor:
    """Log-probabilities `[B, R]` of the answers under a model that is not trained."""
    return rollouts.logprobs(
        model,
        sampled,
        temperature=run.config.temperature,
        groups=batching.scoring_passes(sampled, run.config, run.runtime),
        runtime=run.runtime,
        report=run.report,
    )


def measure_reward_scale(actors: Actors, run: Run) -> Ensemble:
    """The rewards, scaled to mean 0 and standard deviation 1 on answers of the start policy."""
    config = run.config
    seed = stable_seed(config.seed, "calibration")
    batches = [
        generate_answers("calibration", step, seed, actors, run)
        for step in range(-(-CALIBRATION // config.batch_size))
    ]
    with on_device(actors, "reward"):
        found = [actors.reward.raw(batch.prompts, batch.answers) for batch in batches]
    return replace(actors.reward, scales=tuple(map(RewardScale.of, torch.cat(found, dim=1))))


def kl_sums(rollout: Rollout) -> torch.Tensor:
    """k1 to the reference `[B]`, whatever the penalty is; the mean of several references."""
    each = [kl.k1(rollout.logprobs, ref) for ref in rollout.ref_logprobs]
    return kl.per_answer(torch.stack(each).mean(0), rollout.mask)


@dataclass(frozen=True)
class AnchorKLs:
    """What is measured of the anchors in some updates only; KLs by name, in nats per answer.

    Attributes:
        kls: of the policies at the sampling temperature, as k1 estimates it.
        untempered: of the policies at temperature 1, over the whole vocabulary at each token of the
            same answers; empty where that is the sampling temperature.
    """

    kls: Mapping[str, float] = field(default_factory=dict)
    untempered: Mapping[str, float] = field(default_factory=dict)


def measure_anchors(rollout: Rollout, actors: Actors, run: Run) -> AnchorKLs:
    """KL to every anchor (references, start, ingredients), and how the reference ends answers."""
    plan, config, runtime = run.plan, run.config, run.runtime
    names = references.names(plan.references)
    found = {
        name: _mean_kl(rollout, theirs)
        for name, theirs in zip(names, rollout.ref_logprobs, strict=True)
    }
    untempered: dict[str, float] = {}
    if config.temperature != 1.0:
        for name, model in zip(names, actors.references, strict=True):
            untempered[name] = _untempered_kl(rollout, model, actors, run)
    known = references.anchors(plan.policy, plan.references).known
    source = actors.shared.borrow
    for aliases, model in references.loaded_in_turn(
        known, Placement(runtime.frozen_dtype, runtime.device, source)
    ):
        theirs = logprobs_under(model.model, rollout.sampled, run)
        found |= dict.fromkeys(aliases, _mean_kl(rollout, theirs))
        if config.temperature != 1.0:
            nats = _untempered_kl(rollout, model.model, actors, run)
            untempered |= dict.fromkeys(aliases, nats)
    return AnchorKLs(found, untempered)


def reference_end(sampled: Sampled, actors: Actors, run: Run) -> float:
    """Mean log-probability of an empty answer under the reference; the mean of several."""
    groups = batching.scoring_passes(sampled, run.config, run.runtime)
    ends = [
        rollouts.end_logprobs(
            reference,
            sampled,
            actors.policy.eos_ids,
            temperature=run.config.temperature,
            groups=groups,
            runtime=run.runtime,
        )
        for reference in actors.references
    ]
    return float(torch.stack(ends).mean())


def means(names: Sequence[str], scores: torch.Tensor | None) -> Mapping[str, float]:
    """The mean of each row of `[N, B]` by name; empty for None."""
    if scores is None:
        return {}
    return {name: float(row.mean()) for name, row in zip(names, scores, strict=True)}


def _sampler(actors: Actors, config: PPOConfig) -> Sampler:
    if actors.server is not None:
        return ServerSampler(actors.server, config.group_size)
    return OwnSampler(config.generator, config.reuse_logprobs)


def _whole(
    mine: Sampled,
    rows: torch.Tensor,
    prompts: Sequence[Sequence[int]],
    pad_id: int,
    runtime: Runtime,
) -> Sampled:
    """The answers of all processes as one batch, as wide as the longest of them."""
    if runtime.processes == 1:
        return mine
    missing = int(runtime.most(mine.responses.ids.shape[1])) - mine.responses.ids.shape[1]
    ids = functional.pad(mine.responses.ids, (0, missing), value=pad_id)
    mask = functional.pad(mine.responses.mask, (0, missing))
    count = len(prompts)

    def gathered(logprobs: torch.Tensor | None) -> torch.Tensor | None:
        if logprobs is None:
            return None
        return runtime.whole(functional.pad(logprobs, (0, missing)), rows, count)

    return Sampled(
        tokenization.pad_left(prompts, pad_id).to(runtime.device),
        Tokens(runtime.whole(ids, rows, count), runtime.whole(mask, rows, count)),
        runtime.whole(mine.finished, rows, count),
        gathered(mine.sampler_logprobs),
        gathered(mine.own_logprobs),
    )


def _mean_kl(rollout: Rollout, theirs: torch.Tensor) -> float:
    return float(kl.per_answer(kl.k1(rollout.logprobs, theirs), rollout.mask).mean())


def _untempered_kl(rollout: Rollout, anchor: Module, actors: Actors, run: Run) -> float:
    """KL at temperature 1; the tokens are drawn at another one, so k1 would not estimate it."""
    sampled = rollout.sampled
    each = rollouts.anchor_kl(
        actors.policy.model,
        anchor,
        sampled,
        temperature=1.0,
        groups=batching.scoring_passes(sampled, run.config, run.runtime),
        runtime=run.runtime,
        report=run.report,
    )
    return float(kl.per_answer(each, rollout.mask).mean())


def _check_finite(rollout: Rollout) -> None:
    """Refuse to learn from figures that are not finite.

    All weights were finite when they were loaded, and no step with a gradient that is not is made,
    so a model overflows.
    """
    named = {
        "the policy's log-probabilities": rollout.logprobs[rollout.mask],
        "the reference's log-probabilities": torch.stack(rollout.ref_logprobs)[:, rollout.mask],
    }
    if rollout.values is not None:
        named["the critic's values"] = rollout.values[rollout.mask]
    named["the rewards"] = rollout.scores
    for name, tensor in named.items():
        if bad := int((~torch.isfinite(tensor)).sum()):
            raise SalsaError(
                f"{bad} of {tensor.numel()} of {name} are NaN or infinite; the update was not "
                "made. In the first update this means that the model itself overflows. In a later "
                "one, try a lower learning rate, and check the last rows of metrics.jsonl"
            )


def _check_sampler(rollout: Rollout, config: PPOConfig) -> None:
    """Refuse answers that another model than the policy gave."""
    found = mismatch(rollout)
    if found is None or found.nats <= MISMATCH_LIMIT:
        return
    hint = (
        ""
        if config.temperature == 1.0
        else (
            f"it was started without --logprobs-mode processed_logprobs, which --temperature "
            f"{config.temperature:g} needs; "
        )
    )
    raise SalsaError(
        f"the log-probabilities of --generator {config.generator} and those of the policy "
        f"differ by {found.nats:.2f} nats per token on average, more than {MISMATCH_LIMIT:g}; the "
        f"update was not made. Likely causes: {hint}the server did not load the policy's weights, "
        "or loaded them incorrectly (restart it if another run used it before); it serves another "
        "model, or a quantised one"
    )
