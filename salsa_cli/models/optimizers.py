"""AdamW on weights and moments that are stored in fewer bits, or in the CPU's memory.

torchao has such optimisers, too. They compile their step with torch.compile, which needs a C++
compiler even on a CPU; they draw the bits of stochastic rounding from PyTorch's global generator,
whose state would have to be part of every checkpoint; and beside bfloat16 weights they hold the
moments of small tensors in bfloat16, where a second moment cannot fall: a thousandth of it is less
than half a last place.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from salsa_cli.data import stable_seed
from salsa_cli.devices.sharding import first_index, local, sharded_like
from salsa_cli.maths import quantization

BETAS = (0.9, 0.999)
EPSILON = 1e-5

BLOCK = 256
"""Values that share a scale, at most. (Dettmers et al., "8-bit Optimizers via Block-wise
Quantization", 2021, take 2,048, and their library 256.)"""

SMALLEST_BLOCK = 16
"""Tensors that only divide into smaller blocks, as biases and norms do, keep float32 moments."""

CHUNK = {"cpu": 2**17, "cuda": 2**24}
"""Values that are in float32 at once: what fits into a CPU's cache, or keeps a GPU busy."""

MomentBits = Literal[32, 8]


@dataclass
class _Moments:
    """Moments of one parameter; in codes, each with a scale a block."""

    step: int
    stored: dict[str, Tensor]


class ChunkedAdamW:
    """PyTorch's AdamW, without weight decay, on parts of the weights, one after the other.

    A part's weights and moments are brought to the weights' device in float32, stepped there, and
    stored again:

    - bfloat16 weights are rounded stochastically. Rounded to the nearest, a step of less than half
      a last place (2^-9 of the weight) would be lost, and there is no float32 copy to gather it.
    - 8-bit moments are a code a value and a float32 scale a block of a row. The first moment is
      rounded to the nearest code. The second falls by at most a thousandth a step, far less than
      two codes are apart, and is rounded stochastically.

    A float32 weight with float32 moments goes where `torch.optim.AdamW(fused=True)` takes it. What
    is drawn depends on the seed, the step and the place of a weight alone.

    Attributes:
        param_groups: one, with the learning rate `lr`.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        rate: float,
        *,
        bits: MomentBits,
        seed: int,
        offload: bool = False,
    ) -> None:
        """Make moments of zeros.

        Args:
            parameters: contiguous, in float32 or bfloat16; or sharded along their first dimension.
            offload: the moments are in CPU memory, pinned for a GPU.
        """
        self.param_groups: list[dict[str, Any]] = [{"lr": rate}]
        self._parameters = list(parameters)
        self._seed = seed
        self._offload = offload
        self._moments = [self._zeros(parameter, bits) for parameter in self._parameters]

    @property
    def steps(self) -> int:
        """Steps made so far, including those before a restart."""
        return max((moments.step for moments in self._moments), default=0)

    @torch.no_grad()
    def step(self) -> None:
        """Move all parameters that have a gradient."""
        for place, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                continue
            moments = self._moments[place]
            moments.step += 1
            seed = stable_seed(self._seed, "step", moments.step, place)
            parts = _parts(local(parameter), local(parameter.grad), moments.stored)
            start = first_index(parameter)
            for weights, gradients, stored in parts:
                self._step(weights, gradients, stored, moments.step, seed, start)
                start += weights.numel()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; they are always set to None."""
        for parameter in self._parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Moments and steps, in the layout of PyTorch's optimisers; sharded as the weights are."""
        if self._offload and self._parameters[0].is_cuda:
            torch.cuda.synchronize()  # the last copies into pinned memory may be on their way
        state = {
            place: {
                "step": torch.tensor(float(moments.step)),
                **{
                    name: sharded_like(value, self._parameters[place])
                    for name, value in moments.stored.items()
                },
            }
            for place, moments in enumerate(self._moments)
        }
        groups = [{**self.param_groups[0], "params": list(range(len(self._parameters)))}]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the moments that `state_dict` returned; the rate stays."""
        for place, given in state["state"].items():
            moments = self._moments[place]
            moments.step = int(given["step"])
            for name, held in moments.stored.items():
                held.copy_(local(given[name]).view_as(held))

    def _zeros(self, parameter: Tensor, bits: MomentBits) -> _Moments:
        own = local(parameter)
        device = torch.device("cpu") if self._offload else own.device
        pinned = self._offload and own.is_cuda

        def zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device, pin_memory=pinned)

        block = block_size(parameter)
        if bits == 32 or block < SMALLEST_BLOCK:
            return _Moments(
                0, {name: zeros(own.shape, torch.float32) for name in ("exp_avg", "exp_avg_sq")}
            )
        blocks = (own.shape[0], parameter.numel() // (parameter.shape[0] * block))
        return _Moments(
            0,
            {
                "exp_avg": zeros(own.shape, torch.uint8),
                "exp_avg_scale": zeros(blocks, torch.float32),
                "exp_avg_sq": zeros(own.shape, torch.uint8),
                "exp_avg_sq_scale": zeros(blocks, torch.float32),
            },
        )

    def _step(
        self,
        weights: Tensor,
        gradients: Tensor,
        stored: dict[str, Tensor],
        step: int,
        seed: int,
        start: int,
    ) -> None:
        """Move `[N, B]` weights and their moments, in place."""
        moments = _raised(stored, weights.device)
        moved = weights.float()
        adamw(
            [moved],
            [gradients.float()],
            [moments[0]],
            [moments[1]],
            [],
            [torch.tensor(step - 1.0, device=weights.device)],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.param_groups[0]["lr"],
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )
        bits = quantization.random_bits(seed, start, weights.numel(), weights.device)
        bits = bits.view_as(weights)
        if weights.dtype == torch.bfloat16:
            weights.copy_(quantization.round_stochastically(moved, bits))
        _store(moments, stored, bits)


class GradientSums:
    """Sums of bfloat16 gradients over several backward passes, in bfloat16.

    Added to a sum and rounded to the nearest, a gradient of less than 2^-9 of it would be lost.
    Here each addition is made in float32 and rounded stochastically, so the expected value of the
    sum is exact. Each optimizer step draws other bits; with the same ones, the sum of a weight
    would be rounded the same way in every step. The gradient of a pass is added as soon as it is
    computed, and freed: in addition to the sums, only the gradients of one layer are held.
    """

    def __init__(self, parameters: Sequence[Tensor], seed: int, steps: Callable[[], int]) -> None:
        """Add up from now on.

        Args:
            parameters: those in bfloat16 count; gradients of others are left to PyTorch.
            steps: the number of optimizer steps made so far, including those before a restart.
        """
        self._parameters = list(parameters)
        self._seed = seed
        self._steps = steps
        self._sums: dict[int, Tensor] = {}
        self._passes = [0] * len(self._parameters)
        for place, parameter in enumerate(self._parameters):
            if parameter.dtype == torch.bfloat16:
                parameter.register_post_accumulate_grad_hook(self._adding(place))  # type: ignore[no-untyped-call]

    def collect(self) -> None:
        """Make the sums the parameters' gradients, and start again from zero."""
        for place, held in self._sums.items():
            self._parameters[place].grad = held
        self.drop()

    def drop(self) -> None:
        """Forget the sums."""
        self._sums = {}
        self._passes = [0] * len(self._parameters)

    def _adding(self, place: int) -> Any:
        @torch.no_grad()
        def add(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            assert gradient is not None
            held = self._sums.setdefault(place, gradient)
            if held is gradient:
                return
            self._passes[place] += 1
            self._add(local(held), local(gradient), place, first_index(parameter))

        return add

    def _add(self, held: Tensor, gradient: Tensor, place: int, start: int) -> None:
        seed = stable_seed(self._seed, "gradient", self._steps(), self._passes[place], place)
        for one, other in zip(_flat_parts(held), _flat_parts(gradient), strict=True):
            bits = quantization.random_bits(seed, start, len(one), one.device)
            one.copy_(quantization.round_stochastically(one.float() + other.float(), bits))
            start += len(one)


def block_size(parameter: Tensor) -> int:
    """Values of a row that share a scale: the largest divisor of its length up to `BLOCK`.

    A row is all that belongs to one index of the first dimension, along which weights are sharded.
    """
    if not parameter.numel():
        return 1
    row = parameter.numel() // parameter.shape[0] if parameter.dim() else 1
    return max(size for size in range(1, BLOCK + 1) if row % size == 0)


def _parts(
    weights: Tensor, gradients: Tensor, stored: dict[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """Blocks `[N, B]` of weights and gradients, with their moments; views of what is given."""
    blocks = stored["exp_avg_scale"].numel() if "exp_avg_scale" in stored else 1
    if not weights.numel():
        return
    width = weights.numel() // blocks
    # Without scales any cut will do.
    width = width if blocks > 1 or "exp_avg_scale" in stored else 1
    rows = max(1, CHUNK.get(weights.device.type, CHUNK["cuda"]) // width)
    flat = {
        name: value.view(-1) if name.endswith("_scale") else value.view(-1, width)
        for name, value in stored.items()
    }
    every = weights.view(-1, width), gradients.reshape(-1, width)
    for first in range(0, len(every[0]), rows):
        part = slice(first, first + rows)
        yield every[0][part], every[1][part], {name: value[part] for name, value in flat.items()}


def _flat_parts(tensor: Tensor) -> Sequence[Tensor]:
    return torch.split(tensor.view(-1), CHUNK.get(tensor.device.type, CHUNK["cuda"]))


def _raised(stored: dict[str, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Both moments in float32 on the device; what lies there in float32, itself."""
    there = {name: value.to(device, non_blocking=True) for name, value in stored.items()}
    if "exp_avg_scale" not in there:
        return there["exp_avg"], there["exp_avg_sq"]
    return (
        quantization.decode_signed(there["exp_avg"], there["exp_avg_scale"]),
        quantization.decode_unsigned(there["exp_avg_sq"], there["exp_avg_sq_scale"]),
    )


def _store(moments: tuple[Tensor, Tensor], stored: dict[str, Tensor], bits: Tensor) -> None:
    first, second = moments
    found = {"exp_avg": first, "exp_avg_sq": second}
    if "exp_avg_scale" in stored:
        found["exp_avg"], found["exp_avg_scale"] = quantization.encode_signed(first)
        found["exp_avg_sq"], found["exp_avg_sq_scale"] = quantization.encode_unsigned(second, bits)
    for name, value in found.items():
        # Float32 moments that lie on the device were stepped in place; this copies them onto
        # themselves, which PyTorch leaves out.
        stored[name].copy_(value, non_blocking=True)
