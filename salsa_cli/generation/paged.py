"""Generation by transformers' continuous batching: a paged cache, requests that come and go.

For GPUs and answers of very different lengths. It draws by itself, from one seed a batch: an answer
depends on the batch it is generated in, and a run is not repeated bit by bit. It computes in the
type of the weights, in a thread of its own that no autocast reaches.

In what was measured it is slower than the loop, on a CPU and on a GPU (tests/benchmarks).
"""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import GenerationConfig

from salsa_cli.errors import SalsaError
from salsa_cli.models.forward import Module
from salsa_cli.models.loading import LanguageModel
from salsa_cli.models.tokens import pad_right

PAGE = 256
"""Tokens in a page of the cache."""


def suits(model: Module) -> bool:
    """Whether transformers can batch a model continuously."""
    return hasattr(model, "generate_batch") and not getattr(model, "_is_stateful", False)


def generate(
    policy: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniforms: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Answers to prompts; see `ways.Generator`. Of the uniforms, the first one makes the seed.

    Raises:
        SalsaError: a request failed, or this release of transformers has another interface.
    """
    settings = _settings(policy, prompts, uniforms)
    with torch.random.fork_rng():
        found = policy.model.generate_batch(
            inputs=[list(prompt) for prompt in prompts],
            continuous_batching_config=settings,
            generation_config=_sampling(policy, uniforms.shape[1], temperature),
        )
    # Requests are numbered and come back in the order in which they were handed over.
    answers = [output.generated_tokens for output in found.values() if output.error is None]
    if len(answers) != len(prompts):
        errors = [output.error for output in found.values() if output.error is not None]
        raise SalsaError(
            f"--generator paged: {len(prompts) - len(answers)} of {len(prompts)} requests failed"
            f"{f' ({errors[0]})' if errors else ''}; --generator auto needs no pages"
        )
    return pad_right(answers, policy.pad_id).ids.to(uniforms.device)


def _sampling(policy: LanguageModel, length: int, temperature: float) -> GenerationConfig:
    """Nothing but the temperature bends the distribution."""
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(
        max_new_tokens=length,
        eos_token_id=list(policy.eos_ids),
        pad_token_id=policy.pad_id,
        **(drawn if temperature else {"do_sample": False}),
    )


def _settings(
    policy: LanguageModel, prompts: Sequence[Sequence[int]], uniforms: torch.Tensor
) -> object:
    """Of continuous batching. On a CPU, the pages that are needed and not most of the memory."""
    given: dict[str, Any] = {
        "page_size": PAGE,
        "seed": int(float(uniforms[0, 0]) * 2**32),
        # The kernel that learns is to be the one that samples.
        "auto_switch_to_flash": False,
    }
    if uniforms.device.type == "cpu":
        tokens = [len(prompt) + uniforms.shape[1] for prompt in prompts]
        given["num_blocks"] = sum(-(-count // PAGE) for count in tokens)
        given["max_batch_tokens"] = max(sum(map(len, prompts)), PAGE)
    try:
        return transformers.ContinuousBatchingConfig(**given)
    except (AttributeError, TypeError) as error:
        raise SalsaError(
            f"--generator paged does not know the transformers {transformers.__version__} that is "
            "installed; it was written for 5.23"
        ) from error
