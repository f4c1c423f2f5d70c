"""What a PPO run will hold in memory: each model, each phase, the peak. It estimates, never loads.

Phases do not add up: the peak is the largest of them, each over the weights that it needs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

from salsa_cli import models, rewards
from salsa_cli.errors import SalsaError
from salsa_cli.models import Shape
from salsa_cli.optimisation import MOMENTS
from salsa_cli.reports import Table, amount
from salsa_cli.rl.ppo_config import OFFLOADABLE, PPOConfig
from salsa_cli.rl.preflight import Plan
from salsa_cli.weights import checkpoints

SAMPLING = 32
"""Bytes a row and vocabulary entry while a token is drawn: the logits in float32 and, in float64,
these, the probabilities and their sums."""

LOGITS = 3 * 4
"""Bytes a logit of a learning pass: as it comes and in float32, and its gradient."""

HEADROOM = 0.9
"""Share of the device's memory that a micro-batch is picked to fill: these are estimates, and the
allocator loses some to pieces that fit nothing."""


@dataclass(frozen=True)
class Precision:
    """Bytes of a number: of a frozen weight, and of what is multiplied by weights in a pass.

    The residual stream and the norms stay in float32. Where products are narrower, a pass holds its
    trained weights a second time, in the type of the products.
    """

    frozen: int
    product: int

    @classmethod
    def of(cls, frozen: int) -> Self:
        """That of a device whose frozen weights take so many bytes each."""
        return cls(frozen, frozen)

    @property
    def copy(self) -> int:
        """Bytes of a float32 weight's copy in a pass."""
        return self.product if self.product < 4 else 0


@dataclass(frozen=True)
class Held:
    """Bytes of a model, or of everything in a phase, by what they are for."""

    weights: int = 0
    gradients: int = 0
    optimiser: int = 0
    activations: int = 0
    logits: int = 0
    cache: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))

    def record(self) -> dict[str, int]:
        """By name, without what is nothing."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**{name: size for name, size in named.items() if size}, "total": self.total}


@dataclass(frozen=True)
class Demand:
    """What a run holds: by model, and by phase with the models that are there in it.

    `forward_size` is the number of answers in a forward pass that it was reckoned for.
    """

    models: Mapping[str, Held]
    phases: Mapping[str, Held]
    forward_size: int

    @property
    def busiest(self) -> str:
        """The phase of the peak."""
        return max(self.phases, key=lambda name: self.phases[name].total)

    @property
    def peak(self) -> int:
        """The most bytes at once."""
        return self.phases[self.busiest].total

    def table(self) -> Table:
        """A line a model, then a line a phase; each adds up."""
        columns = [field.name for field in fields(Held)]
        rows = [(name, *_cells(held, columns)) for name, held in self.models.items()]
        rows += [("", *[""] * (len(columns) + 1))]
        rows += [(name, *_cells(held, columns)) for name, held in self.phases.items()]
        return Table(("memory", *columns, "in all"), rows)

    def record(self) -> dict[str, object]:
        """For `--json`, in bytes."""
        return {
            "models": {name: held.record() for name, held in self.models.items()},
            "phases": {name: held.record() for name, held in self.phases.items()},
            "peak": self.peak,
            "peak_in": self.busiest,
        }


def demand(plan: Plan, config: PPOConfig, precision: Precision) -> Demand:
    """What the run will hold, with prompts as long as the longest."""
    held = _models(plan, config, precision)
    named = {
        "rollout": _rollout(plan, config, precision),
        "scoring": _scoring(plan, config, precision),
        "log-probabilities": _log_probabilities(plan, config, precision),
        "anchors": _anchors(plan, config, precision),
        "learning": _learning(plan, config, precision),
    }
    if not config.anchor_every:
        del named["anchors"]
    phases = {}
    for phase, working in named.items():
        there = [one for name, one in held.items() if _is_there(name, phase, config)]
        phases[phase] = replace(
            working,
            weights=working.weights + sum(one.weights for one in there),
            optimiser=sum(one.optimiser for one in there),
        )
    return Demand(held, phases, config.forward_size)


def fitted(
    plan: Plan, config: PPOConfig, precision: Precision, available: int
) -> tuple[PPOConfig, Demand]:
    """The configuration with the largest micro-batch that fits, and what it holds.

    A minibatch is one pass where that fits; else the pass is the largest divisor of it that does,
    or one answer, whose fit `check` judges. A micro-batch that is given stays.
    """
    if config.micro_batch_size is not None:
        return config, demand(plan, config, precision)
    size = config.minibatch_size
    for passes in (count for count in range(1, size + 1) if size % count == 0):
        tried = config if passes == 1 else replace(config, micro_batch_size=size // passes)
        found = demand(plan, tried, precision)
        if found.peak <= HEADROOM * available:
            break
    return tried, found


def check(found: Demand, config: PPOConfig, available: int, *, on_cpu: bool) -> None:
    """Refuse a run that cannot fit.

    Raises:
        SalsaError: the peak is more than the device has; names what could help.
    """
    if found.peak <= available:
        return
    parts = found.phases[found.busiest].record()
    del parts["total"]
    listed = ", ".join(f"{name} {amount(size, 'B')}" for name, size in parts.items())
    raise SalsaError(
        f"this run needs about {amount(found.peak, 'B')} at its peak, {found.busiest} ({listed}), "
        f"and the device has {amount(available, 'B')}; "
        f"try {', '.join(_advice(found, config, on_cpu=on_cpu))}"
    )


def kept_activations(shape: Shape, rows: int, tokens: int, precision: Precision) -> int:
    """Bytes that a pass over `rows` sequences of `tokens` tokens keeps for its gradient.

    A token and layer keep, of a gated layer as Llama's (counted as Korthikanti et al., "Reducing
    Activation Recomputation in Large Transformer Models", 2022, count GPT's): for each of two norms
    its input and the normalised input in float32 and what it gives to the matrices; queries, keys
    and values, which a mask has repeated for every head, and the attention's output before and
    after it is laid out anew; gate, activated gate, up and their product. That is 11 hidden widths
    and 4 intermediate ones in float32. The mask comes once.
    """
    wide = precision.product
    layer = 2 * (2 * 4 + wide) * shape.hidden + 5 * wide * shape.heads + 4 * wide * shape.inner
    return rows * tokens * (shape.layers * layer + 4 * tokens)


def checkpointed_activations(shape: Shape, rows: int, tokens: int, precision: Precision) -> int:
    """The same where layers compute theirs again: the input of each, and all of one.

    (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.)
    """
    inputs = 4 * shape.hidden * shape.layers * rows * tokens
    return inputs + kept_activations(replace(shape, layers=1), rows, tokens, precision)


def passing_activations(shape: Shape, rows: int, tokens: int, precision: Precision) -> int:
    """Bytes of a pass without a gradient at its widest: stream, norm, three of the inner width."""
    return rows * tokens * (12 * shape.hidden + 3 * precision.product * shape.inner)


def cache(shape: Shape, rows: int, tokens: int, precision: Precision) -> int:
    """Bytes of keys and values: 2 x layers x key-value width x tokens."""
    return 2 * shape.layers * shape.keys * rows * tokens * precision.product


def _models(plan: Plan, config: PPOConfig, precision: Precision) -> dict[str, Held]:
    moments = MOMENTS[config.optimiser]
    moving = 4 if config.ref_update != "none" else precision.frozen

    def trained(parameters: int) -> Held:
        return Held(4 * parameters, 4 * parameters, int(moments * parameters))

    def frozen(folders: Iterator[Path]) -> Held:
        return Held(precision.frozen * sum(_parameters(folder) for folder in folders))

    held = {
        "policy": trained(_parameters(plan.policy)),
        "critic": trained(_critic_parameters(plan.critic)),
        "reference": Held(moving * sum(_parameters(one.first) for one in plan.references)),
        "rewards": frozen(_reward_models(plan.rewards)),
        "watched": frozen(_reward_models(plan.watched)),
        "an anchor": frozen(iter([plan.policy] if config.anchor_every else [])),
    }
    return {name: one for name, one in held.items() if one.total}


def _is_there(model: str, phase: str, config: PPOConfig) -> bool:
    """Whether a model lies on the device in a phase."""
    if model == "an anchor":
        return phase == "anchors"
    parked = {OFFLOADABLE[name] for name in config.offloaded}
    needed = "log-probabilities" if model == "reference" else "scoring"
    return model not in parked or phase == needed


def _rollout(plan: Plan, config: PPOConfig, precision: Precision) -> Held:
    shape = models.shape(plan.policy)
    rows, prompt = config.batch_size, _longest(plan)
    return Held(
        weights=precision.copy * _parameters(plan.policy),
        activations=passing_activations(shape, rows, prompt, precision),
        logits=SAMPLING * rows * shape.vocabulary,
        cache=cache(shape, rows, prompt + config.response_length, precision),
    )


def _scoring(plan: Plan, config: PPOConfig, precision: Precision) -> Held:
    """A reward model passes all answers of a batch at once."""
    tokens = _longest(plan) + config.response_length
    shapes = [models.shape(one) for one in _reward_models((*plan.rewards, *plan.watched))]
    sizes = [passing_activations(one, config.batch_size, tokens, precision) for one in shapes]
    return Held(activations=max(sizes, default=0))


def _log_probabilities(plan: Plan, config: PPOConfig, precision: Precision) -> Held:
    """Policy, references and critic pass one behind the other."""
    tokens = _longest(plan) + config.response_length
    folders = [plan.policy, plan.critic, *(one.first for one in plan.references)]
    shapes = [models.shape(folder) for folder in folders]
    sizes = [passing_activations(one, config.forward_size, tokens, precision) for one in shapes]
    return Held(
        weights=precision.copy * max(map(_parameters, (plan.policy, plan.critic))),
        activations=max(sizes),
        logits=_answer_logits(plan, config, 2 * 4),
    )


def _anchors(plan: Plan, config: PPOConfig, precision: Precision) -> Held:
    tokens = _longest(plan) + config.response_length
    shape = models.shape(plan.policy)
    return Held(
        activations=passing_activations(shape, config.forward_size, tokens, precision),
        logits=_answer_logits(plan, config, 2 * 4),
    )


def _learning(plan: Plan, config: PPOConfig, precision: Precision) -> Held:
    """The two models pass one behind the other, and their gradients come at the end of both.

    Where a minibatch is one pass, gradients come as the activations go, and add only where they are
    more; several passes gather theirs beside the next one's activations.
    """
    keep = checkpointed_activations if config.gradient_checkpointing else kept_activations
    tokens = _longest(plan) + config.response_length
    parameters = _parameters(plan.policy) + _critic_parameters(plan.critic)
    activations = sum(
        keep(models.shape(folder), config.forward_size, tokens, precision)
        for folder in (plan.policy, plan.critic)
    )
    logits = _answer_logits(plan, config, LOGITS)
    gradients = 4 * parameters
    if config.forward_size == config.minibatch_size:
        gradients = max(0, gradients - activations - logits)
    return Held(precision.copy * parameters, gradients, 0, activations, logits)


def _answer_logits(plan: Plan, config: PPOConfig, width: int) -> int:
    vocabulary = models.vocabulary_size(plan.policy)
    return width * config.forward_size * (config.response_length + 1) * vocabulary


def _advice(found: Demand, config: PPOConfig, *, on_cpu: bool) -> Iterator[str]:
    """What would make the peak smaller, in the order of what it costs."""
    if found.busiest == "anchors":
        yield "--anchor-every 0"
    if found.busiest in ("rollout", "scoring"):
        yield "a smaller --batch-size"
    elif found.forward_size > 1:
        yield "a smaller --micro-batch-size"
    if found.busiest == "learning" and not config.gradient_checkpointing:
        yield "--gradient-checkpointing"
    if config.optimiser == "adamw":
        yield "--optimiser adamw-8bit"
    if not on_cpu and not config.offloaded:
        yield "--offload ref,reward"
    yield "a smaller model as --critic"


def _cells(held: Held, columns: list[str]) -> list[str]:
    sizes = [getattr(held, name) for name in columns]
    return [*(amount(size, "B") if size else "" for size in sizes), amount(held.total, "B")]


def _longest(plan: Plan) -> int:
    return max(len(ids) for ids in plan.prompt_ids)


def _reward_models(names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        yield from rewards.models_of(name)


def _parameters(folder: Path) -> int:
    return checkpoints.open_checkpoint(folder).parameters


def _critic_parameters(folder: Path) -> int:
    """Those of a critic: the body of a language model without its logits, or a reward model."""
    tensors = checkpoints.open_checkpoint(folder).tensors
    return sum(spec.elements for name, spec in tensors.items() if not name.startswith("lm_head."))
