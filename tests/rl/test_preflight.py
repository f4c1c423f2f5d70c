"""What is refused before a weight is loaded, all reasons at once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from salsa_cli import ppo
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.models import assembly, loading
from salsa_cli.models.backbones import Placement
from salsa_cli.rl import preflight
from salsa_cli.runs.events import Event, Note, Warned, silent
from tests.support import tiny
from tests.support.ppo_runs import configure_anchored as configure
from tests.support.worlds import World


def copy(folder: Path, target: Path, **generation: Any) -> Path:
    """A model folder with another generation config."""
    made = Path(shutil.copytree(folder, target))
    (made / "generation_config.json").write_text(json.dumps(generation))
    return made


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    content |= changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def refused(config: PPOConfig) -> str:
    """The message; no weight may have been loaded for it."""
    with pytest.raises(SalsaError) as caught, pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "load", lambda *a, **k: pytest.fail("a weight was loaded"))
        ppo.run(config, silent)
    assert not config.output.exists()
    return str(caught.value)


def test_all_reasons_at_once(world: World, tmp_path: Path) -> None:
    config = configure(
        world,
        tmp_path / "policy",
        ref=("nowhere",),
        reward=(str(world.a), "missing"),
        watch_reward=("gone.py:score",),
        prompts="none.jsonl",
    )
    message = refused(config)
    assert message.startswith("this run cannot start (5 problems):\n  - nowhere: no such folder")
    assert f"{world.a} cannot be used as a reward model" in message
    assert "it has no trained score head" in message
    assert "missing: no such folder" in message
    assert "gone.py:score: cannot import gone.py" in message
    assert "none.jsonl: no such file or folder" in message


def test_a_score_head_that_only_the_configuration_names_is_missed(
    world: World, tmp_path: Path
) -> None:
    """Transformers saves such a folder where the head was left out of the weights."""
    headless = Path(shutil.copytree(world.a, tmp_path / "headless"))
    edit(headless / "config.json", architectures=["LlamaForSequenceClassification"])
    message = refused(configure(world, tmp_path / "policy", reward=(str(headless),)))
    assert (
        "its config.json names a sequence classifier and its files have no score.weight"
    ) in message


def test_other_special_tokens_are_refused(world: World, tmp_path: Path) -> None:
    other = Path(shutil.copytree(world.a, tmp_path / "other"))
    tiny.tokenizer(eos_token="<s>").save_pretrained(other)
    message = refused(configure(world, tmp_path / "policy", ref=(str(other),), policy=str(world.a)))
    assert "eos_token: '</s>' in" in message and "'<s>' in" in message


def test_a_reference_of_another_shape_may_stand_but_not_move(world: World, tmp_path: Path) -> None:
    wide = tiny.save_language_model(tmp_path / "wide", seed=3, intermediate_size=48)
    changes: dict[str, Any] = {"ref": (str(wide),), "policy": str(world.a), "updates": 1}
    message = refused(configure(world, tmp_path / "policy", ref_update="ema", **changes))
    assert "but their shapes differ: model.layers.0.mlp.down_proj.weight" in message
    ppo.run(configure(world, tmp_path / "policy", **changes), silent)
    assert (tmp_path / "policy" / "config.json").exists()


def test_an_end_token_out_of_reach_is_refused(world: World, tmp_path: Path) -> None:
    far = copy(world.a, tmp_path / "far", eos_token_id=[2, 99])
    message = refused(configure(world, tmp_path / "policy", policy=str(far)))
    assert "has logits for 24 tokens and can never produce its end token 99" in message


def test_a_policy_without_an_end_token_is_refused(world: World, tmp_path: Path) -> None:
    endless = copy(world.a, tmp_path / "endless")
    edit(endless / "tokenizer_config.json", eos_token=None)
    edit(endless / "config.json", eos_token_id=None)
    message = refused(configure(world, tmp_path / "policy", policy=str(endless)))
    assert (
        "neither the tokenizer nor generation_config.json has an end token (eos_token)"
    ) in message


def test_a_missing_pad_token_is_no_obstacle_and_is_said(world: World, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(world.a, tmp_path / "bare"))
    edit(bare / "tokenizer_config.json", pad_token=None)
    edit(bare / "config.json", pad_token_id=None)
    notes: list[str] = []
    config = configure(world, tmp_path / "policy", ref=(str(bare),), updates=1)
    ppo.run(config, lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    assert f"{bare} has no pad token: its end token is used for padding, which is masked" in notes


def test_a_reward_whose_scores_are_raw_is_said(world: World, tmp_path: Path) -> None:
    scaled = Path(shutil.copytree(world.rm, tmp_path / "scaled"))
    edit(scaled / "config.json", salsa_reward={"mean": 1.0, "std": 2.0})

    def said(*rewards: Path, **changes: Any) -> list[Event]:
        names = tuple(map(str, rewards))
        events: list[Event] = []
        config = configure(world, tmp_path / "policy", reward=names, **changes)
        preflight.prepare(config, events.append)
        return [one for one in events if "raw scores" in str(one)]

    raw = f"no mean and standard deviation of scores in {world.rm}: raw scores are used"
    advice = "; --normalize-reward measures them"
    assert said(scaled) == said(world.rm, normalize_reward=True) == []
    assert said(world.rm) == [Note(f"{raw}{advice}")]
    mixed = Warned(f"{raw}, unlike those of the other rewards{advice}")
    assert said(scaled, world.rm) == [mixed]


def test_the_files_say_the_same_end_tokens_as_the_model(world: World, tmp_path: Path) -> None:
    import torch

    several = copy(world.a, tmp_path / "several", eos_token_id=[1, 7])
    none = Path(shutil.copytree(world.a, tmp_path / "none"))
    (none / "generation_config.json").unlink(missing_ok=True)
    for folder in (world.a, several, none):
        loaded = loading.load_language_model(folder, Placement(torch.float32, torch.device("cpu")))
        assert loading.end_ids(folder) == loaded.eos_ids
    assert loading.end_ids(several) == (1, 7, 2)


def test_where_the_critic_comes_from(world: World, tmp_path: Path) -> None:
    def critic(**changes: Any) -> Path:
        return preflight.prepare(configure(world, tmp_path / "policy", **changes), silent).critic

    assert critic() == critic(critic="reward") == world.rm
    assert critic(critic="policy") == world.a
    assert critic(critic=str(world.b)) == world.b
    (tmp_path / "f.py").write_text("def score(p, a): return [0.0] * len(a)\n")
    function = (f"{tmp_path / 'f.py'}:score",)
    assert critic(reward=function) == world.a
    with pytest.raises(SalsaError, match="--critic reward: no --reward is a model"):
        critic(reward=function, critic="reward")


def test_a_prompt_without_a_token_is_named(world: World, tmp_path: Path) -> None:
    prompts = tiny.write_rows(tmp_path / "p.jsonl", [{"prompt": "the cat"}, {"prompt": "  "}])
    message = refused(configure(world, tmp_path / "policy", prompts=str(prompts)))
    assert "p.jsonl, row 2: the prompt has no tokens" in message


def test_prompts_at_the_limit_stay_and_longer_ones_go(world: World, tmp_path: Path) -> None:
    """64 positions less 6 for the answer."""
    prompts = tiny.write_rows(
        tmp_path / "p.jsonl", [{"prompt": " ".join(["the"] * n)} for n in (57, 58, 59)]
    )
    warned: list[str] = []
    config = configure(world, tmp_path / "policy", prompts=str(prompts), updates=1)
    ppo.run(config, lambda event: warned.append(event.text) if isinstance(event, Warned) else None)
    assert warned[0].startswith("1 of 3 prompts is dropped: longer than 58 tokens")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ref": ("a", "b")}, "--penalty kl takes one --ref; found 2"),
        ({"penalty": "mean-kl"}, "--penalty mean-kl has no effect with one --ref"),
        ({"kl_in": "loss"}, "the gradient of k1 is 0 on average"),
        ({"kl_in": "loss", "penalty": "chi2"}, "--penalty chi2 cannot be part of the loss"),
        ({"penalty": "chi2", "kl_estimator": "k3"}, "--kl-estimator k3 has no effect"),
        ({"kl_estimator": "k3"}, "k3 in the reward does not hold the policy near REF"),
        ({"kl_estimator": "k2"}, "k2 in the reward does not hold the policy near REF"),
        ({"kl_horizon": 100}, "--kl-horizon has no effect without --kl-target"),
        ({"kl_target": 6.0, "kl_horizon": 4}, "shorter than a batch of 8"),
        ({"kl_target": 6.0, "kl_coef": 0.0}, "no effect with --kl-coef 0"),
        ({"ref_rate": 0.1}, "--ref-rate has no effect without --ref-update"),
        ({"ref_every": 2}, "--ref-every has no effect without --ref-update"),
        ({"ref_update": "ema", "kl_coef": 0.0}, "--ref-update ema has no effect with --kl-coef 0"),
        ({"ref_update": "sync"}, "moves the reference every 64 updates, and the run has 3"),
        ({"ref_update": "ema", "ref_every": 4}, "every 4 updates, and the run has 3: never"),
        (
            {"ref_update": "ema", "ref": ("a", "b"), "penalty": "mean-kl"},
            "--ref-update ema takes one --ref",
        ),
        ({"ensemble": "min"}, "--ensemble min has no effect with one --reward"),
        ({"uncertainty_weight": 0.1}, "no effect without --ensemble uncertainty"),
        ({"no_eos_value": 1.0}, "--no-eos-value has no effect with --no-eos keep"),
        ({"no_eos": "replace"}, "--no-eos replace needs --no-eos-value"),
        ({"offload": ("ref,critic",)}, "--offload critic: expected one of ref, reward, watch"),
        ({"offload": ("ref,watch",)}, "--offload watch has no effect without --watch-reward"),
        ({"critic_warmup": 3}, "leaves no update for the policy: the run has 3"),
    ],
)
def test_settings_that_do_not_go_together(
    world: World, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        configure(world, tmp_path / "policy", **changes)
    assert words in str(caught.value)


def test_all_settings_that_do_not_go_together_at_once(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        configure(world, tmp_path / "p", batch_size=10, minibatches=3, ref_every=2, kl_horizon=9)
    assert str(caught.value) == (
        "these settings contradict each other:\n"
        "  - --batch-size 10, which counts answers, cannot be divided by --minibatches 3; expected "
        "a multiple of 3, such as 9 or 12\n"
        "  - --kl-horizon has no effect without --kl-target\n"
        "  - --ref-every has no effect without --ref-update"
    )


def test_another_end_of_answers_is_worth_a_warning(world: World, tmp_path: Path) -> None:
    other = copy(world.a, tmp_path / "other", eos_token_id=[2, 5], pad_token_id=0)
    config = configure(
        world, tmp_path / "policy", ref=(str(other),), policy=str(world.a), dry_run=True
    )
    told: list[str] = []
    ppo.run(config, lambda event: told.append(event.text) if isinstance(event, Warned) else None)
    assert any(f"{world.a} ends answers with token 2, the reference" in text for text in told)
    assert any("with 2, 5, so ending an answer has a high KL" in text for text in told)


def with_more_logits(folder: Path, size: int = 30) -> Path:
    """A policy with logits for more tokens than its tokenizer has, as padded vocabularies have."""
    return tiny.save_language_model(folder, seed=1, vocab_size=size)


def test_the_critic_reads_every_token_that_the_policy_can_sample(
    world: World, tmp_path: Path
) -> None:
    """By default it starts from the policy where the reward model has too small an embedding."""
    policy = with_more_logits(tmp_path / "policy")
    told: list[Event] = []
    config = configure(world, tmp_path / "p", ref=(str(policy),), updates=1)
    ppo.run(config, told.append)
    found = (
        f"{policy} has logits for 30 tokens and can sample tokens 24 to 29, and {world.rm} has an "
        "embedding of 24"
    )
    assert Note(f"the critic starts from the policy: {found}") in told
    made = json.loads((config.output / "salsa.json").read_text())
    assert made["inputs"]["critic"]["path"] == str(policy)


@pytest.mark.parametrize("critic", ["reward", "folder"])
def test_a_critic_that_cannot_read_the_policys_tokens_is_refused(
    world: World, tmp_path: Path, critic: str
) -> None:
    policy = with_more_logits(tmp_path / "policy", 25)
    named = str(world.rm) if critic == "folder" else critic
    config = configure(world, tmp_path / "p", ref=(str(policy),), critic=named, dry_run=True)
    message = refused(config)
    assert f"{policy} has logits for 25 tokens and can sample token 24, and {world.rm} " in message
    assert "xpected --critic policy, or a model" in message


def test_a_reward_model_in_two_parts_has_its_problem_listed_once(
    world: World, tmp_path: Path
) -> None:
    """Here it is the reward, the critic, and is watched."""
    policy = with_more_logits(tmp_path / "policy")
    rows = [{"prompt": "the"}, {"prompt": "the [NEW]"}]
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[NEW]"]})
    short = Path(shutil.copytree(world.rm, tmp_path / "short"))
    for folder in (policy, short):
        tokenizer.save_pretrained(folder)
    config = configure(
        world,
        tmp_path / "p",
        ref=(str(policy),),
        reward=(str(short),),
        watch_reward=(str(short),),
        critic=str(short),
        prompts=str(tiny.write_rows(tmp_path / "p.jsonl", rows)),
    )
    message = refused(config)
    assert message.count("row 2 contains token 24") == 1


def test_settings_of_generation_that_training_ignores_are_named_once(
    world: World, tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "eos_token_id": 2,
        "suppress_tokens": [5, 6],
        "bad_words_ids": [[7]],
        "repetition_penalty": 1.5,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 3,
    }
    told: list[Event] = []
    policy = copy(world.a, tmp_path / "a", **given)
    ppo.run(configure(world, tmp_path / "p", ref=(str(policy),), updates=1), told.append)
    found = [one.text for one in told if isinstance(one, Note) and "training ignores" in one.text]
    assert found == [
        f"{policy}: generation_config.json sets suppress_tokens, bad_words_ids, "
        "repetition_penalty, no_repeat_ngram_size, min_new_tokens, which training ignores: answers "
        "are sampled from all tokens"
    ]
    plain = copy(world.a, tmp_path / "b", eos_token_id=2, repetition_penalty=1.0, temperature=0.3)
    assert loading.ignored_settings(plain) == {}
