"""AdamW with gradient clipping and schedules: how weights move, in every command that trains."""

import logging
import math
from functools import partial
from typing import Any

import torch

from salsa_cli.errors import SalsaError
from salsa_cli.models import trainable
from salsa_cli.passes import Module

MOMENTS = {"adamw": 8.0, "adamw-8bit": 2.0 + 2 * 4 / 256}
"""Optimisers, with the bytes of their two moments a weight: in float32, or in 8 bits with one scale
in float32 for each block of 256 (Dettmers et al., "8-bit Optimizers via Block-wise Quantization",
2021)."""


class Learner:
    """A model under training with its optimiser.

    AdamW with epsilon 1e-5 and no weight decay, as in the published PPO recipes.
    """

    def __init__(
        self,
        name: str,
        model: Module,
        rate: float,
        max_grad_norm: float,
        optimiser: str = "adamw",
    ) -> None:
        self.model = model
        self._name = name
        self._rate = rate
        self._max_grad_norm = max_grad_norm
        self._parameters = trainable(model)
        self._optimiser = _class_of(optimiser)(
            self._parameters, lr=rate, eps=1e-5, weight_decay=0.0
        )

    def step(self, share: float) -> float:
        """Apply the gathered gradients at `share` of the peak rate; returns their norm before.

        Raises:
            SalsaError: a gradient is NaN or infinite; the weights are left as they were.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm))
        if not norm < float("inf"):
            raise SalsaError(
                f"the gradient of the {self._name} is not finite{self._culprit()}; its weights "
                "were not changed. Try a lower learning rate, and look at the last rows of "
                "metrics.jsonl"
            )
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * share
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return norm

    def _culprit(self) -> str:
        """The first weight whose gradient is not finite; empty where the norm alone overflows."""
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                return f" (at {name})"
        return ""

    def drop(self) -> None:
        """Forget the gathered gradients; the weights stay."""
        self._optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Weights and moments, for a checkpoint."""
        return {"model": self.model.state_dict(), "optimiser": self._optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])


def check(optimiser: str) -> None:
    """See that an optimiser of `MOMENTS` can be had.

    Raises:
        SalsaError: its package is not installed.
    """
    _class_of(optimiser)


def _class_of(optimiser: str) -> Any:
    if optimiser == "adamw":
        return partial(torch.optim.AdamW, fused=True)
    # It warns of kernels for 4 bits that it does not find, which nobody asked for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise SalsaError(
            f"--optimiser {optimiser} needs bitsandbytes, which is not installed; "
            "pip install 'salsa-cli[8bit]'"
        ) from error
    return AdamW8bit


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
    return linear_decay(step - rising, steps - rising)
