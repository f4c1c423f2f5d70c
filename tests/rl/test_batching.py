"""Which answers an optimiser step sees, and which of them a forward pass."""

from types import SimpleNamespace
from typing import Any

import torch

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.rl import batching


def config(**changes: Any) -> PPOConfig:
    settings: dict[str, Any] = {"ref": ("r",), "reward": ("m",), "prompts": "p", "output": "o"}
    return PPOConfig(**{**settings, "batch_size": 8, "minibatches": 2, **changes})


def process(rank: int, processes: int = 2, pass_tokens: int = 100) -> Any:
    """A runtime of several processes, as far as batching asks it."""

    def parts(rows: torch.Tensor) -> Any:
        return torch.tensor_split(rows, processes)

    return SimpleNamespace(
        rank=rank, pass_tokens=pass_tokens, parts=parts, part=lambda rows: parts(rows)[rank]
    )


def sampled(*lengths: int) -> Any:
    return SimpleNamespace(sequences=SimpleNamespace(lengths=torch.tensor(lengths)))


def listed(passes: list[torch.Tensor]) -> list[list[int]]:
    return [rows.tolist() for rows in passes]


def test_the_first_epoch_keeps_the_order_and_later_ones_shuffle_by_their_own_seed() -> None:
    given = config(epochs=3)
    first = list(batching.minibatches(4, 0, given))
    assert listed(first) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    orders = {
        (update, epoch): torch.cat(list(batching.minibatches(update, epoch, given))).tolist()
        for update in (4, 5)
        for epoch in (1, 2)
    }
    assert all(sorted(order) == list(range(8)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 4
    again = torch.cat(list(batching.minibatches(4, 1, given))).tolist()
    assert again == orders[4, 1]
    other = torch.cat(list(batching.minibatches(4, 1, config(seed=1)))).tolist()
    assert other != orders[4, 1]


def test_every_process_makes_as_many_passes() -> None:
    lengths = sampled(9, 9, 2, 3)
    given = config(micro_batch_size=2)
    rows = torch.arange(4)
    # Of 10 tokens a pass: the rows of 9 are passes of their own, those of 3 and 2 share one.
    one, two = (
        batching.training_passes(rows, lengths, given, process(rank, pass_tokens=10))
        for rank in (0, 1)
    )
    assert [(each.rows.tolist(), each.counts) for each in one] == [([0], True), ([1], True)]
    assert [(each.rows.tolist(), each.counts) for each in two] == [([3, 2], True), ([0], False)]


def test_the_first_passes_are_those_of_the_first_epoch_without_empty_ones() -> None:
    lengths = sampled(9, 9, 2, 3, 4, 4, 4, 4)
    given = config(micro_batch_size=2)
    found = batching.first_passes(lengths, given, process(1, pass_tokens=10))
    assert listed(found) == [[3, 2], [6, 7]]


def test_a_pass_without_gradients_takes_four_times_the_rows_and_tokens() -> None:
    lengths = sampled(*[5] * 16)
    given = config(batch_size=16, micro_batch_size=1)
    alone = process(0, processes=1, pass_tokens=100)
    assert listed(batching.scoring_passes(lengths, given, alone)) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [12, 13, 14, 15],
    ]
    # 4 * 3 tokens hold two rows of 5.
    narrow = process(1, processes=2, pass_tokens=3)
    assert listed(batching.scoring_passes(lengths, given, narrow)) == [
        [8, 9],
        [10, 11],
        [12, 13],
        [14, 15],
    ]
