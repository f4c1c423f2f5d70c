"""The KL between models along answers, exactly over the vocabulary at every token."""

from collections.abc import Iterator, Sequence

import torch

from salsa_cli.devices.runtime import Runtime
from salsa_cli.maths import kl
from salsa_cli.models import forward
from salsa_cli.models.forward import Module
from salsa_cli.models.tokenization import pad_left, pad_right

_POSITIONS = 256
"""Positions whose probabilities over the vocabulary are held in float32 at a time."""


_TOGETHER = 512
"""Positions of answers that go through a model in one pass; a longer answer goes alone."""


def passes(answers: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Split answers, by their places, into passes of similar lengths for `answer_kls`."""
    rows: list[int] = []
    # The longest comes first, so that a pass is as wide as its first answer.
    for place in sorted(range(len(answers)), key=lambda row: -len(answers[row])):
        if rows and (len(rows) + 1) * len(answers[rows[0]]) > _TOGETHER:
            yield rows
            rows = []
        rows.append(place)
    if rows:
        yield rows


@torch.no_grad()
def answer_kls(
    model: Module,
    others: Sequence[Module],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    temperature: float,
    runtime: Runtime,
) -> torch.Tensor:
    """The KL in nats from a model to each of M others, summed over the tokens of N answers.

    For every token it is the exact KL between the two next-token distributions at `temperature`.
    The mean over answers that the model sampled at that temperature estimates the KL of answers.

    Args:
        prompts: token ids of the N prompts.
        answers: token ids of the N answers, at least one each; the end token counts.

    Returns:
        `[N, M]` in float64.
    """
    given = pad_left(prompts, 0).to(runtime.device), pad_right(answers, 0).to(runtime.device)
    with runtime.autocast():
        ours = forward.answer_logits(model, *given)
    width = given[1].ids.shape[1]
    held = max(_POSITIONS // len(answers), 1)
    stretches = [slice(first, first + held) for first in range(0, width, held)]
    found = []
    for other in others:
        with runtime.autocast():
            theirs = forward.answer_logits(other, *given)
        per_token = torch.cat(
            [kl.exact(ours[:, part], theirs[:, part], temperature) for part in stretches], dim=1
        )
        found.append(kl.per_answer(per_token, given[1].mask).double().cpu())
    return torch.stack(found, dim=1)
