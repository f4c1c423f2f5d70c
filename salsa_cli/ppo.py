"""`salsa ppo`: proximal policy optimisation, held near a reference model.

The method is PPO for language models (Ziegler et al. 2019; Stiennon et al. 2020) with one change
(SALSA, Chegini et al. 2024): the KL penalty refers to a model of its own, usually the weight
average of two SFT models, while the policy starts from one of them.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from salsa_cli import data
from salsa_cli.config.options import record
from salsa_cli.config.ppo import KL_HORIZON, PPOConfig
from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.errors import during
from salsa_cli.generation import choice
from salsa_cli.maths import advantages as adv
from salsa_cli.maths import kl, masked, statistics
from salsa_cli.models import compilation, saving
from salsa_cli.models.activation_memory import Machine
from salsa_cli.records import JSON, read_rows, to_json
from salsa_cli.rl import experience, learning, memory, offload, preflight, references, report_page
from salsa_cli.rl.actors import (
    Actors,
    State,
    compiled_passes,
    learning_mode,
    load_actors,
    on_device,
    restore_state,
    save_state,
    sync_weights,
)
from salsa_cli.rl.experience import AnswerBatch, ScoredBatch
from salsa_cli.rl.memory import Demand
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.rl.plan import PPOPlan
from salsa_cli.rl.watchdog import Watchdog
from salsa_cli.runs import checkpoints, interrupts, run_folder, tracking
from salsa_cli.runs.events import (
    Advanced,
    DryRun,
    Measured,
    Note,
    Report,
    Result,
    Table,
    Value,
    Warned,
    both,
    metrics_file,
    silent,
)
from salsa_cli.runs.tracking import TrackedRun
from salsa_cli.text import amount, duration, figure
from salsa_cli.weights import folders

RECORD = "salsa.json"

SAMPLES = 2
"""Answers written to samples.jsonl an update."""


@dataclass(frozen=True)
class PPOResult:
    """What a finished run came to; rewards and KLs are means over the answers of one update.

    Attributes:
        seconds: of all updates, those before a resume too; not of loading and saving.
    """

    output: str
    updates: int
    reward_first: float
    reward_last: float
    kl_first: float
    kl_last: float
    seconds: float
    kl_anchors_first: Mapping[str, float] = field(default_factory=dict)
    kl_anchors_last: Mapping[str, float] = field(default_factory=dict)

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints."""
        return asdict(self)

    def summary(self) -> tuple[str, Table | None]:
        """The first and the last update, side by side."""
        pairs = {"reward": (self.reward_first, self.reward_last)}
        pairs["KL to the reference"] = (_nats(self.kl_first), _nats(self.kl_last))
        for name, first in self.kl_anchors_first.items():
            pairs[f"KL to {name}"] = (_nats(first), _nats(self.kl_anchors_last[name]))
        rows = [(name, figure(first), figure(last)) for name, (first, last) in pairs.items()]
        table = Table(("", "first update", "last update"), rows)
        return f"{self.output}: {self.updates} updates in {duration(self.seconds)}", table


def run(config: PPOConfig, report: Report) -> Result:
    """Train a policy and write it to `config.output`."""
    resumed = config.resume and not config.force
    if resumed and (done := run_folder.finished(RECORD, config)) is not None:
        report(Note(f"{config.output} is complete; nothing is left to do"))
        return PPOResult(**done)
    tracking.check(config.track)
    run_folder.check_output(config.output, config.force)
    runtime = start_runtime(config.device, shard=config.shard)
    with runtime.main_first():
        config = preflight.with_recorded_choices(config)
        preflight.check_processes(config, runtime)
        choice.check(config.generator, runtime.device)
        offload.check(config.offloaded, runtime.device)
        if config.compile:
            compilation.check(runtime.device)
        plan = preflight.prepare(config, report)
        run_folder.check_output(config.output, config.force, plan.read)
        preflight.check_sharing(plan, config, sharded=runtime.sharding is not None)
    config, needed = runtime.from_main(lambda: fit(config, plan, runtime, report))
    if config.dry_run:
        if config.resume and runtime.main:
            preflight.checked_inputs(plan, config)
        return _dry_run(config, plan, needed, runtime)
    memory.check(needed, config, runtime.memory, on_cpu=runtime.device.type == "cpu")
    if config.compile:
        report(Note("the first update compiles layers, which takes half a minute or more"))
    server = runtime.from_main(lambda: preflight.connect_to_server(plan, config))
    with (
        runtime.held_by_main(
            lambda: run_folder.resumable(config.output, force=config.force, resume=config.resume),
            run_folder.partial_folder(config.output),
        ) as folder,
        runtime.together(),
    ):
        inputs = runtime.from_main(lambda: preflight.checked_inputs(plan, config))
        fresh = replace(load_actors(plan, config, runtime), server=server)
        actors, state = begin(folder, plan, fresh, config, runtime, report)
        oversight = Watchdog(folder / "metrics.jsonl", config, report)
        with (
            interrupts.deferred_interrupts(report) as held,
            runtime.held_by_main(
                lambda: _recording(config, folder, state.update, report), silent
            ) as listen,
        ):
            while state.update < config.updates:
                with during(f"update {state.update + 1}"):
                    metrics = improve(state, plan, actors, config, runtime, folder, oversight)
                state = proceed(state, metrics, actors, config)
                if state.update == 1:
                    _explain_anchors(plan, metrics, report)
                listen(Measured(metrics.row()))
                listen(Advanced("ppo", state.update, config.updates, "updates", _telling(metrics)))
                oversight.see(metrics)
                held.agree(runtime)
                due = state.update % config.save_every == 0 or state.update == config.updates
                if due or held.pending or oversight.stops:
                    save_state(folder, state, inputs, actors, config, runtime)
                    # Nobody leaves before the main process is done: the first ends the others.
                    with runtime.main_first():
                        if runtime.main:
                            report_page.write(folder, config.output.name)
                    held.raise_pending()
                    oversight.obey()
        actors.actor.follow(torch.float32)

        def conclude() -> PPOResult:
            result = _result(config, folder)
            save_policy(folder, plan, inputs, actors, config, result)
            return result

        return runtime.from_main(conclude)


def fit(
    config: PPOConfig, plan: PPOPlan, runtime: Runtime, report: Report
) -> tuple[PPOConfig, Demand]:
    """Settle how many answers a pass takes, where the command line left it open."""
    machine = Machine.of(runtime)
    if preflight.is_begun(config):
        return config, memory.demand(plan, config, machine)
    fitting, needed = memory.fitted(plan, config, machine, runtime.memory)
    if fitting != config:
        report(
            Note(
                f"{fitting.micro_batch_size} answers a forward pass (--micro-batch-size): a "
                f"minibatch of {config.minibatch_size} would not fit into "
                f"{amount(runtime.memory, 'B')}"
            )
        )
    return fitting, needed


def improve(
    state: State,
    plan: PPOPlan,
    actors: Actors,
    config: PPOConfig,
    runtime: Runtime,
    folder: Path,
    oversight: Watchdog,
) -> UpdateMetrics:
    """One update: answers, rewards, advantages, several passes of optimisation."""
    update, clock = state.update, [time.perf_counter()]
    sync_weights(folder, actors, runtime)
    answered = experience.generate_answers(
        "rollout", update, config.seed, plan, actors, config, runtime
    )
    sampled = answered.sampled
    clock.append(time.perf_counter())
    with on_device(actors, "reward", "watch"):
        judged = experience.score_answers(answered, actors, config)
    with on_device(actors, "ref"), compiled_passes(config):
        rollout = experience.compute_rollout(sampled, judged.trained, actors, config, runtime)
    penalty = learning.compute_penalties(
        rollout.logprobs, rollout.ref_logprobs, rollout.mask, config
    )
    targets = learning.compute_advantages(rollout, penalty, state.kl_coef, config)
    clock.append(time.perf_counter())
    anchored, end = {}, None
    if _measures_anchors(update, config):
        with on_device(actors, "ref"):  # an anchor may be the reference's twin
            anchored = dict(experience.measure_anchors(rollout, plan, actors, config, runtime))
            end = experience.reference_end(sampled, actors, config, runtime)
    kl_sums = experience.kl_sums(rollout)
    spread = float(judged.trained.std(unbiased=False))
    apart = experience.mismatch(rollout)
    if update == 0:
        oversight.forewarn(float(kl_sums.mean()), end, spread)
    clock.append(time.perf_counter())
    with learning_mode(actors, config):
        learned = learning.learn(update, rollout, targets, state.kl_coef, actors, config, runtime)
    clock.append(time.perf_counter())
    penalty_sums = kl.per_answer(penalty, rollout.mask)
    if runtime.main:
        _write_samples(folder, update, answered, judged.trained, kl_sums)
    prompt = report_page.prompt_text(data.prompt_json(answered.prompts[0]))
    oversight.hear(prompt, answered.answers[0].text)
    spent = [later - earlier for earlier, later in pairwise(clock)]
    return UpdateMetrics(
        update=update + 1,
        reward=float(judged.trained.mean()),
        reward_std=spread,
        rewards=_by_member(config, judged),
        watched=experience.means(config.watch_reward, judged.watched),
        kl=float(kl_sums.mean()),
        kl_anchors=anchored,
        reference_end=end,
        penalty=float(penalty_sums.mean()),
        kl_coef=state.kl_coef,
        objective=float(adv.objective(rollout.scores, penalty_sums, state.kl_coef)),
        length=float(sampled.lengths.float().mean()),
        finished=float(sampled.finished.float().mean()),
        # Unbiased for the policy's entropy, since the tokens are its own samples (or, of a server,
        # as nearly as `sampler_mismatch` says).
        entropy=float(masked.masked_mean(-rollout.logprobs, rollout.mask)),
        length_reward_correlation=statistics.correlation(
            sampled.lengths.cpu().numpy(), judged.trained.numpy()
        ),
        explained_variance=float(
            adv.explained_variance(rollout.values, targets.returns, rollout.mask)
        ),
        mean_return=float(masked.masked_mean(targets.returns, rollout.mask)),
        **asdict(learned),
        tokens=int(sampled.lengths.sum()),
        sampler_mismatch=None if apart is None else apart.nats,
        sampler_truncated=None if apart is None else apart.truncated,
        time=dict(zip(("rollout", "scoring", "anchors", "learning"), spent, strict=True)),
    )


def begin(
    folder: Path,
    plan: PPOPlan,
    fresh: Actors,
    config: PPOConfig,
    runtime: Runtime,
    report: Report,
) -> tuple[Actors, State]:
    """Take over the newest checkpoint of the folder, or start with the rewards' scale."""
    saved = checkpoints.latest_checkpoint(folder)
    if saved is not None:
        continued = restore_state(saved, fresh, config)
        with runtime.main_first():
            if runtime.main:
                run_folder.keep_rows(folder / "metrics.jsonl", saved.step)
                run_folder.keep_rows(folder / "samples.jsonl", saved.step * SAMPLES)
        report(Note(f"resumed after update {saved.step}"))
        return continued
    if config.resume:
        report(Note("there is no checkpoint to resume from: the run starts at the beginning"))
    if config.normalize_reward:
        sync_weights(folder, fresh, runtime)
        fresh = replace(fresh, reward=experience.measure_reward_scale(plan, fresh, config, runtime))
    return fresh, State(0, config.kl_coef)


def proceed(state: State, metrics: UpdateMetrics, actors: Actors, config: PPOConfig) -> State:
    """What follows from an update: the penalty's next weight, and where the reference goes."""
    update = state.update + 1
    if config.ref_update != "none" and update % config.reference_period == 0:
        references.follow(actors.references[0], actors.policy.model, config.reference_rate)
    coef = state.kl_coef
    if config.kl_target is not None:
        coef = kl.adapted(
            coef,
            metrics.penalty,
            config.kl_target,
            config.batch_size,
            config.kl_horizon or KL_HORIZON,
        )
    return State(update, coef)


def save_policy(
    folder: Path,
    plan: PPOPlan,
    inputs: Mapping[str, JSON],
    actors: Actors,
    config: PPOConfig,
    result: PPOResult,
) -> None:
    """The policy as an ordinary model folder, and the record of how it was made.

    An adapter stays an adapter; a whole model takes its new adapter in.
    """
    more: dict[str, Any] = {"result": dict(result.record())}
    if actors.reward.scales:
        pairs = zip(config.reward, actors.reward.scales, strict=True)
        more["reward_scale"] = {name: asdict(scale) for name, scale in pairs}
    run_folder.write_record(folder, RECORD, run_folder.made_by("ppo", config, inputs, **more))
    saving.save_policy(actors.policy.model, folder, like=plan.policy)
    folders.copy_tokenizer(plan.policy, folder)


@contextmanager
def _recording(config: PPOConfig, folder: Path, done: int, report: Report) -> Iterator[Report]:
    """Whoever listens to the updates: files and trackers too."""
    run = TrackedRun("salsa-ppo", config.output.name, record(config), done)
    with (
        tracking.tracking(config.track, folder, run, report) as track,
        report_page.kept(folder, config.output.name),
    ):
        yield both(both(report, metrics_file(folder / "metrics.jsonl")), track)


def _explain_anchors(plan: PPOPlan, metrics: UpdateMetrics, report: Report) -> None:
    """Say from where the KLs start, since only their rise from there tells of the training."""
    if not metrics.kl_anchors:
        return
    for name in references.anchors(plan.policy, plan.references).lost:
        report(Warned(f"{name}, an ingredient of the reference, is not here: no KL to it"))
    listed = "   ".join(f"{name} {figure(_nats(kl))}" for name, kl in metrics.kl_anchors.items())
    report(
        Note(
            f"KL at the start, nats an answer: {listed}   (not zero is normal where the policy "
            "does not start at that model; hold later figures against these)"
        )
    )


def _measures_anchors(update: int, config: PPOConfig) -> bool:
    """At the start, every so often, and at the end, so that the result has both."""
    if not config.anchor_every:
        return False
    return update % config.anchor_every == 0 or update + 1 == config.updates


def _by_member(config: PPOConfig, judged: ScoredBatch) -> Mapping[str, float]:
    """Mean reward of each member of an ensemble; empty where there is one."""
    if len(config.reward) == 1:
        return {}
    return experience.means(config.reward, judged.scores.members)


def _write_samples(
    folder: Path, update: int, answered: AnswerBatch, scores: torch.Tensor, kl_sums: torch.Tensor
) -> None:
    with (folder / "samples.jsonl").open("a", encoding="utf-8") as file:
        for index in range(SAMPLES):
            place = index % len(answered.answers)
            row = {
                "update": update + 1,
                "prompt": data.prompt_json(answered.prompts[place]),
                "answer": answered.answers[place].text,
                "finished": answered.answers[place].finished,
                "reward": float(scores[place]),
                "kl": float(kl_sums[place]),
            }
            file.write(to_json(row) + "\n")


def _dry_run(config: PPOConfig, plan: PPOPlan, needed: Demand, runtime: Runtime) -> DryRun:
    each = ", for each process" if runtime.processes > 1 else ""
    facts: dict[str, Value] = {
        "policy": str(plan.policy),
        "reference": ", ".join(one.name for one in plan.references),
        "critic from": str(plan.critic),
        "rewards": ", ".join(plan.rewards),
        "prompts": len(plan.prompts),
        "updates": config.updates,
        **_resumption(config),
        "answers": config.updates * config.batch_size,
        "answers in a forward pass": config.forward_size,
        "optimiser steps": config.updates * config.epochs * config.minibatches,
        f"memory at the peak{each}": f"{amount(needed.peak, 'B')} ({needed.busiest})",
        f"memory of the device{each}": amount(runtime.memory, "B"),
        "disk": amount(preflight.disk(plan, config), "B"),
        "disk free": amount(folders.free_space(config.output), "B"),
    }
    details = {"memory": {**needed.record(), "available": runtime.memory}}
    return DryRun(facts, needed.table(), details)


def _resumption(config: PPOConfig) -> dict[str, int]:
    if not config.resume:
        return {}
    saved = checkpoints.latest_checkpoint(run_folder.partial_folder(config.output))
    return {"resumes after update": saved.step if saved else 0}


def _result(config: PPOConfig, folder: Path) -> PPOResult:
    rows = [UpdateMetrics.of(row) for row in read_rows(folder / "metrics.jsonl")]
    first, last = rows[0], rows[-1]
    beside = [name for name in first.kl_anchors if name != "reference"]
    return PPOResult(
        output=str(config.output),
        updates=config.updates,
        reward_first=first.reward,
        reward_last=last.reward,
        kl_first=first.kl,
        kl_last=last.kl,
        seconds=sum(sum(row.time.values()) for row in rows),
        kl_anchors_first={name: first.kl_anchors[name] for name in beside},
        kl_anchors_last={name: last.kl_anchors[name] for name in beside},
    )


def _nats(kl: float) -> float:
    """A KL to be read: one of nothing but rounding is 0."""
    return round(kl, 4) + 0.0


def _telling(metrics: UpdateMetrics) -> dict[str, float]:
    """The figures that a person watches."""
    anchors = {f"KL {n}": _nats(kl) for n, kl in metrics.kl_anchors.items() if n != "reference"}
    return {
        "reward": metrics.reward,
        "kl": _nats(metrics.kl),
        **anchors,
        "objective": metrics.objective,
        "length": metrics.length,
        "entropy": metrics.entropy,
        "finished": metrics.finished,
        "tokens/s": metrics.tokens_per_second,
    }
