"""Estimates the memory, disk space and time of a reward model's training."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import SalsaError
from salsa_cli.formatting import amount
from salsa_cli.models import activation_memory, loading, shapes
from salsa_cli.models.loading import RewardModel
from salsa_cli.reward_models.pairs import EncodedPair
from salsa_cli.weights import weight_files
from salsa_cli.weights.weight_files import WeightFiles

WEIGHT = 4
"""Bytes of a weight in float32."""

LEARNING = 12
"""Additional bytes of a trained weight: its gradient and the two moments of Adam."""

SAVED = 8
"""Additional bytes of a trained weight in a checkpoint: the two moments of Adam."""

TRIES = 3
"""Timed passes, of which the fastest counts: the first one includes warm-up."""

CHECKPOINTS = 3
"""Maximum checkpoints on disk: two are kept, and a new one is written before the oldest is
removed."""


def memory(
    folder: Path,
    training: Sequence[EncodedPair],
    config: TrainRMConfig,
    width: int,
    spread: int = 1,
    offloads: bool = False,
) -> dict[str, int]:
    """Bytes by part; those of the passes are for the longest pairs.

    Args:
        folder: the model that the training starts from.
        training: the pairs.
        config: the run's.
        width: bytes of an activation, and of a weight beside one that is spread.
        spread: processes over which what learns is spread; 1 where each holds all of it.
        offloads: whether its shards are in another memory, that of the CPU.
    """
    opened = weight_files.open_weight_files(folder)
    shape, rows = shapes.shape(folder), 2 * config.forward_size
    tokens = max(pair.length for pair in training)
    kept = activation_memory.kept_activations(shape, rows, tokens, width)
    if config.gradient_checkpointing:
        kept = activation_memory.checkpointed_activations(shape, rows, tokens, width)
    plain = width * _body(opened) if spread > 1 else 0
    share = 0 if offloads else 1 / spread
    return {
        "weights": plain + int(WEIGHT * _body(opened) * share),
        "gradients and moments": int(LEARNING * _trained(opened, config) * share),
        "passes": kept,
    }


def check_memory(parts: Mapping[str, int], available: int) -> None:
    """Check that a training run fits into memory.

    Raises:
        SalsaError: the parts need more memory than the device has.
    """
    total = sum(parts.values())
    if total > available:
        listed = ", ".join(f"{name} {amount(size, 'B')}" for name, size in parts.items())
        raise SalsaError(
            f"this training needs about {amount(total, 'B')} ({listed}) and the device has "
            f"{amount(available, 'B')}; try a smaller --micro-batch-size, "
            "--gradient-checkpointing or --lora-rank"
        )


def disk(folder: Path, config: TrainRMConfig) -> int:
    """Bytes on disk at most: checkpoints and models."""
    opened = weight_files.open_weight_files(folder)
    checkpoint = WEIGHT * _body(opened) + SAVED * _trained(opened, config)
    return CHECKPOINTS * checkpoint + config.ensemble * opened.nbytes


def seconds_per_pair(
    reward: RewardModel,
    training: Sequence[EncodedPair],
    config: TrainRMConfig,
    runtime: Runtime,
) -> float:
    """Time of a pass forward and back over pairs of middle length, measured; the model is ready
    to be trained."""
    loading.trainable(reward.model)
    ranked = sorted(training, key=lambda pair: pair.length)
    first = max(0, (len(ranked) - config.forward_size) // 2)
    part = ranked[first : first + config.forward_size]
    rows = [ids for pair in part for ids in (pair.chosen, pair.rejected)]
    took = []
    for _ in range(TRIES):
        began = time.perf_counter()
        with runtime.autocast():
            scores = reward.score_ids(rows)
        torch.autograd.backward(scores.sum())
        reward.model.score.weight.detach().cpu()  # wait for the device
        took.append(time.perf_counter() - began)
    return min(took) / len(part)


def _body(model: WeightFiles) -> int:
    """Number of weights of a reward model: those of the language model without its head."""
    return sum(t.elements for name, t in model.tensors.items() if not name.startswith("lm_head."))


def _trained(model: WeightFiles, config: TrainRMConfig) -> int:
    """Number of trained weights: all, or those of the adapters of every linear layer."""
    if config.lora_rank is None:
        return _body(model)
    linear = [
        tensor.shape
        for name, tensor in model.tensors.items()
        if len(tensor.shape) == 2 and "embed" not in name and not name.startswith("lm_head.")
    ]
    return sum(config.lora_rank * (rows + columns) for rows, columns in linear)
