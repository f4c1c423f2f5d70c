"""The settings of `salsa ppo`, and which of them contradict each other."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from salsa_cli.config.base import TRACKERS, Setting, TrainingConfig
from salsa_cli.errors import UsageError

EMA_RATE = 0.01
SYNC_EVERY = 64
KL_HORIZON = 10_000
UNCERTAINTY_WEIGHT = 0.1
VLLM_URL = "http://127.0.0.1:8000"

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
)
"""Names of the warnings that the monitors issue."""

OFFLOADABLE = {"ref": "reference", "reward": "rewards", "watch": "watched"}
"""Values of `--offload`, and the fields of `Actors` they stand for."""


@dataclass(frozen=True, kw_only=True)
class PPOConfig(TrainingConfig):
    """`salsa ppo`."""

    ref: Annotated[
        tuple[str, ...],
        Setting(
            "Model that the KL penalty refers to, or a recipe such as 'soup(a/,b/,alpha=0.5)'. "
            "Repeatable, for --penalty mean-kl.",
            metavar="REF",
        ),
    ]
    reward: Annotated[
        tuple[str, ...],
        Setting(
            "Reward model, or FILE.py:FUNCTION; repeat it for an ensemble.",
            metavar="RM",
        ),
    ]
    prompts: Annotated[str, Setting("Prompts: a file, a folder or a hub id.", metavar="DATA")]
    policy: Annotated[
        str | None,
        Setting(
            "Model to start from. By default the first ingredient of a soup, else REF itself.",
            metavar="MODEL",
        ),
    ] = None
    critic: Annotated[
        str | None,
        Setting(
            "What the critic starts from: 'reward' (the first reward model), 'policy' (with a zero "
            "head), or a model. By default 'reward' if its vocabulary is the policy's, else "
            "'policy'.",
            metavar="MODEL",
        ),
    ] = None

    penalty: Annotated[
        Literal["kl", "chi2", "mean-kl"],
        Setting(
            "Divergence from REF: the KL, the chi-squared divergence, or the mean of the KLs to "
            "several.",
            panel="Reference",
        ),
    ] = "kl"
    kl_coef: Annotated[
        float, Setting("Weight of the penalty.", low=0, metavar="X", panel="Reference")
    ] = 0.05
    kl_estimator: Annotated[
        Literal["k1", "k2", "k3"],
        Setting("Estimator of the KL on the sampled tokens.", panel="Reference"),
    ] = "k1"
    kl_in: Annotated[
        Literal["reward", "loss"],
        Setting("Where the penalty enters: each token's reward, or the loss.", panel="Reference"),
    ] = "reward"
    kl_target: Annotated[
        float | None,
        Setting(
            "Adapt the weight so that the penalty of an answer comes to this many nats.",
            above=0,
            metavar="X",
            panel="Reference",
        ),
    ] = None
    kl_horizon: Annotated[
        int | None,
        Setting(
            f"Answers over which --kl-target acts; {KL_HORIZON} by default.",
            low=1,
            metavar="N",
            panel="Reference",
        ),
    ] = None
    ref_update: Annotated[
        Literal["none", "ema", "sync"],
        Setting(
            "Whether REF follows the policy: a little every update, or at once now and then.",
            panel="Reference",
        ),
    ] = "none"
    ref_rate: Annotated[
        float | None,
        Setting(
            f"Share of the way to the policy that REF goes; {EMA_RATE:g} for ema, 1 for sync.",
            above=0,
            high=1,
            metavar="X",
            panel="Reference",
        ),
    ] = None
    ref_every: Annotated[
        int | None,
        Setting(
            f"Updates between two moves of REF; 1 for ema, {SYNC_EVERY} for sync.",
            low=1,
            metavar="N",
            panel="Reference",
        ),
    ] = None
    anchor_every: Annotated[
        int,
        Setting(
            "Updates between two measurements of the KL to the start and to each ingredient of a "
            "soup; 0 for never.",
            low=0,
            metavar="N",
            panel="Reference",
        ),
    ] = 10

    ensemble: Annotated[
        Literal["mean", "min", "uncertainty"],
        Setting("What several rewards make: mean, least, or mean less variance.", panel="Reward"),
    ] = "mean"
    uncertainty_weight: Annotated[
        float | None,
        Setting(
            f"Weight of the variance in --ensemble uncertainty; {UNCERTAINTY_WEIGHT:g} by default.",
            low=0,
            metavar="X",
            panel="Reward",
        ),
    ] = None
    watch_reward: Annotated[
        tuple[str, ...],
        Setting(
            "Reward that is measured and not trained on. Repeatable.",
            metavar="RM",
            panel="Reward",
        ),
    ] = ()
    normalize_reward: Annotated[
        bool,
        Setting("Scale each reward to mean 0, std 1 on the start's answers.", panel="Reward"),
    ] = False
    reward_clip: Annotated[
        float | None,
        Setting("Largest size of a reward.", above=0, metavar="X", panel="Reward"),
    ] = None
    whiten_rewards: Annotated[
        bool,
        Setting("Scale the tokens' rewards of a batch to std 1; their mean stays.", panel="Reward"),
    ] = False
    no_eos: Annotated[
        Literal["keep", "subtract", "replace"],
        Setting("What an answer without an end token scores.", panel="Reward"),
    ] = "keep"
    no_eos_value: Annotated[
        float | None,
        Setting(
            "Number that --no-eos subtracts, or puts in the score's place.",
            metavar="X",
            panel="Reward",
        ),
    ] = None

    updates: Annotated[int, Setting("Rollout batches.", low=1, metavar="N", panel="PPO")] = 100
    batch_size: Annotated[int, Setting("Answers per update.", low=1, metavar="N", panel="PPO")] = 64
    response_length: Annotated[
        int, Setting("Longest answer, in tokens.", low=1, metavar="N", panel="PPO")
    ] = 128
    temperature: Annotated[
        float,
        Setting(
            "Sampling temperature; also divides the logits in training.",
            above=0,
            metavar="X",
            panel="PPO",
        ),
    ] = 1.0
    generator: Annotated[
        Literal["auto", "loop", "graphs", "paged", "vllm"],
        Setting(
            "How answers are generated: by a loop on any device; with its steps replayed as CUDA "
            "graphs; by continuous batching; or by a vLLM server that you started. The draws of "
            "the latter two are their own and depend on the batch. auto: graphs where they can be "
            "had, else the loop.",
            panel="PPO",
        ),
    ] = "auto"
    vllm_url: Annotated[
        str | None,
        Setting(
            f"Server of --generator vllm, on this machine; {VLLM_URL} by default.",
            metavar="URL",
            panel="PPO",
            changes_result=False,
        ),
    ] = None
    gamma: Annotated[
        float, Setting("Discount per token.", above=0, high=1, metavar="X", panel="PPO")
    ] = 1.0
    lam: Annotated[
        float,
        Setting("Lambda of GAE.", flags=("--lambda",), low=0, high=1, metavar="X", panel="PPO"),
    ] = 0.95
    clip: Annotated[
        float, Setting("Clip range of the ratio.", above=0, below=1, metavar="X", panel="PPO")
    ] = 0.2
    dual_clip: Annotated[
        float | None,
        Setting(
            "Most that the ratio counts where the advantage is negative; no limit by default.",
            above=1,
            metavar="X",
            panel="PPO",
        ),
    ] = None
    value_clip: Annotated[
        float, Setting("Clip range of the value; 0 for none.", low=0, metavar="X", panel="PPO")
    ] = 0.2
    epochs: Annotated[
        int, Setting("Passes over each rollout batch.", low=1, metavar="N", panel="Training")
    ] = 4
    minibatches: Annotated[
        int, Setting("Optimiser steps per pass.", low=1, metavar="N", panel="Training")
    ] = 1
    micro_batch_size: Annotated[
        int | None,
        Setting(
            "Answers per forward pass; by default the largest part of a minibatch that fits.",
            low=1,
            metavar="N",
            panel="Training",
            chosen=True,
        ),
    ] = None
    learning_rate: Annotated[
        float, Setting("Rate of AdamW for the policy.", above=0, metavar="X", panel="Training")
    ] = 3e-6
    critic_learning_rate: Annotated[
        float | None,
        Setting(
            "Rate of AdamW for the critic; the policy's by default.",
            above=0,
            metavar="X",
            panel="Training",
        ),
    ] = None
    critic_warmup: Annotated[
        int,
        Setting(
            "First updates in which the critic alone learns.", low=0, metavar="N", panel="Training"
        ),
    ] = 0
    schedule: Annotated[
        Literal["linear", "constant"],
        Setting("How the rates go: to zero over the run, or not.", panel="Training"),
    ] = "linear"
    warmup: Annotated[
        float,
        Setting(
            "Share of the updates over which the rates rise.",
            low=0,
            below=1,
            metavar="X",
            panel="Training",
        ),
    ] = 0.0
    max_grad_norm: Annotated[
        float,
        Setting("Gradients are scaled down to this norm.", above=0, metavar="X", panel="Training"),
    ] = 1.0
    gradient_checkpointing: Annotated[
        bool,
        Setting(
            "Compute activations twice instead of keeping them: less memory, more time.",
            changes_result=False,
            panel="Training",
        ),
    ] = False
    compile: Annotated[
        bool,
        Setting(
            "Compile the layers of policy and critic for their training passes (torch.compile): "
            "the first update takes half a minute more, the others less, if the model is not tiny.",
            panel="Training",
        ),
    ] = False
    offload: Annotated[
        tuple[str, ...],
        Setting(
            "Models that lie in the CPU's memory while a GPU has no use for them: "
            f"{', '.join(OFFLOADABLE)}. Repeatable, or with commas.",
            metavar="NAMES",
            panel="Training",
            changes_result=False,
        ),
    ] = ()
    optimiser: Annotated[
        Literal["adamw", "adamw-8bit"],
        Setting(
            "AdamW, with its moments in float32 or in 8 bits (2 bytes a weight and not 8); the "
            "latter needs the extra '8bit'.",
            panel="Training",
        ),
    ] = "adamw"
    lora_rank: Annotated[
        int | None,
        Setting(
            "Train policy and critic by low-rank updates of this rank, on weights that all models "
            "of one base share; needs the extra 'lora'. Not for adapters, which have a rank.",
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
        int,
        Setting(
            "Checkpoints to keep, the newest.",
            low=1,
            metavar="N",
            panel="Run",
            changes_result=False,
        ),
    ] = 2
    stop_on: Annotated[
        tuple[str, ...],
        Setting(
            f"Warning at which the run stops, its state saved: {', '.join(WARNINGS)}. Repeatable.",
            metavar="WARNING",
            panel="Run",
            changes_result=False,
        ),
    ] = ()
    SAYS: ClassVar[Mapping[str, str]] = {
        "track": f"Tracker that gets the metrics: {', '.join(TRACKERS)}. Repeatable.",
        "seed": "Seed of order and sampling.",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        reasons = [
            *self._sizes(),
            *self._penalties(),
            *self._references(),
            *self._rewards(),
            *self._names(),
            *self._server(),
        ]
        if len(reasons) == 1:
            raise UsageError(reasons[0])
        if reasons:
            listed = "\n".join(f"  - {reason}" for reason in reasons)
            raise UsageError(f"these settings do not go together:\n{listed}")

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

    def undivided(self, processes: int) -> Iterator[str]:
        """Reason why a minibatch cannot be divided among `processes`, if there is one."""
        if self.minibatch_size % processes:
            yield (
                f"a minibatch of {self.minibatch_size} answers (--batch-size {self.batch_size} in "
                f"--minibatches {self.minibatches}) does not divide among {processes} processes; "
                f"expected a multiple of {processes}"
            )

    def _sizes(self) -> Iterator[str]:
        if self.batch_size % self.minibatches:
            yield (
                f"--batch-size {self.batch_size} does not divide "
                f"into --minibatches {self.minibatches}"
            )
        elif self.minibatch_size % self.forward_size:
            yield (
                f"--micro-batch-size {self.forward_size} does not divide "
                f"a minibatch of {self.minibatch_size} answers"
            )
        else:
            yield from self.undivided(self.processes)
        if self.critic_warmup >= self.updates:
            yield (
                f"--critic-warmup {self.critic_warmup} leaves none of the {self.updates} updates "
                "to the policy; expected fewer"
            )

    def _penalties(self) -> Iterator[str]:
        if self.kl_in == "loss" and self.penalty == "chi2":
            yield "--penalty chi2 has no form in the loss; expected --kl-in reward"
        elif self.kl_in == "loss" and self.kl_estimator == "k1":
            yield (
                "--kl-in loss with --kl-estimator k1 holds the policy nowhere: the gradient of k1 "
                "is 0 on average; expected k2 or k3"
            )
        if self.penalty == "chi2" and self.kl_estimator != "k1":
            yield f"--kl-estimator {self.kl_estimator} has no effect with --penalty chi2"
        if self.kl_horizon is not None and self.kl_target is None:
            yield "--kl-horizon has no effect without --kl-target"
        if self.batch_size > (self.kl_horizon or KL_HORIZON) and self.kl_target is not None:
            yield (
                f"--kl-horizon {self.kl_horizon or KL_HORIZON} is shorter than a batch of "
                f"{self.batch_size} answers; expected a longer one"
            )
        if self.kl_target is not None and not self.kl_coef:
            yield "--kl-target has no effect on --kl-coef 0, which it multiplies"

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
                f"--ref-update {self.ref_update} has no effect with --kl-coef 0, which holds the "
                "policy to no reference"
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
        if self.no_eos == "keep" and self.no_eos_value is not None:
            yield "--no-eos-value has no effect with --no-eos keep"
        if self.no_eos != "keep" and self.no_eos_value is None:
            yield f"--no-eos {self.no_eos} needs --no-eos-value"

    def _names(self) -> Iterator[str]:
        """Names that are not among those known."""
        for option, given, known in (
            ("--stop-on", self.stop_on, WARNINGS),
            ("--track", self.track, TRACKERS),
            ("--offload", self.offloaded, tuple(OFFLOADABLE)),
        ):
            for name in given:
                if name not in known:
                    yield f"{option} {name}: expected one of {', '.join(known)}"
        if "reward-hacking" in self.stop_on and not self.watch_reward:
            yield "--stop-on reward-hacking has no effect without --watch-reward"
        if "watch" in self.offloaded and not self.watch_reward:
            yield "--offload watch has no effect without --watch-reward"
        if "cheap-stopping" in self.stop_on and not self.anchor_every:
            yield "--stop-on cheap-stopping has no effect with --anchor-every 0"

    def _server(self) -> Iterator[str]:
        """The server must be on this machine, since it reads the policy's weights from a folder."""
        if self.vllm_url is None:
            return
        if self.generator != "vllm":
            yield "--vllm-url has no effect without --generator vllm"
        if not _is_local(self.vllm_url):
            yield (
                f"--vllm-url {self.vllm_url}: expected a server on this machine, as {VLLM_URL}; "
                "the host may be localhost, 127.0.0.0/8 or [::1]"
            )


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
