"""Keys and values in memory that is taken once: where each token's states lie."""

import torch
from transformers.cache_utils import DynamicLayer

from salsa_cli.generation import kv_cache
from salsa_cli.generation.kv_cache import GrowingCache, StaticLayer
from tests.support.kinds import hybrid, learned_positions, llama, recurrent, sliding

KEYWORDS = {"cache", "past_key_values"}


def states(rows: int, tokens: int, start: float) -> torch.Tensor:
    """`[rows, 1, tokens, 1]`: start, start + 1, ... over rows and tokens."""
    return (start + torch.arange(rows * tokens)).view(rows, 1, tokens, 1).float()


def read(keys: torch.Tensor) -> list[list[float]]:
    return keys[:, 0, :, 0].tolist()


def bucket(rows: int, tokens: int, start: float) -> DynamicLayer:
    layer = DynamicLayer()
    layer.update(states(rows, tokens, start), -states(rows, tokens, start))
    return layer


def reserved() -> StaticLayer:
    """Prompts of 3 tokens (1 2 3) and of 1 (9), below one another, with room for 6."""
    return StaticLayer.of([bucket(1, 3, 1), bucket(1, 1, 9)], width=3, room=6)


def test_buckets_end_at_the_same_column_and_padding_is_zero() -> None:
    layer = reserved()
    assert read(layer.keys) == [[1, 2, 3], [0, 0, 9]]
    assert read(layer.values) == [[-1, -2, -3], [0, 0, -9]]
    assert layer.get_seq_length() == 3


def test_a_token_is_written_behind_those_that_were_read() -> None:
    layer = reserved()
    place = layer.keys.data_ptr()
    keys, values = layer.update(states(2, 1, 4), states(2, 1, 40))
    assert read(keys) == [[1, 2, 3, 4], [0, 0, 9, 5]]
    assert read(values) == [[-1, -2, -3, 40], [0, 0, -9, 41]]
    keys, _ = layer.update(states(2, 2, 60), states(2, 2, 60))
    assert read(keys) == [[1, 2, 3, 4, 60, 61], [0, 0, 9, 5, 62, 63]]
    assert keys.data_ptr() == place  # nothing was copied


def test_rows_leave_and_keep_their_own_states() -> None:
    layer = StaticLayer.of([bucket(4, 2, 1)], width=2, room=3)
    layer.batch_select_indices(torch.tensor([0, 3, 2]))
    assert read(layer.keys) == [[1, 2], [7, 8], [5, 6]]
    assert read(layer.values) == [[-1, -2], [-7, -8], [-5, -6]]
    keys, _ = layer.update(states(3, 1, 10), states(3, 1, 10))
    assert read(keys) == [[1, 2, 10], [7, 8, 11], [5, 6, 12]]


def test_a_placed_layer_writes_where_the_device_says_and_shows_what_it_is_told() -> None:
    column = torch.tensor([3])
    layer = reserved().placed(column)
    layer.show(5)
    keys, _ = layer.update(states(2, 1, 4), states(2, 1, 4))
    assert read(keys) == [[1, 2, 3, 4, 0], [0, 0, 9, 5, 0]]
    column.add_(1)
    keys, _ = layer.update(states(2, 1, 6), states(2, 1, 6))
    assert read(keys) == [[1, 2, 3, 4, 6], [0, 0, 9, 5, 7]]


def test_keys_take_the_type_of_their_values() -> None:
    cache = GrowingCache()
    keys, values = cache.update(states(1, 2, 0), states(1, 2, 0).bfloat16(), 0)
    assert keys.dtype == values.dtype == torch.bfloat16


def test_parts_are_joined_layer_by_layer() -> None:
    parts = []
    for tokens, start in ((2, 1.0), (1, 5.0)):
        part = GrowingCache()
        for number in range(2):
            part.update(states(1, tokens, start + 10 * number), states(1, tokens, start), number)
        parts.append(part)
    joined = kv_cache.reserve(parts, width=2, room=4)
    assert [read(layer.keys) for layer in joined.layers] == [[[1, 2], [0, 5]], [[11, 12], [0, 15]]]
    assert all(not part.layers for part in parts)
    kv_cache.place(joined, torch.tensor([2]))
    kv_cache.show(joined, 3)
    assert read(joined.layers[0].keys) == [[1, 2, 0], [0, 5, 0]]


def test_which_caches_can_lose_rows_and_which_can_be_joined() -> None:
    for make, selectable, joinable in (
        (llama, True, True),
        (learned_positions, True, True),
        (sliding, True, False),
        (hybrid, True, False),
    ):
        cache = kv_cache.empty(make())
        cache.update(states(1, 1, 0), states(1, 1, 0), 0)
        assert kv_cache.selectable(cache) is selectable, make
        assert kv_cache.joinable(cache) is joinable, make


def test_the_keyword_is_that_of_the_models_forward_pass() -> None:
    model = llama()
    name = kv_cache.keyword(model)
    assert name in KEYWORDS
    cache = kv_cache.empty(model)
    assert kv_cache.handed(model, cache) == {name: cache}
    model(torch.tensor([[4, 6]]), use_cache=True, **kv_cache.handed(model, cache))
    assert cache.get_seq_length() == 2
    assert kv_cache.keyword(torch.nn.Linear(1, 1)) is None
    assert kv_cache.keyword(recurrent()) not in {"past_key_values"}
