"""The output head of a language model, where salsa can compute logits without the model's code.

Most models multiply by their output embedding; some also scale or soft-cap the product. A head is
checked once against the model's own logits; a model that does anything else computes them itself.
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional

from salsa_cli.errors import SalsaError
from salsa_cli.maths import chunked_logprobs

Module = Any
"""A transformers model; its classes have no type annotations that a checker could use."""

_PROBE = 8  # tokens


def body(model: Module) -> Module:
    """The model without its head.

    Raises:
        SalsaError: it has none that can be told apart.
    """
    for name in (model.base_model_prefix, "model"):
        found = getattr(model, name, None)
        if isinstance(found, torch.nn.Module):
            return found
    raise SalsaError(f"a {type(model).__name__} has no body that can run without its head")


@dataclass(frozen=True)
class Head:
    """logits = bound(scale * (hidden @ weight.T + bias)).

    bound(z) = softcap * tanh(z / softcap), or z without a softcap.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: float
    softcap: float | None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits `[N, V]` in float32 (float64 for float64 states) from hidden states `[N, H]`."""
        logits = functional.linear(hidden, self.weight, self.bias)
        raised = self.scale * (logits if logits.dtype == torch.float64 else logits.float())
        return raised if self.softcap is None else self.softcap * (raised / self.softcap).tanh()

    def logprobs(
        self, hidden: torch.Tensor, tokens: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """Log-probabilities `[N]` of tokens `[N]`, from hidden states `[N, H]`."""
        softcap = None if self.softcap is None else self.softcap / self.scale
        # scale * z / temperature = z / (temperature / scale); the softcap changes in the same way.
        return chunked_logprobs.projected_logprobs(
            hidden,
            self.weight,
            tokens,
            temperature / self.scale,
            bias=self.bias,
            softcap=softcap,
        )


_checked: WeakKeyDictionary[Module, bool] = WeakKeyDictionary()


def find_head(model: Module) -> Head | None:
    """The head of a causal language model; None if its logits are computed in another way."""
    head = _read(model)
    if head is None:
        return None
    if model not in _checked:
        _checked[model] = _agrees(head, model)
    return head if _checked[model] else None


def _read(model: Module) -> Head | None:
    """Read the head from the output embedding and the configuration."""
    embedding = model.get_output_embeddings()
    weight = getattr(embedding, "weight", None)
    if not isinstance(embedding, torch.nn.Linear) or weight is None:
        return None
    config = model.config.get_text_config()
    # Cohere multiplies by logit_scale, Granite divides by logits_scaling, Gemma 2 and 3 soft-cap.
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(weight, embedding.bias, scale, None if softcap is None else float(softcap))


@torch.no_grad()
def _agrees(head: Head, model: Module) -> bool:
    """Whether the log-probabilities of a few tokens are those of the model's own logits."""
    count = min(_PROBE, len(head.weight))
    ids = torch.arange(count, device=head.weight.device).unsqueeze(0)
    hidden = body(model)(input_ids=ids, use_cache=False)
    whole = model(input_ids=ids, use_cache=False).logits[0]
    theirs = torch.log_softmax(whole.double(), -1).gather(-1, ids.T).squeeze(-1)
    ours = head.logprobs(hidden.last_hidden_state[0], ids[0], 1.0)
    # A few roundings of the logits: in half precision the two round in different places.
    rounding = 4 * torch.finfo(whole.dtype).eps * whole.abs().max().double()
    return bool(((ours.double() - theirs).abs() <= rounding + 1e-5).all())
