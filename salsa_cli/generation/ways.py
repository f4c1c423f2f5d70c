"""What every way of generation does, and the draw of a token that they share."""

from collections.abc import Sequence
from typing import Protocol

import torch

from salsa_cli.maths import categorical
from salsa_cli.models.loading import LanguageModel


class Generator(Protocol):
    """A way of generation."""

    def __call__(
        self,
        policy: LanguageModel,
        prompts: Sequence[Sequence[int]],
        uniforms: torch.Tensor,
        temperature: float,
    ) -> torch.Tensor:
        """Token ids `[B, R]` of one answer a prompt, in the order of the prompts.

        Args:
            prompts: B rows of token ids.
            uniforms: `[B, L]` float64 in [0, 1) on the model's device; the answers have at most L
                tokens, and a token is drawn by the number at its place.
            temperature: divides the logits; 0 takes the likeliest token.

        R is at most L. What stands behind the first end token of a row is of no meaning.
        """


def draw(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float) -> torch.Tensor:
    """One token a row `[B]`: the one that the row's own uniform number selects.

    Args:
        logits: `[B, V]`.
        uniforms: `[B]` float64 in [0, 1); without effect at temperature 0.
    """
    if temperature == 0:
        return logits.argmax(-1)
    return categorical.sample_by_inverse_cdf(logits, uniforms, temperature)
