"""The models of a PPO run: loaded, saved into a checkpoint, taken back from it."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from salsa_cli.config.comparison import result_settings
from salsa_cli.config.ppo import UNCERTAINTY_WEIGHT, PPOConfig
from salsa_cli.data import stable_seed
from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import SalsaError
from salsa_cli.generation.vllm import Server
from salsa_cli.models import (
    backbones,
    compilation,
    forward,
    loading,
    lora,
    packed_attention,
)
from salsa_cli.models.backbones import Backbones, Placement
from salsa_cli.models.forward import Module
from salsa_cli.models.learners import Learner, MomentStorage
from salsa_cli.models.loading import LanguageModel
from salsa_cli.records import JSON, to_json
from salsa_cli.reward_models import rewards
from salsa_cli.reward_models.rewards import Ensemble, RewardScale
from salsa_cli.rl import references, weight_sharing
from salsa_cli.rl.offload import Parked
from salsa_cli.rl.plan import PPOPlan
from salsa_cli.rl.run import Run
from salsa_cli.runs import checkpoints
from salsa_cli.runs.events import Working
from salsa_cli.weights import folders


@dataclass(frozen=True)
class Actors:
    """The models of a run. The policy and the critic learn; the others are frozen.

    A reference is frozen too, unless it follows the policy.

    Attributes:
        critic: None where answers are compared with one another (`--advantage`).
        parked: the models that `--offload` names; they can be used within `on_device` only.
        shared: the weights that several models have in common.
        server: samples in place of the policy, with the weights that it was sent last (see
            `sampling_server`).
    """

    policy: LanguageModel
    references: tuple[Module, ...]
    reward: Ensemble
    watched: Ensemble | None
    actor: Learner
    critic: Learner | None
    parked: Mapping[str, tuple[Parked, ...]] = field(default_factory=dict)
    shared: Backbones = field(default_factory=Backbones)
    server: Server | None = None


@dataclass(frozen=True)
class TrainingState:
    """What a run carries from update to update, apart from the models.

    Attributes:
        update: updates that are finished.
        kl_coef: weight of the penalty in the next one.
    """

    update: int
    kl_coef: float


def load_actors(run: Run, server: Server | None = None) -> Actors:
    """Load the models: those that learn or move in float32, the others in the device's dtype.

    A model that learns through an adapter computes with frozen weights, which all models of the
    same base share.
    """
    plan, config, runtime = run.plan, run.config, run.runtime
    shared = Backbones(
        backbones.representatives(weight_sharing.shared_backbones(plan.roles(config))),
        runtime.sharding,
    )
    run.report(Working(f"loading {plan.policy}"))
    policy = _policy(plan.policy, config, runtime, shared)
    # A moving average in bfloat16 would not move: a hundredth of a step is less than a last place.
    moving = config.ref_update != "none"
    dtype = torch.float32 if moving else runtime.frozen_dtype
    source = backbones.unshared if moving else shared.load
    run.report(Working("loading the reference"))
    held = tuple(
        references.load(one, Placement(dtype, runtime.device, source)) for one in plan.references
    )
    if plan.critic is not None:
        run.report(Working("loading the critic"))
    bias = config.normalize_reward and critic_reward(plan) is not None
    critic = (
        None if plan.critic is None else _critic(plan.critic, config, runtime, shared, bias=bias)
    )
    run.report(Working("loading the rewards"))
    weight = config.uncertainty_weight
    combine = rewards.combination(config.ensemble, UNCERTAINTY_WEIGHT if weight is None else weight)
    trained = tuple(rewards.load(name, runtime, shared.load) for name in plan.rewards)
    watched = tuple(rewards.load(name, runtime, shared.load) for name in plan.watched)
    rate = config.learning_rate
    moved = {
        "ref": held,
        "reward": [module for one in trained for module in rewards.modules(one)],
        "watch": [module for one in watched for module in rewards.modules(one)],
    }
    critic_rate = config.critic_learning_rate or rate
    if config.compile:
        compilation.prepare(policy.model, *(() if critic is None else (critic,)))
    return Actors(
        policy,
        held,
        Ensemble(trained, combine),
        Ensemble(watched, rewards.combination("mean", 0.0)) if watched else None,
        Learner(
            "policy",
            policy.model,
            forward.answer_logprobs,
            rate,
            config.max_grad_norm,
            runtime,
            _storage("policy", config),
        ),
        None
        if critic is None
        else Learner(
            "critic",
            critic,
            forward.answer_values,
            critic_rate,
            config.max_grad_norm,
            runtime,
            _storage("critic", config),
        ),
        {
            name: tuple(Parked(model, runtime.device) for model in moved[name])
            for name in config.offloaded
            if name in moved
        },
        shared,
        server,
    )


def _storage(model: str, config: PPOConfig) -> MomentStorage:
    return MomentStorage.of(
        config.optimiser,
        offload="moments" in config.offloaded,
        seed=stable_seed(config.seed, "rounding", model),
    )


@contextmanager
def on_device(actors: Actors, *names: str) -> Iterator[None]:
    """Move the models that `--offload` names so onto the device for the block."""
    with ExitStack() as stack:
        for model in (model for name in names for model in actors.parked.get(name, ())):
            stack.enter_context(model.present())
        yield


def compiled_passes(config: PPOConfig) -> AbstractContextManager[None]:
    """Run the training passes of policy and critic compiled within the block, under `--compile`."""
    return compilation.at_work() if config.compile else nullcontext()


@contextmanager
def learning_mode(actors: Actors, config: PPOConfig) -> Iterator[None]:
    """Prepare policy and critic for passes with gradients within the block."""
    learners = [one.trained for one in (actors.actor, actors.critic) if one is not None]
    with compiled_passes(config), ExitStack() as stack:
        if config.gradient_checkpointing:
            stack.enter_context(loading.checkpointed(*learners, layers=config.recompute_layers))
            for model in filter(packed_attention.can_pack, learners):
                stack.enter_context(packed_attention.attention(model))
        yield


def _policy(folder: Path, config: PPOConfig, runtime: Runtime, shared: Backbones) -> LanguageModel:
    if not _adapts(folder, config):
        return loading.load_language_model(
            folder, Placement(_trained_dtype(config), runtime.device)
        )
    frozen = runtime.frozen_dtype
    policy = loading.load_language_model(folder, Placement(frozen, runtime.device, shared.load))
    _adapt(policy.model, folder, config, "policy")
    return policy


def critic_reward(plan: PPOPlan) -> int | None:
    """Index of the reward whose model the critic starts from; None where it is another model."""
    found = (i for i, name in enumerate(plan.rewards) if plan.critic in rewards.models_of(name))
    return next(found, None)


def scale_critic(actors: Actors, plan: PPOPlan) -> None:
    """Put a critic that starts from a reward model on the measured scale of that reward."""
    index = critic_reward(plan)
    if index is None or actors.critic is None:
        return
    scale = actors.reward.scales[index]
    trained, plain = actors.critic.trained, actors.critic.model
    for model in (plain,) if trained is plain else (trained, plain):
        loading.rescale_head(model, scale.mean, scale.std)


def _critic(
    folder: Path, config: PPOConfig, runtime: Runtime, shared: Backbones, *, bias: bool
) -> Module:
    if not _adapts(folder, config):
        critic = loading.load_critic(
            folder, Placement(_trained_dtype(config), runtime.device), bias=bias
        )
        # FSDP2 needs weights of one dtype; the values are still computed in float32.
        critic.score.to(_trained_dtype(config))
        return critic
    critic = loading.load_critic(
        folder, Placement(runtime.frozen_dtype, runtime.device, shared.load), bias=bias
    )
    _adapt(critic, folder, config, "critic")
    return critic


def _trained_dtype(config: PPOConfig) -> torch.dtype:
    return torch.bfloat16 if config.weights == "bfloat16" else torch.float32


def _adapts(folder: Path, config: PPOConfig) -> bool:
    """Whether a model learns by an adapter, its own or a new one."""
    return folders.is_adapter(folder) or config.lora_rank is not None


def _adapt(model: Module, folder: Path, config: PPOConfig, purpose: str) -> None:
    if config.lora_rank is not None and not folders.is_adapter(folder):
        lora.add(model, config.lora_rank, stable_seed(config.seed, "adapters", purpose))


def save_state(
    state: TrainingState,
    inputs: Mapping[str, JSON],
    actors: Actors,
    run: Run,
) -> None:
    """Write a checkpoint: everything that the next update depends on, apart from its number.

    Every process must call it. The main process writes while the others wait.
    """
    config, runtime = run.config, run.runtime
    content: dict[str, Any] = {
        "settings": to_json(result_settings(config)),
        "inputs": to_json(inputs),
        "policy": actors.actor.state(),
        "kl_coef": state.kl_coef,
        "scales": [(scale.mean, scale.std) for scale in actors.reward.scales],
    }
    if actors.critic is not None:
        content["critic"] = actors.critic.state()
    if config.ref_update != "none":
        content["reference"] = actors.references[0].state_dict()
    with runtime.main_first():
        if runtime.main:
            checkpoints.save_checkpoint(run.folder, state.update, content, config.checkpoints)


def restore_state(
    saved: checkpoints.Saved, actors: Actors, config: PPOConfig
) -> tuple[Actors, TrainingState]:
    """Load the state of a checkpoint, which is of the same settings and inputs."""
    stored = checkpoints.load_checkpoint(saved)
    if actors.critic is not None:
        _check_critic_scale(saved, stored["critic"]["model"], actors.critic, config)
        actors.critic.restore(stored["critic"])
    actors.actor.restore(stored["policy"])
    if config.ref_update != "none":
        actors.references[0].load_state_dict(stored["reference"])
    scales = tuple(RewardScale(*pair) for pair in stored["scales"])
    reward = replace(actors.reward, scales=scales)
    return replace(actors, reward=reward), TrainingState(saved.step, stored["kl_coef"])


def _check_critic_scale(
    saved: checkpoints.Saved, weights: Mapping[str, Any], critic: Learner, config: PPOConfig
) -> None:
    """Refuse a checkpoint of a release that left the critic on the raw reward's scale."""
    biased = getattr(getattr(critic.model, "score", None), "bias", None) is not None
    if config.normalize_reward and biased and "score.bias" not in weights:
        raise SalsaError(
            f"{saved.file} was written by an older release whose critic did not use "
            "--normalize-reward; it cannot be resumed. Start again with --force"
        )
