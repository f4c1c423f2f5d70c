"""Evaluation on held-out prompts: as `salsa eval` does it, and without a trace in the training."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from salsa_cli import evaluate, ppo
from salsa_cli.config.eval import EvalConfig
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.records import read_json, read_rows
from salsa_cli.rl import preflight
from salsa_cli.rl.held_out_metrics import HeldOutFigure, HeldOutMetrics
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.runs.events import Event, Note, Report, Warned, silent
from tests.support import tiny
from tests.support.adapters import AdapterWorld
from tests.support.ppo_runs import configure, configure_adapted, run, stopping_at
from tests.support.worlds import World

WORDS = "cat dog sun moon tree bird".split()


def without_held_out(folder: Path) -> list[dict[str, Any]]:
    dropped = ("time", "heldout", "heldout_start")
    return [
        {key: value for key, value in row.items() if key not in dropped}
        for row in read_rows(folder / "metrics.jsonl")
    ]


def held_out(folder: Path) -> dict[int, dict[str, Any]]:
    """The evaluations of a run by update."""
    rows = read_rows(folder / "metrics.jsonl")
    return {0: rows[0]["heldout_start"]} | {
        row["update"]: row["heldout"] for row in rows if "heldout" in row
    }


@pytest.fixture(scope="module")
def eval_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts of different lengths, one of them twice, none of which is trained on."""
    texts = [" ".join(WORDS[: 1 + row % 5]) + " ?" * (1 + row // 5) for row in range(10)]
    rows = [{"prompt": text} for text in [*texts, texts[3]]]
    return tiny.write_rows(tmp_path_factory.mktemp("held-out") / "eval.jsonl", rows)


@pytest.fixture(scope="module")
def watcher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward that draws from every global generator, and prefers short answers."""
    file = tmp_path_factory.mktemp("rewards") / "drawing.py"
    file.write_text(
        "import random, numpy, torch\n"
        "def score(prompts, answers):\n"
        "    random.random(), numpy.random.rand(), torch.rand(1)\n"
        "    return [-float(len(answer)) for answer in answers]\n"
    )
    return f"{file}:score"


@pytest.fixture(scope="module")
def plain(
    world: World, watcher: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PPOConfig, tuple[Any, ...]]:
    """A run without held-out prompts, and the state of the global generators at its end."""
    output = tmp_path_factory.mktemp("plain") / "policy"
    config = configure(world, output, watch_reward=(watcher,), updates=5)
    return config, generators_after(config)


def generators_after(config: PPOConfig, report: Report = silent) -> tuple[Any, ...]:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    ppo.run(config, report)
    return random.random(), float(np.random.rand()), float(torch.rand(1))


@pytest.fixture(scope="module")
def evaluated(
    plain: tuple[PPOConfig, Any], eval_prompts: Path, tmp_path_factory: pytest.TempPathFactory
) -> PPOConfig:
    """The same run with held-out prompts and a snapshot of every evaluation."""
    output = tmp_path_factory.mktemp("evaluated") / "policy"
    config = replace(
        plain[0], output=output, eval_prompts=str(eval_prompts), eval_every=2, snapshot_every=2
    )
    config = replace(config, keep_best="reward")
    events: list[Event] = []
    assert generators_after(config, events.append) == plain[1]
    (output.parent / "events.json").write_text(json.dumps([repr(one) for one in events]))
    return config


def test_training_is_the_same_to_the_bit(
    plain: tuple[PPOConfig, Any], evaluated: PPOConfig
) -> None:
    alone = plain[0].output
    assert without_held_out(evaluated.output) == without_held_out(alone)
    for name in ("samples.jsonl", "model.safetensors"):
        assert (evaluated.output / name).read_bytes() == (alone / name).read_bytes()


def test_it_is_done_at_the_start_at_intervals_and_at_the_end(evaluated: PPOConfig) -> None:
    assert list(held_out(evaluated.output)) == [0, 2, 4, 5]
    rows = read_rows(evaluated.output / "metrics.jsonl")
    assert [row["update"] for row in rows if "heldout" in row["time"]] == [1, 2, 4, 5]
    assert all(row["time"]["heldout"] > 0 for row in rows if "heldout" in row)
    metrics = [UpdateMetrics.of(row) for row in rows]
    assert [one.row() for one in metrics] == rows
    training = {name: value for name, value in rows[1]["time"].items() if name != "heldout"}
    assert metrics[1].tokens_per_second == rows[1]["tokens"] / sum(training.values())


def evaluated_by_salsa_eval(
    model: Path, judges: list[str], config: PPOConfig, world: World, output: Path
) -> dict[str, Any]:
    evaluate.run(
        EvalConfig(
            models=(str(model),),
            prompts=str(config.eval_prompts),
            judge=tuple(judges),
            anchors=(f"soup={world.soup}", f"start={world.a}"),
            grading="single",
            response_length=config.response_length,
            temperature=config.temperature,
            seed=config.seed,
            device="cpu",
            batch_size=3,
            output=output,
        ),
        silent,
    )
    return read_json(output / "results.json")


@pytest.mark.parametrize("update", [2, 4])
def test_the_figures_are_those_of_salsa_eval(
    world: World, watcher: str, evaluated: PPOConfig, tmp_path: Path, update: int
) -> None:
    """Up to float32 sums in batches of other shapes, which 1e-6 allows for."""
    taken = Path(f"{evaluated.output}@{update}")
    judges = [f"rm:{world.rm}", f"python:{watcher}"]
    found = evaluated_by_salsa_eval(taken, judges, evaluated, world, tmp_path / "results")
    ours = held_out(evaluated.output)[update]
    scores = {row["judge"]: row["score"] for row in found["scores"]}
    assert found["prompts"] == ours["prompts"] == 11
    assert ours["reward"]["mean"] == pytest.approx(scores[f"rm:{world.rm}"], abs=1e-6)
    assert ours["watch"][watcher]["mean"] == pytest.approx(scores[f"python:{watcher}"], abs=1e-6)
    kls = {row["anchor"]: row["kl"] for row in found["kl"]}
    assert ours["kl"]["reference"]["mean"] == pytest.approx(kls["soup"], rel=1e-6)
    assert ours["kl"]["start"]["mean"] == pytest.approx(kls["start"], rel=1e-6)
    (told,) = found["answers"]
    assert ours["length"]["mean"] == pytest.approx(told["length"])
    assert ours["finished"]["mean"] == pytest.approx(told["finished"])


@pytest.mark.parametrize("changes", [{}, {"weights": "bfloat16"}], ids=str)
def test_they_are_of_the_policy_as_it_is_saved(
    world: World, eval_prompts: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """A start in bfloat16 is trained in float32, and a snapshot rounds; the training goes on."""
    start = tiny.save_language_model(tmp_path / "start", seed=1, scale=0.1)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.bfloat16)
    model.save_pretrained(start)
    config = configure(world, tmp_path / "policy", policy=str(start), **changes)
    plain = replace(config, output=tmp_path / "plain")
    config = replace(config, eval_prompts=str(eval_prompts), eval_every=1, snapshot_every=1)
    run(config), run(plain)
    assert without_held_out(config.output) == without_held_out(plain.output)
    ours = held_out(config.output)
    for update in (1, 4):
        taken = config.output / "snapshots" / f"{update:06d}"
        output = tmp_path / f"results-{update}"
        found = evaluated_by_salsa_eval(taken, [f"rm:{world.rm}"], config, world, output)
        reward = ours[update]["reward"]["mean"]
        assert reward == pytest.approx(found["scores"][0]["score"], abs=1e-6)
        kls = {row["anchor"]: row["kl"] for row in found["kl"]}
        assert ours[update]["kl"]["reference"]["mean"] == pytest.approx(kls["soup"], rel=1e-6)


def test_the_last_is_of_the_final_policy_and_the_first_of_the_start(
    world: World, evaluated: PPOConfig
) -> None:
    found = held_out(evaluated.output)
    assert found[0]["kl"]["start"]["mean"] == 0 < found[0]["kl"]["reference"]["mean"]
    record = json.loads((evaluated.output / "salsa.json").read_text())
    assert record["held_out_prompts"]["used"] == 11
    made = record["result"]
    made = json.loads((evaluated.output / "salsa.json").read_text())["result"]
    assert made["heldout_first"] == found[0] and made["heldout_last"] == found[5]


def test_the_objective_is_the_reward_less_the_penalty(evaluated: PPOConfig) -> None:
    for one in held_out(evaluated.output).values():
        expected = one["reward"]["mean"] - evaluated.kl_coef * one["kl"]["reference"]["mean"]
        assert one["objective"]["mean"] == pytest.approx(expected, abs=1e-9)


def test_a_figure_is_a_mean_with_its_standard_error() -> None:
    figure = HeldOutFigure.of([1.0, 2.0, 3.0, 6.0])
    # Squares of the deviations: 4, 1, 0, 9; over three, the root, over the root of four.
    assert (figure.mean, figure.standard_error) == (3.0, pytest.approx((14 / 3) ** 0.5 / 2))
    alone = HeldOutFigure.of([1.0])
    assert alone.standard_error != alone.standard_error
    assert HeldOutFigure.read({"mean": 1.0, "standard_error": None}).mean == 1.0


def test_at_another_temperature_the_kl_is_at_one_and_the_objective_as_trained(
    world: World, eval_prompts: Path, tmp_path: Path
) -> None:
    config = configure(world, tmp_path / "policy", updates=1, temperature=0.5)
    config = replace(config, eval_prompts=str(eval_prompts), snapshot_every=1)
    run(config)
    ours = held_out(config.output)[1]
    judges = [f"rm:{world.rm}"]
    taken = config.output / "snapshots" / "000001"
    found = evaluated_by_salsa_eval(taken, judges, config, world, tmp_path / "results")
    assert ours["reward"]["mean"] == pytest.approx(found["scores"][0]["score"], abs=1e-6)
    kls = {row["anchor"]: row["kl"] for row in found["kl"]}
    assert ours["kl"]["reference"]["mean"] == pytest.approx(kls["soup"], rel=1e-6)
    penalised = (ours["reward"]["mean"] - ours["objective"]["mean"]) / config.kl_coef
    assert abs(penalised - ours["kl"]["reference"]["mean"]) > 0.01


def test_stopped_and_resumed_it_finds_the_same(evaluated: PPOConfig, tmp_path: Path) -> None:
    config = replace(evaluated, output=tmp_path / "policy")
    with pytest.raises(KeyboardInterrupt):
        ppo.run(config, stopping_at(4))
    run(replace(config, resume=True))
    assert held_out(config.output) == held_out(evaluated.output)


def test_with_a_moving_reference_and_an_ensemble(
    world: World, eval_prompts: Path, watcher: str, tmp_path: Path
) -> None:
    config = configure(
        world,
        tmp_path / "policy",
        updates=2,
        reward=(str(world.rm), watcher),
        ref=(str(world.a),),
        ref_update="sync",
        ref_every=1,
        eval_prompts=str(eval_prompts),
        max_eval_prompts=4,
    )
    run(config)
    last = held_out(config.output)[2]
    assert last["prompts"] == 4 and set(last["rewards"]) == {str(world.rm), watcher}
    # The reference has just been moved to the policy; the start has stayed where it was.
    assert last["kl"]["reference"]["mean"] == pytest.approx(0, abs=1e-6)
    assert last["kl"]["start"]["mean"] > 1e-3


def test_of_adapters(adapted: AdapterWorld, eval_prompts: Path, tmp_path: Path) -> None:
    config = configure_adapted(adapted, tmp_path / "policy")
    plain = replace(config, output=tmp_path / "plain")
    config = replace(config, eval_prompts=str(eval_prompts), eval_every=1, keep_best="objective")
    run(config), run(plain)
    assert without_held_out(config.output) == without_held_out(plain.output)
    found = held_out(config.output)
    assert list(found) == [0, 1, 2, 3] and found[0]["kl"]["start"]["mean"] == 0
    assert (config.output / "best" / "adapter_config.json").exists()


def test_prompts_that_are_trained_on_are_left_out_and_named(
    world: World, eval_prompts: Path, tmp_path: Path
) -> None:
    trained = [json.loads(line) for line in world.prompts.read_text().splitlines()]
    own = [json.loads(line) for line in eval_prompts.read_text().splitlines()]
    mixed = tiny.write_rows(tmp_path / "mixed.jsonl", [own[0], trained[2], own[1], trained[0]])
    config = configure(world, tmp_path / "policy", eval_prompts=str(mixed), dry_run=True)
    events: list[Event] = []
    dry = ppo.run(config, events.append).record()
    assert dry["held_out_prompts"] == 2
    assert dry["held_out_prompts_that_overlap"] == 2
    assert dry["held_out_evaluations"] == 2 and dry["held_out_answers"] == 4
    assert dry["held_out_prompts_in_the_file"] == 4
    assert not any("--max-eval-prompts" in str(one) for one in events)
    (text,) = (one.text for one in events if isinstance(one, Warned) and "--eval-pro" in one.text)
    assert "2 of 4 prompts of --eval-prompts are also in --prompts" in text and "rows 2, 4" in text
    with pytest.raises(
        SalsaError,
        match=(
            r"all prompts of --eval-prompts .* \(12\) are also in "
            r"--prompts"
        ),
    ):
        ppo.run(replace(config, eval_prompts=str(world.prompts)), silent)


def test_prompts_beyond_the_maximum_are_named_and_recorded(world: World, tmp_path: Path) -> None:
    trained = [json.loads(line)["prompt"] for line in world.prompts.read_text().splitlines()]
    texts = ["cat ? ?", trained[0], "cat " * 60, "dog ? ?", "dog ? ? ?"]
    path = tiny.write_rows(tmp_path / "five.jsonl", [{"prompt": text} for text in texts])
    config = configure(
        world, tmp_path / "policy", eval_prompts=str(path), max_eval_prompts=4, dry_run=True
    )
    events: list[Event] = []
    dry = ppo.run(config, events.append).record()
    assert dry["held_out_prompts"] == 2 and dry["held_out_prompts_in_the_file"] == 5
    note = "the first 4 of 5 prompts of --eval-prompts are read (--max-eval-prompts)"
    assert Note(note) in events
    held = preflight.prepare(config, silent).held_out
    assert held is not None and held.counts() == {
        "in_file": 5, "not_read": 1, "also_in_prompts": 1, "too_long": 1, "used": 2,
    }  # fmt: skip


def test_prompts_without_room_are_left_out(world: World, tmp_path: Path) -> None:
    rows = [{"prompt": "cat ? ?"}, {"prompt": "cat " * 60}]
    path = tiny.write_rows(tmp_path / "long.jsonl", rows)
    config = configure(world, tmp_path / "policy", eval_prompts=str(path), dry_run=True)
    events: list[Event] = []
    assert ppo.run(config, events.append).record()["held_out_prompts"] == 1
    assert any("1 of 2 prompts of --eval-prompts leaves no room" in str(one) for one in events)
    with pytest.raises(SalsaError, match="no prompt of --eval-prompts"):
        only = tiny.write_rows(tmp_path / "only.jsonl", rows[1:])
        ppo.run(replace(config, eval_prompts=str(only)), silent)


def test_other_prompts_are_no_resumption(evaluated: PPOConfig, tmp_path: Path) -> None:
    config = replace(evaluated, output=tmp_path / "policy")
    with pytest.raises(KeyboardInterrupt):
        ppo.run(config, stopping_at(4))
    with pytest.raises(SalsaError, match="max_eval_prompts was not set, is 3"):
        run(replace(config, resume=True, max_eval_prompts=3))


def test_the_time_is_told(evaluated: PPOConfig) -> None:
    told = json.loads((evaluated.output.parent / "events.json").read_text())
    assert any("evaluation on 11 held-out prompts took" in one for one in told)
    assert any("for all 4 evaluations of this run" in one for one in told)
    assert any("'held-out reward': " in one and "'held-out KL start': " in one for one in told)
    text, table = ppo.PPOResult(
        **json.loads((evaluated.output / "salsa.json").read_text())["result"]
    ).summary()
    assert table is not None and table.rows[-1][0] == (
        "held-out reward, before and after (+- standard error)"
    )
    assert "best by held-out reward: update" in text and "policy/best" in text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"eval_every": 2}, "--eval-every has no effect without --eval-prompts"),
        ({"max_eval_prompts": 2}, "--max-eval-prompts has no effect"),
        ({"keep_best": "reward"}, "--keep-best has no effect"),
        ({"stop_on": ("heldout-fall",)}, "--stop-on heldout-fall has no effect"),
        ({"eval_prompts": "p", "keep_best": "watch"}, "--keep-best watch needs --watch-reward"),
        (
            {"eval_prompts": "p", "keep_best": "objective", "penalty": "chi2"},
            "--keep-best objective needs a KL penalty",
        ),
        (
            {"eval_prompts": "p", "keep_best": "objective", "kl_target": 3.0},
            "--keep-best objective cannot compare",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(
    world: World, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        configure(world, tmp_path / "policy", **changes)


def test_metrics_come_back_from_json() -> None:
    figure = HeldOutFigure(1.0, 0.5)
    metrics = HeldOutMetrics(3, figure, {"a": figure}, {}, {"start": figure}, None, figure, figure)
    assert HeldOutMetrics.of(json.loads(json.dumps(metrics.record()))) == metrics
