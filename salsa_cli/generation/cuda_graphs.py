"""CUDA-graph decode loop: one graph replay per token, so that the GPU does not wait for Python.

A step reads one token of each row and draws the next. Its tensors keep their addresses, so it is
captured once and then replayed (`torch.cuda.CUDAGraph`). It is captured again, in the time of a few
steps, when the visible columns of the cache are full, which doubles them, and when half of the rows
have ended, which then leave the batch. Nothing is compiled.

On other devices the step is called directly, which is slower than the plain loop: for tests only.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional
from transformers import AttentionInterface

from salsa_cli.devices.frozen_layers import is_sharded
from salsa_cli.generation import kv_cache, loop
from salsa_cli.generation.generator import draw, ended
from salsa_cli.generation.kv_cache import GrowingCache
from salsa_cli.generation.loop import Rows
from salsa_cli.maths import categorical
from salsa_cli.models import attention
from salsa_cli.models.attention import UnsupportedAttentionError
from salsa_cli.models.forward import Module
from salsa_cli.models.loading import LanguageModel
from salsa_cli.runs.events import Report, silent

NAME = "salsa-decode"
"""Name of this attention in the configuration of a model."""

LEAVE = 0.5
"""Share of rows still running below which the finished ones leave the batch."""

WIDER = 128
"""Columns of the cache that a captured step can fill, or the number in use if that is larger."""

ALIGNED = 64
"""The width is a multiple of this: cuDNN plans every new shape, which takes time."""

_checked: WeakKeyDictionary[Module, bool] = WeakKeyDictionary()


def suits(model: Module) -> bool:
    """Whether a decode step can be captured and agrees with a full forward pass.

    A trial tells, once for every model; in the precision of the caller.
    """
    if is_sharded(model):  # processes cannot communicate within a captured graph
        return False
    if model not in _checked:
        known = loop.suits(model) and kv_cache.joinable(kv_cache.empty(model))
        _checked[model] = known and _agrees(model)
    return _checked[model]


def generate(
    policy: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniforms: torch.Tensor,
    temperature: float,
    report: Report = silent,
    logprobs: torch.Tensor | None = None,
) -> torch.Tensor:
    """Answers to prompts; see `generator.Generator`."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]), reverse=True)
    ordered = [prompts[row] for row in order]
    rows = loop.begin(ordered, order, uniforms)
    reader, logits = _Reader.begin(policy, ordered, rows)
    writer = _Writer(policy, rows, temperature, logprobs)
    writer.write(logits)
    step = None
    for number in range(1, uniforms.shape[1]):
        if number % loop.CHECK_EVERY == 0:
            going = int(writer.going.sum())
            report(ended(len(prompts) - going, len(prompts), number, uniforms.shape[1]))
            if not going:
                return writer.answers[:, :number]
            if going <= LEAVE * len(writer.going):
                kept = loop.without_gaps(writer.going)
                reader.select(kept)
                writer.select(kept)
                step = None
        if reader.width < len(ordered[0]) + number:
            reader.widen()
            step = None
        if step is not None:
            step()
            continue
        # The first token of a new shape is read without a graph: a kernel that is new to the
        # device is loaded then, which a capture does not allow.
        whole = functools.partial(_step, reader, writer)
        whole()
        step = _captured(whole, uniforms.device)
    return writer.answers


class _Reader:
    """Reads one token of each row, through tensors that keep their addresses.

    Attributes:
        width: columns of the cache that attention looks at; those that are not filled are masked.
    """

    def __init__(self, model: Module, cache: GrowingCache, rows: Rows, used: int) -> None:
        """Use a preallocated cache of which `used` columns are filled."""
        device = rows.mask.device
        self._model, self._cache = model, cache
        self._column = torch.full((1,), used, device=device)
        self._positions = rows.lengths.unsqueeze(-1).clone()
        more = _aligned(rows.mask.shape[1]) - rows.mask.shape[1]
        self._seen = functional.pad(rows.mask, (0, more))
        self.width = used
        kv_cache.place(cache, self._column)
        self.widen()

    @classmethod
    def begin(
        cls, policy: LanguageModel, prompts: Sequence[Sequence[int]], rows: Rows
    ) -> tuple["_Reader", torch.Tensor]:
        """Read prompts, longest first; also returns the logits `[B, V]` of the next token."""
        room = _aligned(rows.mask.shape[1])
        cache, logits = loop.read(policy, prompts, room, rows.mask.device)
        return cls(policy.model, cache, rows, len(prompts[0])), logits

    def widen(self) -> None:
        """Double the visible columns, up to all of them."""
        room = self._seen.shape[1]
        self.width = min(room, _aligned(self.width + max(self.width, WIDER)))
        kv_cache.show(self._cache, self.width)
        columns = torch.arange(self.width, device=self._column.device)
        visible = self._seen[:, : self.width] & (columns < self._column)
        kind = self._cache.layers[0].dtype
        hidden = torch.full(visible.shape, float("-inf"), dtype=kind, device=visible.device)
        self._bias = hidden.masked_fill_(visible, 0.0)[:, None, None, :]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows."""
        self._cache.batch_select_indices(rows)
        self._positions, self._seen = self._positions[rows], self._seen[rows]
        self._bias = self._bias[rows]

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits `[b, V]` after one more token `[b]` per row."""
        self._bias.index_fill_(3, self._column, 0.0)
        with attention.use_attention(self._model, NAME):
            logits: torch.Tensor = self._model(
                input_ids=tokens.unsqueeze(-1),
                attention_mask=self._bias,
                position_ids=self._positions,
                use_cache=True,
                logits_to_keep=1,
                **kv_cache.handed(self._model, self._cache),
            ).logits
        self._column.add_(1)
        self._positions.add_(1)
        return logits[:, -1]


class _Writer:
    """Draws and stores one token per row, through tensors that keep their addresses.

    Attributes:
        answers: `[B, L]` in the order of the prompts.
        tokens: `[b]` drawn last.
        going: `[b]`, False where an end token was drawn.
    """

    def __init__(
        self,
        policy: LanguageModel,
        rows: Rows,
        temperature: float,
        logprobs: torch.Tensor | None = None,
    ) -> None:
        """Start at the first token; `logprobs` is as for a `generator.Generator`."""
        device = rows.uniforms.device
        self.answers = torch.full(rows.uniforms.shape, policy.pad_id, device=device)
        self.tokens = torch.zeros_like(rows.places)
        self.going = rows.going
        self._places, self._uniforms = rows.places, rows.uniforms
        self._number = torch.zeros(1, dtype=torch.long, device=device)
        self._ends = torch.tensor(policy.eos_ids, device=device)
        self._temperature = temperature
        self._logprobs = logprobs

    def write(self, logits: torch.Tensor) -> None:
        """Draw from the logits `[b, V]`."""
        uniforms = self._uniforms.index_select(1, self._number).squeeze(1)
        self.tokens.copy_(draw(logits, uniforms, self._temperature))
        place = self._places, self._number.expand_as(self._places)
        self.answers.index_put_(place, self.tokens)
        if self._logprobs is not None:
            found = categorical.token_logprobs(logits, self.tokens, self._temperature)
            self._logprobs.index_put_(place, found)
        self.going.logical_and_((self.tokens.unsqueeze(-1) != self._ends).all(-1))
        self._number.add_(1)

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows."""
        self.tokens, self.going = self.tokens[rows], self.going[rows]
        self._places, self._uniforms = self._places[rows], self._uniforms[rows]


def _aligned(columns: int) -> int:
    return -(-columns // ALIGNED) * ALIGNED


def _step(reader: _Reader, writer: _Writer) -> None:
    writer.write(reader.read(writer.tokens))


def _captured(step: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Capture a step without running it, and return its replay; on other devices, the step.

    `torch.cuda.graph` would wait for the device first, which still reads the prompts then.
    """
    if device.type != "cuda":
        return step
    graph, stream = torch.cuda.CUDAGraph(), _capturing(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            step()
        finally:
            graph.capture_end()
    torch.cuda.current_stream(device).wait_stream(stream)
    replay: Callable[[], object] = graph.replay
    return replay


@functools.cache
def _capturing(device: torch.device) -> torch.cuda.Stream:
    """The stream to capture on. All graphs share it, since each stream keeps a workspace."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _attend(
    module: Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """Attention of one token per row `[B, 1, H, D]`, with the interface of transformers.

    The queries that share a key are passed as those of several tokens, so that no key is
    copied for them.

    Args:
        query: `[B, H, 1, D]`.
        key: `[B, K, W, D]`, where K divides H.
        value: `[B, K, W, D]`.
        attention_mask: `[B, 1, 1, W]`, which is added.
    """
    attention.require_plain_attention(more)
    rows, heads, _, size = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, size)
    found = functional.scaled_dot_product_attention(
        grouped, key, value, attention_mask, scale=scaling
    )
    return found.reshape(rows, 1, heads, size), None


AttentionInterface.register(NAME, _attend)


@torch.no_grad()
def _agrees(model: Module) -> bool:
    """Whether a captured step gives the same logits as separate forward passes."""
    device = next(model.parameters()).device
    count = model.config.get_text_config().vocab_size
    whole = [[token % count for token in row] for row in ([5, 6, 7, 8, 9, 4, 6], [7, 5, 6, 8, 5])]
    prompts = [row[:-2] for row in whole]
    nobody: Any = None  # no text is read or written here
    policy = LanguageModel(Path(), model, nobody, (), 0)
    rows = loop.begin(prompts, range(len(prompts)), torch.zeros(len(prompts), 2, device=device))
    first, second = torch.tensor([row[-2:] for row in whole], device=device).unbind(1)
    found: list[torch.Tensor] = []
    try:
        reader, _ = _Reader.begin(policy, prompts, rows)
        found.append(reader.read(first))
        step = _captured(lambda: found.append(reader.read(second)), device)
        step()
    except (UnsupportedAttentionError, TypeError, RuntimeError):
        return False
    for place, logits in enumerate(found[:2]):
        cut = [row[: len(row) - 1 + place] for row in whole]
        alone = [model(input_ids=torch.tensor([row], device=device)).logits[0, -1] for row in cut]
        theirs = torch.stack(alone)
        rounding = 16 * torch.finfo(theirs.dtype).eps * theirs.abs().max()
        if not bool(((logits - theirs).abs() <= rounding + 1e-6).all()):
            return False
    return True
