"""The KL between models along answers, exactly over the vocabulary at every token."""

from collections.abc import Sequence

import torch

from salsa_cli.devices.runtime import Runtime
from salsa_cli.maths import kl
from salsa_cli.models import forward
from salsa_cli.models.forward import Module
from salsa_cli.models.tokenization import pad_left, pad_right

_POSITIONS = 256
"""Positions whose probabilities over the vocabulary are held in float32 at a time."""


@torch.no_grad()
def answer_kls(
    model: Module,
    others: Sequence[Module],
    prompt: Sequence[int],
    answer: Sequence[int],
    *,
    temperature: float,
    runtime: Runtime,
) -> list[float]:
    """The KL in nats from a model to each of several others, summed over the tokens of an answer.

    For every token it is the exact KL between the two next-token distributions at `temperature`.
    The mean over answers that the model sampled at that temperature estimates the KL of answers.

    Args:
        prompt: token ids.
        answer: token ids, at least one; the end token counts.
    """
    given = pad_left([prompt], 0).to(runtime.device), pad_right([answer], 0).to(runtime.device)
    with runtime.autocast():
        ours = forward.answer_logits(model, *given)
    found = []
    for other in others:
        with runtime.autocast():
            theirs = forward.answer_logits(other, *given)
        stretches = [
            slice(first, first + _POSITIONS) for first in range(0, len(answer), _POSITIONS)
        ]
        per_token = torch.cat(
            [kl.exact(ours[:, part], theirs[:, part], temperature) for part in stretches], dim=1
        )
        found.append(float(kl.per_answer(per_token, given[1].mask).sum()))
    return found
