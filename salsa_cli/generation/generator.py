"""The protocol of a generator, and the draw of one token that all generators share."""

from collections.abc import Sequence
from typing import Protocol

import torch

from salsa_cli.maths import categorical
from salsa_cli.models.loading import LanguageModel
from salsa_cli.runs.events import Report, Working, silent


class Generator(Protocol):
    """Generates answers to prompts."""

    def __call__(
        self,
        policy: LanguageModel,
        prompts: Sequence[Sequence[int]],
        uniforms: torch.Tensor,
        temperature: float,
        report: Report = silent,
        logprobs: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Token ids `[B, R]` of one answer per prompt, in the order of the prompts.

        Args:
            prompts: B rows of token ids.
            uniforms: `[B, L]` float64 in [0, 1) on the model's device; the answers have at most L
                tokens, and a token is drawn by the number at its place.
            temperature: divides the logits; 0 takes the likeliest token.
            report: receives the number of finished answers.
            logprobs: `[B, L]` in float32; receives the log-probabilities of the drawn tokens, which
                have no meaning where the tokens have none.

        R is at most L. Tokens after the first end token of a row have no meaning.
        """


def ended(count: int, total: int, token: int, length: int) -> Working:
    """`count` of `total` answers have ended, and the others have `token` of `length` tokens."""
    return Working("answers", count, total, detail=f"token {token}/{length}")


def draw(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float) -> torch.Tensor:
    """Sample one token per row `[B]` with that row's uniform random number.

    Args:
        logits: `[B, V]`.
        uniforms: `[B]` float64 in [0, 1); without effect at temperature 0.
    """
    if temperature == 0:
        return logits.argmax(-1)
    return categorical.sample_by_inverse_cdf(logits, uniforms, temperature)
