"""Which answers go into each optimizer step, and into each forward pass."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.data import stable_seed
from salsa_cli.devices.runtime import Runtime
from salsa_cli.generation.rollouts import Sampled
from salsa_cli.models import sequences

SCORED_TOKENS = 4
"""How many times more tokens a pass without gradients may have: it keeps no activations."""


def minibatches(update: int, epoch: int, config: PPOConfig) -> Iterator[torch.Tensor]:
    """Rows of each minibatch. The first epoch keeps the order in which the answers were sampled."""
    order = torch.arange(config.batch_size)
    if epoch:
        seed = stable_seed(config.seed, "minibatches", update, epoch)
        order = torch.randperm(config.batch_size, generator=torch.Generator().manual_seed(seed))
    yield from torch.split(order, config.minibatch_size)


@dataclass(frozen=True)
class TrainingPass:
    """The answers of one forward and backward pass of one process.

    Attributes:
        rows: `[n]` indices into the batch, at least one.
        counts: False where the process has no answers left while others have: it then makes the
            pass with a row whose gradient is zero, since all processes gather sharded weights
            together.
    """

    rows: torch.Tensor
    counts: bool = True


def training_passes(
    minibatch: torch.Tensor, sampled: Sampled, config: PPOConfig, runtime: Runtime
) -> list[TrainingPass]:
    """This process's part of a minibatch, in passes over answers of similar length.

    Every process makes the same number of passes.
    """
    lengths = sampled.sequences.lengths
    groups = [
        sequences.group_by_length(lengths, rows, config.forward_size, runtime.pass_tokens)
        for rows in runtime.parts(minibatch)
    ]
    mine = [TrainingPass(rows) for rows in groups[runtime.rank]]
    missing = max(map(len, groups)) - len(mine)
    return mine + [TrainingPass(minibatch[:1], counts=False)] * missing


def first_passes(sampled: Sampled, config: PPOConfig, runtime: Runtime) -> list[torch.Tensor]:
    """Rows of every pass that this process makes in the first epoch of an update.

    Passes with the same rows, width and order round alike. So the ratio of the first epoch's
    log-probabilities to those computed in these passes is exactly 1 until a weight moves.
    """
    return [
        each.rows
        for minibatch in minibatches(0, 0, config)
        for each in training_passes(minibatch, sampled, config, runtime)
        if each.counts
    ]


def scoring_passes(sampled: Sampled, config: PPOConfig, runtime: Runtime) -> list[torch.Tensor]:
    """This process's part of all rows, in as few passes as fit, for models that are not trained."""
    lengths = sampled.sequences.lengths
    rows = runtime.part(torch.arange(len(lengths)))
    tokens = SCORED_TOKENS * runtime.pass_tokens
    return sequences.group_by_length(lengths, rows, SCORED_TOKENS * config.forward_size, tokens)
