"""Loading, scoring and saving; what is refused and how."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from salsa_cli.errors import SalsaError
from salsa_cli.generation import selection
from salsa_cli.models import forward, loading, saving, shapes
from salsa_cli.models.backbones import Placement
from salsa_cli.models.sequences import Sequences
from salsa_cli.models.tokenization import Answer, pad_left, pad_right
from tests.support import families, tiny
from tests.support.adapters import AdapterWorld
from tests.support.worlds import World

CPU = torch.device("cpu")
ROWS = [[4, 6, 9, 2], [5, 2], [7, 8, 10, 11, 12, 2]]


def test_a_score_does_not_depend_on_padding(world: World) -> None:
    reward = loading.load_reward_model(world.rm, Placement(torch.float32, CPU))
    alone = torch.cat([reward.score_ids([row]) for row in ROWS])
    for tokens in (pad_left(ROWS, 0), pad_right(ROWS, 0), pad_left(ROWS, 9), pad_right(ROWS, 9)):
        # float32, other shapes of the same matrix products
        torch.testing.assert_close(
            forward.last_scores(reward.model, tokens), alone, atol=1e-6, rtol=0
        )


def test_scores_are_those_of_transformers(world: World) -> None:
    reward = loading.load_reward_model(world.rm, Placement(torch.float32, CPU))
    naive = AutoModelForSequenceClassification.from_pretrained(world.rm).eval()
    for row in ROWS:
        with torch.no_grad():
            expected = naive(torch.tensor([row])).logits[0]
        torch.testing.assert_close(reward.score_ids([row]), expected, atol=1e-6, rtol=0)


def test_the_stored_scale_normalises_scores(world: World, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world.rm, tmp_path / "rm"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"salsa_reward": {"mean": 2, "std": 4}})
    )
    plain = loading.load_reward_model(world.rm, Placement(torch.float32, CPU))
    scaled = loading.load_reward_model(folder, Placement(torch.float32, CPU))
    raw = plain.score(["the cat"], [Answer(" sat")])
    torch.testing.assert_close(scaled.score(["the cat"], [Answer(" sat")]), (raw - 2) / 4)


def test_a_new_head_depends_on_the_seed_alone(world: World) -> None:
    torch.manual_seed(1)
    first = loading.new_reward_model(world.a, CPU, seed=5)
    torch.manual_seed(2)
    again = loading.new_reward_model(world.a, CPU, seed=5)
    other = loading.new_reward_model(world.a, CPU, seed=6)
    assert torch.equal(first.model.score.weight, again.model.score.weight)
    assert not torch.equal(first.model.score.weight, other.model.score.weight)


def test_a_language_model_is_no_reward_model(world: World) -> None:
    with pytest.raises(SalsaError, match=r"are missing score\.weight .*no trained score head"):
        loading.load_reward_model(world.a, Placement(torch.float32, CPU))


def test_a_critic_from_a_policy_starts_at_zero(world: World) -> None:
    critic = loading.load_critic(world.a, Placement(torch.float32, CPU))
    assert forward.last_scores(critic, pad_right(ROWS, 0)).tolist() == [0.0, 0.0, 0.0]
    trained = loading.load_critic(world.rm, Placement(torch.float32, CPU))
    assert forward.last_scores(trained, pad_right(ROWS, 0)).abs().min() > 0


def test_missing_weights_are_named(world: World, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(world.a, tmp_path / "a"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        SalsaError, match=r"cannot be used as .*: its files are missing model\.norm\.weight"
    ):
        loading.load_language_model(folder, Placement(torch.float32, CPU))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "config.json",
            '{"model_type": "nonsense"}',
            "cannot be loaded as a causal language model",
        ),
        ("tokenizer.json", "{}", "its tokenizer cannot be loaded"),
        ("model.safetensors", "nonsense", "cannot be loaded as a causal language model"),
    ],
)
def test_broken_folders(world: World, tmp_path: Path, name: str, content: str, words: str) -> None:
    folder = Path(shutil.copytree(world.a, tmp_path / "a"))
    (folder / name).write_text(content)
    with pytest.raises(SalsaError) as caught:
        loading.load_language_model(folder, Placement(torch.float32, CPU))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"num_hidden_layers": 1},
            "its files contain more layers than config.json declares (for example model.layers.1.",
        ),
        ({"num_hidden_layers": 3}, "its files are missing model.layers.2."),
        ({"vocab_size": 99}, "the sizes in config.json do not match the weights"),
    ],
)
def test_a_config_of_another_model_than_the_weights_is_refused(
    world: World, tmp_path: Path, changes: dict[str, int], words: str
) -> None:
    """Transformers drops the layers that config.json does not count, with a line in its log."""
    folder = Path(shutil.copytree(world.a, tmp_path / "a"))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))
    with pytest.raises(SalsaError) as caught:
        loading.load_language_model(folder, Placement(torch.float32, CPU))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_with_a_weight_that_is_no_number_is_named(
    adapted: AdapterWorld, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapted.a, tmp_path / "a"))
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(SalsaError, match=rf"{folder}: 1 of \d+ values of .*lora_.* are NaN"):
        loading.load_language_model(folder, Placement(torch.float32, CPU))


def test_a_saved_model_keeps_the_weight_type_and_the_habits_of_its_origin(
    world: World, tmp_path: Path
) -> None:
    origin = tmp_path / "origin"
    model = AutoModelForCausalLM.from_pretrained(world.a, dtype=torch.bfloat16)
    model.save_pretrained(origin)
    tiny.tokenizer().save_pretrained(origin)
    habits = '{"eos_token_id": [1, 2], "top_p": 0.9}'
    (origin / "generation_config.json").write_text(habits)
    loaded = loading.load_language_model(origin, Placement(torch.float32, CPU))
    target = tmp_path / "target"
    saving.save_model(loaded.model, target, like=origin)
    again = AutoModelForCausalLM.from_pretrained(target)
    assert again.dtype == torch.bfloat16
    assert (target / "generation_config.json").read_text() == habits
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_dropout_is_off_while_weights_are_trained(tmp_path: Path) -> None:
    """A folder that asks for dropout: two passes agree to the bit, with gradients too."""
    folder = tiny.save_language_model(tmp_path / "a", seed=1, attention_dropout=0.5)
    loaded = loading.load_language_model(folder, Placement(torch.float32, CPU))
    # Mixtures add noise, and others drop layers, in training mode; dropout rates are 0 either way.
    assert not loaded.model.training
    loading.trainable(loaded.model)
    prompts, answers = pad_left(ROWS, 0), pad_right(ROWS, 0)
    read = Sequences.of(prompts, answers)
    first, second = (forward.answer_logprobs(loaded.model, read, 1.0) for _ in range(2))
    assert first.requires_grad and torch.equal(first, second)


def test_a_critic_from_a_reward_model_predicts_the_scores_that_are_trained_on(
    world: World, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(world.rm, tmp_path / "rm"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"salsa_reward": {"mean": 2, "std": 4}})
    )
    reward = loading.load_reward_model(folder, Placement(torch.float32, CPU))
    critic = loading.load_critic(folder, Placement(torch.float32, CPU))
    expected = (reward.score_ids(ROWS) - 2) / 4
    found = forward.last_scores(critic, pad_right(ROWS, 0))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("declared", "stored"),
    [("bfloat16", torch.float32), ("float32", torch.bfloat16), ("float16", torch.float32)],
)
def test_weights_are_written_in_the_type_of_the_files_whatever_config_json_says(
    world: World, tmp_path: Path, declared: str, stored: torch.dtype
) -> None:
    folder = tmp_path / "m"
    model = AutoModelForCausalLM.from_pretrained(world.a, dtype=stored)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": declared}))
    assert shapes.stored_dtype(folder) == stored
    note = shapes.dtype_note(folder)
    assert note is not None
    assert f"config.json declares {declared}, but the weights are {str(stored)[6:]}" in note
    assert shapes.dtype_note(world.a) is None
    read = loading.load_language_model(folder, Placement(None, CPU)).model
    loaded = loading.load_language_model(folder, Placement(torch.float32, CPU))
    saving.save_model(loaded.model, tmp_path / "out", like=folder)
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], value), name
        assert written[name].dtype == stored and torch.equal(written[name], value), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == str(stored)[6:]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"early_stopping": 7}', "generation_config.json cannot be used"),
        ('{"cache_implementation": "none"}', "generation_config.json cannot be used"),
        ('{"max_new_tokens": -5}', "generation_config.json cannot be used"),
        ("[1]", "generation_config.json cannot be used"),
        ('{"eos_token_id": "2"}', "eos_token_id in generation_config.json contains '2'"),
        ('{"eos_token_id": [2, 2.5]}', "eos_token_id in generation_config.json contains 2.5"),
        ('{"eos_token_id": -1}', "eos_token_id in generation_config.json contains -1"),
    ],
)
def test_a_generation_config_that_cannot_be_used_is_refused(
    world: World, tmp_path: Path, content: str, words: str
) -> None:
    folder = Path(shutil.copytree(world.a, tmp_path / "m"))
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(SalsaError) as caught:
        loading.end_ids(folder)
    assert f"{folder}: {words}" in str(caught.value)


@pytest.mark.parametrize("name", ["Mixtral", "Qwen2Moe", "PhiMoE", "OlmoE", "Qwen3Moe"])
def test_a_mixture_of_experts_whose_config_asks_for_router_logits(
    tmp_path: Path, name: str
) -> None:
    """What trainers leave in config.json; rollouts of prompts of several lengths failed."""
    kind = {"PhiMoE": "Phimoe", "OlmoE": "Olmoe"}.get(name, name)
    sizes = {one: value for one, value in families.SMALL.items() if one != "head_dim"}
    experts = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
    more = {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
    config = getattr(transformers, f"{kind}Config")(
        **sizes, **experts, **more, output_router_logits=True, return_dict=True
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    flags = {"output_router_logits": True, "output_hidden_states": True}
    (tmp_path / "config.json").write_text(json.dumps(content | flags))
    policy = loading.load_language_model(tmp_path, Placement(torch.float32, CPU))
    prompts = [[4, 6, 9], [5], [7, 8, 3, 3, 12]]
    uniforms = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = selection.select_generator("auto", policy.model)(policy, prompts, uniforms, 1.0)
    for prompt, row, numbers in zip(prompts, ids, uniforms, strict=True):
        alone = selection.select_generator("auto", policy.model)(
            policy, [prompt], numbers[None], 1.0
        )[0]
        length = next((n for n, token in enumerate(alone.tolist()) if token == 2), len(alone))
        assert row[:length].tolist() == alone[:length].tolist()


@pytest.mark.parametrize(
    "flags",
    [
        {"return_dict": False},
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"use_cache": False},
    ],
)
def test_what_a_config_asks_of_a_forward_pass_changes_no_answer(
    world: World, tmp_path: Path, flags: dict[str, bool]
) -> None:
    folder = Path(shutil.copytree(world.a, tmp_path / "m"))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | flags))
    uniforms = torch.rand(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for path in (folder, world.a):
        policy = loading.load_language_model(path, Placement(torch.float32, CPU))
        read = Sequences.of(pad_left([[4, 6, 9], [5]], 0), pad_right([[6, 2], [11, 5]], 0))
        found.append(
            (
                selection.select_generator("auto", policy.model)(
                    policy, [[4, 6, 9], [5]], uniforms, 1.0
                ),
                forward.answer_logprobs(policy.model, read, 1.0),
            )
        )
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_dropout_stays_off_while_activations_are_recomputed() -> None:
    """OPT's layers drop out by a rate of their own wherever they are in training mode."""
    config = OPTConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=32,
        word_embed_proj_dim=16,
        max_position_embeddings=32,
        dropout=0.5,
        layerdrop=0.5,
    )
    torch.manual_seed(0)
    model = OPTForCausalLM(config).eval()
    ids = torch.arange(12).view(2, 6)
    plain = model(input_ids=ids, use_cache=False).logits
    with loading.checkpointed(model):
        recomputed = model(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=0)
        recomputed.sum().backward()
    assert not any(module.training for module in model.modules())


def test_the_first_layers_alone_recompute() -> None:
    """To the same bits, and with what the others keep still kept."""
    config = LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    ids = torch.arange(12).view(2, 6)
    calls: list[int] = []
    for place, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, place=place: calls.append(place))
    plain = model(input_ids=ids, use_cache=False).logits
    calls.clear()
    with loading.checkpointed(model, layers=2):
        recomputed = model(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=0)
        recomputed.sum().backward()
    assert calls == [0, 1, 2, 1, 0]
    assert not any(module.training for module in model.modules())
