"""What the policy is held near: recipes, averages, anchors, references that move."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from salsa_cli import ppo, soup
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.formatting import figure
from salsa_cli.generation.rollouts import Rollout
from salsa_cli.maths import kl
from salsa_cli.models.backbones import Placement
from salsa_cli.records import read_rows
from salsa_cli.rl import experience, references
from salsa_cli.rl.actors import TrainingState
from salsa_cli.rl.experience import AnchorKLs
from salsa_cli.rl.references import Recipe
from salsa_cli.runs.events import Event, Measured, Note, Warned, silent
from tests.support import tiny
from tests.support.histories import START
from tests.support.ppo_runs import configure_anchored as configure
from tests.support.ppo_runs import rows_of
from tests.support.worlds import World

CPU = torch.device("cpu")


# ------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("text", "models", "weights"),
    [
        ("ref/", ("ref/",), (1.0,)),
        ("soup(a/,b/,alpha=0.25)", ("a/", "b/"), (0.75, 0.25)),
        ("soup( a/ , b/ )", ("a/", "b/"), (0.5, 0.5)),
        ("soup(a,b,c,weights=0.5,0.3,0.2)", ("a", "b", "c"), (0.5, 0.3, 0.2)),
        ("soups/best", ("soups/best",), (1.0,)),
    ],
)
def test_recipes(text: str, models: tuple[str, ...], weights: tuple[float, ...]) -> None:
    assert references.parse(text) == Recipe(text, models, weights)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("soup(a)", "needs two or more models"),
        ("soup(a,,alpha=0.5)", "needs two or more models"),
        ("soup(a,b,alpha=x)", "alpha=x is not a list of numbers"),
        ("soup(a,b,alpha=1.5)", "alpha=1.5 does not fit 2 models"),
        ("soup(a,b,c,alpha=0.5)", "does not fit 3 models"),
        ("soup(a,b,weights=0.5,0.6)", "weights=0.5,0.6 does not fit"),
        ("soup(a,b,beta=0.5)", "beta=0.5 does not fit"),
        ("soup(a,b", "missing closing parenthesis"),
    ],
)
def test_recipes_that_are_none(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=r"expected soup\(A,B,alpha=0\.5\)") as caught:
        references.parse(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_average_at_load_time_has_the_values_of_a_soup(
    world: World, tmp_path: Path, dtype: torch.dtype
) -> None:
    """In bfloat16 too, where a sum in float32 would round twice."""
    made = []
    for folder in (world.a, world.b):
        model = AutoModelForCausalLM.from_pretrained(folder).to(dtype)
        target = Path(shutil.copytree(folder, tmp_path / folder.name))
        model.save_pretrained(target)
        made.append(str(target))
    soup.run(SoupConfig(models=tuple(made), alpha=0.3, output=tmp_path / "soup"), silent)
    recipe = references.find(references.parse(f"soup({made[0]},{made[1]},alpha=0.3)"))
    averaged = references.load(recipe, Placement(dtype, CPU)).state_dict()
    folder = references.find(references.parse(str(tmp_path / "soup")))
    for name, weight in references.load(folder, Placement(dtype, CPU)).state_dict().items():
        assert torch.equal(averaged[name], weight), name


def test_a_recipe_makes_the_same_run_as_the_soup(world: World, tmp_path: Path) -> None:
    folder = rows_of(configure(world, tmp_path / "folder"))
    recipe = rows_of(
        configure(world, tmp_path / "recipe", ref=(f"soup({world.a},{world.b},alpha=0.5)",))
    )
    for ours, theirs in zip(recipe, folder, strict=True):
        assert {**ours, "time": 0} == {**theirs, "time": 0}
    made = json.loads((tmp_path / "recipe" / "salsa.json").read_text())
    assert [part["weight"] for part in made["inputs"]["reference"]] == [0.5, 0.5]
    assert made["inputs"]["policy"]["path"] == str(world.a)


def test_models_of_other_shapes_are_no_soup(world: World, tmp_path: Path) -> None:
    other = tiny.save_language_model(tmp_path / "other", seed=1, hidden_size=32)
    with pytest.raises(SalsaError, match=r"cannot be averaged: .*hidden_size: 16 .*shapes?|\[24"):
        references.find(references.parse(f"soup({world.a},{other})"))


# ------------------------------------------------------------------------------- anchors


def test_the_kl_to_every_anchor_starts_from_its_baseline(world: World, tmp_path: Path) -> None:
    notes: list[str] = []
    rows = rows_of(
        configure(world, tmp_path / "policy", anchor_every=2, updates=4),
        lambda event: notes.append(event.text) if isinstance(event, Note) else None,
    )
    names = {"reference", "start", str(world.a), str(world.b)}
    assert [set(row["kl_anchors"]) for row in rows] == [names, set(), names, names]
    first, last = rows[0]["kl_anchors"], rows[-1]["kl_anchors"]
    assert first["start"] == first[str(world.a)] == 0.0
    assert first["reference"] == rows[0]["kl"] > 0 and first[str(world.b)] > 0
    assert last["start"] != 0.0  # of either sign: k1 of eight answers
    said = [note for note in notes if "KL at the start, nats per answer: reference 8.144" in note]
    assert (
        len(said) == 1
        and ("(a value other than zero is normal if the policy does not start") in said[0]
    )


def test_a_kl_of_zero_at_the_start_is_not_explained(world: World, tmp_path: Path) -> None:
    """In plain PPO the policy starts at its only anchor."""
    notes: list[Event] = []
    ppo.run(configure(world, tmp_path / "p", ref=(str(world.a),), updates=1), notes.append)
    said = [one.text for one in notes if isinstance(one, Note) and "KL at the" in one.text]
    assert said == ["KL at the start, nats per answer: reference 0.000   start 0.000"]


@pytest.mark.parametrize("sharing", [{}, {"lora_rank": 2}], ids=["whole", "lora"])
def test_kls_are_said_at_the_sampling_temperature_and_at_1(
    world: World, tmp_path: Path, sharing: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second against transformers alone, in float64, one answer without padding."""
    taken: list[Rollout] = []
    measure = experience.measure_anchors

    def measure_and_keep(rollout: Rollout, *given: Any) -> AnchorKLs:
        taken.append(rollout)
        return measure(rollout, *given)

    monkeypatch.setattr(experience, "measure_anchors", measure_and_keep)
    said: list[str] = []
    config = configure(
        world, tmp_path / "policy", temperature=0.5, anchor_every=2, updates=4, **sharing
    )
    rows = rows_of(
        config, lambda event: said.append(event.text) if isinstance(event, Note) else None
    )
    places = {
        "reference": world.soup,
        "start": world.a,
        str(world.a): world.a,
        str(world.b): world.b,
    }
    measured = [row.get("kl_at_temperature_1") for row in rows]
    assert measured[1] is None and all(set(measured[at]) == set(places) for at in (0, 2, 3))
    policy = AutoModelForCausalLM.from_pretrained(world.a, dtype=torch.float64)
    for name, place in places.items():
        anchor = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float64)
        expected = np.mean([kl_alone(policy, anchor, *one) for one in answers_of(taken[0])])
        assert measured[0][name] == pytest.approx(expected, abs=1e-5), name
    assert {row["temperature"] for row in rows} == {0.5}
    assert rows[0]["kl"] > 1.5 * measured[0]["reference"]
    assert any(
        ("KL at the start, nats per answer at --temperature 0.5: reference") in s for s in said
    )
    reference = figure(round(measured[0]["reference"], 4))
    assert any(
        f"at temperature 1, over the whole vocabulary: reference {reference}" in s for s in said
    )
    page = (tmp_path / "policy" / "report.html").read_text()
    assert "KL to the reference, nats at temperature 0.5" in page
    assert "KL to the anchors at temperature 1<" in page
    made = json.loads((tmp_path / "policy" / "salsa.json").read_text())["result"]
    assert made["temperature"] == 0.5
    assert made["kl_at_temperature_1_last"] == measured[3]


def test_at_temperature_1_a_kl_is_said_once(world: World, tmp_path: Path) -> None:
    rows = rows_of(configure(world, tmp_path / "policy", updates=1))
    assert rows[0]["temperature"] == 1.0 and "kl_at_temperature_1" not in rows[0]
    assert "at temperature" not in (tmp_path / "policy" / "report.html").read_text()


def answers_of(rollout: Rollout) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Prompt and answer of each row, without padding."""
    prompts, responses = rollout.sampled.prompts, rollout.sampled.responses
    return [
        (prompts.ids[row][prompts.mask[row]], responses.ids[row][responses.mask[row]])
        for row in range(len(prompts.ids))
    ]


@torch.no_grad()
def kl_alone(policy: Any, anchor: Any, prompt: torch.Tensor, answer: torch.Tensor) -> float:
    """Sum over an answer's tokens of the KL of the next-token distributions."""
    p, q = (
        torch.softmax(one(torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1], -1)
        for one in (policy, anchor)
    )
    return float((p * (p / q).log()).sum())


def test_the_kl_to_the_reference_agrees_with_a_sum_over_the_vocabulary(
    world: World, tmp_path: Path
) -> None:
    """Of one-token answers: the sampled mean against the exact KL, within its sampling error."""
    config = configure(
        world, tmp_path / "policy", updates=1, batch_size=2048, response_length=1, epochs=1
    )
    (row,) = rows_of(config)
    a, mixed = (AutoModelForCausalLM.from_pretrained(f).eval() for f in (world.a, world.soup))
    exact, spread = [], []
    for prompt in read_rows(world.prompts):
        ids = torch.tensor([[tiny.tokenizer().convert_tokens_to_ids(prompt["prompt"].split())]])[0]
        with torch.no_grad():
            ours, theirs = a(ids).logits[:, -1:], mixed(ids).logits[:, -1:]
        exact.append(float(kl.exact(ours, theirs, 1.0)))
        p = torch.softmax(ours[0, 0], -1)
        difference = torch.log_softmax(ours[0, 0], -1) - torch.log_softmax(theirs[0, 0], -1)
        spread.append(float((p * difference.square()).sum()))
    error = (np.mean(spread) / 2048) ** 0.5
    assert row["kl"] == pytest.approx(np.mean(exact), abs=4 * error)


@pytest.mark.parametrize("several", [False, True])
def test_the_references_wish_to_end_at_once_is_measured(
    world: World, tmp_path: Path, several: bool
) -> None:
    folders = (world.soup, world.b) if several else (world.soup,)
    penalty = "mean-kl" if several else "kl"
    config = configure(
        world,
        tmp_path / "policy",
        ref=tuple(map(str, folders)),
        policy=str(world.a),
        penalty=penalty,
        updates=1,
        batch_size=12,
    )
    expected = []
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        for prompt in read_rows(world.prompts):
            ids = torch.tensor([tiny.tokenizer().convert_tokens_to_ids(prompt["prompt"].split())])
            with torch.no_grad():
                expected.append(float(torch.log_softmax(model(ids).logits[0, -1], -1)[2]))
    assert rows_of(config)[0]["reference_end"] == pytest.approx(np.mean(expected), abs=1e-5)


def test_what_ending_at_once_costs_in_chi2_is_not_guessed(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", updates=1, penalty="chi2")
    assert rows_of(config)[0]["reference_end"] is None


def test_an_ingredient_that_has_gone_is_said_and_left_out(world: World, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(world.soup, tmp_path / "soup"))
    record = json.loads((moved / "soup.json").read_text())
    record["ingredients"][1]["model"] = "gone/"
    (moved / "soup.json").write_text(json.dumps(record))
    warnings: list[str] = []
    rows = rows_of(
        configure(world, tmp_path / "policy", ref=(str(moved),), updates=1),
        lambda event: warnings.append(event.text) if isinstance(event, Warned) else None,
    )
    assert set(rows[0]["kl_anchors"]) == {"reference", "start", str(world.a)}
    assert (
        "gone/, an ingredient of the reference, was not found: no KL to it is measured"
    ) in warnings


# ----------------------------------------------------------------------------- penalties


def test_several_references_are_averaged(world: World, tmp_path: Path) -> None:
    rows = rows_of(
        configure(
            world,
            tmp_path / "policy",
            ref=(str(world.soup), str(world.b)),
            policy=str(world.a),
            penalty="mean-kl",
        )
    )
    for row in rows:
        anchors = row["kl_anchors"]
        mean = (anchors[str(world.soup)] + anchors[str(world.b)]) / 2
        # float32 sums in another order
        assert row["kl"] == row["penalty"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"penalty": "chi2", "kl_coef": 0.001},
        {"kl_in": "loss", "kl_estimator": "k3"},
        {"kl_in": "loss", "kl_estimator": "k2"},
        {"whiten_rewards": True, "dual_clip": 3.0, "warmup": 0.5, "value_clip": 0.0},
    ],
)
def test_every_penalty_runs_and_is_not_the_usual_one(
    world: World, tmp_path: Path, changes: dict[str, Any]
) -> None:
    usual = rows_of(configure(world, tmp_path / "usual"))
    rows = rows_of(configure(world, tmp_path / "policy", **changes))
    assert rows[0]["kl"] == usual[0]["kl"]  # the same answers, k1 in any case
    assert rows[-1]["policy_loss"] != usual[-1]["policy_loss"]
    for row in rows:
        assert row["ratio_error"] == 0.0
        objective = row["reward"] - row["kl_coef"] * row["penalty"]
        assert row["objective"] == pytest.approx(objective, rel=1e-5, abs=1e-6)


def test_a_high_weight_holds_the_policy_nearer(world: World, tmp_path: Path) -> None:
    """The sign of the penalty, end to end, in the reward and in the loss."""

    def end(name: str, **changes: Any) -> float:
        rows = rows_of(configure(world, tmp_path / name, updates=12, **changes))
        return float(np.mean([row["kl"] for row in rows[-4:]]))

    free = end("free", kl_coef=0.0)
    assert end("reward", kl_coef=0.5) < free - 1
    assert end("loss", kl_coef=0.5, kl_in="loss", kl_estimator="k2") < free - 1


def test_the_weight_adapts_to_its_target(world: World, tmp_path: Path) -> None:
    rows = rows_of(configure(world, tmp_path / "policy", kl_target=1.0, kl_horizon=16))
    assert rows[0]["kl_coef"] == 0.05
    # kl is 8 or so: the error is cut at 0.2; 8 answers of 16
    assert rows[1]["kl_coef"] == pytest.approx(0.05 * 1.1)
    assert rows[2]["kl_coef"] == pytest.approx(0.05 * 1.1**2)
    for row in rows:  # with the weight of its own update
        objective = row["reward"] - row["kl_coef"] * row["penalty"]
        assert row["objective"] == pytest.approx(objective, rel=1e-5, abs=1e-6)


def test_the_weight_of_chi2_adapts_to_the_sum_over_tokens_that_its_target_names(
    world: World, tmp_path: Path
) -> None:
    """By Ziegler's rule, fed with the divergence of the update before; never with the KL."""
    config = configure(
        world, tmp_path / "policy", penalty="chi2", kl_target=40.0, kl_horizon=16, updates=2
    )
    first, second = rows_of(config)
    # Near the target, where nothing is clipped; the KL, 8.1, would be.
    assert first["penalty"] == pytest.approx(41.4, abs=0.1) and first["kl"] < 9
    error = first["penalty"] / 40.0 - 1
    assert second["kl_coef"] == pytest.approx(0.05 * (1 + error * 8 / 16))


def test_the_weight_follows_the_penalty_where_nothing_is_clipped() -> None:
    """1.1 times the target, 8 answers of 16: half of a tenth more."""
    config = PPOConfig(
        ref=("a",),
        reward=("r",),
        prompts="p",
        output=Path("unused"),
        batch_size=8,
        kl_target=2.0,
        kl_horizon=16,
    )
    actors: Any = None
    metrics = replace(START, penalty=2.2, kl=1.0)
    state = ppo.after_update(TrainingState(0, 0.1), metrics, actors, config)
    assert state == TrainingState(1, pytest.approx(0.1 * (1 + 0.1 * 0.5)))


def test_the_adaptive_weight_by_hand() -> None:
    assert kl.adaptive_coefficient(0.1, 6.6, 6.0, 500, 10_000) == pytest.approx(
        0.1 * (1 + 0.1 * 0.05)
    )
    assert kl.adaptive_coefficient(0.1, 60.0, 6.0, 500, 10_000) == pytest.approx(
        0.1 * (1 + 0.2 * 0.05)
    )
    assert kl.adaptive_coefficient(0.1, 0.0, 6.0, 500, 10_000) == pytest.approx(
        0.1 * (1 - 0.2 * 0.05)
    )


# ------------------------------------------------------------------- references that move


def test_a_reference_follows_by_its_rate() -> None:
    reference, policy = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    with torch.no_grad():
        reference.weight.copy_(torch.tensor([[1.0, 2.0]]))
        policy.weight.copy_(torch.tensor([[5.0, -2.0]]))
    references.follow(reference, policy, 0.25)
    assert reference.weight.tolist() == [[2.0, 1.0]]
    assert policy.weight.tolist() == [[5.0, -2.0]]


def test_a_synchronised_reference_is_the_policy_after_its_period(
    world: World, tmp_path: Path
) -> None:
    config = configure(world, tmp_path / "policy", ref_update="sync", ref_every=2, updates=4)
    assert [row["kl"] == 0 for row in rows_of(config)] == [False, False, True, False]


def test_a_moving_average_comes_nearer_and_is_not_there(world: World, tmp_path: Path) -> None:
    fixed = rows_of(configure(world, tmp_path / "fixed", updates=6))
    config = configure(world, tmp_path / "ema", updates=6, ref_update="ema", ref_rate=0.3)
    moving = rows_of(config)
    assert moving[0]["kl"] == fixed[0]["kl"]
    assert 0 < moving[-1]["kl"] < fixed[-1]["kl"] / 2


def test_a_resumed_run_keeps_what_moved(world: World, tmp_path: Path) -> None:
    """Moving reference, adaptive weight and the rewards' scale come back from the checkpoint."""
    changes: dict[str, Any] = {
        "ref_update": "ema",
        "ref_rate": 0.2,
        "kl_target": 1.0,
        "kl_horizon": 32,
        "normalize_reward": True,
        "save_every": 1,
    }
    through = rows_of(configure(world, tmp_path / "through", **changes))
    config = configure(world, tmp_path / "stopped", **changes)

    def stopping(event: Event) -> None:
        if isinstance(event, Measured) and event.values["update"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ppo.run(config, stopping)
    resumed = rows_of(replace(config, resume=True))
    assert [{**row, "time": 0} for row in resumed] == [{**row, "time": 0} for row in through]


def test_resume_refuses_another_reference_of_the_same_name(world: World, tmp_path: Path) -> None:
    mixed = Path(shutil.copytree(world.soup, tmp_path / "soup"))
    config = configure(
        world, tmp_path / "policy", ref=(str(mixed),), policy=str(world.a), save_every=1
    )

    def stopping(event: Event) -> None:
        if isinstance(event, Measured) and event.values["update"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ppo.run(config, stopping)
    shutil.copyfile(world.b / "model.safetensors", mixed / "model.safetensors")
    with pytest.raises(SalsaError, match=r"other inputs: reference was .*weights_xxh3"):
        ppo.run(replace(config, resume=True), silent)
