"""AdamW with gradient clipping and schedules: how weights move, in every command that trains."""

import math
from typing import Any

import torch

from salsa_cli.errors import SalsaError
from salsa_cli.models import trainable
from salsa_cli.passes import Module


class Learner:
    """A model under training with its optimiser.

    AdamW with epsilon 1e-5 and no weight decay, as in the published PPO recipes.
    """

    def __init__(self, name: str, model: Module, rate: float, max_grad_norm: float) -> None:
        self.model = model
        self._name = name
        self._rate = rate
        self._max_grad_norm = max_grad_norm
        self._parameters = trainable(model)
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=rate, eps=1e-5, weight_decay=0.0, fused=True
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
        """Weights and moments, for a checkpoint; of a model with adapters, what is trained."""
        return {"model": trained_state(self.model), "optimiser": self._optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        # Frozen weights, which adapters were put beside, are not in it.
        left = self.model.load_state_dict(state["model"], strict=False)
        assert not left.unexpected_keys and not trained_state(self.model).keys() - state["model"]
        self._optimiser.load_state_dict(state["optimiser"])


def trained_state(model: Module) -> dict[str, torch.Tensor]:
    """The state of a model, without parameters that are not trained."""
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
    return linear_decay(step - rising, steps - rising)
