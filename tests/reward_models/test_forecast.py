"""What a training will take, on shapes small enough to add up by hand."""

from pathlib import Path
from typing import Any

import pytest

from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.models import activation_memory, loading, shapes
from salsa_cli.reward_models import forecast
from salsa_cli.reward_models.pairs import EncodedPair
from tests.support import tiny
from tests.support.worlds import World

PAIRS = [EncodedPair("p", (4,) * length, (5, 2), row=length) for length in (3, 9, 5)]

VOCABULARY, WIDTH, INNER, LAYERS = len(tiny.SPECIAL) + len(tiny.WORDS), 16, 32, 2
# Queries and outputs; keys and values, of one head of two; the three of the MLP; norms.
LAYER = 2 * 16 * 16 + 2 * 16 * 8 + 3 * WIDTH * INNER + 2 * WIDTH
BODY = VOCABULARY * WIDTH + LAYERS * LAYER + WIDTH
ROWS_AND_COLUMNS = LAYERS * (2 * (16 + 16) + 2 * (8 + 16) + 3 * (16 + 32))

# Bytes a token keeps in bfloat16: per norm its input and result in float32 and its output; queries,
# output, keys and values; four inner widths. One more norm comes last.
NORM = (2 * 4 + 2) * WIDTH
LAYER_VALUES = 2 * NORM + 2 * 2 * (16 + 8) + 4 * 2 * INNER


def configure(world: World, **changes: Any) -> TrainRMConfig:
    settings = {"model": str(world.a), "data": "p.jsonl", "output": Path("rm"), "batch_size": 4}
    return TrainRMConfig(**{**settings, **changes})


def test_memory_is_weights_learning_and_passes(world: World) -> None:
    found = forecast.memory(world.a, PAIRS, configure(world), 2)
    tokens = 2 * 4 * 9
    assert found == {
        "weights": 4 * BODY,
        "gradients and moments": 12 * BODY,
        "passes": tokens * (LAYERS * LAYER_VALUES + NORM),
    }
    small = forecast.memory(world.a, PAIRS, configure(world, micro_batch_size=1), 2)
    assert small["passes"] == found["passes"] // 4


def test_adapters_learn_little_and_checkpointing_keeps_little(world: World) -> None:
    config = configure(world, lora_rank=3, gradient_checkpointing=True)
    found = forecast.memory(world.a, PAIRS, config, 4)
    assert found["weights"] == 4 * BODY
    assert found["gradients and moments"] == 12 * 3 * ROWS_AND_COLUMNS
    # What each layer reads in float32, and one whole layer with the last norm.
    norm, layer = 12 * WIDTH, 2 * 12 * WIDTH + 4 * 2 * (16 + 8) + 4 * 4 * INNER
    assert found["passes"] == 2 * 4 * 9 * (4 * WIDTH * LAYERS + layer + norm)


def test_one_pass_takes_the_same_memory_in_the_plan_of_ppo(world: World) -> None:
    """Both commands plan by one estimate; here the plan of a learning phase without the policy."""
    pair = forecast.memory(world.a, PAIRS, configure(world, micro_batch_size=1), 4)
    shape = shapes.shape(world.a)
    assert pair["passes"] == activation_memory.kept_activations(shape, 2, 9, 4)


def test_the_disk_holds_three_checkpoints_and_the_models(world: World) -> None:
    stored = 4 * (BODY + VOCABULARY * WIDTH)  # the language model's own output layer, too
    assert forecast.disk(world.a, configure(world, ensemble=2)) == 3 * 12 * BODY + 2 * stored


def test_what_does_not_fit_is_refused_with_its_parts() -> None:
    parts = {"weights": 3 * 10**9, "passes": 10**9}
    forecast.check_memory(parts, 4 * 10**9)
    with pytest.raises(SalsaError) as caught:
        forecast.check_memory(parts, 4 * 10**9 - 1)
    assert "needs about 4GB (weights 3GB, passes 1GB) and the device has 4GB" in str(caught.value)
    assert "--gradient-checkpointing or --lora-rank" in str(caught.value)


def test_a_pass_is_timed_on_the_model_itself(world: World) -> None:
    runtime = start_runtime("cpu")
    reward = loading.new_reward_model(world.a, runtime.device, seed=0)
    assert 0 < forecast.seconds_per_pair(reward, PAIRS, configure(world), runtime) < 1
