"""Checks before a PPO run: find every input, and report every reason why the run cannot start.

Reads configurations, tokenizers and the headers of weight files; loads no weights.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from salsa_cli import data
from salsa_cli.config.comparison import with_choices
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.data import Prompt
from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import SalsaError, UsageError, during
from salsa_cli.formatting import counted, verb
from salsa_cli.models import input_limits, loading, lora, parts, shapes
from salsa_cli.models.tokenization import row_ids, template_warning
from salsa_cli.records import JSON
from salsa_cli.reward_models import rewards
from salsa_cli.rl import extension, held_out_prompts, references, weight_sharing
from salsa_cli.rl.plan import PPOPlan
from salsa_cli.rl.references import Reference
from salsa_cli.runs import checkpoints, run_folder
from salsa_cli.runs.events import Note, Report, Warned
from salsa_cli.weights import folders, weight_files

T = TypeVar("T")

RECORD = "salsa.json"
"""The file in which a run records how it was made."""


class Reasons:
    """Collects every reason why a run cannot start, to report them together."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def attempt(self, find: Callable[[], T]) -> T | None:
        """What `find` returns; None where it raises a `SalsaError`, which becomes a reason."""
        try:
            return find()
        except SalsaError as error:
            if str(error) not in self.found:
                self.found.append(str(error))
            return None

    def add(self, reasons: Iterator[str]) -> None:
        """Add the reasons that a check yields."""
        self.found = list(dict.fromkeys((*self.found, *reasons)))

    def refuse(self) -> None:
        """Raise the collected reasons, if there are any.

        Raises:
            SalsaError: there is a reason; one reason as it is, several as a list.
        """
        if len(self.found) == 1:
            raise SalsaError(self.found[0])
        if self.found:
            listed = "\n".join(f"  - {reason}" for reason in self.found)
            raise SalsaError(f"this run cannot start ({len(self.found)} problems):\n{listed}")


def prepare(config: PPOConfig, report: Report) -> PPOPlan:
    """Find every input, and refuse a run that cannot work before any weight is loaded.

    Raises:
        SalsaError: all the reasons.
    """
    reasons = Reasons()
    reasons.attempt(lambda: _same_settings(config))
    recipes = [references.parse(name) for name in config.ref]
    found = [reasons.attempt(partial(references.find, one)) for one in recipes]
    held = tuple(reference for reference in found if reference is not None)
    policy = reasons.attempt(lambda: _policy(config, held[0])) if held else None
    trained = [reasons.attempt(partial(_reward, name)) for name in config.reward]
    watched = [reasons.attempt(partial(_reward, name)) for name in config.watch_reward]
    rows = reasons.attempt(lambda: data.prompts(data.read(config.prompts)))
    eval_rows = (
        reasons.attempt(lambda: data.prompts(data.read(str(config.eval_prompts))))
        if config.eval_prompts
        else None
    )
    if policy is not None:
        reasons.add(_unfit(policy, held))
        if config.gradient_checkpointing:
            reasons.attempt(lambda: parts.check_checkpointing(policy))
        reasons.add(_endless(policy))
        reasons.add(_unmoving(policy, held, config))
        for reference in held:
            reasons.add(_other_tokens(policy, reference))
            if config.ref_update != "none" and not folders.is_adapter(reference.first):
                reasons.add(_other_shapes(policy, reference))
    sources = tuple(name for name in trained if name is not None)
    critic = (
        reasons.attempt(lambda: _critic(config, policy, sources))
        if policy and config.has_critic
        else None
    )
    if policy is not None and critic is not None and critic != policy:
        reasons.attempt(partial(_check_critic, policy, critic))
    if policy is not None and (critic is not None or not config.has_critic):
        reasons.add(_idle_rank(policy, critic, config))
        reasons.add(_idle_weights(policy, critic, config))
    scorers = (*sources, *watched)
    if policy is not None and rows is not None:
        given = (rows, config.prompts)
        reasons.add(_unreadable(policy, critic, held, scorers, *given, config))
    fitting = reasons.attempt(lambda: _fitting(policy, rows, config)) if policy and rows else None
    held_out = None
    if policy is not None and rows is not None and eval_rows is not None:
        given = (eval_rows[: config.held_out_size], str(config.eval_prompts))
        reasons.add(_unreadable(policy, None, held, scorers, *given, config))
        held_out = reasons.attempt(lambda: held_out_prompts.choose(policy, rows, eval_rows, config))
    reasons.refuse()
    assert policy is not None and rows is not None and fitting is not None
    assert critic is not None or not config.has_critic
    plan = PPOPlan(
        policy,
        held,
        critic,
        sources,
        tuple(name for name in watched if name is not None),
        *fitting,
        held_out,
    )
    _explain(plan, rows, config, report)
    if config.dry_run:
        _explain_parts(plan, report)
    return plan


def check_processes(config: PPOConfig, runtime: Runtime) -> None:
    """Refuse a number of processes that does not divide the answers of a step or the moments.

    Raises:
        UsageError: they do not divide a minibatch, compiled layers are to be spread, or the server
            of `--generator vllm` is not on the machine of all.
    """
    count = runtime.processes
    if config.server is not None and runtime.nearby < count:
        raise UsageError(
            f"--generator vllm needs all processes on one machine; {runtime.nearby} of the {count} "
            "are on this one"
        )
    if runtime.sharding is not None and config.compile:
        raise UsageError(
            "--compile and --shard cannot be combined: sharded layers cannot be compiled; remove "
            "one of them"
        )
    for reason in config.undivided(count):
        raise UsageError(reason)


def check_sharing(plan: PPOPlan, config: PPOConfig, *, sharded: bool) -> None:
    """Refuse to offload single models of several that share their weights.

    Args:
        sharded: whether the shared weights are sharded over the processes; the shards may be
            offloaded.

    Raises:
        UsageError: models with adapters share a backbone, and are to be offloaded.
    """
    if not weight_sharing.shared_backbones(plan.roles(config)):
        return
    names = [name for name in config.offloaded if not (name == "weights" and sharded)]
    if names:
        raise UsageError(
            f"--offload {','.join(names)} has no effect in a run with adapters, whose models share "
            "one copy of their base. Remove it"
        )


def check_held_out(plan: PPOPlan, runtime: Runtime) -> None:
    """Refuse fewer held-out prompts than processes, each of which answers a part.

    Raises:
        UsageError: there are fewer.
    """
    if plan.held_out is not None and len(plan.held_out.prompts) < runtime.processes:
        raise UsageError(
            f"{counted(len(plan.held_out.prompts), 'held-out prompt')} cannot be divided among "
            f"{runtime.processes} processes; expected at least one per process in --eval-prompts"
        )


def checked_inputs(plan: PPOPlan, config: PPOConfig) -> dict[str, JSON]:
    """All inputs with their digests; refuses to resume a run whose models or data have changed.

    Raises:
        SalsaError: names all that differ, with their digests.
    """
    inputs = plan.inputs(config)
    if (saved := resumed_checkpoint(config)) is not None:
        stored = json.loads(checkpoints.peek_checkpoint(saved)["inputs"])
        checkpoints.check_same_inputs(saved.file, stored, inputs)
    return inputs


def with_recorded_choices(config: PPOConfig) -> PPOConfig:
    """With `--resume`, keep the forward pass size that the run chose when it began."""
    if (saved := resumed_checkpoint(config)) is None:
        return config
    return with_choices(config, json.loads(checkpoints.peek_checkpoint(saved)["settings"]))


def resumed_checkpoint(config: PPOConfig) -> checkpoints.Saved | None:
    """The checkpoint that `--resume` continues from; None without one."""
    if not config.resume:
        return None
    extended = extension.is_asked(config, RECORD)
    folder = config.output if extended else run_folder.partial_folder(config.output)
    return checkpoints.latest_checkpoint(folder)


def _same_settings(config: PPOConfig) -> None:
    if (saved := resumed_checkpoint(config)) is not None:
        state = checkpoints.peek_checkpoint(saved)
        settings = extension.with_more_updates(json.loads(state["settings"]), config)
        inputs = json.loads(state["inputs"])
        checkpoints.check_same_settings(saved.file, settings, inputs, config)


def _policy(config: PPOConfig, reference: Reference) -> Path:
    if config.policy:
        return loading.find(config.policy)
    if not reference.ingredients:
        return reference.first
    what = f"the start, first ingredient of {reference.name} (--policy names another)"
    with during(what):
        return loading.find(reference.ingredients[0])


def _reward(name: str) -> str:
    """Check that a reward exists and, if it is a model, has a trained score head."""
    found = rewards.resolve(name)
    for folder in rewards.models_of(found):
        parts.check_reward_model(folder)
    return found


def _unfit(policy: Path, held: Sequence[Reference]) -> Iterator[str]:
    """Why a model is of no kind that can be a policy or a reference."""
    for folder in dict.fromkeys((policy, *(one.first for one in held))):
        if reason := _reason(partial(parts.check_language_model, folder)):
            yield reason


def _endless(policy: Path) -> Iterator[str]:
    """Reasons why answers of the policy would never end."""
    try:
        ends, size = loading.end_ids(policy), shapes.vocabulary_size(policy)
    except SalsaError as error:
        yield str(error)
        return
    if beyond := [token for token in ends if token >= size]:
        yield (
            f"{policy} has logits for {size} tokens and can never produce its end token "
            f"{', '.join(map(str, beyond))}; correct eos_token_id in generation_config.json"
        )


def _other_tokens(policy: Path, reference: Reference) -> Iterator[str]:
    """Reasons why a KL between policy and reference would be meaningless."""
    if policy == reference.first:
        return
    yield from loading.token_differences(policy, reference.first)
    try:
        ours, theirs = loading.load_tokenizer(policy), loading.load_tokenizer(reference.first)
        if ours.get_vocab() != theirs.get_vocab():
            yield (
                f"the vocabularies of the policy {policy} and the reference {reference.first} "
                "differ; a KL between them is not defined. Expected two models of the same base"
            )
        sizes = [shapes.vocabulary_size(folder) for folder in (policy, reference.first)]
    except SalsaError as error:
        yield str(error)
        return
    if sizes[0] != sizes[1]:
        yield (
            f"{policy} has logits for {sizes[0]} tokens and {reference.first} for {sizes[1]}; "
            "expected two models of the same base"
        )


def _unmoving(policy: Path, held: Sequence[Reference], config: PPOConfig) -> Iterator[str]:
    """Reasons why a reference cannot follow a policy that learns an adapter."""
    adapters = [path for path in (policy, *(one.first for one in held)) if folders.is_adapter(path)]
    if config.ref_update != "none" and (adapters or config.lora_rank is not None):
        found = f"{adapters[0]} is an adapter" if adapters else "--lora-rank trains adapters"
        yield (
            f"--ref-update {config.ref_update} updates full weights, and {found}; expected full "
            "models without --lora-rank, or --ref-update none"
        )


def _idle_rank(policy: Path, critic: Path | None, config: PPOConfig) -> Iterator[str]:
    """Reasons why new adapters cannot be added."""
    if config.lora_rank is None:
        return
    if folders.is_adapter(policy) and (critic is None or folders.is_adapter(critic)):
        found = (
            f"the policy {policy} is already an adapter and keeps its"
            if critic is None
            else (
                f"the policy {policy} and the critic from {critic} are already adapters and keep "
                "their"
            )
        )
        yield f"--lora-rank {config.lora_rank} has no effect: {found} rank"
    elif (missing := _reason(lora.check)) is not None:
        yield missing
    else:
        rank, hidden = config.lora_rank, shapes.shape(policy).hidden
        if (reason := _reason(lambda: lora.check_rank(rank, hidden))) is not None:
            yield reason


def _idle_weights(policy: Path, critic: Path | None, config: PPOConfig) -> Iterator[str]:
    """Why nothing would be trained in bfloat16."""
    if config.weights == "float32":
        return
    learners = (policy,) if critic is None else (policy, critic)
    if config.lora_rank is not None or all(map(folders.is_adapter, learners)):
        yield (
            f"--weights {config.weights} has no effect on adapters, which are trained in float32 "
            "on top of frozen weights; expected --weights float32"
        )


def _reason(check: Callable[[], None]) -> str | None:
    try:
        check()
    except SalsaError as error:
        return str(error)
    return None


def _other_shapes(policy: Path, reference: Reference) -> Iterator[str]:
    """Reasons why a reference cannot move towards the policy."""
    try:
        opened = [weight_files.open_weight_files(folder) for folder in (policy, reference.first)]
    except SalsaError as error:
        yield str(error)
        return
    if found := weight_files.differences(opened):
        yield (
            f"--ref-update moves the weights of {reference.name} towards those of {policy}, but "
            f"their shapes differ: {'; '.join(found)}"
        )


def _critic(config: PPOConfig, policy: Path, sources: Sequence[str]) -> Path:
    """The folder that the critic starts from."""
    trained = [rewards.models_of(name)[0] for name in sources if not rewards.is_function(name)]
    if config.critic == "policy":
        return policy
    if config.critic not in (None, "reward"):
        return loading.find(str(config.critic))
    vocabulary = loading.load_tokenizer(policy).get_vocab()
    same = [one for one in trained if loading.load_tokenizer(one).get_vocab() == vocabulary]
    unread = [_unread_tokens(policy, one) for one in same]
    fitting = [one for one, reason in zip(same, unread, strict=True) if reason is None]
    if config.critic == "reward" and not fitting and len(sources) == len(config.reward):
        why = f" ({unread[0]})" if unread else ""
        raise SalsaError(
            f"--critic reward: no --reward is a model with the policy's tokenizer{why}; "
            "expected --critic policy, or a model"
        )
    return fitting[0] if fitting else policy


def _unread_tokens(policy: Path, critic: Path) -> str | None:
    """Which tokens of the policy a critic has no embedding of; None if it reads all of them.

    A policy may have more logits than its tokenizer has tokens, and samples from all of them.
    """
    sampled, read = shapes.vocabulary_size(policy), shapes.vocabulary_size(critic)
    if sampled <= read:
        return None
    ids = f"token {read}" if sampled == read + 1 else f"tokens {read} to {sampled - 1}"
    return (
        f"{policy} has logits for {sampled} tokens and can sample {ids}, and {critic} has an "
        f"embedding of {read}"
    )


def _check_critic(policy: Path, critic: Path) -> None:
    """Refuse what cannot be a critic of this policy.

    Raises:
        SalsaError: says why, and what to do.
    """
    parts.check_critic(critic)
    if reason := _unread_tokens(policy, critic):
        raise SalsaError(
            f"{critic} cannot be the critic: {reason}. Expected --critic policy, or a model with "
            "an embedding as large as the policy's"
        )


def _unreadable(
    policy: Path,
    critic: Path | None,
    held: Sequence[Reference],
    scorers: Sequence[str | None],
    prompts: Sequence[Prompt],
    source: str,
    config: PPOConfig,
) -> Iterator[str]:
    """Why a model cannot read the prompts with an answer: its template, tokens or positions."""
    try:
        tokenizer = loading.load_tokenizer(policy)
        ids = row_ids(tokenizer, prompts, source)
        limit = shapes.context_length(policy)
    except SalsaError:
        return  # named by another check
    room = float("inf") if limit is None else limit - config.response_length
    used = {row for row, one in enumerate(ids, start=1) if len(one) <= room}
    given = (prompts, source, config.response_length, used)
    for folder in dict.fromkeys((policy, *(one.first for one in held), critic or policy)):
        if reason := _reason(partial(input_limits.check_prompts, folder, tokenizer, *given)):
            yield reason
    for name in dict.fromkeys(one for one in scorers if one is not None):
        if reason := _reason(partial(rewards.check_prompts, name, *given)):
            yield reason


def _fitting(
    policy: Path, prompts: Sequence[Prompt], config: PPOConfig
) -> tuple[tuple[Prompt, ...], tuple[tuple[int, ...], ...]]:
    """The prompts that leave room for an answer in the policy's context, with their ids."""
    tokenizer = loading.load_tokenizer(policy)
    limit = shapes.context_length(policy)
    pairs = list(zip(prompts, row_ids(tokenizer, prompts, config.prompts), strict=True))
    room = float("inf") if limit is None else limit - config.response_length
    kept = [(prompt, ids) for prompt, ids in pairs if len(ids) <= room]
    if not kept:
        raise SalsaError(
            f"no prompt of {config.prompts} fits: {policy} has a context of {limit} tokens, "
            f"--response-length takes {config.response_length} of them, and the shortest prompt "
            f"has {min(len(ids) for _, ids in pairs)}"
        )
    return tuple(prompt for prompt, _ in kept), tuple(ids for _, ids in kept)


def _explain(plan: PPOPlan, rows: Sequence[Prompt], config: PPOConfig, report: Report) -> None:
    """Report defaults that were chosen, and prompts that were dropped."""
    tokenizer = loading.load_tokenizer(plan.policy)
    if config.policy is None and not plan.references[0].ingredients:
        report(
            Note(f"{config.ref[0]} is not a soup: the policy starts from it as well (plain PPO)")
        )
    if tokenizer.pad_token_id is None:
        report(
            Note(
                f"{plan.policy} has no pad token: its end token is used for padding, which is "
                "masked"
            )
        )
    if warning := template_warning(plan.policy, tokenizer, rows):
        report(Warned(warning))
    if ignored := loading.ignored_settings(plan.policy):
        listed = ", ".join(ignored)
        report(
            Note(
                f"{plan.policy}: generation_config.json sets {listed}, which training ignores: "
                "answers are sampled from all tokens"
            )
        )
    for reference in plan.references:
        ends = [loading.end_ids(folder) for folder in (plan.policy, reference.first)]
        if set(ends[0]) != set(ends[1]):
            report(
                Warned(
                    f"{plan.policy} ends answers with token {_listed(ends[0])}, the reference "
                    f"{reference.name} with {_listed(ends[1])}, so ending an answer has a high KL. "
                    "Set the same eos_token_id in both generation_config.json files"
                )
            )
    if dropped := len(rows) - len(plan.prompts):
        room = (shapes.context_length(plan.policy) or 0) - config.response_length
        report(
            Warned(
                f"{dropped} of {counted(len(rows), 'prompt')} {verb(dropped, 'are')} dropped: "
                "longer "
                f"than {room} tokens, the context minus --response-length"
            )
        )
    if (held := plan.held_out) is not None:
        if held.total < held.given:
            report(
                Note(
                    f"the first {held.total:,} of {counted(held.given, 'prompt')} of "
                    f"--eval-prompts {verb(held.total, 'are')} read (--max-eval-prompts)"
                )
            )
        for text in held.left_out():
            report(Warned(text))
    if not config.normalize_reward and (raw := rewards.unscaled(plan.rewards)):
        named = ", ".join(map(str, raw))
        text = f"no mean and standard deviation of scores in {named}: raw scores are used"
        mixed = len(raw) < sum(len(rewards.models_of(name)) for name in plan.rewards)
        more = ", unlike those of the other rewards" if mixed else ""
        event = Warned if mixed else Note
        report(event(f"{text}{more}; --normalize-reward measures them"))
    for base, users in weight_sharing.shared_backbones(plan.roles(config)).items():
        if len(users) > 1:
            parts = ", ".join(dict.fromkeys(role.part for role in users))
            report(Note(f"loaded once and shared by {parts}: {base}"))
    for text in _passed_over(plan, config):
        report(Note(text))
    named = ", ".join(reference.name for reference in plan.references)
    critic = f"critic from {plan.critic}" if plan.critic else f"no critic ({config.advantage})"
    report(Note(f"policy {plan.policy}   reference {named}   {critic}"))


def _passed_over(plan: PPOPlan, config: PPOConfig) -> Iterator[str]:
    """Reward models that the critic would start from if they read all tokens of the policy."""
    if config.critic is not None or plan.critic != plan.policy:
        return
    vocabulary = loading.load_tokenizer(plan.policy).get_vocab()
    for name in plan.rewards:
        for folder in rewards.models_of(name)[:1]:
            reason = _unread_tokens(plan.policy, folder)
            if reason and loading.load_tokenizer(folder).get_vocab() == vocabulary:
                yield f"the critic starts from the policy: {reason}"


def _explain_parts(plan: PPOPlan, report: Report) -> None:
    """Say what each model could be, and where the data type of its files is not as it says."""
    scorers = [one for name in (*plan.rewards, *plan.watched) for one in rewards.models_of(name)]
    references = [one.first for one in plan.references]
    critic = () if plan.critic is None else (plan.critic,)
    for folder in dict.fromkeys((plan.policy, *references, *critic, *scorers)):
        report(Note(parts.described(folder)))
    if note := shapes.dtype_note(plan.policy):
        report(Note(note))


def _listed(tokens: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(tokens)))
