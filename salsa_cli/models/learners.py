"""Training steps of every command that trains: AdamW, gradient clipping, schedules."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from salsa_cli.devices.frozen_layers import is_sharded
from salsa_cli.devices.runtime import Runtime
from salsa_cli.devices.sharding import gathered, local, spread_like, whole
from salsa_cli.errors import SalsaError
from salsa_cli.models import packed_attention
from salsa_cli.models.forward import Module
from salsa_cli.models.loading import trainable
from salsa_cli.models.optimizers import BLOCK, EPSILON, ChunkedAdamW, GradientSums, MomentBits


class Network(torch.nn.Module):
    """A model wrapped with its training forward pass."""

    def __init__(self, model: Module, compute: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self._compute = compute

    def forward(self, *given: Any) -> torch.Tensor:
        """Run the training pass on `given`."""
        # A view could lose the hooks that sharding puts behind the pass.
        return self._compute(self.model, *given).clone()


MOMENTS = {"adamw": 8.0, "adamw-8bit": 2.0 + 2 * 4 / BLOCK}
"""Optimisers, with the bytes of their two moments a weight: in float32, or in 8 bits with one scale
in float32 for each block."""


@dataclass(frozen=True)
class MomentStorage:
    """How an optimiser stores its moments.

    Attributes:
        bits: of a moment.
        offload: whether moments are in CPU memory and come to the device part by part.
        seed: of stochastic rounding, of 8-bit moments and of bfloat16 weights.
    """

    bits: MomentBits = 32
    offload: bool = False
    seed: int = 0

    @classmethod
    def of(cls, optimiser: str, *, offload: bool, seed: int) -> "MomentStorage":
        """That of an optimiser of `MOMENTS`."""
        return cls(32 if optimiser == "adamw" else 8, offload, seed)


class Learner:
    """A model under training with its optimiser.

    AdamW with epsilon 1e-5 and no weight decay, as in the published PPO recipes. Weights in
    bfloat16 are rounded stochastically after each step, and so are the sums of their gradients over
    several passes.

    Attributes:
        model: the plain model, to generate, to score and to save; see `follow`.
        network: what is trained: the model with its `compute`, or a copy of it that is spread
            over the processes.
    """

    def __init__(
        self,
        name: str,
        model: Module,
        compute: Callable[..., torch.Tensor],
        rate: float,
        max_grad_norm: float,
        runtime: Runtime,
        storage: MomentStorage | None = None,
    ) -> None:
        self.model = model
        self._name = name
        self._rate = rate
        self._max_grad_norm = max_grad_norm
        self._runtime = runtime
        self.network = _network(model, compute, runtime)
        self._parameters = [one for one in self.network.parameters() if one.requires_grad]
        storage = storage or MomentStorage()
        self._optimiser = _optimizer(self._parameters, rate, storage)
        self._sums = GradientSums(self._parameters, storage.seed, self._steps)

    def step(self, share: float) -> float:
        """Apply the accumulated gradients at `share` of the peak rate; returns their norm.

        Raises:
            SalsaError: a gradient is NaN or infinite; the weights are left as they were.
        """
        self._sums.collect()
        if not self._spread:
            self._runtime.sum_gradients(self._parameters)
        total = self._norm([one.grad for one in self._parameters if one.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(self._parameters, self._max_grad_norm, total)
        norm = float(total)
        if not norm < float("inf"):
            raise SalsaError(
                f"the gradient of the {self._name} is not finite{self._culprit()}; its weights "
                "were not changed. Try a lower learning rate, and check the last rows of "
                "metrics.jsonl"
            )
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * share
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return norm

    def _steps(self) -> int:
        # PyTorch's own optimizer has float32 weights alone, whose gradients are not rounded.
        return self._optimiser.steps if isinstance(self._optimiser, ChunkedAdamW) else 0

    def _norm(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """The norm of all gradients together."""
        sharding = self._runtime.sharding
        if sharding is None or not (self._spread and sharding.offload):
            return _norm(gradients)
        # PyTorch would sum over the processes where the gradients are, in the CPU's memory.
        norms = [torch.linalg.vector_norm(local(one), dtype=torch.float32) for one in gradients]
        squares = torch.stack(norms).double().square().sum()
        return self._runtime.total(squares.to(self._runtime.device)).sqrt().float()

    def _culprit(self) -> str:
        """The first weight whose gradient is not finite; empty where the norm alone overflows."""
        for name, parameter in self.trained.named_parameters():
            if parameter.grad is not None and not torch.isfinite(whole(parameter.grad)).all():
                return f" (at {name})"
        return ""

    def drop(self) -> None:
        """Discard the accumulated gradients."""
        self._sums.drop()
        self._optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Weights and moments of the trainable parameters for a checkpoint, gathered.

        Every process must call it; the main one alone gets the tensors.
        """
        state = {"model": trained_state(self.trained), "optimiser": self._optimiser.state_dict()}
        return state if self._runtime.processes == 1 else gathered(state, keep=self._runtime.main)

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        held = self.trained.state_dict()
        weights = {name: spread_like(value, held[name]) for name, value in state["model"].items()}
        # Frozen weights, to which adapters were added, are not in it.
        left = self.trained.load_state_dict(weights, strict=False)
        assert not left.unexpected_keys and not trained_state(self.trained).keys() - weights
        self._optimiser.load_state_dict(
            {
                "state": self._spread_moments(state["optimiser"]["state"]),
                # The rate is set at every step; the rest is that of this optimiser.
                "param_groups": self._optimiser.state_dict()["param_groups"],
            }
        )
        self.follow()

    def follow(self, dtype: torch.dtype | None = None) -> None:
        """Copy the trained weights into the plain model, where it does not hold them itself.

        Args:
            dtype: their type in the plain model; by default the one that they have there.
        """
        if not self._spread:
            return
        plain = dict(self.model.named_parameters())
        for name, learned in self.trained.named_parameters():
            if learned.requires_grad:
                held = plain[name].data
                if dtype is not None:
                    held = plain[name].data = held.to(dtype)
                held.copy_(whole(learned.detach()))

    @contextmanager
    def unrounded(self) -> Iterator[None]:
        """Within the block, the plain model has the trained weights in float32, to be saved.

        Every process must enter it. Only a plain model next to a sharded one is in another type.
        """
        if not self._spread:
            yield
            return
        types = {name: one.dtype for name, one in self.model.named_parameters()}
        self.follow(torch.float32)
        try:
            yield
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.data = parameter.data.to(types[name])

    @property
    def _spread(self) -> bool:
        return self.trained is not self.model

    @property
    def trained(self) -> Module:
        """The model whose weights are trained: the plain one, or its sharded copy."""
        return self.network.model

    def _spread_moments(self, state: dict[int, Any]) -> dict[int, Any]:
        return {
            place: {n: spread_like(value, self._parameters[place]) for n, value in held.items()}
            for place, held in state.items()
        }


def _network(model: Module, compute: Callable[..., torch.Tensor], runtime: Runtime) -> Network:
    """The network with the trainable parameters of a model.

    Adapters on a frozen base that is sharded are whole in every process: they are small.
    """
    if runtime.sharding is None or is_sharded(model):
        trainable(model)
        return Network(model, compute)
    network = Network(copy.deepcopy(model), compute)
    trainable(network.model)
    learned = {name for name, one in network.model.named_parameters() if one.requires_grad}
    packed_attention.copy_trial_result(network.model, model)
    runtime.sharding.spread(network, set(model._no_split_modules or ()), runtime.device)
    for name, parameter in model.named_parameters():
        if name in learned and parameter.dtype != torch.bfloat16:
            parameter.data = parameter.data.to(runtime.frozen_dtype)
    return network


def _optimizer(
    parameters: Sequence[torch.Tensor], rate: float, storage: MomentStorage
) -> torch.optim.Optimizer | ChunkedAdamW:
    narrow = any(parameter.dtype == torch.bfloat16 for parameter in parameters)
    if narrow or storage.offload or storage.bits != 32:
        return ChunkedAdamW(
            parameters, rate, bits=storage.bits, seed=storage.seed, offload=storage.offload
        )
    return torch.optim.AdamW(parameters, lr=rate, eps=EPSILON, weight_decay=0.0, fused=True)


def _norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The norm of all gradients together; of those in bfloat16, in float32."""
    if all(gradient.dtype != torch.bfloat16 for gradient in gradients):
        return whole(torch.nn.utils.get_total_norm(gradients))
    norms = [
        whole(torch.linalg.vector_norm(gradient, dtype=torch.float32)) for gradient in gradients
    ]
    total: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def trained_state(model: Module) -> dict[str, torch.Tensor]:
    """The state of a model without its frozen parameters."""
    frozen = {
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def linear_decay(step: int, steps: int) -> float:
    """Share of the peak rate at step `step` (from 0) of `steps`: 1 at first, 1/steps at last."""
    return 1.0 - step / steps


def cosine_decay(step: int, steps: int) -> float:
    """Share of the peak rate: half a cosine from 1 at first to almost 0 at last."""
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))


def warmed_up(step: int, steps: int, warmup: float, *, schedule: str = "linear") -> float:
    """Linear rise over the first `warmup` share of the steps, then a decay, or `constant`.

    `linear` and `cosine` decay to zero at the end of the run.
    """
    rising = int(steps * warmup)
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    decay = cosine_decay if schedule == "cosine" else linear_decay
    return decay(step - rising, steps - rising)
