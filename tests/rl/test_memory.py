"""What a run will hold: counted by hand, by autograd itself, and where it does not fit."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from salsa_cli import ppo
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.devices import runtime
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.models import activation_memory, loading, shapes
from salsa_cli.models.activation_memory import Machine
from salsa_cli.rl import memory, preflight
from salsa_cli.rl.memory import MemoryPlan, MemoryUse
from salsa_cli.runs.events import DryRun, Event, Note, silent
from tests.support import tiny
from tests.support.ppo_runs import configure_anchored as configure
from tests.support.ppo_runs import stopping_at
from tests.support.worlds import World

FLOAT32 = Machine(frozen=4, product=4, sampling=12, chunk=1000, pass_tokens=2048, headroom=0.6)
MIXED = Machine(
    frozen=2, product=2, sampling=14, chunk=1000, pass_tokens=16384, headroom=0.9, is_host=False
)

BODY = 2 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32 + 2 * 16) + 16
LANGUAGE = BODY + 2 * 24 * 16
CLASSIFIER = BODY + 24 * 16 + 16
"""Weights of the tiny models: two layers of width 16, one key-value head of two, 24 words."""


def demand(config: PPOConfig, machine: Machine = FLOAT32) -> MemoryPlan:
    return memory.plan_memory(preflight.prepare(config, silent), config, machine)


def test_models_are_counted_by_hand(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", minibatches=2)
    assert demand(config, MIXED).models == {
        "policy": MemoryUse(4 * LANGUAGE, 4 * LANGUAGE, 8 * LANGUAGE),
        "critic": MemoryUse(4 * CLASSIFIER, 4 * CLASSIFIER, 8 * CLASSIFIER),
        "reference": MemoryUse(2 * LANGUAGE),
        "rewards": MemoryUse(2 * CLASSIFIER),
        "an anchor": MemoryUse(2 * LANGUAGE),
    }
    config = replace(config, ref_update="ema", critic="policy", watch_reward=(str(world.rm),))
    found = demand(config, MIXED).models
    assert found["reference"] == MemoryUse(4 * LANGUAGE)  # it moves
    assert found["critic"].weights == 4 * (LANGUAGE - 24 * 16)  # no logits
    assert found["watched"] == MemoryUse(2 * CLASSIFIER)
    plan = preflight.prepare(config, silent)
    eight = memory.plan_memory(plan, replace(config, optimiser="adamw-8bit"), FLOAT32).models[
        "policy"
    ]
    assert eight.optimiser == int((2 + 8 / 256) * LANGUAGE)


def test_the_largest_anchor_that_shares_no_base_is_counted(world: World, tmp_path: Path) -> None:
    """With adapters on the start's weights, those of the soup's other ingredient are alone."""
    soup = f"soup({world.a},{world.b},alpha=0.5)"
    config = configure(world, tmp_path / "policy", ref=(soup,), lora_rank=2)
    assert demand(config).models["an anchor"] == MemoryUse(4 * LANGUAGE)
    alone = replace(config, ref=(str(world.a),), policy=str(world.a))
    assert "an anchor" not in demand(alone).models


def test_phases_are_counted_by_hand(world: World, tmp_path: Path) -> None:
    """Eight answers of six tokens behind prompts of five at most, four answers a pass."""
    config = configure(world, tmp_path / "policy", minibatches=1, micro_batch_size=4)
    found = demand(config)
    resident = 4 * (2 * LANGUAGE + 2 * CLASSIFIER)
    moments = 8 * (LANGUAGE + CLASSIFIER)
    passing = 12 * 16 + 12 * 32
    assert found.phases["rollout"] == MemoryUse(
        resident, 0, moments, 8 * 5 * passing, 12 * 8 * 24, 2 * 2 * 8 * 8 * 11 * 4
    )
    assert found.phases["scoring"] == MemoryUse(resident, 0, moments, 8 * 11 * passing)
    # References and anchors pass all eight answers at once, and keep nothing.
    scored = MemoryUse(resident, 0, moments, 8 * 11 * passing, 1000)
    assert found.phases["log-probabilities"] == scored
    assert found.phases["anchors"] == replace(scored, weights=resident + 4 * LANGUAGE)
    # Two layers of queries and attention (16 each), keys and values (8 each), two norms of three
    # numbers a width, and four of the inner width; the last norm.
    kept = 4 * 11 * 4 * (2 * (2 * 16 + 2 * 8 + 2 * 3 * 16 + 4 * 32) + 3 * 16)
    # The policy's gradients, and its head's again, to be added; both and activations with what the
    # allocator keeps in pieces.
    gradients = 3 * (4 * LANGUAGE + 4 * 24 * 16) // 2
    learning = MemoryUse(resident, gradients, moments, 3 * kept // 2, 1000)
    assert found.phases["learning"] == learning
    # The policy as it is, and what the allocator keeps of the last update.
    assert found.phases["saving"] == MemoryUse(resident, 0, moments, 3 * kept // 2)
    assert found.busiest == "learning"
    assert found.peak == resident + gradients + moments + 3 * kept // 2 + 1000


def test_held_out_prompts_are_counted_by_hand(world: World, tmp_path: Path) -> None:
    """Eight answers as in a rollout, behind a prompt of seven, beside an anchor."""
    path = tiny.write_rows(tmp_path / "eval.jsonl", [{"prompt": "cat dog sun moon tree cat dog"}])
    config = configure(world, tmp_path / "policy", micro_batch_size=4, anchor_every=0)
    assert "an anchor" not in demand(config).models
    config = replace(config, eval_prompts=str(path))
    resident = 4 * (2 * LANGUAGE + 2 * CLASSIFIER) + 4 * LANGUAGE
    found = demand(config).phases
    cache, passing = 2 * 2 * 8 * 8 * 13 * 4, 8 * 7 * (12 * 16 + 12 * 32)
    assert found["held-out prompts"] == MemoryUse(
        resident, 0, 8 * (LANGUAGE + CLASSIFIER), passing, 12 * 8 * 24, cache
    )
    # Trained in float32 and computing in half precision: a copy as it would be loaded.
    mixed = demand(config, MIXED).phases
    frozen = 2 * LANGUAGE
    assert mixed["held-out prompts"].weights == mixed["scoring"].weights + frozen + frozen


def test_in_a_single_pass_gradients_come_as_activations_go(world: World, tmp_path: Path) -> None:
    """On a GPU; the allocator of the CPU keeps both in pieces. Of one model at a time."""
    shape = shapes.shape(world.a)
    config = configure(world, tmp_path / "policy", minibatches=1)
    for length in (1, 6, 40):
        longer = replace(config, response_length=length)
        kept = activation_memory.kept_activations(shape, 8, 5 + length, MIXED.product)
        found = demand(longer, MIXED).phases["learning"]
        assert found.activations == kept
        assert found.activations + found.gradients == max(kept, 4 * LANGUAGE)
        kept = activation_memory.kept_activations(shape, 8, 5 + length, FLOAT32.product)
        found = demand(longer, FLOAT32).phases["learning"]
        assert (found.activations, found.gradients) == (3 * kept // 2, 3 * 4 * LANGUAGE // 2)


def test_products_in_half_precision_copy_the_weights_of_the_model_that_learns(
    world: World, tmp_path: Path
) -> None:
    config = configure(world, tmp_path / "policy", minibatches=1, micro_batch_size=2)
    phases = demand(config, MIXED).phases
    assert phases["learning"].weights == phases["scoring"].weights + 2 * LANGUAGE
    shape = shapes.shape(world.a)
    kept = activation_memory.kept_activations(shape, 2, 11, MIXED.product)
    assert phases["learning"].activations == kept
    assert phases["learning"].gradients == 4 * LANGUAGE + 4 * 24 * 16


def test_a_critic_larger_than_the_policy_is_the_peak(world: World, tmp_path: Path) -> None:
    large = tiny.save_reward_model(tmp_path / "large", num_hidden_layers=6)
    config = configure(world, tmp_path / "policy", critic=str(large), minibatches=1)
    found = demand(config).phases["learning"]
    kept = activation_memory.kept_activations(shapes.shape(large), 8, 11, 4)
    assert found.activations == 3 * kept // 2
    assert found.logits == 0


def test_layers_that_compute_again_do_so_one_at_a_time(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", gradient_checkpointing=True, micro_batch_size=2)
    shape = shapes.shape(world.a)
    one = activation_memory.kept_activations(replace(shape, layers=1), 2, 11, FLOAT32.product)
    inputs = 2 * 11 * 2 * 16 * 4
    assert demand(config).phases["learning"].activations == (inputs + one) * 3 // 2


def test_layers_need_to_recompute_as_far_as_memory_is_short(world: World, tmp_path: Path) -> None:
    """The largest peak that fits, of 0, 1 and 2 layers that recompute."""
    config = configure(
        world, tmp_path / "policy", gradient_checkpointing=True, response_length=40, minibatches=1
    )
    plan = preflight.prepare(config, silent)
    shape = shapes.shape(world.a)
    count = partial(activation_memory.checkpointed_activations, shape, 8, 45, 4)
    one = activation_memory.kept_activations(replace(shape, layers=1), 8, 45, 4)
    last = activation_memory.kept_activations(replace(shape, layers=0), 8, 45, 4)
    assert count(0) == activation_memory.kept_activations(shape, 8, 45, 4)
    assert count(1) == 8 * 45 * 16 * 4 + one
    assert count(2) == count(9) == count() == count(1) + 8 * 45 * 16 * 4
    assert count(0) - count(1) == one - last - 8 * 45 * 16 * 4

    def peak(**changes: Any) -> int:
        return memory.plan_memory(plan, replace(config, **changes), FLOAT32).peak

    none, first = peak(gradient_checkpointing=False), peak(recompute_layers=1)
    assert first < none
    for room, layers in ((none, 0), (none - 2, 1), (first, 1), (first - 2, None)):
        available = int(room / FLOAT32.headroom) + 1
        assert memory.needed_layers(plan, config, FLOAT32, available) == layers
    chosen = replace(config, recompute_layers=2)
    assert memory.needed_layers(plan, chosen, FLOAT32, 10**12) is None


def test_long_answers_pass_few_at_a_time(world: World, tmp_path: Path) -> None:
    """A pass has no more tokens than keep the device busy, and always one row."""
    few = replace(FLOAT32, pass_tokens=30)
    assert [few.rows(8, tokens, 99) for tokens in (3, 10, 11, 31)] == [8, 3, 2, 1]
    assert [few.rows(8, tokens, 99, 4) for tokens in (3, 10, 11, 31)] == [32, 12, 10, 3]
    # Never more than there are; of several processes, each has its part.
    assert [few.rows(8, tokens, 11, 4) for tokens in (3, 10, 11, 31)] == [11, 11, 10, 3]
    assert [replace(few, processes=2).rows(8, 3, given, 4) for given in (11, 99)] == [6, 32]
    config = configure(world, tmp_path / "policy", minibatches=1)
    found = demand(config, few).phases["learning"]
    kept = activation_memory.kept_activations(shapes.shape(world.a), 2, 11, FLOAT32.product)
    assert found.activations == kept * 3 // 2
    assert found.gradients == 3 * (4 * LANGUAGE + 4 * 24 * 16) // 2


def test_what_is_offloaded_is_there_in_its_phase_alone(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy")
    plain, parked = demand(config), demand(replace(config, offload=("ref,reward",)))
    less = {
        phase: held.weights - parked.phases[phase].weights for phase, held in plain.phases.items()
    }
    reference, reward = 4 * LANGUAGE, 4 * CLASSIFIER
    assert less == {
        "rollout": reference + reward,
        "scoring": reference,
        "log-probabilities": reward,
        "anchors": reference + reward,
        "learning": reference + reward,
        "saving": reference + reward,
    }


def test_a_policy_is_converted_to_be_saved(world: World, tmp_path: Path) -> None:
    """Stored in float32: a narrow one, in the CPU's memory; beside a sharded one, on the device."""
    config = configure(world, tmp_path / "policy", weights="bfloat16")

    def saving(machine: Machine) -> int:
        phases = demand(config, machine).phases
        return phases["saving"].weights - phases["learning"].weights

    assert saving(FLOAT32) == 4 * LANGUAGE
    assert saving(MIXED) == 0
    assert demand(config, MIXED).phases["saving"].activations == 0  # CUDA's allocator reuses it
    assert saving(replace(MIXED, spread=2)) == 2 * LANGUAGE


SHAPES = [
    {},
    {"num_key_value_heads": 2},
    {"num_hidden_layers": 6, "hidden_size": 32, "intermediate_size": 88},
    {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_hidden_layers": 3},
]


@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize("again", [0, 1, None])
def test_activations_are_those_that_autograd_keeps(
    tmp_path: Path, changes: dict[str, Any], again: int | None
) -> None:
    """The storages that a pass saves for its gradient, weights aside.

    Within 5 %, since norms and positions keep some numbers a token that are not counted. Layers
    that compute theirs again have saved their inputs by then.
    """
    folder = tiny.save_language_model(tmp_path / "model", seed=1, **changes)
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    if again != 0:
        loading.checkpoint_activations(model, again)
    rows, tokens = 8, 24
    ids = torch.randint(3, 24, (rows, tokens), generator=torch.Generator().manual_seed(0))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=ids, use_cache=False).last_hidden_state.square().sum()
    measured = sum(storage.nbytes() for storage in kept.values())
    shape = shapes.shape(folder)
    planned = activation_memory.checkpointed_activations(
        shape, rows, tokens, FLOAT32.product, again
    )
    if again is None:
        last = activation_memory.kept_activations(
            replace(shape, layers=0), rows, tokens, FLOAT32.product
        )
        planned = activation_memory.layer_inputs(shape, rows, tokens) + last
    positions = 2 * 4 * tokens * shape.heads
    assert planned <= measured + positions
    assert measured <= 1.05 * planned + positions


def test_half_precision_keeps_the_stream_in_float32() -> None:
    """By hand: two norms of 10 bytes a width; queries, keys, values, attention; 4 inner widths."""
    shape = shapes.Shape(layers=3, hidden=64, heads=64, keys=16, inner=128, vocabulary=10)
    layer = 2 * 10 * 64 + 2 * (2 * 64 + 2 * 16) + 4 * 2 * 128
    assert activation_memory.kept_activations(shape, 2, 7, MIXED.product) == 2 * 7 * (
        3 * layer + 10 * 64
    )
    assert activation_memory.cache(shape, 2, 7, MIXED.product) == 2 * 3 * 16 * 2 * 7 * 2
    assert MIXED.copy == 2 and FLOAT32.copy == 0


def test_the_micro_batch_is_the_largest_divisor_that_fits(world: World, tmp_path: Path) -> None:
    config = configure(
        world, tmp_path / "policy", batch_size=24, minibatches=2, response_length=40, anchor_every=0
    )
    plan = preflight.prepare(config, silent)
    peaks = {
        size: memory.plan_memory(plan, replace(config, micro_batch_size=size), FLOAT32).peak
        for size in (1, 2, 3, 4, 6)
    }
    # Passes of a few answers take less than sampling all of them.
    assert peaks[1] == peaks[2] == peaks[3] < peaks[4] < peaks[6]

    def picked(available: float) -> int | None:
        found, needed = memory.fit_micro_batch(plan, config, FLOAT32, int(available))
        assert needed == memory.plan_memory(plan, found, FLOAT32)
        return found.micro_batch_size

    assert picked(1e12) is None  # a whole minibatch of 12
    for size in (3, 4, 6):
        assert picked(peaks[size] / FLOAT32.headroom + 2) == size
    assert picked(peaks[4] / FLOAT32.headroom - 2) == 3
    assert picked(0) == 1
    given = replace(config, micro_batch_size=6)
    assert memory.fit_micro_batch(plan, given, FLOAT32, 0)[0] == given


def small(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(runtime, "available_memory", lambda: available)


def test_a_run_picks_its_micro_batch_says_so_and_keeps_to_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is resumed where more is free, and as a setting that it records."""
    config = configure(world, tmp_path / "policy", updates=4, save_every=2, minibatches=1)
    plan = preflight.prepare(config, silent)
    machine = Machine.of(start_runtime("cpu"))
    of_two = memory.plan_memory(plan, replace(config, micro_batch_size=2), machine).peak
    small(monkeypatch, int(of_two / machine.headroom) + 2)
    notes: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    dry = ppo.run(replace(config, dry_run=True), listen)
    assert isinstance(dry, DryRun) and dry.facts["answers per forward pass"] == 2
    assert "2 answers per forward pass (--micro-batch-size): a minibatch of 8" in notes[-1]
    ppo.run(replace(config, output=tmp_path / "explicit", micro_batch_size=2), silent)
    with pytest.raises(KeyboardInterrupt):
        ppo.run(config, stopping_at(3))
    small(monkeypatch, 10**12)
    ppo.run(replace(config, resume=True), silent)
    made = json.loads((config.output / "salsa.json").read_text())
    assert made["settings"]["micro_batch_size"] == 2
    one, two = (tmp_path / name / "model.safetensors" for name in ("policy", "explicit"))
    assert one.read_bytes() == two.read_bytes()
    again = ppo.run(replace(config, resume=True), silent)  # complete: its result
    assert again.record()["updates"] == 4


def test_a_run_that_cannot_fit_is_refused_with_what_helps(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, 10**5)
    config = configure(world, tmp_path / "policy", response_length=5, minibatches=1)
    with pytest.raises(SalsaError) as caught:
        ppo.run(config, silent)
    text = str(caught.value)
    assert text.startswith("this run needs about ") and "the device has 100kB; try " in text
    assert "at its peak, learning (weights " in text
    for option in ("--gradient-checkpointing", "--optimiser adamw-8bit", "as --critic"):
        assert option in text
    assert "--offload" not in text and "--micro-batch-size" not in text  # of no use here
    assert not any(tmp_path.iterdir())


SEVEN_BILLION = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}
H100 = Machine(
    frozen=2, product=2, sampling=14, chunk=2**29, pass_tokens=16384, headroom=0.9, is_host=False
)


def enlarge(folder: Path, kind: Any) -> None:
    """Give a folder the configuration and the weight file of a model of 7 billion, all holes."""
    stored = json.loads((folder / "config.json").read_text())
    config = LlamaConfig(**{**stored, **SEVEN_BILLION, "head_dim": 128})
    with torch.device("meta"):
        state = kind(config).state_dict()
    config.architectures = stored["architectures"]
    config.save_pretrained(folder)
    header, end = {}, 0
    for name, tensor in state.items():
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with path.open("r+b") as file:
        file.truncate(8 + len(text) + end)


def test_full_fine_tuning_of_seven_billion_fits_one_card_of_80_gb(
    world: World, tmp_path: Path
) -> None:
    """At most 76 GB: weights and moments in full, one gradient, the frozen models parked."""
    model, rm = tmp_path / "model", tmp_path / "rm"
    shutil.copytree(world.a, model)
    shutil.copytree(world.rm, rm)
    enlarge(model, LlamaForCausalLM)
    enlarge(rm, LlamaForSequenceClassification)
    config = PPOConfig(
        ref=(str(model),),
        reward=(str(rm),),
        prompts=str(world.prompts),
        output=tmp_path / "policy",
        weights="bfloat16",
        optimiser="adamw-8bit",
        gradient_checkpointing=True,
        offload=("ref,reward",),
        micro_batch_size=8,
        device="cuda",
    )
    found = demand(config, H100)
    count = 6_738_415_616  # as published for Llama 2 7B
    critic = count - 32_000 * 4096 + 4096
    both = count + critic
    learning = found.phases["learning"]
    assert learning.weights == 2 * both
    assert learning.optimiser == int((2 + 8 / 256) * count) + int((2 + 8 / 256) * critic)
    assert learning.gradients == 2 * count + 4 * 32_000 * 4096
    assert 68e9 < found.peak <= 76e9
    # Without what is new: float32 weights and their copies, and moments in float32.
    wide = replace(config, weights="float32", optimiser="adamw")
    assert demand(wide, H100).peak > 190e9


def test_the_layers_of_a_sharded_base_are_in_parts(world: World, tmp_path: Path) -> None:
    """A part of the layers, one layer that is gathered, and the rest; adapters are whole."""
    pytest.importorskip("peft")
    config = configure(world, tmp_path / "policy", ref=(str(world.a),), lora_rank=2)
    base = f"base {world.a.name}"
    alone, spread = demand(config, MIXED).models, demand(config, replace(MIXED, spread=2)).models
    layers = BODY - 16
    assert alone[base].weights == 2 * LANGUAGE
    assert spread[base].weights == 2 * (LANGUAGE - layers + layers // 2 + layers // 2)
    assert spread["policy"] == alone["policy"]
    many = demand(config, replace(MIXED, spread=4)).models[base].weights
    assert many == 2 * (LANGUAGE - layers + layers // 4 + layers // 2)
    offloaded = demand(config, replace(MIXED, spread=4, offloads=True)).models[base].weights
    assert offloaded == 2 * (LANGUAGE - layers + layers // 2)


def test_shards_that_are_offloaded_are_not_on_the_device(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy")
    found = demand(config, replace(MIXED, spread=2, offloads=True))
    assert found.models["policy"] == MemoryUse(2 * LANGUAGE)
    assert found.phases["learning"].gradients == found.phases["learning"].optimiser == 0


def test_moments_that_are_offloaded_are_not_on_the_device(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", weights="bfloat16")
    plain = demand(config, MIXED)
    parked = demand(replace(config, offload=("moments",)), MIXED)
    for phase, held in plain.phases.items():
        assert parked.phases[phase] == replace(held, optimiser=0)
        assert held.optimiser == 8 * (LANGUAGE + CLASSIFIER)
    assert plain.models["policy"] == MemoryUse(2 * LANGUAGE, 2 * LANGUAGE, 8 * LANGUAGE)
    # Narrow weights are multiplied as they are.
    assert plain.phases["learning"].weights == plain.phases["scoring"].weights


def found(**phases: MemoryUse) -> MemoryPlan:
    return MemoryPlan({}, phases, 4)


@pytest.mark.parametrize(
    ("phase", "advice"),
    [
        ("anchors", "try --anchor-every 0, a smaller --micro-batch-size, --optimiser adamw-8bit"),
        ("rollout", "try a smaller --batch-size, --optimiser adamw-8bit"),
        ("learning", "try a smaller --micro-batch-size, --gradient-checkpointing"),
        ("saving", "try --optimiser adamw-8bit, --weights bfloat16"),
    ],
)
def test_the_advice_is_about_the_peak(
    world: World, tmp_path: Path, phase: str, advice: str
) -> None:
    config = configure(world, tmp_path / "policy")
    with pytest.raises(SalsaError) as caught:
        memory.check(
            found(**{"scoring": MemoryUse(5), phase: MemoryUse(6, 1)}), config, 6, on_cpu=False
        )
    assert f"about 7B at its peak, {phase} (weights 6B, gradients 1B), and" in str(caught.value)
    assert advice in str(caught.value)
    assert "--offload ref,reward" in str(caught.value)
    memory.check(found(**{phase: MemoryUse(6)}), config, 6, on_cpu=False)


def test_a_dry_run_has_a_table_and_its_numbers(world: World, tmp_path: Path) -> None:
    result = ppo.run(configure(world, tmp_path / "policy", dry_run=True), silent)
    assert isinstance(result, DryRun)
    table = result.summary()[1]
    assert table is not None
    assert [row[0] for row in table.rows] == [
        "policy", "critic", "reference", "rewards", "an anchor", "",
        "rollout", "scoring", "log-probabilities", "anchors", "learning", "saving",
    ]  # fmt: skip
    assert all(len(row) == len(table.columns) for row in table.rows)
    told: Any = result.record()["memory"]
    assert told["models"]["reference"] == {"weights": 4 * LANGUAGE, "total": 4 * LANGUAGE}
    assert told["peak"] == max(phase["total"] for phase in told["phases"].values())
    assert told["peak_in"] in told["phases"] and told["available"] > told["peak"]
    assert not (tmp_path / "policy").exists()
