"""`salsa ppo`: proximal policy optimisation, held near a reference model.

The method is PPO for language models (Ziegler et al. 2019; Stiennon et al. 2020) with one change
(SALSA, Chegini et al. 2024): the KL penalty refers to a model of its own, usually the weight
average of two SFT models, while the policy starts from one of them.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from salsa_cli import data
from salsa_cli.config.ppo import KL_HORIZON, PPOConfig
from salsa_cli.config.record import record
from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.errors import during
from salsa_cli.formatting import amount, counted, duration, figure
from salsa_cli.generation import selection
from salsa_cli.generation.rollouts import Rollout
from salsa_cli.generation.vllm import Server
from salsa_cli.maths import kl
from salsa_cli.models import compilation, packed_attention
from salsa_cli.models.activation_memory import Machine
from salsa_cli.records import JSON, read_rows, to_json, write_text
from salsa_cli.rl import (
    best,
    disk,
    experience,
    extension,
    held_out,
    learning,
    memory,
    model_card,
    offload,
    preflight,
    references,
    report_page,
    sampling_server,
    snapshots,
)
from salsa_cli.rl.actors import (
    Actors,
    TrainingState,
    compiled_passes,
    learning_mode,
    load_actors,
    on_device,
    restore_state,
    save_state,
    scale_critic,
)
from salsa_cli.rl.best import BestPolicy, BestUpdate
from salsa_cli.rl.experience import AnchorKLs, AnswerBatch
from salsa_cli.rl.held_out import HeldOutEvaluation
from salsa_cli.rl.held_out_metrics import HeldOutMetrics
from salsa_cli.rl.memory import MemoryPlan
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.rl.plan import PPOPlan
from salsa_cli.rl.preflight import RECORD
from salsa_cli.rl.run import Run
from salsa_cli.rl.stopwatch import Stopwatch
from salsa_cli.rl.update_metrics import summarize_update
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
    Working,
    both,
    metrics_file,
    silent,
)
from salsa_cli.runs.tracking import TrackedRun
from salsa_cli.runs.unfinished import working_folder
from salsa_cli.weights import folders

SAMPLES = 2
"""Answers written to samples.jsonl an update."""


@dataclass(frozen=True)
class PPOResult:
    """What a finished run came to; rewards and KLs are means over the answers of one update.

    Attributes:
        seconds: of all updates, those before a resume too; not of loading and saving.
        temperature: that of the policies in `kl_...` and `kl_anchors_...`.
        kl_at_temperature_1_first, kl_at_temperature_1_last: by the name of the anchor; empty where
            the others are at temperature 1.
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
    temperature: float = 1.0
    kl_at_temperature_1_first: Mapping[str, float] = field(default_factory=dict)
    kl_at_temperature_1_last: Mapping[str, float] = field(default_factory=dict)
    heldout_first: Mapping[str, Any] = field(default_factory=dict)
    heldout_last: Mapping[str, Any] = field(default_factory=dict)
    best: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints."""
        found = asdict(self)
        optional = ("heldout_first", "heldout_last", "best")
        return {name: value for name, value in found.items() if value or name not in optional}

    def summary(self) -> tuple[str, Table | None]:
        """The first and the last update, side by side."""
        pairs = {"reward": (self.reward_first, self.reward_last)}
        at = "" if self.temperature == 1 else f" at temperature {self.temperature:g}"
        pairs[f"KL to the reference, nats{at}"] = (_nats(self.kl_first), _nats(self.kl_last))
        for name, first in self.kl_anchors_first.items():
            pairs[f"KL to {name}, nats{at}"] = (_nats(first), _nats(self.kl_anchors_last[name]))
        for name, first in self.kl_at_temperature_1_first.items():
            who = "the reference" if name == "reference" else name
            last = self.kl_at_temperature_1_last[name]
            pairs[f"KL to {who}, nats at temperature 1"] = (_nats(first), _nats(last))
        rows = [(name, figure(first), figure(last)) for name, (first, last) in pairs.items()]
        rows += self._held_out()
        table = Table(("", "first update", "last update"), rows)
        text = f"{self.output}: {counted(self.updates, 'update')} in {duration(self.seconds)}"
        if self.best:
            value, error = self.best["value"], self.best["standard_error"]
            text += (
                f"\nbest by held-out {self.best['by']}: update {self.best['update']} "
                f"({figure(value)}, standard error {figure(error)}), in "
                f"{Path(self.output) / best.FOLDER}"
            )
        return text, table

    def _held_out(self) -> list[tuple[str, str, str]]:
        """The reward on held-out prompts, before the first update and after the last."""
        if not self.heldout_first or not self.heldout_last:
            return []
        first, last = (
            f"{figure(one['reward']['mean'])} +- {figure(one['reward']['standard_error'])}"
            for one in (self.heldout_first, self.heldout_last)
        )
        return [("held-out reward, before and after (+- standard error)", first, last)]


def run(config: PPOConfig, report: Report) -> Result:
    """Train a policy and write it to `config.output`.

    Returns:
        Rewards and KLs of the first and the last update, or the plan of a dry run.

    Raises:
        SalsaError: the preflight found something wrong (the message names all of it), a monitor of
            `--stop-on` stopped the run, or the output exists.
    """
    resumed = config.resume and not config.force
    extends = extension.is_asked(config, RECORD)
    if extends:
        extension.check(config, RECORD)
    elif resumed and (done := run_folder.finished(RECORD, config)) is not None:
        report(Note(f"{config.output} is already complete; nothing to do"))
        return PPOResult(**done)
    tracking.check(config.track)
    if not extends:
        run_folder.check_output(config.output, config.force)
    runtime = start_runtime(
        config.device, shard=config.shard, offload="weights" in config.offloaded
    )
    with runtime.main_first():
        config = preflight.with_recorded_choices(config)
        preflight.check_processes(config, runtime)
        selection.check_generator(config.generator, runtime.device)
        offload.check(config.offloaded, runtime.device)
        if config.compile:
            compilation.check(runtime.device)
        report(Working("checking the models and the prompts"))
        plan = preflight.prepare(config, report)
        if not extends:
            run_folder.check_output(config.output, config.force, plan.read)
        preflight.check_held_out(plan, runtime)
        if preflight.resumed_checkpoint(config) is not None:
            place = config.output if extends else run_folder.partial_folder(config.output)
            _watchdog(place, config, runtime, report).check_resume()
        preflight.check_sharing(plan, config, sharded=runtime.sharding is not None)
    config, needed = runtime.from_main(lambda: choose_micro_batch(config, plan, runtime, report))
    server = runtime.from_main(lambda: sampling_server.connect(plan, config, runtime, report))
    if config.dry_run:
        if config.resume and runtime.main:
            preflight.checked_inputs(plan, config)
        return _dry_run(config, plan, needed, runtime)
    memory.check(needed, config, runtime.memory, on_cpu=runtime.device.type == "cpu")
    if config.compile:
        report(Note("the first update compiles the layers, which takes half a minute or more"))
    with (
        runtime.held_by_main(
            lambda: _begin(plan, config, report, extends=extends),
            run_folder.partial_folder(config.output),
        ) as folder,
        runtime.together(),
    ):
        result = train(Run(plan, config, runtime, folder, report), server)
    # Only now: until the folder has its name, they are all that a killed run could resume from.
    with runtime.main_first():
        if runtime.main and config.keep_checkpoints is None:
            checkpoints.drop_checkpoints(config.output)
    return result


def _begin(
    plan: PPOPlan, config: PPOConfig, report: Report, *, extends: bool
) -> AbstractContextManager[Path]:
    """The folder in which the run works; that of a finished run, where it is extended."""
    if extends:
        preflight.checked_inputs(plan, config)  # a refusal leaves the finished run where it is
        place = run_folder.partial_folder(config.output)
        report(
            Note(f"{config.output} is named {place} until update {config.updates:,} is finished")
        )
        run_folder.reopen(config.output)
    return working_folder(
        "ppo",
        config,
        report,
        resume=config.resume,
        write_page=partial(report_page.write, config=config),
    )


def train(run: Run, server: Server | None) -> PPOResult:
    """All updates of a run, from its newest checkpoint or from the start; then save the policy."""
    plan, config, runtime, folder = run.plan, run.config, run.runtime, run.folder
    report = run.report
    inputs = runtime.from_main(lambda: preflight.checked_inputs(plan, config))
    loaded = sampling_server.prepare(load_actors(run, server), run, report)
    if note := packed_attention.padding_note(loaded.policy.model):
        report(Note(note))
    actors, state = restore_or_begin(loaded, run, report)
    watchdog = _watchdog(folder, config, runtime, report)
    best_policy = BestPolicy(config, _history(folder))
    with (
        interrupts.deferred_interrupts(report) as interrupted,
        runtime.held_by_main(
            lambda: _recording(config, folder, state.update, report), silent
        ) as listen,
    ):
        start = evaluate_start(state, actors, run, report)
        best_policy.begin(start.metrics if start else None, state.update, actors, run)
        while state.update < config.updates:
            with during(f"update {state.update + 1}"):
                metrics = update_policy(state, actors, run, watchdog)
                state = after_update(state, metrics, actors, config)
                evaluated = held_out.evaluate(state.update, metrics.kl_coef, actors, run)
            metrics = held_out.added(metrics, start, evaluated)
            if state.update == 1:
                _explain_anchors(plan, metrics, report)
            listen(Measured(metrics.row()))
            listen(Advanced("ppo", state.update, config.updates, "updates", _telling(metrics)))
            watchdog.observe(metrics)
            if snapshots.is_due(state.update, config):
                snapshots.write(state.update, actors, run)
            interrupted.agree(runtime)
            improved = best_policy.improves(metrics)
            due = state.update % config.save_every == 0 or state.update == config.updates
            if due or improved or interrupted.pending or watchdog.stops:
                report(Working("saving"))
                save_state(state, inputs, actors, run)
                if improved:
                    best_policy.write(actors, run)
                # No process leaves before the main one is done: the first to leave ends the others.
                with runtime.main_first():
                    if runtime.main:
                        report_page.write(folder, config)
                interrupted.raise_pending()
                watchdog.raise_if_stopped()

    def conclude() -> PPOResult:
        result = _result(config, folder)
        report(Working("saving the policy"))
        save_policy(inputs, actors, run, result)
        return result

    with snapshots.unrounded(actors, run):
        return runtime.from_main(conclude)


def _watchdog(folder: Path, config: PPOConfig, runtime: Runtime, report: Report) -> Watchdog:
    exact = learning.has_exact_ratio(config, runtime.device)
    return Watchdog(folder / "metrics.jsonl", config, report, exact_ratio=exact)


def choose_micro_batch(
    config: PPOConfig, plan: PPOPlan, runtime: Runtime, report: Report
) -> tuple[PPOConfig, MemoryPlan]:
    """Settle how many answers a pass takes, where the command line left it open.

    Says how many layers have to recompute their activations, where all of them do.
    """
    machine = Machine.of(runtime)
    if preflight.resumed_checkpoint(config) is not None:
        return config, memory.plan_memory(plan, config, machine)
    fitting, needed = memory.fit_micro_batch(plan, config, machine, runtime.memory)
    if fitting != config:
        report(
            Note(
                f"{counted(fitting.micro_batch_size or 0, 'answer')} per forward pass "
                "(--micro-batch-size): a "
                f"minibatch of {config.minibatch_size} would not fit in "
                f"{amount(runtime.memory, 'B')}"
            )
        )
    layers = memory.needed_layers(plan, fitting, machine, runtime.memory)
    if layers == 0:
        report(Note("this run fits without --gradient-checkpointing, which costs time"))
    elif layers is not None:
        report(
            Note(
                f"fewer layers have to recompute their activations for this run to fit: "
                f"--recompute-layers {layers} takes less time"
            )
        )
    return fitting, needed


def update_policy(
    state: TrainingState, actors: Actors, run: Run, watchdog: Watchdog
) -> UpdateMetrics:
    """One update: sample answers, score them, compute advantages, optimise for several epochs."""
    update, coef, config = state.update, state.kl_coef, run.config
    clock = Stopwatch()
    with clock.measure("rollout"):
        actors = sampling_server.sync_weights(actors, run)
        answered = experience.generate_answers("rollout", update, config.seed, actors, run)
    with clock.measure("scoring"):
        with on_device(actors, "reward", "watch"):
            scored = experience.score_answers(answered, actors, run)
        with on_device(actors, "ref"):
            with compiled_passes(config):
                rollout = experience.compute_rollout(answered.sampled, scored.trained, actors, run)
            # Of another divergence than a KL, what an empty answer costs is not known.
            forewarned = update == 0 and config.penalty != "chi2"
            end = experience.reference_end(answered.sampled, actors, run) if forewarned else None
        penalty = learning.compute_penalties(
            rollout.logprobs, rollout.ref_logprobs, rollout.mask, config
        )
        targets = learning.compute_advantages(rollout, penalty, coef, config)
    with clock.measure("anchors"):
        anchors = _anchors(update, rollout, actors, run)
        kl_sums = experience.kl_sums(rollout)
    if end is not None:
        spread = float(scored.trained.std(unbiased=False))
        watchdog.check_start(float(kl_sums.mean()), end, spread)
    with clock.measure("learning"), learning_mode(actors, config):
        learned = learning.learn(update, rollout, targets, coef, actors, run)
    if run.runtime.main:
        _write_samples(run.folder, update, answered, scored.trained, kl_sums)
    prompt = report_page.prompt_text(data.prompt_json(answered.prompts[0]))
    watchdog.report_sample(prompt, answered.answers[0].text)
    return summarize_update(
        update,
        coef,
        scored,
        rollout,
        penalty,
        targets,
        anchors,
        end,
        learned,
        clock.seconds,
        config,
    )


def restore_or_begin(fresh: Actors, run: Run, report: Report) -> tuple[Actors, TrainingState]:
    """Restore the newest checkpoint of the folder, or start by measuring the rewards' scale."""
    config, runtime, folder = run.config, run.runtime, run.folder
    saved = checkpoints.latest_checkpoint(folder)
    if saved is not None:
        restored = restore_state(saved, fresh, config)
        with runtime.main_first():
            if runtime.main:
                run_folder.keep_rows(folder / "metrics.jsonl", saved.step)
                run_folder.keep_rows(folder / "samples.jsonl", saved.step * SAMPLES)
                run_folder.keep_rows(folder / report_page.REWARDS, saved.step)
                snapshots.drop_later(folder, saved.step)
        report(Note(f"resumed after update {saved.step}"))
        return restored
    if config.resume:
        report(Note("no checkpoint to resume from; starting from the beginning"))
    if config.normalize_reward:
        fresh = sampling_server.sync_weights(fresh, run)
        fresh = replace(fresh, reward=experience.measure_reward_scale(fresh, run))
        scale_critic(fresh, run.plan)
    return fresh, TrainingState(0, config.kl_coef)


def evaluate_start(
    state: TrainingState, actors: Actors, run: Run, report: Report
) -> HeldOutEvaluation | None:
    """Evaluate the policy on the held-out prompts before the first update; forecast the time."""
    if state.update:
        return None
    with during("before the first update"):
        found = held_out.evaluate(0, state.kl_coef, actors, run)
    if found is not None:
        times = held_out.count(run.config)
        report(
            Note(
                f"evaluation on {counted(found.metrics.prompts, 'held-out prompt')} took "
                f"{duration(found.seconds)}: about {duration(times * found.seconds)} for all "
                f"{times} evaluations of this run"
            )
        )
    return found


def after_update(
    state: TrainingState, metrics: UpdateMetrics, actors: Actors, config: PPOConfig
) -> TrainingState:
    """After an update: move the reference, and adapt the KL coefficient."""
    update = state.update + 1
    if config.ref_update != "none" and update % config.reference_period == 0:
        references.follow(actors.references[0], actors.policy.model, config.reference_rate)
    coef = state.kl_coef
    if config.kl_target is not None:
        coef = kl.adaptive_coefficient(
            coef,
            metrics.penalty,
            config.kl_target,
            config.batch_size,
            config.kl_horizon or KL_HORIZON,
        )
    return TrainingState(update, coef)


def save_policy(inputs: Mapping[str, JSON], actors: Actors, run: Run, result: PPOResult) -> None:
    """Save the policy as an ordinary model folder, with the record of how it was made."""
    plan, config, folder = run.plan, run.config, run.folder
    more: dict[str, Any] = {"result": dict(result.record())}
    if plan.held_out is not None:
        more["held_out_prompts"] = plan.held_out.counts()
    if taken := snapshots.updates(folder):
        more["snapshots"] = taken
    if actors.reward.scales:
        pairs = zip(config.reward, actors.reward.scales, strict=True)
        more["reward_scale"] = {name: asdict(scale) for name, scale in pairs}
    run_folder.write_record(folder, RECORD, run_folder.made_by("ppo", config, inputs, **more))
    snapshots.save_model_files(actors, plan, folder)
    card = model_card.write(config, plan.policy, _history(folder), BestUpdate.read(folder))
    write_text(folder / "README.md", card)
    report_page.write(folder, config)  # once more: now it links to the record


@contextmanager
def _recording(config: PPOConfig, folder: Path, done: int, report: Report) -> Iterator[Report]:
    """Everything that receives the updates: the terminal, files and trackers."""
    run = TrackedRun("salsa-ppo", config.run_name, config.output.name, record(config), done)
    with tracking.tracking(config.track, folder, run, report) as track:
        yield both(both(report, metrics_file(folder / "metrics.jsonl")), track)


def _explain_anchors(plan: PPOPlan, metrics: UpdateMetrics, report: Report) -> None:
    """Report the KLs at the start: only their rise from there is due to training."""
    if not metrics.kl_anchors:
        return
    for name in references.anchors(plan.policy, plan.references).lost:
        report(
            Warned(
                f"{name}, an ingredient of the reference, was not found: no KL to it is measured"
            )
        )
    tempered = metrics.kl_at_temperature_1 is not None
    at = f" at --temperature {metrics.temperature:g}" if tempered else ""
    text = f"KL at the start, nats per answer{at}: {_listed(metrics.kl_anchors)}"
    if any(map(_nats, metrics.kl_anchors.values())):
        text += (
            "   (a value other than zero is normal if the policy does not start from that model; "
            "compare later values with these)"
        )
    report(Note(text))
    if metrics.kl_at_temperature_1 is not None:
        report(
            Note(
                "KL of the same answers at temperature 1, over the whole vocabulary: "
                f"{_listed(metrics.kl_at_temperature_1)}   (kl_at_temperature_1 in metrics.jsonl)"
            )
        )


def _listed(kls: Mapping[str, float]) -> str:
    return "   ".join(f"{name} {figure(_nats(kl))}" for name, kl in kls.items())


def _anchors(update: int, rollout: Rollout, actors: Actors, run: Run) -> AnchorKLs:
    """KLs to the anchors at the start, every `--anchor-every` updates, and at the end."""
    every = run.config.anchor_every
    if not every or (update % every and update + 1 != run.config.updates):
        return AnchorKLs()
    with on_device(actors, "ref"):  # an anchor may share the reference's weights
        return experience.measure_anchors(rollout, actors, run)


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
    with (folder / report_page.REWARDS).open("a", encoding="utf-8") as file:
        rewards = [float(f"{score:.5g}") for score in scores.tolist()]
        file.write(to_json({"update": update + 1, "rewards": rewards}) + "\n")


def _dry_run(config: PPOConfig, plan: PPOPlan, needed: MemoryPlan, runtime: Runtime) -> DryRun:
    each = ", for each process" if runtime.processes > 1 else ""
    space = disk.plan_disk(plan, config)
    facts: dict[str, Value] = {
        "policy": str(plan.policy),
        "reference": ", ".join(one.name for one in plan.references),
        "critic from": str(plan.critic or f"none (--advantage {config.advantage})"),
        "rewards": ", ".join(plan.rewards),
        "prompts": len(plan.prompts),
        "updates": config.updates,
        **_resumption(config),
        **_held_out_facts(plan, config),
        "answers": config.updates * config.batch_size,
        "answers per prompt and update": config.group_size,
        "answers per forward pass": config.forward_size,
        "optimiser steps": config.updates * config.epochs * config.minibatches,
        f"memory at the peak{each}": f"{amount(needed.peak, 'B')} ({needed.busiest})",
        f"memory of the device{each}": amount(runtime.memory, "B"),
        **({"snapshots": space.snapshots} if space.snapshots else {}),
        "disk": amount(space.peak, "B"),
        "disk when finished": amount(space.finished, "B"),
        "disk free": amount(folders.free_space(config.output), "B"),
    }
    details = {"memory": {**needed.record(), "available": runtime.memory}}
    return DryRun(facts, needed.table(), details)


def _held_out_facts(plan: PPOPlan, config: PPOConfig) -> dict[str, int]:
    if plan.held_out is None:
        return {}
    prompts, times = len(plan.held_out.prompts), held_out.count(config)
    return {
        "held-out prompts": prompts,
        "held-out prompts in the file": plan.held_out.given,
        "held-out prompts that overlap": len(plan.held_out.trained_rows),
        "held-out evaluations": times,
        "held-out answers": prompts * times,
    }


def _resumption(config: PPOConfig) -> dict[str, int]:
    if not config.resume:
        return {}
    saved = preflight.resumed_checkpoint(config)
    return {"resumes after update": saved.step if saved else 0}


def _history(folder: Path) -> list[UpdateMetrics]:
    """The updates that a run has made so far."""
    path = folder / "metrics.jsonl"
    return [UpdateMetrics.of(row) for row in read_rows(path)] if path.exists() else []


def _result(config: PPOConfig, folder: Path) -> PPOResult:
    rows = _history(folder)
    first, last = rows[0], rows[-1]
    kept = BestUpdate.read(folder)
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
        temperature=config.temperature,
        kl_at_temperature_1_first=first.kl_at_temperature_1 or {},
        kl_at_temperature_1_last=last.kl_at_temperature_1 or {},
        heldout_first=first.heldout_start.record() if first.heldout_start else {},
        heldout_last=last.heldout.record() if last.heldout else {},
        best=kept.record() if kept is not None else {},
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
        **({} if metrics.equal_share is None else {"equal groups": metrics.equal_share}),
        "tokens/s": metrics.tokens_per_second,
        **_telling_held_out(metrics.heldout or metrics.heldout_start),
    }


def _telling_held_out(measured: HeldOutMetrics | None) -> dict[str, float]:
    if measured is None:
        return {}
    watched = {f"held-out {name}": one.mean for name, one in measured.watch.items()}
    kls = {f"held-out KL {name}": _nats(one.mean) for name, one in measured.kl.items()}
    return {"held-out reward": measured.reward.mean, **watched, **kls}
