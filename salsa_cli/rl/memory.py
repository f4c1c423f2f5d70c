"""Estimates of the memory of a PPO run, by model and by phase, without loading anything.

Phases do not add up: the peak is the largest of them, each over the weights that it needs.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from salsa_cli.config.ppo import OFFLOADABLE, PPOConfig
from salsa_cli.errors import SalsaError
from salsa_cli.formatting import amount
from salsa_cli.models import activation_memory, shapes
from salsa_cli.models.activation_memory import Machine
from salsa_cli.models.learners import MOMENTS
from salsa_cli.models.shapes import Shape
from salsa_cli.reward_models import rewards
from salsa_cli.rl import references, weight_sharing
from salsa_cli.rl.batching import SCORED_TOKENS
from salsa_cli.rl.plan import PPOPlan
from salsa_cli.rl.weight_sharing import Part, Role
from salsa_cli.runs.events import Table
from salsa_cli.weights import folders

ROWS: dict[Part, str] = {
    "policy": "policy",
    "critic": "critic",
    "reference": "reference",
    "reward": "rewards",
    "watched": "watched",
}
"""Names of the models in the table."""


@dataclass(frozen=True)
class MemoryUse:
    """Memory of a model or a phase in bytes, by purpose."""

    weights: int = 0
    gradients: int = 0
    optimiser: int = 0
    activations: int = 0
    logits: int = 0
    cache: int = 0

    def __add__(self, other: "MemoryUse") -> "MemoryUse":
        names = [field.name for field in fields(self)]
        return MemoryUse(*(getattr(self, name) + getattr(other, name) for name in names))

    @property
    def total(self) -> int:
        """The sum."""
        return sum(getattr(self, field.name) for field in fields(self))

    def record(self) -> dict[str, int]:
        """By name, without zeros."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**{name: size for name, size in named.items() if size}, "total": self.total}


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of a run by model, and by phase with the models present in it.

    `forward_size` is the number of answers in a forward pass that it was reckoned for.
    """

    models: Mapping[str, MemoryUse]
    phases: Mapping[str, MemoryUse]
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
        """One row per model, then one per phase."""
        columns = [field.name for field in fields(MemoryUse)]
        rows = [(name, *_cells(held, columns)) for name, held in self.models.items()]
        rows += [("", *[""] * (len(columns) + 1))]
        rows += [(name, *_cells(held, columns)) for name, held in self.phases.items()]
        return Table(("memory", *columns, "total"), rows)

    def record(self) -> dict[str, object]:
        """For `--json`, in bytes."""
        return {
            "models": {name: held.record() for name, held in self.models.items()},
            "phases": {name: held.record() for name, held in self.phases.items()},
            "peak": self.peak,
            "peak_in": self.busiest,
        }


def plan_memory(plan: PPOPlan, config: PPOConfig, machine: Machine) -> MemoryPlan:
    """Estimate the memory of a run, with all prompts as long as the longest."""
    held = _models(plan, config, machine)
    named = {
        "rollout": _rollout(plan, config, machine),
        "scoring": _scoring(plan, config, machine),
        "log-probabilities": _log_probabilities(plan, config, machine),
        "anchors": _anchors(plan, config, machine),
        "learning": _learning(plan, config, machine),
        "saving": _saving(plan, config, machine),
    }
    if plan.held_out is not None:
        named["held-out prompts"] = _held_out(plan, config, machine)
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
    return MemoryPlan(held, phases, config.forward_size)


def fit_micro_batch(
    plan: PPOPlan, config: PPOConfig, machine: Machine, available: int
) -> tuple[PPOConfig, MemoryPlan]:
    """The configuration with the largest micro-batch that fits, and what it holds.

    A minibatch is one pass where that fits; else the pass is the largest divisor of it that does,
    or one answer, whose fit `check` judges. A micro-batch that is given stays.
    """
    if config.micro_batch_size is not None:
        return config, plan_memory(plan, config, machine)
    size = config.minibatch_size
    for passes in (count for count in range(1, size + 1) if size % count == 0):
        tried = config if passes == 1 else replace(config, micro_batch_size=size // passes)
        found = plan_memory(plan, tried, machine)
        if found.peak <= machine.headroom * available:
            break
    return tried, found


def needed_layers(plan: PPOPlan, config: PPOConfig, machine: Machine, available: int) -> int | None:
    """The fewest layers that have to recompute for a run to fit, where all do.

    None where fewer would not do, or `--recompute-layers` is given. 0 where none has to.
    """
    if not config.gradient_checkpointing or config.recompute_layers is not None:
        return None
    learners = [shapes.shape(role.folder) for role in plan.roles(config) if role.learns]
    most = max(shape.layers for shape in learners)

    def fits(layers: int) -> bool:
        tried = replace(config, gradient_checkpointing=layers > 0, recompute_layers=layers or None)
        return plan_memory(plan, tried, machine).peak <= machine.headroom * available

    return next((layers for layers in range(most) if fits(layers)), None)


def check(found: MemoryPlan, config: PPOConfig, available: int, *, on_cpu: bool) -> None:
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


def _models(plan: PPOPlan, config: PPOConfig, machine: Machine) -> dict[str, MemoryUse]:
    """Every model; bases that models with adapters share have rows of their own."""
    found = plan.roles(config)
    shared = weight_sharing.shared_backbones(found)
    held = {
        f"base {place.name}": MemoryUse(machine.frozen * _of_base(place, machine))
        for place in shared
    }
    for role in found:
        one = _own(role, config, machine)
        if role.backbone is not None and role.backbone.resolve() not in shared:
            one += MemoryUse(machine.frozen * weight_sharing.whole(role.backbone))
        held[ROWS[role.part]] = held.get(ROWS[role.part], MemoryUse()) + one
    if config.anchor_every or plan.held_out is not None:
        known = references.anchors(plan.policy, plan.references).known.values()
        largest = max(_lent(folder, shared) for folder in known)
        held["an anchor"] = MemoryUse(machine.frozen * largest)
    return {name: one for name, one in held.items() if one.total}


def _of_base(place: Path, machine: Machine) -> int:
    """Parameters of a shared base that one process holds.

    If it is sharded: a part of the layers, one layer that is gathered, and all the rest.
    """
    whole = weight_sharing.whole(place)
    if machine.spread == 1:
        return whole
    layers = weight_sharing.in_layers(place)
    share = 0 if machine.offloads else -(-layers // machine.spread)
    return whole - layers + share + layers // shapes.shape(place).layers


def _lent(anchor: Path, shared: Container[Path]) -> int:
    """Parameters of an anchor that it does not share with a base already loaded."""
    base = folders.base(anchor) if folders.is_adapter(anchor) else anchor
    adapter = weight_sharing.stored(anchor) if folders.is_adapter(anchor) else 0
    return adapter + (0 if base.resolve() in shared else weight_sharing.whole(base))


def _own(role: Role, config: PPOConfig, machine: Machine) -> MemoryUse:
    """Memory of a model without the base that it may share."""
    if not role.learns:
        moving = role.part == "reference" and config.ref_update != "none"
        return MemoryUse((4 if moving else machine.frozen) * role.own)
    sharded = machine.spread > 1 and role.backbone is None
    share = -(-role.own // machine.spread) if sharded else role.own
    # Where what learns is sharded, a second, whole model generates and scores.
    plain = machine.frozen * role.own if sharded else 0
    if machine.offloads and sharded:
        return MemoryUse(plain)
    width = _width(role, config)
    moments = 0 if "moments" in config.offloaded else int(MOMENTS[config.optimiser] * share)
    return MemoryUse(width * share + plain, width * share, moments)


def trained_width(config: PPOConfig) -> int:
    """Bytes of a weight that is trained, and of its gradient."""
    return 2 if config.weights == "bfloat16" else 4


def _width(role: Role, config: PPOConfig) -> int:
    """The same for a model; adapters are in float32."""
    return trained_width(config) if role.backbone is None else 4


def _copy(role: Role, config: PPOConfig, machine: Machine) -> int:
    """Bytes of the copy of a model's float32 weights that a pass with narrower products makes."""
    return machine.copy * role.own if _width(role, config) == 4 else 0


def _machine(config: PPOConfig, machine: Machine) -> Machine:
    """The machine as a model under training finds it: its own weights may be narrow already."""
    return replace(machine, product=min(machine.product, trained_width(config)))


def _is_there(model: str, phase: str, config: PPOConfig) -> bool:
    """Whether a model is on the device in a phase."""
    if model == "an anchor":
        return phase in ("anchors", "held-out prompts")
    parked = {OFFLOADABLE[name] for name in config.offloaded}
    needed = "log-probabilities" if model == "reference" else "scoring"
    return model not in parked or phase in (needed, "held-out prompts")


def _rollout(plan: PPOPlan, config: PPOConfig, machine: Machine) -> MemoryUse:
    """All answers of this process at once; nothing if a server samples."""
    if config.server is not None:
        return MemoryUse()
    shape = shapes.shape(plan.policy)
    rows, prompt = config.batch_size // machine.processes, _longest(plan)
    tokens = prompt + config.response_length
    return MemoryUse(
        weights=_copy(plan.roles(config)[0], config, machine),
        activations=activation_memory.passing_activations(shape, rows, prompt, machine.product),
        logits=machine.sampling * rows * shape.vocabulary,
        cache=activation_memory.cache(shape, rows, tokens, machine.product),
    )


def _scoring(plan: PPOPlan, config: PPOConfig, machine: Machine) -> MemoryUse:
    """A reward model scores all answers of this process at once."""
    rows = config.batch_size // machine.processes
    tokens = _longest(plan) + config.response_length
    models = [shapes.shape(one) for one in _reward_models((*plan.rewards, *plan.watched))]
    sizes = [
        activation_memory.passing_activations(one, rows, tokens, machine.product) for one in models
    ]
    return MemoryUse(activations=max(sizes, default=0))


def _log_probabilities(plan: PPOPlan, config: PPOConfig, machine: Machine) -> MemoryUse:
    """Policy, references and critic run one after another; the references in larger passes."""
    tokens = _longest(plan) + config.response_length
    learning = machine.rows(config.forward_size, tokens, config.minibatch_size)
    learners = (plan.policy,) if plan.critic is None else (plan.policy, plan.critic)
    passes = [(shapes.shape(one), learning) for one in learners]
    frozen = _scored_rows(config, tokens, machine)
    passes += [(shapes.shape(one.first), frozen) for one in plan.references]
    return MemoryUse(
        weights=max(_copy(role, config, machine) for role in plan.roles(config) if role.learns),
        activations=max(
            activation_memory.passing_activations(shape, rows, tokens, machine.product)
            for shape, rows in passes
        ),
        logits=_logits(plan, config, machine, frozen),
    )


def _scored_rows(config: PPOConfig, tokens: int, machine: Machine) -> int:
    """Answers in a pass of a model that is not trained."""
    return machine.rows(config.forward_size, tokens, config.batch_size, SCORED_TOKENS)


def _anchors(plan: PPOPlan, config: PPOConfig, machine: Machine) -> MemoryUse:
    tokens = _longest(plan) + config.response_length
    rows = _scored_rows(config, tokens, machine)
    passing = activation_memory.passing_activations(
        shapes.shape(plan.policy), rows, tokens, machine.product
    )
    return MemoryUse(activations=passing, logits=_logits(plan, config, machine, rows))


def _held_out(plan: PPOPlan, config: PPOConfig, machine: Machine) -> MemoryUse:
    """Answers as in a rollout, or a pass over one answer whose logits are kept for the exact KL.

    Those of the policy and of one other model are held at a time.
    """
    sampling = _rollout(plan, replace(config, generator="auto", vllm_url=None), machine)
    wide = 4 * config.response_length * shapes.vocabulary_size(plan.policy)
    passing = activation_memory.passing_activations(
        shapes.shape(plan.policy), 1, _longest(plan) + config.response_length, machine.product
    )
    kls = MemoryUse(activations=passing, logits=3 * wide)
    weights = _rounded_copy(plan, config, machine)
    return replace(max(sampling, kls, key=lambda one: one.total), weights=weights)


def _rounded_copy(plan: PPOPlan, config: PPOConfig, machine: Machine) -> int:
    """Bytes of the copy of a whole policy that computes as it would be saved and loaded."""
    role = plan.roles(config)[0]
    stored = shapes.stored_dtype(plan.policy).itemsize
    plain = machine.frozen if machine.spread > 1 else trained_width(config)
    same = stored == machine.frozen == plain
    return 0 if role.backbone is not None or same else machine.frozen * role.own


def _learning(plan: PPOPlan, config: PPOConfig, machine: Machine) -> MemoryUse:
    """The policy passes and steps, then the critic; the gradients of one are held at a time."""
    tokens = _longest(plan) + config.response_length
    rows = machine.rows(config.forward_size, tokens, config.minibatch_size)
    learners = {role.part: role for role in plan.roles(config) if role.learns}
    given = rows, tokens, config, machine
    found = [
        _learning_alone(learners["policy"], shapes.shape(plan.policy), *given)
        + MemoryUse(logits=_logits(plan, config, machine, rows))
    ]
    if plan.critic is not None:
        found.append(_learning_alone(learners["critic"], shapes.shape(plan.critic), *given))
    return max(found, key=lambda one: one.total)


def _learning_alone(
    role: Role, shape: Shape, rows: int, tokens: int, config: PPOConfig, machine: Machine
) -> MemoryUse:
    """The passes and the step of one model.

    Several passes sum their gradients, which are then in memory together with the next activations,
    and the largest gradient is there twice while it is added. Where a minibatch is one pass,
    gradients come as the activations go, and take their memory: they count as far as they are more.

    On a CPU they do not, since the C library's allocator keeps in pieces what was freed. Peaks were
    measured there that have half as much again of activations and gradients, in one pass or in
    several (tests/benchmarks/memory_plan.py).
    """
    again = config.recompute_layers if config.gradient_checkpointing else 0
    width = _machine(config, machine).product
    activations = activation_memory.checkpointed_activations(shape, rows, tokens, width, again)
    gradients = _width(role, config) * role.own
    if role.backbone is None:
        gradients = 0 if machine.offloads else gradients // machine.spread
    several = rows * machine.processes < config.minibatch_size
    if several and role.backbone is None:
        gradients += 4 * shape.vocabulary * shape.hidden
    if machine.is_host:
        activations, gradients = activations * 3 // 2, gradients * 3 // 2
    elif not several:
        gradients = max(0, gradients - activations)
    return MemoryUse(_copy(role, config, machine), gradients, 0, activations)


def _saving(plan: PPOPlan, config: PPOConfig, machine: Machine) -> MemoryUse:
    """The copy of the policy in the type in which it is saved; new adapters, merged in float32.

    It is made in the CPU's memory. But a plain model beside a sharded one is brought to float32
    where it is. On a CPU, what the C library's allocator keeps of the last update's activations
    (see `_learning_alone`) is still in memory.
    """
    role = plan.roles(config)[0]
    stored = shapes.stored_dtype(plan.policy).itemsize
    left = _learning(plan, config, machine).activations if machine.is_host else 0
    if role.backbone is not None:
        merged = role.backbone.resolve() == role.folder.resolve() and machine.is_host
        copied = 4 * weight_sharing.whole(role.folder) if merged else 0
        return MemoryUse(copied, activations=left)
    held = trained_width(config)
    if machine.spread > 1:
        held = machine.frozen if stored == machine.frozen else 4
    raised = (held - machine.frozen) * role.own if machine.spread > 1 else 0
    converted = stored * role.own if machine.is_host and stored != held else 0
    return MemoryUse(raised + converted, activations=left)


def _logits(plan: PPOPlan, config: PPOConfig, machine: Machine, rows: int) -> int:
    """A buffer of them in float32, for so many answers, and once more in a narrower type.

    The buffer has its size, or that of one token's logits, or is as small as the answers are few.
    """
    wide = 4 * shapes.vocabulary_size(plan.policy)
    buffer = min(max(machine.chunk, wide), rows * config.response_length * wide)
    return buffer * (4 + machine.copy) // 4


def _advice(found: MemoryPlan, config: PPOConfig, *, on_cpu: bool) -> Iterator[str]:
    """What would lower the peak, cheapest first."""
    if found.busiest == "anchors":
        yield "--anchor-every 0"
    if found.busiest == "held-out prompts":
        yield "no --eval-prompts"
    if found.busiest in ("rollout", "scoring"):
        yield "a smaller --batch-size"
    elif found.busiest != "saving" and found.forward_size > 1:
        yield "a smaller --micro-batch-size"
    if found.busiest == "learning" and not config.gradient_checkpointing:
        yield "--gradient-checkpointing"
    if config.optimiser == "adamw":
        yield "--optimiser adamw-8bit"
    adapts = any(name.startswith("base ") for name in found.models)
    if config.weights == "float32" and not adapts:
        yield "--weights bfloat16"
    if not on_cpu and not config.offloaded:
        yield "--offload ref,reward,moments"
    if not adapts:
        yield "--lora-rank"
    if config.has_critic:
        yield "a smaller model as --critic"
        yield "--advantage rloo, which has no critic"


def _cells(held: MemoryUse, columns: list[str]) -> list[str]:
    sizes = [getattr(held, name) for name in columns]
    return [*(amount(size, "B") if size else "" for size in sizes), amount(held.total, "B")]


def _longest(plan: PPOPlan) -> int:
    held_out = plan.held_out.ids if plan.held_out is not None else ()
    return max(len(ids) for ids in (*plan.prompt_ids, *held_out))


def _reward_models(names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        yield from rewards.models_of(name)
