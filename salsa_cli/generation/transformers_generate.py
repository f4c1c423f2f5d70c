"""Generation by `generate` of transformers, for every model that it supports.

Finished rows stay in the batch, and the cache is copied for each new token.
"""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from salsa_cli.generation.generator import draw
from salsa_cli.maths import categorical
from salsa_cli.models.loading import LanguageModel
from salsa_cli.models.tokenization import pad_left
from salsa_cli.runs.events import Report, Working, silent


class _DrawFromUniforms(LogitsProcessor):  # type: ignore[misc]
    """Masks all tokens of a row but the sampled one."""

    def __init__(
        self,
        uniforms: torch.Tensor,
        start: int,
        temperature: float,
        report: Report,
        logprobs: torch.Tensor | None,
    ) -> None:
        self._uniforms = uniforms
        self._start = start
        self._temperature = temperature
        self._report = report
        self._logprobs = logprobs

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        place = input_ids.shape[1] - self._start
        self._report(Working("answers", detail=f"token {place}/{self._uniforms.shape[1]}"))
        uniforms = self._uniforms[:, place]
        drawn = draw(scores, uniforms, self._temperature)
        if self._logprobs is not None:
            found = categorical.token_logprobs(scores, drawn, self._temperature)
            self._logprobs[:, place] = found
        certain = torch.full_like(scores, float("-inf"))
        return certain.scatter(-1, drawn.unsqueeze(-1), 0.0)


def generate(
    policy: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniforms: torch.Tensor,
    temperature: float,
    report: Report = silent,
    logprobs: torch.Tensor | None = None,
) -> torch.Tensor:
    """Answers to prompts; see `generator.Generator`."""
    tokens = pad_left(prompts, policy.pad_id).to(uniforms.device)
    start = tokens.ids.shape[1]
    processor = _DrawFromUniforms(uniforms, start, temperature, report, logprobs)
    ids: torch.Tensor = policy.model.generate(
        input_ids=tokens.ids,
        attention_mask=tokens.mask.long(),
        logits_processor=LogitsProcessorList([processor]),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=uniforms.shape[1],
            eos_token_id=list(policy.eos_ids),
            pad_token_id=policy.pad_id,
        ),
    )
    return ids[:, start:]
