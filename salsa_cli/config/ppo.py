"""The settings of `salsa ppo`, and which of them contradict each other."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from salsa_cli.config.base import Setting, TrainingConfig, declared
from salsa_cli.errors import UsageError
from salsa_cli.formatting import counted

EMA_RATE = 0.01
SYNC_EVERY = 64
KL_HORIZON = 10_000
UNCERTAINTY_WEIGHT = 0.1
CHECKPOINTS = 2
EVAL_EVERY = 10
MAX_EVAL_PROMPTS = 128
VLLM_URL = "http://127.0.0.1:8000"
GROUP_SIZE = 4

WARNINGS = (
    "cheap-stopping",
    "length-collapse",
    "objective-below-start",
    "missing-end",
    "entropy-collapse",
    "kl-acceleration",
    "clipping",
    "reward-hacking",
    "length-bias",
    "weak-critic",
    "equal-groups",
    "kl-jump",
    "ratio-error",
    "heldout-fall",
)
"""Names of the warnings that the monitors issue."""

OFFLOADABLE = {
    "ref": "reference",
    "reward": "rewards",
    "watch": "watched",
    "moments": "moments",
    "weights": "weights",
}
"""Values of `--offload`, and the rows of the memory plan they stand for. Moments are those of the
optimizers, weights the shards of what is trained."""


@dataclass(frozen=True, kw_only=True)
class PPOConfig(TrainingConfig):
    """`salsa ppo`."""

    ref: Annotated[
        tuple[str, ...],
        Setting(
            "Reference model of the KL penalty, or a recipe such as "
            "'soup(a/,b/,alpha=0.5)'. Several for --penalty mean-kl.",
            metavar="REF",
            names="reference",
        ),
    ]
    reward: Annotated[
        tuple[str, ...],
        Setting(
            "Reward model, or FILE.py:FUNCTION. Several make an ensemble.",
            metavar="RM",
            names="reward",
        ),
    ]
    prompts: Annotated[
        str,
        Setting(
            "Prompts: a file, a folder, a hub id, or - for JSON lines from stdin.",
            metavar="DATA",
            names="data",
        ),
    ]
    policy: Annotated[
        str | None,
        Setting(
            "Model to start from. Default: the first ingredient of REF if it is a soup, else REF.",
            metavar="MODEL",
            essential=True,
            names="model",
        ),
    ] = None
    critic: Annotated[
        str | None,
        Setting(
            "Initial critic: 'reward' (the first reward model), 'policy' (with a new value "
            "head), or a model. Default: 'reward' if it has the policy's vocabulary, else "
            "'policy'.",
            metavar="MODEL",
        ),
    ] = None

    penalty: Annotated[
        Literal["kl", "chi2", "mean-kl"],
        Setting(
            "Divergence from REF, of whole answers: KL(policy||REF); the chi-squared divergence "
            "of each token, summed, with ratios above e^3 counted as e^3; or the mean of the KLs "
            "to several.",
            panel="Reference",
        ),
    ] = "kl"
    kl_coef: Annotated[
        float,
        Setting(
            "Coefficient of the penalty: reward per nat, in the reward and in the loss.",
            low=0,
            metavar="X",
            panel="Reference",
            essential=True,
        ),
    ] = 0.05
    kl_estimator: Annotated[
        Literal["k1", "k2", "k3"],
        Setting(
            "Estimator of the KL: k1 in the reward; k2 or k3, importance-weighted, in the loss.",
            panel="Reference",
        ),
    ] = "k1"
    kl_in: Annotated[
        Literal["reward", "loss"],
        Setting(
            "Where a token's own KL enters: its reward, or the loss, which differentiates it. "
            "That of later tokens is in the reward either way: one divergence, two estimates.",
            panel="Reference",
        ),
    ] = "reward"
    kl_target: Annotated[
        float | None,
        Setting(
            "Adapt the coefficient so that the penalty per answer approaches this many nats; with "
            "--penalty chi2, this sum of the tokens' divergences.",
            above=0,
            metavar="X",
            panel="Reference",
        ),
    ] = None
    kl_horizon: Annotated[
        int | None,
        Setting(
            "Number of answers over which --kl-target adapts the coefficient. Default: "
            f"{KL_HORIZON}.",
            low=1,
            metavar="N",
            panel="Reference",
        ),
    ] = None
    ref_update: Annotated[
        Literal["none", "ema", "sync"],
        Setting(
            "Whether REF follows the policy: never, as an exponential moving average, or by "
            "copying at intervals.",
            panel="Reference",
        ),
    ] = "none"
    ref_rate: Annotated[
        float | None,
        Setting(
            f"Step of REF towards the policy. Default: {EMA_RATE:g} for ema, 1 for sync.",
            above=0,
            high=1,
            metavar="X",
            panel="Reference",
        ),
    ] = None
    ref_every: Annotated[
        int | None,
        Setting(
            f"Updates between two steps of REF. Default: 1 for ema, {SYNC_EVERY} for sync.",
            low=1,
            metavar="N",
            panel="Reference",
        ),
    ] = None
    anchor_every: Annotated[
        int,
        Setting(
            "Updates between two measurements of the KL to the initial policy and to each "
            "ingredient of the soup; 0: never.",
            low=0,
            metavar="N",
            panel="Reference",
        ),
    ] = 10

    ensemble: Annotated[
        Literal["mean", "min", "uncertainty"],
        Setting(
            "How to combine several rewards: their mean, minimum, or mean minus weighted variance.",
            panel="Reward",
        ),
    ] = "mean"
    uncertainty_weight: Annotated[
        float | None,
        Setting(
            f"Weight of the variance in --ensemble uncertainty. Default: {UNCERTAINTY_WEIGHT:g}.",
            low=0,
            metavar="X",
            panel="Reward",
        ),
    ] = None
    watch_reward: Annotated[
        tuple[str, ...],
        Setting(
            "Reward to measure but not to train on, to detect reward hacking.",
            metavar="RM",
            panel="Reward",
            names="reward",
        ),
    ] = ()
    normalize_reward: Annotated[
        bool,
        Setting(
            "Normalise each reward to mean 0 and standard deviation 1 on answers of the "
            "initial policy.",
            panel="Reward",
        ),
    ] = False
    reward_clip: Annotated[
        float | None,
        Setting(
            "Clip rewards to [-X, X], before --no-eos and --overlong-penalty.",
            above=0,
            metavar="X",
            panel="Reward",
        ),
    ] = None
    whiten_rewards: Annotated[
        bool,
        Setting(
            "Scale the token rewards of each batch to standard deviation 1, without "
            "shifting the mean.",
            panel="Reward",
        ),
    ] = False
    overlong_penalty: Annotated[
        float | None,
        Setting(
            "Reward that an answer of full length loses; the loss rises linearly over the last "
            "--overlong-buffer tokens (DAPO). Default: none.",
            above=0,
            metavar="X",
            panel="Reward",
        ),
    ] = None
    overlong_buffer: Annotated[
        int | None,
        Setting(
            "Tokens before --response-length over which --overlong-penalty rises. Default: a fifth "
            "of --response-length.",
            low=1,
            metavar="N",
            panel="Reward",
        ),
    ] = None
    no_eos: Annotated[
        Literal["keep", "subtract", "replace"],
        Setting(
            "Score of an answer without an end token: kept, reduced by --no-eos-value, or "
            "replaced by it.",
            panel="Reward",
        ),
    ] = "keep"
    no_eos_value: Annotated[
        float | None,
        Setting(
            "Value for --no-eos subtract or replace.",
            metavar="X",
            panel="Reward",
        ),
    ] = None

    updates: Annotated[
        int,
        Setting(
            "Number of PPO updates.",
            low=1,
            metavar="N",
            panel="PPO",
            essential=True,
        ),
    ] = 100
    batch_size: Annotated[
        int,
        Setting(
            "Answers per update, over all processes; a multiple of --samples-per-prompt.",
            low=1,
            metavar="N",
            panel="PPO",
            essential=True,
        ),
    ] = 64
    response_length: Annotated[
        int,
        Setting(
            "Maximum length of an answer, in tokens.",
            low=1,
            metavar="N",
            panel="PPO",
            essential=True,
        ),
    ] = 128
    temperature: Annotated[
        float,
        Setting(
            "Sampling temperature; logits are also divided by it in training, so the KL is that of "
            "the policies at this temperature (the KL at 1 is reported with the anchors).",
            above=0,
            metavar="X",
            panel="PPO",
        ),
    ] = 1.0
    generator: Annotated[
        Literal["auto", "loop", "graphs", "vllm"],
        Setting(
            "How answers are generated: by a loop on any device; with its steps replayed as CUDA "
            "graphs; or by a vLLM server that you started, whose samples depend on the batch. "
            "auto: graphs if supported, else the loop.",
            panel="PPO",
        ),
    ] = "auto"
    vllm_url: Annotated[
        str | None,
        Setting(
            f"URL of the server for --generator vllm, on this machine. Default: {VLLM_URL}.",
            metavar="URL",
            panel="PPO",
            changes_result=False,
        ),
    ] = None
    reuse_logprobs: Annotated[
        bool,
        Setting(
            "Take the policy's old log-probabilities from generation, without a pass of their own. "
            "The first ratio is then 1 only up to rounding (ratio_error in metrics.jsonl: below "
            "1e-5 in float32, some hundredths in bfloat16). Not with --generator vllm.",
            panel="PPO",
        ),
    ] = False
    advantage: Annotated[
        Literal["gae", "rloo", "group", "grpo"],
        Setting(
            "How advantages are estimated. gae: with a critic. The others compare the answers to a "
            "prompt: rloo subtracts the mean of the other answers; group the mean of all (Dr. "
            "GRPO); grpo also divides by their standard deviation, of score minus penalty, so "
            "equal scores leave the penalty alone to decide.",
            panel="PPO",
            essential=True,
        ),
    ] = "gae"
    samples_per_prompt: Annotated[
        int | None,
        Setting(
            "Answers per prompt in an update, which --batch-size counts. Default: 1 for gae, "
            f"{GROUP_SIZE} for the others.",
            low=1,
            metavar="K",
            panel="PPO",
        ),
    ] = None
    gamma: Annotated[
        float,
        Setting(
            "Discount factor per token. Below 1, the score and the KL of later tokens count less, "
            "and the penalty is no longer the KL of whole answers.",
            above=0,
            high=1,
            metavar="X",
            panel="PPO",
        ),
    ] = 1.0
    lam: Annotated[
        float,
        Setting(
            "Lambda of generalized advantage estimation (GAE).",
            flags=("--lambda",),
            low=0,
            high=1,
            metavar="X",
            panel="PPO",
        ),
    ] = 0.95
    critic_lambda: Annotated[
        float | None,
        Setting(
            "Lambda of the returns that the critic learns; with 1, the reward of a long answer "
            "reaches its first tokens undiscounted (VC-PPO). Default: --lambda.",
            low=0,
            high=1,
            metavar="X",
            panel="PPO",
        ),
    ] = None
    adaptive_lambda: Annotated[
        float | None,
        Setting(
            "Use a lambda of 1 - 1 / (X L), at least 0, for an answer of L tokens instead of "
            "--lambda (VAPO: 0.05). Default: --lambda for all answers.",
            above=0,
            metavar="X",
            panel="PPO",
        ),
    ] = None
    loss_level: Annotated[
        Literal["token", "answer"],
        Setting(
            "What weighs the same in the policy's loss: every token (DAPO), or every answer, so "
            "that the tokens of long answers weigh less (GRPO).",
            panel="PPO",
        ),
    ] = "token"
    clip: Annotated[
        float,
        Setting(
            "Clip range of the probability ratio.",
            above=0,
            below=1,
            metavar="X",
            panel="PPO",
        ),
    ] = 0.2
    clip_high: Annotated[
        float | None,
        Setting(
            "Clip range above 1, to let unlikely tokens grow faster (clip-higher; DAPO: 0.28). "
            "Default: --clip.",
            above=0,
            metavar="X",
            panel="PPO",
        ),
    ] = None
    dual_clip: Annotated[
        float | None,
        Setting(
            "Upper limit of the ratio for negative advantages (dual clip). Default: none.",
            above=1,
            metavar="X",
            panel="PPO",
        ),
    ] = None
    value_clip: Annotated[
        float,
        Setting(
            "Clip range of the value function; 0: no clipping.",
            low=0,
            metavar="X",
            panel="PPO",
        ),
    ] = 0.2
    epochs: Annotated[
        int,
        Setting(
            "Passes over the answers of each update.",
            low=1,
            metavar="N",
            panel="Training",
        ),
    ] = 4
    minibatches: Annotated[
        int,
        Setting(
            "Optimiser steps per epoch.",
            low=1,
            metavar="N",
            panel="Training",
        ),
    ] = 1
    micro_batch_size: Annotated[
        int | None,
        Setting(
            "Answers per forward pass. Default: the largest part of a minibatch that fits "
            "into memory.",
            low=1,
            metavar="N",
            panel="Training",
            chosen=True,
        ),
    ] = None
    learning_rate: Annotated[
        float,
        Setting(
            "Learning rate of the policy (AdamW).",
            above=0,
            metavar="X",
            panel="Training",
            essential=True,
        ),
    ] = 3e-6
    critic_learning_rate: Annotated[
        float | None,
        Setting(
            "Learning rate of the critic. Default: that of the policy.",
            above=0,
            metavar="X",
            panel="Training",
        ),
    ] = None
    critic_warmup: Annotated[
        int,
        Setting(
            "Number of first updates that train only the critic.",
            low=0,
            metavar="N",
            panel="Training",
        ),
    ] = 0
    schedule: Annotated[
        Literal["linear", "constant"],
        Setting(
            "Learning-rate schedule: linear decay to 0, or constant.",
            panel="Training",
        ),
    ] = "linear"
    warmup: Annotated[
        float,
        Setting(
            "Share of the updates over which the learning rate rises linearly.",
            low=0,
            below=1,
            metavar="X",
            panel="Training",
        ),
    ] = 0.0
    max_grad_norm: Annotated[
        float,
        Setting(
            "Clip the gradient norm to this value.",
            above=0,
            metavar="X",
            panel="Training",
        ),
    ] = 1.0
    gradient_checkpointing: Annotated[
        bool,
        Setting(
            "Recompute activations in the backward pass: less memory, more time.",
            changes_result=False,
            panel="Training",
        ),
    ] = False
    recompute_layers: Annotated[
        int | None,
        Setting(
            "With --gradient-checkpointing, only the first N layers recompute: more memory, less "
            "time. Default: all; --dry-run says how many are needed.",
            low=1,
            metavar="N",
            changes_result=False,
            panel="Training",
        ),
    ] = None
    compile: Annotated[
        bool,
        Setting(
            "Compile the layers of policy and critic (torch.compile) for training: about "
            "half a minute at the first update, faster updates after it unless the model is "
            "tiny.",
            panel="Training",
        ),
    ] = False
    offload: Annotated[
        tuple[str, ...],
        Setting(
            "Models, the optimizer's moments or (with --shard) the trained weights to keep in CPU "
            f"memory while the GPU does not need them: {', '.join(OFFLOADABLE)}.",
            values=tuple(OFFLOADABLE),
            metavar="NAMES",
            panel="Training",
            changes_result=False,
        ),
    ] = ()
    optimiser: Annotated[
        Literal["adamw", "adamw-8bit"],
        Setting(
            "AdamW with its moments in float32, or in 8 bits (2 instead of 8 bytes per weight).",
            panel="Training",
        ),
    ] = "adamw"
    weights: Annotated[
        Literal["float32", "bfloat16"],
        Setting(
            "Type in which policy and critic are trained; bfloat16 halves weights and gradients, "
            "and rounds every step stochastically. Not for adapters.",
            panel="Training",
        ),
    ] = "float32"
    lora_rank: Annotated[
        int | None,
        Setting(
            "Train LoRA adapters of this rank for policy and critic, on one shared copy of "
            "the base model; needs the extra 'lora'. Policies that are adapters keep their "
            "rank.",
            low=1,
            metavar="R",
            panel="Training",
        ),
    ] = None
    save_every: Annotated[
        int,
        Setting(
            "Updates between checkpoints.",
            low=1,
            metavar="N",
            panel="Run",
            changes_result=False,
        ),
    ] = 10
    keep_checkpoints: Annotated[
        int | None,
        Setting(
            "Number of checkpoints to keep, also after the run, so that --resume with more "
            f"--updates can extend it. Default: {CHECKPOINTS}, and none when it is finished.",
            low=1,
            metavar="N",
            panel="Run",
            changes_result=False,
        ),
    ] = None
    snapshot_every: Annotated[
        int | None,
        Setting(
            "Updates between snapshots of the policy, each a model folder OUTPUT/snapshots/000020. "
            "Default: none.",
            low=1,
            metavar="N",
            panel="Run",
            changes_result=False,
        ),
    ] = None
    eval_prompts: Annotated[
        str | None,
        Setting(
            "Held-out prompts to evaluate the policy on while it is trained: the same prompts and "
            "seeds each time. Prompts that are also in --prompts are dropped.",
            metavar="DATA",
            names="data",
            panel="Held-out prompts",
        ),
    ] = None
    max_eval_prompts: Annotated[
        int | None,
        Setting(
            f"Use only the first N held-out prompts. Default: {MAX_EVAL_PROMPTS}.",
            low=1,
            metavar="N",
            panel="Held-out prompts",
        ),
    ] = None
    eval_every: Annotated[
        int | None,
        Setting(
            "Updates between two evaluations; also before the first and after the last update. "
            f"Default: {EVAL_EVERY}.",
            low=1,
            metavar="N",
            panel="Held-out prompts",
        ),
    ] = None
    keep_best: Annotated[
        Literal["reward", "watch", "objective"] | None,
        Setting(
            "Keep the policy with the highest held-out reward, first --watch-reward, or reward - "
            "kl-coef * KL in OUTPUT/best.",
            panel="Held-out prompts",
        ),
    ] = None
    stop_on: Annotated[
        tuple[str, ...],
        Setting(
            f"Warning that stops the run, with its state saved: {', '.join(WARNINGS)}.",
            values=WARNINGS,
            metavar="WARNING",
            panel="Run",
            changes_result=False,
        ),
    ] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        reasons = [
            *self._sizes(),
            *self._groups(),
            *self._lambdas(),
            *self._penalties(),
            *self._references(),
            *self._rewards(),
            *self._names(),
            *self._server(),
            *self._snapshots(),
            *self._held_out(),
        ]
        if len(reasons) == 1:
            raise UsageError(reasons[0])
        if reasons:
            listed = "\n".join(f"  - {reason}" for reason in reasons)
            raise UsageError(f"these settings contradict each other:\n{listed}")

    @classmethod
    def idle(cls, values: Mapping[str, object]) -> tuple[frozenset[str], str]:
        """Settings of a critic where none is trained."""
        advantage = values.get("advantage", cls.advantage)
        if advantage == "gae":
            return frozenset(), ""
        return frozenset(_OF_A_CRITIC), f"with --advantage {advantage}"

    @property
    def has_critic(self) -> bool:
        """Whether a critic is trained."""
        return self.advantage == "gae"

    @property
    def group_size(self) -> int:
        """Answers of one prompt in an update."""
        return self.samples_per_prompt or (1 if self.has_critic else GROUP_SIZE)

    @property
    def overlong_tokens(self) -> int:
        """Tokens over which `--overlong-penalty` rises."""
        return self.overlong_buffer or max(1, self.response_length // 5)

    @property
    def minibatch_size(self) -> int:
        """Answers per optimiser step."""
        return self.batch_size // self.minibatches

    @property
    def forward_size(self) -> int:
        """Answers per forward pass."""
        return self.micro_batch_size or self.minibatch_size

    @property
    def offloaded(self) -> tuple[str, ...]:
        """The names given by `--offload`."""
        return tuple(part for names in self.offload for part in names.split(","))

    @property
    def server(self) -> str | None:
        """URL of the vLLM server, `http://HOST:PORT`; None if none is used."""
        if self.generator != "vllm":
            return None
        return (self.vllm_url or VLLM_URL).rstrip("/")

    @property
    def reference_rate(self) -> float:
        """How far a moving reference goes towards the policy in one update of it, from 0 to 1."""
        return self.ref_rate or (EMA_RATE if self.ref_update == "ema" else 1.0)

    @property
    def reference_period(self) -> int:
        """PPO updates between two updates of the reference."""
        return self.ref_every or (1 if self.ref_update == "ema" else SYNC_EVERY)

    @property
    def checkpoints(self) -> int:
        """Checkpoints that are kept while the run goes on."""
        return self.keep_checkpoints or CHECKPOINTS

    @property
    def evaluation_period(self) -> int:
        """Updates between two evaluations on held-out prompts."""
        return self.eval_every or EVAL_EVERY

    @property
    def held_out_size(self) -> int:
        """Most prompts that are read from `--eval-prompts`."""
        return self.max_eval_prompts or MAX_EVAL_PROMPTS

    def undivided(self, processes: int) -> Iterator[str]:
        """Reason why the answers of an update cannot be divided, if there is one.

        Every process has the same number of answers in each minibatch, and whole prompts.
        """
        step = processes * math.lcm(self.minibatches, self.group_size)
        if self.batch_size % step == 0:
            return
        default = " (the default)" if self.samples_per_prompt is None else ""
        among = [
            text
            for text, count in (
                (f"--minibatches {self.minibatches}", self.minibatches),
                (f"--samples-per-prompt {self.group_size}{default}", self.group_size),
                (f"{processes} processes", processes),
            )
            if count > 1
        ]
        lower = self.batch_size // step * step
        yield (
            f"--batch-size {self.batch_size}, which counts answers, cannot be divided by "
            f"{' and '.join(among)}; expected a multiple of {step}, such as "
            f"{f'{lower} or ' if lower else ''}{lower + step}"
        )

    def _sizes(self) -> Iterator[str]:
        if undivided := list(self.undivided(self.processes)):
            yield from undivided
        elif self.minibatch_size % self.forward_size:
            yield (
                f"--micro-batch-size {self.forward_size} does not divide "
                f"a minibatch of {self.minibatch_size} answers"
            )
        if self.recompute_layers is not None and not self.gradient_checkpointing:
            yield "--recompute-layers has no effect without --gradient-checkpointing"
        if self.critic_warmup >= self.updates:
            yield (
                f"--critic-warmup {self.critic_warmup} leaves no update for the policy: the "
                f"run has {self.updates:,}; expected fewer"
            )

    def _lambdas(self) -> Iterator[str]:
        if self.adaptive_lambda is not None and self.lam != _default("lam"):
            yield f"--lambda {self.lam:g} has no effect with --adaptive-lambda, which replaces it"
        if self.adaptive_lambda is not None and self.adaptive_lambda * self.response_length <= 1:
            yield (
                f"--adaptive-lambda {self.adaptive_lambda:g} gives lambda 0 to all answers of "
                f"at most {counted(self.response_length, 'token')}; expected more than "
                f"{1 / self.response_length:.3g}, which is 1 / --response-length"
            )
        if self.clip_high is not None and self.clip_high < self.clip:
            yield (
                f"--clip-high {self.clip_high:g} is below --clip {self.clip:g}; expected a wider "
                "range above 1"
            )

    def _groups(self) -> Iterator[str]:
        """Why answers cannot be compared within their prompt; what belongs to a critic alone."""
        if self.has_critic:
            return
        if self.group_size < 2:
            yield (
                f"--advantage {self.advantage} compares the answers of a prompt; "
                f"expected --samples-per-prompt 2 or more, found {self.group_size}"
            )
        idle = [
            field.option
            for field in declared(type(self))
            if field.name in _OF_A_CRITIC and getattr(self, field.name) != _default(field.name)
        ]
        if "weak-critic" in self.stop_on:
            idle.append("--stop-on weak-critic")
        if idle:
            yield (
                f"{', '.join(idle)} {'is' if len(idle) == 1 else 'are'} not used by "
                f"--advantage {self.advantage}, which trains no critic and has one return per "
                "answer"
            )

    def _penalties(self) -> Iterator[str]:
        if self.kl_in == "loss" and self.penalty == "chi2":
            yield (
                "--penalty chi2 cannot be part of the loss, where the ratio of a single token "
                "would dominate the gradient; expected --kl-in reward"
            )
        elif self.kl_in == "loss" and self.kl_estimator == "k1":
            yield (
                "--kl-in loss with --kl-estimator k1 has no effect: the gradient of k1 "
                "is 0 on average; expected k3 or k2"
            )
        if self.penalty == "chi2" and self.kl_estimator != "k1":
            yield f"--kl-estimator {self.kl_estimator} has no effect with --penalty chi2"
        elif self.kl_in == "reward" and self.kl_estimator == "k3":
            yield (
                "--kl-estimator k3 in the reward does not hold the policy near REF: its gradient "
                "is that of KL(policy||REF) minus that of KL(REF||policy), which cancel near REF; "
                "expected k1, or --kl-in loss"
            )
        elif self.kl_in == "reward" and self.kl_estimator == "k2":
            yield (
                "--kl-estimator k2 in the reward does not hold the policy near REF: it rewards "
                "neither sign of the log-ratio, so its gradient is not that of the KL and vanishes "
                "near REF; expected k1, or --kl-in loss"
            )
        if self.kl_horizon is not None and self.kl_target is None:
            yield "--kl-horizon has no effect without --kl-target"
        if self.batch_size > (self.kl_horizon or KL_HORIZON) and self.kl_target is not None:
            yield (
                f"--kl-horizon {self.kl_horizon or KL_HORIZON} is shorter than a batch of "
                f"{self.batch_size} answers; expected a longer one"
            )
        if self.kl_target is not None and not self.kl_coef:
            yield "--kl-target has no effect with --kl-coef 0, which it multiplies"

    def _references(self) -> Iterator[str]:
        if len(self.ref) > 1 and self.penalty != "mean-kl":
            yield f"--penalty {self.penalty} takes one --ref; found {len(self.ref)}"
        if len(self.ref) == 1 and self.penalty == "mean-kl":
            yield "--penalty mean-kl has no effect with one --ref; expected two or more"
        if len(self.ref) > 1 and self.ref_update != "none":
            yield f"--ref-update {self.ref_update} takes one --ref; found {len(self.ref)}"
        if self.ref_update == "none":
            for name, value in (("rate", self.ref_rate), ("every", self.ref_every)):
                if value is not None:
                    yield f"--ref-{name} has no effect without --ref-update"
            return
        if not self.kl_coef:
            yield (
                f"--ref-update {self.ref_update} has no effect with --kl-coef 0, which disables "
                "the penalty"
            )
        if self.reference_period > self.updates:
            yield (
                f"--ref-update {self.ref_update} moves the reference every "
                f"{self.reference_period} updates, and the run has {self.updates}: never; "
                "expected a smaller --ref-every"
            )

    def _rewards(self) -> Iterator[str]:
        if len(self.reward) == 1 and self.ensemble != "mean":
            yield f"--ensemble {self.ensemble} has no effect with one --reward"
        if self.uncertainty_weight is not None and self.ensemble != "uncertainty":
            yield "--uncertainty-weight has no effect without --ensemble uncertainty"
        if self.overlong_penalty is None and self.overlong_buffer is not None:
            yield "--overlong-buffer has no effect without --overlong-penalty"
        if (self.overlong_buffer or 0) > self.response_length:
            yield (
                f"--overlong-buffer {self.overlong_buffer} is more than --response-length "
                f"{self.response_length}"
            )
        if self.no_eos == "keep" and self.no_eos_value is not None:
            yield "--no-eos-value has no effect with --no-eos keep"
        if self.no_eos != "keep" and self.no_eos_value is None:
            yield f"--no-eos {self.no_eos} needs --no-eos-value"

    def _names(self) -> Iterator[str]:
        """Names that are not among those known."""
        yield from self.tracking_reasons()
        for option, given, known in (
            ("--stop-on", self.stop_on, WARNINGS),
            ("--offload", self.offloaded, tuple(OFFLOADABLE)),
        ):
            for name in given:
                if name not in known:
                    yield f"{option} {name}: expected one of {', '.join(known)}"
        if "reward-hacking" in self.stop_on and not self.watch_reward:
            yield "--stop-on reward-hacking has no effect without --watch-reward"
        if "watch" in self.offloaded and not self.watch_reward:
            yield "--offload watch has no effect without --watch-reward"
        if "equal-groups" in self.stop_on and self.has_critic:
            yield "--stop-on equal-groups has no effect with --advantage gae"
        if "cheap-stopping" in self.stop_on and self.penalty == "chi2":
            yield "--stop-on cheap-stopping has no effect with --penalty chi2"

    def _snapshots(self) -> Iterator[str]:
        if self.snapshot_every is not None and self.snapshot_every > self.updates:
            yield (
                f"--snapshot-every {self.snapshot_every} writes none in "
                f"{counted(self.updates, 'update')}; "
                "expected a smaller number"
            )

    def _held_out(self) -> Iterator[str]:
        if self.eval_prompts is None:
            for option, given in (
                ("--max-eval-prompts", self.max_eval_prompts),
                ("--eval-every", self.eval_every),
                ("--keep-best", self.keep_best),
            ):
                if given is not None:
                    yield f"{option} has no effect without --eval-prompts"
            if "heldout-fall" in self.stop_on:
                yield "--stop-on heldout-fall has no effect without --eval-prompts"
        if self.keep_best == "watch" and not self.watch_reward:
            yield "--keep-best watch needs --watch-reward"
        if self.keep_best == "objective" and self.penalty == "chi2":
            yield "--keep-best objective needs a KL penalty, not --penalty chi2; expected reward"
        if self.keep_best == "objective" and self.kl_target is not None:
            yield (
                "--keep-best objective cannot compare updates whose coefficient --kl-target "
                "changes; expected reward or watch"
            )

    def _server(self) -> Iterator[str]:
        """The server must be on this machine, since it reads the policy's weights from a folder."""
        if self.generator == "vllm" and self.reuse_logprobs:
            yield (
                "--reuse-logprobs needs log-probabilities of the policy itself, and --generator "
                "vllm gives those of a server that computes differently; remove one of the two"
            )
        if self.vllm_url is None:
            return
        if self.generator != "vllm":
            yield "--vllm-url has no effect without --generator vllm"
        if not _is_local(self.vllm_url):
            yield (
                f"--vllm-url {self.vllm_url}: expected a server on this machine, such as "
                f"{VLLM_URL}; the host may be localhost, 127.0.0.0/8 or [::1]"
            )


_OF_A_CRITIC = (
    "critic",
    "critic_learning_rate",
    "critic_warmup",
    "value_clip",
    "lam",
    "critic_lambda",
    "adaptive_lambda",
    "gamma",
    "whiten_rewards",
)
"""Settings that only a critic and its returns use."""


def _default(name: str) -> object:
    """The default of a setting."""
    return next(field.default for field in fields(PPOConfig) if field.name == name)


def _is_local(url: str) -> bool:
    """Whether a text is `http://HOST[:PORT]` with a loopback host."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    plain = parts.scheme == "http" and parts.path in ("", "/") and "@" not in parts.netloc
    if not plain or parts.query or parts.fragment or port == 0:
        return False
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
