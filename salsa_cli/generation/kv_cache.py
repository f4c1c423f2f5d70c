"""Preallocated KV caches.

The DynamicLayer of transformers copies its whole content for each new token: on a CPU that takes as
long as the model itself. A StaticLayer writes the token in place.

Under autocast some models compute their keys in float32 and their values in bfloat16. Attention
converts the keys to bfloat16 anyway, so the caches store them as bfloat16.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from salsa_cli.models.forward import Module


class GrowingCache(DynamicCache):  # type: ignore[misc]
    """A cache layer that grows, with keys in the type of the values."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states `[B, H, T, D]` of new tokens; returns those of all tokens."""
        keys = key_states.to(value_states.dtype)
        states: tuple[torch.Tensor, torch.Tensor] = super().update(
            keys, value_states, *args, **options
        )
        return states


class _Reserved(DynamicLayer):  # type: ignore[misc]
    """The states of one layer for B rows, with memory for more columns than are visible."""

    def __init__(self, reserved: tuple[torch.Tensor, ...], width: int) -> None:
        """Use keys and values `[B, H, room, D]`, of which the first `width` columns are visible."""
        super().__init__()
        self.dtype, self.device = reserved[0].dtype, reserved[0].device
        self.is_initialized = True
        self._reserved = reserved
        self.show(width)

    def show(self, width: int) -> None:
        """Make this many columns visible to attention."""
        self._width = width
        self.keys, self.values = (reserved[:, :, :width] for reserved in self._reserved)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices`; rows that keep their place are not copied."""
        places = torch.arange(len(indices), device=indices.device)
        moved = (indices != places).nonzero().squeeze(-1)
        for reserved in self._reserved:
            reserved[moved, :, : self._width] = reserved[indices[moved], :, : self._width]
        self._reserved = tuple(reserved[: len(indices)] for reserved in self._reserved)
        self.show(self._width)


class StaticLayer(_Reserved):
    """A preallocated layer that shows the tokens read so far."""

    @classmethod
    def of(cls, parts: Sequence[DynamicLayer], width: int, room: int) -> Self:
        """Combine the states of several buckets of prompts, with their last tokens aligned.

        Args:
            parts: the states of each bucket, `[b, H, p, D]`.
            width: of the longest prompt.
            room: tokens that a row may come to.
        """
        states = [part.keys for part in parts], [part.values for part in parts]
        return cls(tuple(_aligned(given, width, room) for given in states), width)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the states `[B, H, T, D]` of new tokens; returns those of all tokens."""
        begin, end = self._width, self._width + key_states.shape[-2]
        for reserved, states in zip(self._reserved, (key_states, value_states), strict=True):
            reserved[:, :, begin:end] = states
        self.show(end)
        return self.keys, self.values

    def placed(self, column: torch.Tensor) -> "StaticGraphLayer":
        """The same memory as a StaticGraphLayer."""
        return StaticGraphLayer(self._reserved, self._width, column)


class StaticGraphLayer(_Reserved):
    """A layer whose write position is a tensor on the device; later columns are visible too."""

    def __init__(
        self, reserved: tuple[torch.Tensor, ...], width: int, column: torch.Tensor
    ) -> None:
        """Use existing memory; `column` `[1]` holds the position of the next token."""
        super().__init__(reserved, width)
        self._column = column

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the states `[B, H, 1, D]` of one token per row; returns the visible ones."""
        for reserved, states in zip(self._reserved, (key_states, value_states), strict=True):
            reserved.index_copy_(2, self._column, states.to(reserved.dtype))
        return self.keys, self.values


def empty(model: Module) -> GrowingCache:
    """An empty cache, with the kind of layer that the model uses."""
    return GrowingCache(config=model.config)


def keyword(model: Module) -> str | None:
    """Name of the cache argument of a model's forward pass; None if it has none."""
    kind: Callable[..., object] = type(model).forward
    return _keyword(kind)


@functools.cache
def _keyword(forward: Callable[..., object]) -> str | None:
    """The name for a forward function. Transformers 5.24 renamed the argument."""
    parameters = inspect.signature(forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in parameters), None)


def handed(model: Module, cache: Cache) -> Mapping[str, object]:
    """The keyword argument that passes a cache to a model's forward pass."""
    name = keyword(model)
    assert name is not None  # `loop.suits` saw to it
    return {name: cache}


def selectable(cache: GrowingCache) -> bool:
    """Whether rows can be removed: every layer attends to all tokens, or to a window of them."""
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    return all(type(layer) in known for layer in cache.layers)


def joinable(cache: GrowingCache) -> bool:
    """Whether caches of prompts with different lengths can be combined."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def reserve(parts: Sequence[GrowingCache], width: int, room: int) -> GrowingCache:
    """One cache for the rows of all parts, with memory for `room` tokens per row.

    Takes the parts apart, layer by layer, so that no more than one layer is held twice. Layers that
    are no DynamicLayer stay as they are; then there must be one part only (see `joinable`).
    """
    cache = GrowingCache()
    while parts[0].layers:
        layers = [part.layers.pop(0) for part in parts]
        plain = type(layers[0]) is DynamicLayer and layers[0].is_initialized
        cache.layers.append(StaticLayer.of(layers, width, room) if plain else layers[0])
    return cache


def place(cache: GrowingCache, column: torch.Tensor) -> None:
    """Make a preallocated cache write one token at a time at `column` `[1]`."""
    cache.layers = [layer.placed(column) for layer in cache.layers]


def show(cache: GrowingCache, width: int) -> None:
    """Make this many columns of a preallocated cache visible to attention."""
    for layer in cache.layers:
        layer.show(width)


def _aligned(parts: Sequence[torch.Tensor], width: int, room: int) -> torch.Tensor:
    """The parts `[b, H, p, D]` in one tensor `[B, H, room, D]`, each ending before `width`."""
    _, heads, _, size = parts[0].shape
    rows = sum(len(part) for part in parts)
    # Zeros where there is padding: it is masked, but 0 times infinity would be NaN.
    joined = parts[0].new_zeros(rows, heads, room, size)
    first = 0
    for part in parts:
        joined[first : first + len(part), :, width - part.shape[2] : width] = part
        first += len(part)
    return joined
