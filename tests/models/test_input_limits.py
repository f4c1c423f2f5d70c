"""What a model cannot read is known from its files: templates, tokens, positions."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from salsa_cli import ppo, train_rm
from salsa_cli.config.eval import EvalConfig
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation import planning
from salsa_cli.models import assembly, input_limits, loading, shapes
from salsa_cli.models.backbones import Placement
from salsa_cli.models.input_limits import Limits
from salsa_cli.models.tokenization import Answer
from salsa_cli.reward_models import evaluation
from salsa_cli.runs.events import silent
from tests.support import tiny
from tests.support.ppo_runs import configure_anchored as configure
from tests.support.worlds import World

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {"vocab_size": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{{ m.content }} {% endfor %}"
)


def save(folder: Path, kind: str, **settings: Any) -> Path:
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **settings}, num_labels=1)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def short_gpt2(folder: Path, positions: int = 12) -> Path:
    return save(folder, "GPT2", n_positions=positions, n_embd=16, n_layer=1, n_head=2)


def extended(folder: Path, target: Path, *, pad: bool = False) -> Path:
    """A model whose tokenizer got a token that its embedding does not have."""
    made = Path(shutil.copytree(folder, target))
    tokenizer = loading.load_tokenizer(made)
    added = {"pad_token": "[PAD]"} if pad else {"additional_special_tokens": ["[NEW]"]}
    tokenizer.add_special_tokens(added)  # type: ignore[attr-defined]
    tokenizer.save_pretrained(made)  # type: ignore[attr-defined]
    return made


def refused(config: Any, run: Any) -> str:
    """The message; no weight may have been loaded for it."""
    with pytest.raises(SalsaError) as caught, pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "load", lambda *a, **k: pytest.fail("a weight was loaded"))
        run(config, silent)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "settings", "limit"),
    [
        ("GPT2", {"n_positions": 12, "n_embd": 16, "n_layer": 1, "n_head": 2}, 12),
        (
            "OPT",
            {
                "max_position_embeddings": 12,
                "hidden_size": 16,
                "word_embed_proj_dim": 16,
                "ffn_dim": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
            12,
        ),
        (
            "GPTNeo",
            {
                "max_position_embeddings": 12,
                "hidden_size": 16,
                "num_layers": 1,
                "num_heads": 2,
                "attention_types": [[["global"], 1]],
            },
            12,
        ),
        ("GPTBigCode", {"n_positions": 12, "n_embd": 16, "n_layer": 1, "n_head": 2}, 12),
        ("GPTJ", {"n_positions": 12, "n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4}, 12),
        (
            "Llama",
            {
                "max_position_embeddings": 12,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
            None,
        ),
    ],
)
def test_the_limit_of_positions_is_that_of_the_model(
    tmp_path: Path, kind: str, settings: dict[str, Any], limit: int | None
) -> None:
    """The model itself reads rows of this length, and fails on one token more."""
    folder = save(tmp_path / "m", kind, **settings)
    assert shapes.position_limit(folder) == limit
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    model(torch.full((1, 12), 5))
    if limit is None:
        model(torch.full((1, 13), 5))
    else:
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, 13), 5))


@pytest.mark.parametrize("option", ["reward", "watch_reward"])
def test_ppo_knows_before_loading_that_a_reward_model_is_too_short(
    world: World, tmp_path: Path, option: str
) -> None:
    folder = short_gpt2(tmp_path / "short")
    config = configure(
        world, tmp_path / "ppo", response_length=8, dry_run=True, **{option: (str(folder),)}
    )
    message = refused(config, ppo.run)
    assert f"{folder}: the context of the model is 12 tokens; " in message
    assert "first in row 4; the longest has 5 tokens) with an answer of 8 tokens" in message
    # Prompts have 2 to 5 tokens: with an answer of 7 tokens all of them fit.
    ppo.run(
        configure(world, tmp_path / "p", response_length=7, dry_run=True, reward=(str(folder),)),
        silent,
    )


def test_ppo_and_eval_name_tokens_that_a_reward_model_has_no_embedding_of(
    world: World, tmp_path: Path
) -> None:
    folder = extended(world.rm, tmp_path / "rm")
    prompts = tiny.write_rows(tmp_path / "p.jsonl", [{"prompt": "the"}, {"prompt": "the [NEW]"}])
    config = configure(
        world, tmp_path / "ppo", reward=(str(folder),), prompts=str(prompts), dry_run=True
    )
    words = (
        f"{folder}: the embedding of the model has 24 tokens, and {prompts}, row 2 contains token "
        "24"
    )
    assert words in refused(config, ppo.run)
    judged = EvalConfig(
        models=[str(world.a)],
        prompts=str(prompts),
        judge=[f"rm:{folder}"],
        output=tmp_path / "e",
    )
    assert words in refused(judged, lambda config, _: planning.prepare(config))
    reward = loading.load_reward_model(folder, Placement(torch.float32, CPU))
    with pytest.raises(SalsaError, match=r"an answer contains token 24 \('\[NEW\]'\)"):
        reward.score(["the"], [Answer(" [NEW]")])


def test_a_pad_token_that_has_no_embedding_is_not_used(world: World, tmp_path: Path) -> None:
    """Padding is masked: the end token pads as well, and the scores are the same."""
    for source, read in (
        (world.rm, loading.load_reward_model),
        (world.a, loading.load_language_model),
    ):
        folder = extended(source, tmp_path / source.name, pad=True)
        assert loading.load_tokenizer(folder).pad_token_id == 24
        assert read(folder, Placement(torch.float32, CPU)).pad_id == 2  # type: ignore[operator]
    given = ["the cat", "sat"], [Answer(" sat on the mat"), Answer(" ran")]
    ours = loading.load_reward_model(tmp_path / world.rm.name, Placement(torch.float32, CPU)).score(
        *given
    )
    theirs = loading.load_reward_model(world.rm, Placement(torch.float32, CPU)).score(*given)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # other padding, other rounding


def test_an_answer_that_is_too_long_for_a_reward_model_is_no_index_error(tmp_path: Path) -> None:
    reward = loading.load_reward_model(short_gpt2(tmp_path / "m"), Placement(torch.float32, CPU))
    reward.score(["the"], [Answer(" sat" * 10)])
    with pytest.raises(SalsaError, match="has 13 tokens, and the context of the model is 12"):
        reward.score(["the"], [Answer(" sat" * 11)])


def test_an_end_token_without_an_embedding_is_refused(world: World) -> None:
    tokenizer = loading.load_tokenizer(world.rm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Limits, "of", lambda _: Limits(2, None))
        with pytest.raises(SalsaError, match=r"every answer ends with token 2 \('</s>'\)"):
            input_limits.check_prompts(world.rm, tokenizer, ["the"], "p.jsonl", 4)


@pytest.mark.parametrize("part", ["policy", "reward"])
def test_a_template_that_raises_is_quoted_by_all_commands_before_loading(
    world: World, tmp_path: Path, part: str
) -> None:
    """The template of whichever model reads the row."""
    source = world.rm if part == "reward" else world.a
    folder = Path(shutil.copytree(source, tmp_path / "strict"))
    (folder / "chat_template.jinja").write_text(STRICT)
    turns = [{"role": "system", "content": "the"}, {"role": "user", "content": "cat"}]
    rows = [{"prompt": turns[1:]}, {"prompt": turns}]
    prompts = tiny.write_rows(tmp_path / "p.jsonl", rows)
    words = (
        "row 2: the chat template rejects a conversation with the roles system, user: System role"
    )
    changes = {"reward": (str(folder),)} if part == "reward" else {"ref": (str(folder),)}
    config = configure(world, tmp_path / "ppo", prompts=str(prompts), dry_run=True, **changes)
    assert f"{prompts}, {words}" in refused(config, ppo.run)
    models = [str(world.a if part == "reward" else folder)]
    judged = EvalConfig(
        models=models,
        prompts=str(prompts),
        judge=[f"rm:{folder if part == 'reward' else world.rm}"],
        output=tmp_path / "e",
    )
    assert f"{prompts}, {words}" in refused(judged, lambda config, _: planning.prepare(config))
    pairs = [{**row, "chosen": "sat", "rejected": "ran"} for row in json.loads(json.dumps(rows))]
    data = tiny.write_rows(tmp_path / "d.jsonl", pairs)
    trained = TrainRMConfig(
        model=str(folder), data=str(data), output=tmp_path / "rm", dry_run=True, device="cpu"
    )
    assert f"{data}: {words}" in refused(trained, train_rm.run)


def test_prompts_that_the_policy_leaves_out_do_not_count(world: World, tmp_path: Path) -> None:
    """Too long for the policy's own positions, they are left out with a warning, as before."""
    folder = short_gpt2(tmp_path / "rm", positions=10)
    config = transformers.GPT2Config(**SIZES, n_positions=10, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "policy")
    tiny.tokenizer().save_pretrained(tmp_path / "policy")
    rows = [{"prompt": "the cat"}, {"prompt": "the " * 9}, {"prompt": "sat"}]
    prompts = tiny.write_rows(tmp_path / "p.jsonl", rows)
    told: list[Any] = []
    run = configure(
        world,
        tmp_path / "ppo",
        ref=(str(tmp_path / "policy"),),
        reward=(str(folder),),
        prompts=str(prompts),
        response_length=8,
        dry_run=True,
    )
    ppo.run(run, told.append)
    assert any("1 of 3 prompts is dropped" in getattr(one, "text", "") for one in told)
    with pytest.raises(SalsaError, match="first in row 2; the longest has 9 tokens"):
        input_limits.check_prompts(
            folder, loading.load_tokenizer(folder), [row["prompt"] for row in rows], "p", 8
        )


def rotary(folder: Path, rope: str, length: int = 8, *, reward: bool = False) -> Path:
    """A model whose rotary frequencies change beyond `length` tokens."""
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    if rope == "longrope":
        parameters: dict[str, Any] = {
            "short_factor": [1.0] * 4,
            "long_factor": [8.0, 4.0, 20.0, 2.0],
            "original_max_position_embeddings": length,
            "factor": 8.0,
        }
        kind, context = "Phi3", 64
        shape["original_max_position_embeddings"] = length
    else:
        kind, parameters, context = "Llama", {"factor": 8.0}, length
    parameters |= {"rope_type": rope, "rope_theta": 10000.0}
    config = getattr(transformers, f"{kind}Config")(
        **SIZES, **shape, max_position_embeddings=context, rope_parameters=parameters, num_labels=1
    )
    torch.manual_seed(0)
    made = (
        transformers.AutoModelForSequenceClassification
        if reward
        else transformers.AutoModelForCausalLM
    )
    model = made.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("rope", ["longrope", "dynamic"])
@pytest.mark.parametrize(
    ("lengths", "others"), [((4, 8), 0), ((4, 9), 1), ((9, 11), 2), ((9, 9), 0)]
)
def test_a_switch_separates_rows_where_transformers_reads_one_otherwise_than_alone(
    tmp_path: Path, rope: str, lengths: tuple[int, int], others: int
) -> None:
    """`others`: 0 if a row is read beside the other as alone, 2 if with "longrope" only."""
    folder = rotary(tmp_path / "m", rope)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    short, long = lengths
    ids = torch.arange(5, 5 + long)[None].repeat(2, 1)
    ids[0, short:] = 0
    mask = (torch.arange(long) < torch.tensor(lengths)[:, None]).long()
    with torch.no_grad():
        # In this order: "dynamic" keeps the frequencies of the longest row so far.
        alone = model(input_ids=ids[:1, :short]).logits[0]
        beside = model(input_ids=ids, attention_mask=mask).logits[0, :short]
    same = bool((beside - alone).abs().max() < 1e-4)
    assert same == (others == 0 or (others == 2 and rope == "longrope"))
    (switch,) = shapes.rotary_switches(folder)
    assert switch == shapes.RotarySwitch(rope, 8)
    # Rows of one length are alike, but those of other batches need not be.
    assert switch.separates(short, long) == (not same or (rope == "dynamic" and long > 8))


@pytest.mark.parametrize("part", ["policy", "reward"])
def test_ppo_refuses_rows_on_both_sides_of_a_rotary_switch(
    world: World, tmp_path: Path, part: str
) -> None:
    """Prompts have 2 to 5 tokens, so that answers of 3 tokens fit into 8."""
    folder = rotary(tmp_path / "m", "longrope", reward=part == "reward")
    changes = {"reward": (str(folder),)} if part == "reward" else {"ref": (str(folder),)}
    config = configure(world, tmp_path / "ppo", response_length=4, dry_run=True, **changes)
    message = refused(config, ppo.run)
    assert f"{folder}: beyond 8 tokens the rotary frequencies of the model depend on the" in message
    assert "the longest has 5 tokens) with an answer of 4 tokens can exceed it" in message
    assert "Expected shorter prompts or answers: at most 8 tokens together" in message
    ppo.run(
        configure(world, tmp_path / "p", response_length=3, dry_run=True, **changes),
        silent,
    )


def test_ppo_reads_a_dynamic_policy_within_its_context_alone(world: World, tmp_path: Path) -> None:
    """Longer prompts are left out, and a reward model of this kind is refused for them."""
    told: list[Any] = []
    folder = rotary(tmp_path / "m", "dynamic")
    ppo.run(
        configure(
            world, tmp_path / "p", ref=(str(folder),), response_length=4, dry_run=True, policy=None
        ),
        told.append,
    )
    words = "longer than 4 tokens, the context minus --response-length"
    assert any(words in getattr(one, "text", "") for one in told)
    other = rotary(tmp_path / "rm", "dynamic", reward=True)
    config = configure(world, tmp_path / "q", reward=(str(other),), response_length=4, dry_run=True)
    assert "(rope_type dynamic)" in refused(config, ppo.run)


def test_rows_beyond_a_rotary_switch_are_read_together(tmp_path: Path) -> None:
    """All on one side, they have one set of frequencies; with "dynamic" one for each length."""
    folder = rotary(tmp_path / "m", "longrope", length=3)
    tokenizer = loading.load_tokenizer(folder)
    given: Any = (["the cat sat on the mat"], "p", 8)
    input_limits.check_prompts(folder, tokenizer, *given)
    with pytest.raises(SalsaError, match="rope_type dynamic"):
        input_limits.check_prompts(rotary(tmp_path / "d", "dynamic", length=3), tokenizer, *given)


def test_scoring_refuses_a_batch_on_both_sides_of_a_rotary_switch(tmp_path: Path) -> None:
    folder = rotary(tmp_path / "m", "longrope", reward=True)
    reward = loading.load_reward_model(folder, Placement(torch.float32, CPU))
    reward.score(["the", "cat"], [Answer(" sat"), Answer(" on")])
    with pytest.raises(SalsaError, match="prompts with answers have 3 to 12 tokens"):
        reward.score(["the", "cat"], [Answer(" sat"), Answer(" sat" * 10)])


def test_train_rm_refuses_pairs_on_both_sides_of_a_rotary_switch(tmp_path: Path) -> None:
    folder = rotary(tmp_path / "m", "longrope")
    pairs = [
        {"prompt": f"the {word}", "chosen": "sat on mat", "rejected": "ran " * length}
        for word, length in (("cat", 1), ("dog", 2), ("bird", 9))
    ]
    data = tiny.write_rows(tmp_path / "d.jsonl", pairs)
    given: dict[str, Any] = {"model": str(folder), "data": str(data), "device": "cpu"}
    config = TrainRMConfig(output=tmp_path / "rm", dry_run=True, **given)
    message = refused(config, train_rm.run)
    assert f"{folder} (--max-length): beyond 8 tokens" in message
    assert "(rope_type longrope)" in message
    short = TrainRMConfig(output=tmp_path / "s", dry_run=True, max_length=8, **given)
    train_rm.run(short, silent)  # which drops or cuts the long pair


def test_evaluating_a_reward_model_refuses_pairs_on_both_sides_of_a_rotary_switch(
    tmp_path: Path,
) -> None:
    folder = rotary(tmp_path / "m", "longrope", reward=True)
    pairs = [
        {"prompt": f"the {word}", "chosen": "sat on mat", "rejected": "ran " * length}
        for word, length in (("cat", 1), ("dog", 9))
    ]
    data = tiny.write_rows(tmp_path / "d.jsonl", pairs)
    given: dict[str, Any] = {"model": str(folder), "eval_data": str(data), "device": "cpu"}
    config = TrainRMConfig(output=tmp_path / "out", dry_run=True, **given)
    assert f"{folder} (--max-length): beyond 8 tokens" in refused(config, evaluation.run)
    assert not (tmp_path / "out").exists()
