"""The decode loop: one forward pass per token, for the answers that have not ended.

Prompts are read in buckets of nearly equal length, so that little padding is computed; only the
last position's logits are asked for, and none are kept. From there on all answers go together, and
a row that ended makes room.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from salsa_cli.generation import kv_cache
from salsa_cli.generation.generator import draw, ended
from salsa_cli.generation.kv_cache import GrowingCache
from salsa_cli.maths import categorical
from salsa_cli.models.forward import Module
from salsa_cli.models.loading import LanguageModel
from salsa_cli.models.tokenization import Tokens, pad_left, position_ids
from salsa_cli.runs.events import Report, silent

CHECK_EVERY = 8
"""Tokens between two checks for finished rows, on a device that the check has to wait for."""

SHORTEST = 0.5
"""Shortest prompt of a bucket, as a share of its longest."""


@dataclass
class Rows:
    """The unfinished answers, as the next forward pass needs them.

    Attributes:
        places: `[b]` where the answer goes in the result.
        lengths: `[b]` of the prompts.
        mask: `[b, P + L]`, True but for the prompts' padding.
        uniforms: `[b, L]`.
        going: `[b]`, False where an end token was drawn.
        padded: whether any prompt has padding.
    """

    places: torch.Tensor
    lengths: torch.Tensor
    mask: torch.Tensor
    uniforms: torch.Tensor
    going: torch.Tensor
    padded: bool

    def select(self, rows: torch.Tensor) -> "Rows":
        """The given rows."""
        mask = self.mask[rows]
        return Rows(
            self.places[rows],
            self.lengths[rows],
            mask,
            self.uniforms[rows],
            self.going[rows],
            self.padded and not bool(mask.all()),
        )


def suits(model: Module) -> bool:
    """Whether this loop can drive a model: by its forward pass, and by its cache."""
    needed = {"position_ids", "logits_to_keep"}
    if not needed <= set(inspect.signature(model.forward).parameters):
        return False
    if kv_cache.keyword(model) is None:
        return False
    own_cache = not model._supports_default_dynamic_cache()
    return not own_cache and kv_cache.selectable(kv_cache.empty(model))


def generate(
    policy: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniforms: torch.Tensor,
    temperature: float,
    report: Report = silent,
    logprobs: torch.Tensor | None = None,
) -> torch.Tensor:
    """Answers to prompts; see `generator.Generator`."""
    device, length = uniforms.device, uniforms.shape[1]
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]), reverse=True)
    ordered = [prompts[row] for row in order]
    width = len(ordered[0])
    cache, logits = read(policy, ordered, width + length, device)
    rows = begin(ordered, order, uniforms)
    period = _period(device)
    ends = torch.tensor(policy.eos_ids, device=device)
    answers = torch.full((len(prompts), length), policy.pad_id, device=device)
    for step in range(length):
        tokens = draw(logits, rows.uniforms[:, step], temperature)
        answers[rows.places, step] = tokens
        if logprobs is not None:
            logprobs[rows.places, step] = categorical.token_logprobs(logits, tokens, temperature)
        rows.going &= ~torch.isin(tokens, ends)
        if step + 1 == length:
            break
        if (step + 1) % period == 0:
            going = int(rows.going.sum())
            report(ended(len(prompts) - going, len(prompts), step + 1, length))
            if not going:
                break
            if going < len(rows.going):
                kept = without_gaps(rows.going)
                cache.batch_select_indices(kept)
                rows, tokens = rows.select(kept), tokens[kept]
        logits = _next_logits(policy.model, tokens, rows, width + step + 1, step, cache)
    return answers[:, : step + 1]


def read(
    policy: LanguageModel, prompts: Sequence[Sequence[int]], room: int, device: torch.device
) -> tuple[GrowingCache, torch.Tensor]:
    """Read prompts, longest first; returns their cache and the logits `[B, V]` of the next token.

    Args:
        room: tokens that a row of the cache may come to.
    """
    joinable = kv_cache.joinable(kv_cache.empty(policy.model))
    parts, logits = [], []
    for bucket in _buckets(prompts) if joinable else [prompts]:
        tokens = pad_left(bucket, policy.pad_id).to(device)
        part = kv_cache.empty(policy.model)
        logits.append(_forward(policy.model, tokens, position_ids(tokens.mask), part))
        parts.append(part)
    return kv_cache.reserve(parts, len(prompts[0]), room), torch.cat(logits)


def _buckets(prompts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Split prompts, longest first, where one is too short to be padded to the bucket's longest."""
    bucket: list[Sequence[int]] = []
    for prompt in prompts:
        if bucket and len(prompt) < SHORTEST * len(bucket[0]):
            yield bucket
            bucket = []
        bucket.append(prompt)
    yield bucket


def begin(prompts: Sequence[Sequence[int]], order: Sequence[int], uniforms: torch.Tensor) -> Rows:
    """All rows, in the order in which they were read."""
    device = uniforms.device
    places = torch.tensor(order, device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    columns = torch.arange(len(prompts[0]) + uniforms.shape[1], device=device)
    mask = columns >= len(prompts[0]) - lengths.unsqueeze(-1)
    going = torch.ones(len(prompts), dtype=torch.bool, device=device)
    padded = len(prompts[-1]) < len(prompts[0])
    return Rows(places, lengths, mask, uniforms[places], going, padded)


def _period(device: torch.device) -> int:
    """Tokens between two checks for finished rows."""
    return 1 if device.type == "cpu" else CHECK_EVERY


def without_gaps(going: torch.Tensor) -> torch.Tensor:
    """The unfinished rows `[n]`; the last ones move to the places of finished ones."""
    kept = going.nonzero().squeeze(-1)
    count = len(kept)
    order = torch.arange(count, device=going.device)
    order[~going[:count]] = kept[kept >= count]
    return order


def _next_logits(
    model: Module, tokens: torch.Tensor, rows: Rows, seen: int, step: int, cache: GrowingCache
) -> torch.Tensor:
    """Logits `[b, V]` after one more token `[b]` per row; `seen` columns include that token."""
    mask = rows.mask[:, :seen]
    ids = Tokens(tokens.unsqueeze(-1), mask)
    positions = (rows.lengths + step).unsqueeze(-1)
    return _forward(model, ids, positions, cache, padded=rows.padded)


def _forward(
    model: Module,
    tokens: Tokens,
    positions: torch.Tensor,
    cache: GrowingCache,
    *,
    padded: bool = True,
) -> torch.Tensor:
    """Logits `[b, V]` of the last position; the mask covers the cached tokens too."""
    logits: torch.Tensor = model(
        input_ids=tokens.ids,
        attention_mask=tokens.mask.long() if padded else None,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
        **kv_cache.handed(model, cache),
    ).logits
    return logits[:, -1]
