"""The story of `ppo` on a model of a few thousand weights."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from salsa_cli import data, ppo
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.generation import rollouts
from salsa_cli.models import loading
from salsa_cli.records import read_rows
from salsa_cli.rl import batching, experience, learning, preflight
from salsa_cli.rl.actors import load_actors
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.rl.run import Run
from salsa_cli.runs import checkpoints, run_folder
from salsa_cli.runs.events import Event, Measured, Note, Warned, Working, silent
from salsa_cli.weights import hub
from tests.support import kills, tiny
from tests.support.ppo_runs import configure, rows_without_time, run, stopping_at, weights
from tests.support.worlds import World

GOLDEN = Path(__file__).parent / "golden"


TOLD: list[Event] = []
"""The events of the run that `finished` configures."""


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> PPOConfig:
    """The configuration of a run that went through without a stop."""
    config = configure(world, tmp_path_factory.mktemp("ppo") / "policy")
    ppo.run(config, TOLD.append)
    return config


def test_the_progress_within_an_update_is_told(finished: PPOConfig) -> None:
    working = [event for event in TOLD if isinstance(event, Working)]
    minibatches = [(one.done, one.total) for one in working if one.step == "minibatch"]
    assert minibatches == [(1, 4), (2, 4), (3, 4), (4, 4)] * 4
    answers = [one for one in working if one.step == "answers"]
    assert {one.total for one in answers} == {8}
    assert sum(one.detail == "token 1/6" for one in answers) == 4
    for before, after in pairwise(answers):
        assert after.detail == "token 1/6" or after.done >= before.done
    passes = [(one.done, one.total) for one in working if one.step == "values, pass"]
    assert len(passes) >= 4 and passes[0][0] == 1
    assert working[0].step == "checking the models and the prompts"
    assert "loading the critic" in {one.step for one in working}
    assert working[-1].step == "saving the policy"


def test_the_result_is_an_ordinary_folder(finished: PPOConfig) -> None:
    folder = finished.output
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("the cat", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=3).shape[1] > ids.shape[1]
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert {row["update"] for row in read_rows(folder / "samples.jsonl")} == {1, 2, 3, 4}
    made = json.loads((folder / "salsa.json").read_text())
    assert made["result"]["reward_last"] == rows[-1]["reward"]
    assert made["settings"]["ref"] == list(finished.ref)
    assert len(made["inputs"]["reference"]["weights_xxh3"]) == 32
    assert not run_folder.partial_folder(folder).exists()


def test_what_a_push_would_upload_is_the_model(finished: PPOConfig) -> None:
    assert hub.result_files(finished.output) == (
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    )


def test_the_rewards_of_all_answers_are_kept(finished: PPOConfig) -> None:
    rows = read_rows(finished.output / "rewards.jsonl")
    metrics = read_rows(finished.output / "metrics.jsonl")
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    for row, measured in zip(rows, metrics, strict=True):
        assert len(row["rewards"]) == finished.batch_size
        mean = sum(row["rewards"]) / finished.batch_size
        # Each reward is rounded to five digits.
        assert mean == pytest.approx(measured["reward"], abs=1e-4)
    page = (finished.output / "report.html").read_text()
    assert "Rewards at the start and at the end" in page
    for name in ("metrics.jsonl", "samples.jsonl", "rewards.jsonl", "salsa.json"):
        assert f'href="./{name}"' in page


def test_the_ratio_is_exactly_one_before_anything_has_moved(finished: PPOConfig) -> None:
    rows = read_rows(finished.output / "metrics.jsonl")
    assert [row["ratio_error"] for row in rows] == [0.0] * 4
    # ... and it is not one because nothing moves:
    assert all(row["approx_kl"] > 0 for row in rows)


def test_the_policy_starts_at_the_first_ingredient_away_from_the_soup(
    world: World, finished: PPOConfig
) -> None:
    made = json.loads((finished.output / "salsa.json").read_text())
    assert made["inputs"]["policy"]["path"] == str(world.a)
    assert read_rows(finished.output / "metrics.jsonl")[0]["kl"] > 0


def test_the_policy_has_moved(world: World, finished: PPOConfig) -> None:
    before, after = weights(world.a), weights(finished.output)
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_the_same_settings_give_the_same_bits(
    world: World, finished: PPOConfig, tmp_path: Path
) -> None:
    again = configure(world, tmp_path / "policy")
    run(again)
    assert rows_without_time(again.output) == rows_without_time(finished.output)
    for name, weight in weights(finished.output).items():
        assert torch.equal(weights(again.output)[name], weight), name


def test_four_updates_trace_the_golden_figures(finished: PPOConfig) -> None:
    """The four updates of `finished`, as they were when this trace was recorded.

    Processors sum in different orders, and Adam magnifies the difference where gradients vanish.
    """
    golden = read_rows(GOLDEN / "ppo_trace.jsonl")
    for row, expected in zip(rows_without_time(finished.output), golden, strict=False):
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-3, rel=1e-3), name


@pytest.mark.parametrize("stop_at", [2, 3])
def test_a_run_that_was_stopped_resumes_to_the_same_bits(
    world: World, finished: PPOConfig, tmp_path: Path, stop_at: int
) -> None:
    """Also where the data has moved, and where an empty folder waits for the result."""
    config = configure(world, tmp_path / "policy")
    stopping = stopping_at(stop_at)
    if stop_at == 2:  # stopped before the first checkpoint: nothing is left
        with pytest.raises(KeyboardInterrupt):
            ppo.run(config, stopping)
        assert list(tmp_path.iterdir()) == []
    else:
        with pytest.raises(KeyboardInterrupt):
            ppo.run(config, stopping)
        assert not config.output.exists()
        with pytest.raises(SalsaError, match="contains an unfinished run"):
            ppo.run(config, silent)
    notes: list[str] = []
    moved = tiny.prompts(tmp_path / "moved.jsonl")
    config.output.mkdir()
    ppo.run(
        replace(config, resume=True, prompts=str(moved)),
        lambda event: notes.append(event.text) if isinstance(event, Note) else None,
    )
    assert ("resumed after update 2" in notes) == (stop_at == 3)
    assert rows_without_time(config.output) == rows_without_time(finished.output)
    for name, weight in weights(finished.output).items():
        assert torch.equal(weights(config.output)[name], weight), name


def test_a_checkpoint_whose_critic_is_not_on_the_measured_scale_is_refused(
    world: World, tmp_path: Path
) -> None:
    """As releases before wrote it with --normalize-reward: its head has no bias."""
    config = configure(world, tmp_path / "policy", critic="reward", normalize_reward=True)
    with pytest.raises(KeyboardInterrupt):
        ppo.run(config, stopping_at(3))
    saved = checkpoints.latest_checkpoint(run_folder.partial_folder(config.output))
    assert saved is not None
    stored = torch.load(saved.file, weights_only=True)
    del stored["critic"]["model"]["score.bias"]
    torch.save(stored, saved.file)
    with pytest.raises(SalsaError, match=r"did not use --normalize-reward.*--force"):
        ppo.run(replace(config, resume=True), silent)
    # Refused without harm: the run starts again as it is told.
    ppo.run(replace(config, force=True), silent)
    assert (config.output / "config.json").exists()


def test_a_dry_run_says_from_where_it_would_resume(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", resume=True)
    dry = ppo.run(replace(config, dry_run=True), silent)
    assert dry.record()["resumes_after_update"] == 0
    with pytest.raises(KeyboardInterrupt):
        ppo.run(config, stopping_at(3))
    dry = ppo.run(replace(config, dry_run=True), silent)
    assert dry.record()["resumes_after_update"] == 2
    assert "resumes after update: 2" in dry.summary()[0]


def test_resume_refuses_other_settings(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", save_every=1)

    def stopping(event: Event) -> None:
        if isinstance(event, Measured) and event.values["update"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ppo.run(config, stopping)
    with pytest.raises(SalsaError, match=r"other settings: kl_coef was 0\.05, is 0\.1"):
        ppo.run(replace(config, resume=True, kl_coef=0.1), silent)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"save_every": 5},
        {"track": ("tensorboard",)},
        {"stop_on": ("clipping",)},
        {"keep_checkpoints": 9},
        {"output": Path("policy")},
        {"micro_batch_size": None},
        {"offload": ("ref",)},
    ],
    ids=str,
)
def test_a_complete_run_is_returned_whatever_does_not_change_it(
    finished: PPOConfig, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that tries again gets the result, and 0."""
    monkeypatch.chdir(finished.output.parent)
    result = run(replace(finished, resume=True, **changes))
    made = json.loads((finished.output / "salsa.json").read_text())
    assert dict(result.record()) == made["result"]


@pytest.mark.parametrize(
    "changes", [{"seed": 5}, {"updates": 3}, {"micro_batch_size": 2}, {"compile": True}], ids=str
)
def test_a_complete_run_with_other_settings_is_refused(
    finished: PPOConfig, changes: dict[str, Any]
) -> None:
    (name,) = changes
    with pytest.raises(SalsaError, match=f"is complete, but was made with other settings: {name}"):
        run(replace(finished, resume=True, **changes))


def test_accumulated_passes_make_the_same_update(world: World, tmp_path: Path) -> None:
    whole = configure(world, tmp_path / "whole", updates=2, minibatches=1)
    parts = replace(whole, output=tmp_path / "parts", micro_batch_size=2)
    run(whole)
    run(parts)
    expected = weights(whole.output)
    for name, weight in weights(parts.output).items():
        # Other shapes sum in another order; Adam's division magnifies it where gradients vanish.
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=0)
    for ours, theirs in zip(*(rows_without_time(c.output) for c in (parts, whole)), strict=True):
        assert ours["kl"] == pytest.approx(theirs["kl"], abs=1e-4)
        assert ours["policy_loss"] == pytest.approx(theirs["policy_loss"], abs=1e-4)


def test_activations_computed_twice_make_the_same_run(
    world: World, finished: PPOConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same figures; each layer runs once more a learning pass, and generation keeps its cache."""
    generated, passes = [], []
    plain, twice = rollouts.sample, learning.learn

    def sample(policy: loading.LanguageModel, *args: Any, **options: Any) -> rollouts.Sampled:
        layer = policy.model.model.layers[0]
        handle = layer.register_forward_pre_hook(lambda _, given: generated.append(given[0].shape))
        try:
            return plain(policy, *args, **options)
        finally:
            handle.remove()

    def learn(update: int, rollout: rollouts.Rollout, *args: Any) -> learning.LearningMetrics:
        layer = args[2].policy.model.model.layers[0].mlp
        handle = layer.register_forward_pre_hook(lambda *given: passes.append(update))
        try:
            return twice(update, rollout, *args)
        finally:
            handle.remove()

    monkeypatch.setattr(rollouts, "sample", sample)
    monkeypatch.setattr(learning, "learn", learn)
    config = configure(world, tmp_path / "policy", gradient_checkpointing=True)
    run(config)
    assert rows_without_time(config.output) == rows_without_time(finished.output)
    for name, weight in weights(finished.output).items():
        assert torch.equal(weights(config.output)[name], weight), name
    # Two epochs of two minibatches, forwards and again for the gradient.
    assert passes == [update for update in range(4) for _ in range(8)]
    assert 1 in {shape[1] for shape in generated}  # one token at a time behind the prompt


def test_a_reference_that_is_no_soup_is_also_the_start(world: World, tmp_path: Path) -> None:
    notes: list[str] = []
    config = configure(world, tmp_path / "policy", ref=(str(world.a),), updates=1)
    ppo.run(config, lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    assert f"{world.a} is not a soup: the policy starts from it as well (plain PPO)" in notes
    assert read_rows(config.output / "metrics.jsonl")[0]["kl"] == 0.0


def test_a_function_as_reward_and_the_policy_as_critic(world: World, tmp_path: Path) -> None:
    (tmp_path / "taste.py").write_text(
        "def score(prompts, answers):\n    return [a.count('happy') - 2.0 for a in answers]\n"
    )
    name = f"{tmp_path / 'taste.py'}:score"
    config = configure(world, tmp_path / "policy", reward=(name,), updates=1)
    run(config)
    made = json.loads((config.output / "salsa.json").read_text())
    assert made["inputs"]["rewards"] == [name]
    assert made["inputs"]["critic"]["path"] == str(world.a)
    assert read_rows(config.output / "metrics.jsonl")[0]["reward"] <= -1.0


def test_graphs_are_refused_on_a_cpu(world: World, tmp_path: Path) -> None:
    with pytest.raises(SalsaError, match="--generator graphs needs a CUDA device"):
        run(configure(world, tmp_path / "policy", generator="graphs"))
    assert not (tmp_path / "policy").exists()


def test_several_rewards_are_averaged(world: World, tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(
        "def one(p, a):\n    return [1.0] * len(a)\ndef four(p, a):\n    return [4.0] * len(a)\n"
    )
    names = tuple(f"{tmp_path / 'two.py'}:{name}" for name in ("one", "four"))
    config = configure(world, tmp_path / "policy", reward=names, updates=1)
    assert run(config).reward_first == 2.5


def test_a_reference_with_another_vocabulary_is_refused(world: World, tmp_path: Path) -> None:
    other = tiny.save_language_model(tmp_path / "other", seed=3)
    tiny.tokenizer(words=[*tiny.WORDS[:-1], "snow"]).save_pretrained(other)
    config = configure(world, tmp_path / "policy", ref=(str(other),), policy=str(world.a))
    with pytest.raises(SalsaError, match=r"the vocabularies of the policy .* differ"):
        ppo.run(config, silent)
    larger = tiny.save_language_model(tmp_path / "larger", seed=3, vocab_size=32)
    with pytest.raises(SalsaError, match=r"has logits for 24 tokens and .* for 32"):
        ppo.run(replace(config, ref=(str(larger),)), silent)
    assert not config.output.exists()


def test_prompts_that_do_not_fit_are_left_out_with_a_warning(world: World, tmp_path: Path) -> None:
    prompts = tiny.write_rows(
        tmp_path / "p.jsonl", [{"prompt": "the cat"}, {"prompt": " ".join(["the"] * 60)}]
    )
    warnings: list[str] = []
    config = configure(world, tmp_path / "policy", prompts=str(prompts))
    plan = preflight.prepare(
        config, lambda event: warnings.append(event.text) if isinstance(event, Warned) else None
    )
    assert plan.prompts == ("the cat",)
    assert warnings == [
        "1 of 2 prompts is dropped: longer than 58 tokens, the context minus --response-length"
    ]
    with pytest.raises(SalsaError, match=r"no prompt of .* fits: .* a context of 64 tokens"):
        preflight.prepare(replace(config, response_length=63), silent)


def test_a_value_that_is_no_number_stops_the_run(world: World, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(world.rm, tmp_path / "rm"))
    tensors = load_file(broken / "model.safetensors")
    tensors["score.weight"] = torch.full_like(tensors["score.weight"], 1e38)
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    config = configure(world, tmp_path / "policy", reward=(str(broken),))
    with pytest.raises(SalsaError, match=r"update 1: \d+ of 47 of the critic's values are NaN"):
        ppo.run(config, silent)
    assert not config.output.exists()


@pytest.mark.parametrize("bad", [nan, inf])
@pytest.mark.parametrize("part", ["policy", "ref", "reward", "watch", "critic", "ingredient"])
def test_stored_weights_that_are_no_numbers_are_named_before_training(
    world: World, tmp_path: Path, part: str, bad: float
) -> None:
    """Not a matter of the learning rate, and not of a figure alone."""
    whole = {"policy": world.a, "ref": world.soup, "ingredient": world.b}.get(part, world.rm)
    place = Path(shutil.copytree(whole, tmp_path / "model"))
    tensors = load_file(place / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][0, 0] = bad
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    given: dict[str, Any] = {
        "policy": {"policy": str(place)},
        "ref": {"ref": (str(place),)},
        "reward": {"reward": (str(place),), "critic": "policy"},
        "watch": {"watch_reward": (str(place),)},
        "critic": {"critic": str(place)},
        "ingredient": {"ref": (f"soup({world.a},{place})",)},
    }[part]
    config = configure(world, tmp_path / "policy", **given)
    words = rf"{place}/model.safetensors: 1 of \d+ values of {name} are NaN or infinite"
    with pytest.raises(SalsaError, match=words) as caught:
        ppo.run(config, silent)
    assert "learning rate" not in str(caught.value) and "update 1" not in str(caught.value)


def test_a_measured_scale_is_the_critics_too(world: World, tmp_path: Path) -> None:
    """Values of the critic from the reward model are (value - mean) / std of its reward."""
    folder = Path(shutil.copytree(world.rm, tmp_path / "rm"))
    config = configure(
        world, tmp_path / "policy", reward=(str(folder),), critic="reward", normalize_reward=True
    )
    plan = preflight.prepare(config, silent)
    run = Run(plan, config, start_runtime("cpu"), tmp_path)
    fresh = load_actors(run, None)
    weight = fresh.critic.model.score.weight.detach().clone()
    bias = fresh.critic.model.score.bias.detach().clone()
    begun, _ = ppo.restore_or_begin(fresh, run, silent)
    (scale,) = begun.reward.scales
    assert scale.std != pytest.approx(1.0, abs=0.02)
    head = begun.critic.model.score
    torch.testing.assert_close(head.weight, weight / scale.std)
    torch.testing.assert_close(head.bias, (bias - scale.mean) / scale.std)


def test_a_reward_that_calls_sys_exit_is_named(world: World, tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text("import sys\ndef score(p, a):\n    sys.exit(3)\n")
    config = configure(world, tmp_path / "policy", reward=(f"{tmp_path / 'leaving.py'}:score",))
    with pytest.raises(SalsaError, match=r"leaving.py:score failed: SystemExit: 3"):
        ppo.run(config, silent)


def test_a_gradient_that_is_no_number_stops_the_run_at_its_last_checkpoint(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "late.py").write_text(
        "calls = []\ndef score(p, a):\n    calls.append(1)\n"
        "    return [1e30 if len(calls) == 4 else 1.0] * len(a)\n"
    )
    config = configure(world, tmp_path / "policy", reward=(f"{tmp_path / 'late.py'}:score",))
    with pytest.raises(
        SalsaError, match="update 4: the gradient of the critic is not finite"
    ) as caught:
        ppo.run(config, silent)
    assert "keeps the run up to step 2; continue it with --resume" in str(caught.value)


def test_the_first_epoch_keeps_the_order_and_the_others_do_not(world: World) -> None:
    config = configure(world, Path("unused"), batch_size=32, minibatches=4)
    first = torch.cat(list(batching.minibatches(3, 0, config)))
    second = torch.cat(list(batching.minibatches(3, 1, config)))
    assert first.tolist() == list(range(32))
    assert sorted(second.tolist()) == list(range(32)) != second.tolist()


def test_targets_are_those_of_a_naive_restatement(world: World) -> None:
    """Rewards, GAE, returns and whitening of a real rollout, in float64 loops."""
    config = configure(world, Path("unused"), kl_coef=0.3, gamma=0.9, lam=0.7, temperature=0.8)
    plan = preflight.prepare(config, silent)
    cpu = start_runtime("cpu")
    run = Run(plan, config, cpu, Path("unused"))
    made = load_actors(run)
    indices = data.batch_indices(len(plan.prompts), 8, 0, 0)
    sampled = rollouts.sample(
        made.policy,
        [plan.prompt_ids[i] for i in indices],
        list(range(8)),
        length=6,
        temperature=0.8,
        runtime=cpu,
    )
    scores = torch.arange(8.0)
    rollout = experience.compute_rollout(sampled, scores, made, run)
    penalty = learning.compute_penalties(
        rollout.logprobs, rollout.ref_logprobs, rollout.mask, config
    )
    targets = learning.compute_advantages(rollout, penalty, 0.3, config)
    gaes, returns, places = [], {}, []
    for row in range(8):
        length = int(rollout.mask[row].sum())
        pairs = zip(rollout.logprobs[row], rollout.ref_logprobs[0][row], strict=True)
        reward = [-0.3 * (float(p) - float(q)) for p, q in pairs][:length]
        reward[-1] += float(scores[row])
        value = [float(v) for v in rollout.values[row][:length]] + [0.0]
        trace = 0.0
        for t in reversed(range(length)):
            trace = reward[t] + 0.9 * value[t + 1] - value[t] + 0.9 * 0.7 * trace
            gaes.append(trace)
            places.append((row, t))
            returns[row, t] = trace + value[t]
    mean = sum(gaes) / len(gaes)
    deviation = (sum((g - mean) ** 2 for g in gaes) / len(gaes)) ** 0.5
    for gae, place in zip(gaes, places, strict=True):
        # float32 sums of a few dozen terms against float64
        assert float(targets.advantages[place]) == pytest.approx((gae - mean) / deviation, abs=1e-5)
        assert float(targets.returns[place]) == pytest.approx(returns[place], abs=1e-5)


# --------------------------------------------------------------------------- edge cases


def one_track(folder: Path, towards_end: float) -> Path:
    """A policy whose every state is the same, and whose end token has this logit times 16."""
    tiny.save_language_model(folder, seed=1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight.mul_(0.01)
        model.lm_head.weight[2].fill_(towards_end)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1.0)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("towards_end", "length", "finished"),
    [(3.0, 1.0, 1.0), (-3.0, 6.0, 0.0)],
    ids=["every answer is empty", "every answer is cut"],
)
@pytest.mark.parametrize("constant", [False, True], ids=["", "constant reward"])
def test_figures_stay_finite_at_the_edges(
    world: World, tmp_path: Path, towards_end: float, length: float, finished: float, constant: bool
) -> None:
    (tmp_path / "same.py").write_text("def score(p, a):\n    return [0.5] * len(a)\n")
    policy = one_track(tmp_path / "a", towards_end)
    prompts = tiny.write_rows(tmp_path / "p.jsonl", [{"prompt": " ".join(["cat"] * 58)}])
    reward = f"{tmp_path / 'same.py'}:score" if constant else str(world.rm)
    config = configure(
        world,
        tmp_path / "policy",
        ref=(str(policy),),
        reward=(reward,),
        prompts=str(prompts),
        updates=3,
        whiten_rewards=constant,
    )
    run(config)
    for row in rows_without_time(config.output):
        assert row["length"] == length and row["finished"] == finished
        assert all(value == value for value in row.values())
        assert None not in [value for name, value in row.items() if name != "reference_end"]
    assert all(torch.isfinite(weight).all() for weight in weights(config.output).values())


def test_every_row_is_the_one_type(finished: PPOConfig) -> None:
    rows = read_rows(finished.output / "metrics.jsonl")
    assert [UpdateMetrics.of(row).row() for row in rows] == rows
    with_time = UpdateMetrics.of(rows[0])
    assert with_time.tokens_per_second == pytest.approx(
        rows[0]["tokens"] / sum(rows[0]["time"].values())
    )


def test_the_newest_checkpoints_are_kept(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", save_every=1, keep_checkpoints=3)
    run(config)
    kept = sorted(path.name for path in (config.output / "checkpoints").iterdir())
    assert kept == ["000002.pt", "000003.pt", "000004.pt"]


@pytest.mark.slow
def test_kills_leave_no_trace() -> None:
    """Three of the moments; `python -m tests.support.kills` tries twenty."""
    assert kills.main(3, seed=5) == 0
