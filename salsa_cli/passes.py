"""Forward passes: what a model says of given tokens, with gradients or without.

The one place that calls a transformers model on whole sequences. Padding never changes a result:
positions count real tokens, and masked ones are attended to by nobody.
"""

from typing import Any

import torch
from torch.nn import functional

from salsa_cli.maths import categorical, masked
from salsa_cli.tokens import Tokens, position_ids

Module = Any
"""A transformers model; its classes carry no types that a checker could use."""


def answer_logits(model: Module, prompts: Tokens, responses: Tokens) -> torch.Tensor:
    """Logits `[B, R, V]` that predict each response token.

    Args:
        prompts: `[B, P]`, left-padded.
        responses: `[B, R]`, right-padded.
    """
    ids, mask = _joined(prompts, responses)
    width = responses.ids.shape[1]
    logits: torch.Tensor = model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=position_ids(mask),
        use_cache=False,
        logits_to_keep=width + 1,
    ).logits
    return logits[:, :-1]


def next_logits(model: Module, prompts: Tokens) -> torch.Tensor:
    """Logits `[B, V]` of the token behind left-padded prompts `[B, P]`."""
    logits: torch.Tensor = model(
        input_ids=prompts.ids,
        attention_mask=prompts.mask.long(),
        position_ids=position_ids(prompts.mask),
        use_cache=False,
        logits_to_keep=1,
    ).logits
    return logits[:, -1]


def answer_logprobs(
    model: Module, prompts: Tokens, responses: Tokens, temperature: float
) -> torch.Tensor:
    """Log-probabilities `[B, R]` in float32 of the response tokens at a temperature."""
    logits = answer_logits(model, prompts, responses)
    return categorical.token_logprobs(logits, responses.ids, temperature)


def answer_values(critic: Module, prompts: Tokens, responses: Tokens) -> torch.Tensor:
    """Values `[B, R]` in float32 of the states in which each response token is chosen.

    A critic in float64 gives float64.
    """
    ids, mask = _joined(prompts, responses)
    hidden = _hidden(critic, ids, mask)
    width = responses.ids.shape[1]
    values: torch.Tensor = critic.score(hidden[:, -width - 1 : -1]).squeeze(-1)
    return values if values.dtype == torch.float64 else values.float()


def last_scores(model: Module, tokens: Tokens) -> torch.Tensor:
    """Scores `[B]` in float32 at the last real token of each row, whichever side is padded.

    The head computes in float32 whatever the body's type: a score in bfloat16 has three digits,
    and answers of nearly equal worth would tie.
    """
    hidden = _hidden(model, tokens.ids, tokens.mask)
    last = masked.last_index(tokens.mask)
    rows = torch.arange(len(last), device=last.device)
    head = model.score
    bias = None if head.bias is None else head.bias.float()
    with torch.autocast(hidden.device.type, enabled=False):
        final = hidden[rows, last].float()
        return functional.linear(final, head.weight.float(), bias).squeeze(-1)


def _hidden(model: Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    body = getattr(model, model.base_model_prefix)
    hidden: torch.Tensor = body(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=position_ids(mask),
        use_cache=False,
    ).last_hidden_state
    return hidden


def _joined(prompts: Tokens, responses: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.cat([prompts.ids, responses.ids], dim=1)
    return ids, torch.cat([prompts.mask, responses.mask], dim=1)
