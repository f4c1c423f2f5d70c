"""Which answers an optimiser step sees, and which of them a forward pass."""

from collections.abc import Iterator

import torch

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.data import stable_seed
from salsa_cli.devices.runtime import Runtime
from salsa_cli.generation.rollouts import Sampled
from salsa_cli.models import sequences

SCORED_TOKENS = 4
"""A pass without gradients keeps no activations, so it may have so many times the tokens."""


def minibatches(update: int, epoch: int, config: PPOConfig) -> Iterator[torch.Tensor]:
    """Rows of each minibatch; the first epoch keeps the order in which the answers were sampled."""
    order = torch.arange(config.batch_size)
    if epoch:
        seed = stable_seed(config.seed, "minibatches", update, epoch)
        order = torch.randperm(config.batch_size, generator=torch.Generator().manual_seed(seed))
    yield from torch.split(order, config.minibatch_size)


def training_passes(
    minibatch: torch.Tensor, sampled: Sampled, config: PPOConfig, runtime: Runtime
) -> list[torch.Tensor]:
    """Rows of this process's part of a minibatch in passes of like length, to save padding.

    Every process makes as many passes, if need be of no rows: sharded weights need it.
    """
    lengths = sampled.sequences.lengths
    passes = [
        sequences.group_by_length(lengths, rows, config.forward_size, runtime.pass_tokens)
        for rows in runtime.parts(minibatch)
    ]
    mine = passes[runtime.rank]
    return mine + [minibatch[:0]] * (max(map(len, passes)) - len(mine))


def first_passes(sampled: Sampled, config: PPOConfig, runtime: Runtime) -> list[torch.Tensor]:
    """All passes of an update's first epoch that this process makes.

    Passes of the same rows, width and order round alike, so a ratio of what was found in them
    before and during the first epoch is exactly 1 until a weight moves.
    """
    return [
        rows
        for minibatch in minibatches(0, 0, config)
        for rows in training_passes(minibatch, sampled, config, runtime)
        if len(rows)
    ]


def scoring_passes(sampled: Sampled, config: PPOConfig, runtime: Runtime) -> list[torch.Tensor]:
    """This process's part of all rows in as few passes as fit, for models that are not trained."""
    lengths = sampled.sequences.lengths
    rows = runtime.part(torch.arange(len(lengths)))
    tokens = SCORED_TOKENS * runtime.pass_tokens
    return sequences.group_by_length(lengths, rows, SCORED_TOKENS * config.forward_size, tokens)
