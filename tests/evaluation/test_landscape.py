"""Where models lie: soups in memory, rewards along a line, KL to anchors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from salsa_cli import evaluate, soup
from salsa_cli.config.eval import EvalConfig
from salsa_cli.config.soup import SoupConfig
from salsa_cli.data import Message
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation import distances, landscape
from salsa_cli.evaluation.questions.answer_files import Reply
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.evaluation.results.eval_result import EvalResult, KLRow
from salsa_cli.models import loading
from salsa_cli.models.backbones import Placement
from salsa_cli.records import read_rows
from salsa_cli.runs.events import Advanced, Event, silent
from tests.support import commands, tiny
from tests.support.worlds import World


def configure(world: World, output: Path, **changes: Any) -> EvalConfig:
    settings: dict[str, Any] = {
        "prompts": str(world.prompts),
        "judge": (f"rm:{world.rm}",),
        "output": output,
        "response_length": 6,
        "batch_size": 5,
        "draws": 200,
        "device": "cpu",
    }
    return EvalConfig(**{**settings, **changes})


def run(config: EvalConfig) -> EvalResult:
    result = evaluate.run(config, silent)
    assert isinstance(result, EvalResult)
    return result


def test_the_grids() -> None:
    assert landscape.line(3) == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    assert landscape.line(11)[3] == (0.7, 0.3)
    triangle = landscape.triangle(5)
    assert len(triangle) == len(set(triangle)) == 15
    assert {(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)} <= set(triangle)
    assert all(sum(weights) == pytest.approx(1.0, abs=1e-15) for weights in triangle)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_soup_in_memory_is_that_of_the_command(tmp_path: Path, dtype: str) -> None:
    folders = []
    for seed in (1, 2, 3):
        folder = tiny.save_language_model(tmp_path / str(seed), seed=seed, scale=0.1)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        model.save_pretrained(folder)
        folders.append(folder)
    ingredients = landscape.load(folders, start_runtime("cpu"))
    for weights in ((0.5, 0.3, 0.2), (0.0, 1.0, 0.0), (0.7, 0.3, 0.0)):
        output = tmp_path / str(weights)
        names = tuple(str(folder) for folder in folders)
        soup.run(SoupConfig(models=names, weights=weights, output=output), silent)
        expected = loading.load_language_model(
            output, Placement(torch.float32, torch.device("cpu"))
        )
        mixed = ingredients.mix(weights).model.state_dict()
        for name, tensor in expected.model.state_dict().items():
            assert torch.equal(mixed[name], tensor), (weights, name)


def test_the_line_meets_its_models_and_their_soup(world: World, tmp_path: Path) -> None:
    line = (str(world.a), str(world.b))
    models = (str(world.a), str(world.b), str(world.soup))
    result = run(configure(world, tmp_path / "r", models=models, line=line, points=3))
    assert [row.weights for row in result.line] == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    a, b, middle = result.scores
    for row, score in zip(result.line, (a, middle, b), strict=True):
        # Scored in batches of other sizes, whose sums are rounded in another order.
        assert row.score == pytest.approx(score.score, abs=1e-6)
        assert row.low <= row.score <= row.high and row.n == 12
    stored = json.loads((tmp_path / "r" / "results.json").read_text())
    assert [row["weights"] for row in stored["line"]] == [[1, 0], [0.5, 0.5], [0, 1]]
    ends = (result.line[0].score + result.line[2].score) / 2
    assert result.line[1].gain == pytest.approx(result.line[1].score - ends, abs=1e-9)
    assert result.line[1].gain_low < result.line[1].gain < result.line[1].gain_high
    assert result.line[0].gain == result.line[2].gain_high == 0.0
    assert "the soup 0.5/0.5 of the line scores " in result.summary()[0]
    best = max(result.line[0].score, result.line[2].score)
    assert result.line[1].over_best == pytest.approx(result.line[1].score - best, abs=1e-12)
    assert result.line[0].over_best is None and stored["line"][1]["over_best_low"] < 0
    assert "the best of 1 soup of the line is 0.5/0.5 with " in result.summary()[0]
    assert not list(tmp_path.glob("r/**/*.safetensors"))


def test_the_plane_alone(world: World, tmp_path: Path) -> None:
    plane = (str(world.a), str(world.b), str(world.soup))
    result = run(configure(world, tmp_path / "r", plane=plane, points=3))
    assert len(result.plane) == 6 and result.line == () and result.scores == ()
    by_weights = {row.weights: row.score for row in result.plane}
    assert all(row.gain == 0.0 for row in result.plane if 1.0 in row.weights)
    # The soup is the middle between a and b, so these two are the same model.
    assert by_weights[0.5, 0.5, 0.0] == pytest.approx(by_weights[0.0, 0.0, 1.0], abs=1e-6)


def test_a_line_that_stopped_goes_on(world: World, tmp_path: Path) -> None:
    line = (str(world.a), str(world.b))
    config = configure(world, tmp_path / "r", line=line, points=4)

    class Stopped(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, Advanced) and event.unit == "soups" and event.done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        evaluate.run(config, stop)
    file = tmp_path / "r.partial" / "soups.jsonl"
    rows = read_rows(file)
    assert len(rows) == 2
    rows[0]["rewards"] = [7.0] * 12
    tiny.write_rows(file, rows)
    resumed = configure(world, tmp_path / "r", line=line, points=4, resume=True)
    result = run(resumed)
    whole = run(configure(world, tmp_path / "whole", line=line, points=4))
    # What was there is not made again: the mark is still on it.
    assert result.line[0].score == 7.0
    assert [row.score for row in result.line[1:]] == [row.score for row in whole.line[1:]]


def reference_kl(model: Path, anchor: Path, prompt: list[int], answer: list[int]) -> float:
    """In float64 from the formula, one answer without padding."""
    total = 0.0
    logits = []
    for folder in (model, anchor):
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        with torch.no_grad():
            out = loaded(torch.tensor([prompt + answer])).logits[0].numpy()
        logits.append(out[len(prompt) - 1 : -1])
    for ours, theirs in zip(*logits, strict=True):
        p = np.exp(ours - ours.max())
        q = np.exp(theirs - theirs.max())
        p, q = p / p.sum(), q / q.sum()
        total += float(np.sum(p * np.log(p / q)))
    return total


def test_kl_to_anchors_by_the_formula(world: World, tmp_path: Path) -> None:
    anchors = (f"{world.a},{world.b}", str(world.soup))
    config = configure(world, tmp_path / "r", models=(str(world.a),), anchors=anchors)
    result = run(config)
    assert [(row.model, row.anchor) for row in result.kl] == [("a", "a"), ("a", "b"), ("a", "soup")]
    rows = read_rows(tmp_path / "r" / "answers" / "a.jsonl")
    tokenizer = tiny.tokenizer()
    for row, anchor in zip(result.kl, (world.a, world.b, world.soup), strict=True):
        sums = [
            reference_kl(
                world.a, anchor, tokenizer.encode(one["prompt"]), one["turns"][0]["token_ids"]
            )
            for one in rows
        ]
        assert row.kl == pytest.approx(float(np.mean(sums)), abs=1e-5)
        assert row.low <= row.kl <= row.high and row.n == 12
    assert result.kl[0].kl == 0.0 and result.kl[1].kl > result.kl[2].kl > 0.0
    assert "KL of a to b: " in result.summary()[0]


def test_kl_of_two_turns_is_their_mean(world: World) -> None:
    cpu = start_runtime("cpu")
    a, b = (
        loading.load_language_model(folder, Placement(torch.float32, cpu.device))
        for folder in (world.a, world.b)
    )
    opening = (Message("user", "the cat"),)
    both = Question("1", opening, ("and then",))
    said = (Reply("sat on", token_ids=(9, 12, 2)), Reply("ran", token_ids=(10, 2)))

    def kl(question: Question, *replies: Reply) -> float:
        return distances.along(a, b, [question], {"1": replies}, "", cpu, silent)["1"]

    first = kl(Question("1", opening), said[0])
    second = kl(Question("1", both.conversation(["sat on"])), said[1])
    assert first != second
    assert kl(both, *said) == pytest.approx((first + second) / 2, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 2.0])
def test_kls_are_at_temperature_1_whatever_the_answers_are_sampled_at(
    world: World, tmp_path: Path, temperature: float
) -> None:
    config = configure(
        world,
        tmp_path / "r",
        models=(str(world.a),),
        anchors=(str(world.b),),
        temperature=temperature,
    )
    (row,) = run(config).kl
    sums = [
        reference_kl(
            world.a,
            world.b,
            tiny.tokenizer().encode(one["prompt"]),
            one["turns"][0]["token_ids"],
        )
        for one in read_rows(tmp_path / "r" / "answers" / "a.jsonl")
    ]
    assert row.kl == pytest.approx(float(np.mean(sums)), abs=1e-5)
    assert row.temperature == 1.0


def test_a_kl_says_its_temperature_everywhere(world: World, tmp_path: Path) -> None:
    """Questions of MT-Bench, whose answers are sampled at 0.7 and 0 here."""
    asked = [
        {"question_id": at, "category": category, "turns": ["the cat", "the dog"]}
        for at, category in enumerate(("writing", "math"))
    ]
    tiny.write_rows(tmp_path / "questions.jsonl", asked)
    config = configure(
        world,
        tmp_path / "r",
        models=(str(world.a),),
        anchors=(str(world.b),),
        prompts=str(tmp_path / "questions.jsonl"),
    )
    result = run(config)
    stored = json.loads((tmp_path / "r" / "results.json").read_text())["kl"]
    assert [row["temperature"] for row in stored] == [1.0]
    assert "nats per answer at temperature 1 (" in result.summary()[0]
    assert "KL to b, nats, at temperature 1" in (tmp_path / "r" / "report.html").read_text()


def test_a_stored_kl_of_before_was_at_the_temperatures_of_the_answers() -> None:
    row = KLRow("a", "b", 1.0, 0.5, 1.5, 3)
    assert row.at == "at the temperature of each answer"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ("A",), "points": 3}, "--points has no effect without --line or --plane"),
        ({"line": ("A", "B"), "anchors": ("A",)}, "--anchors needs a MODEL"),
        ({"line": ("A", "B"), "judge": ("openai:m",)}, "need a judge that returns scores"),
    ],
)
def test_options_that_would_do_nothing(
    world: World, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        run(configure(world, tmp_path / "r", **changes))


def test_models_of_two_bases(world: World, tmp_path: Path) -> None:
    other = tiny.save_language_model(tmp_path / "other", seed=1, intermediate_size=48)
    with pytest.raises(SalsaError, match="these models cannot be averaged"):
        run(configure(world, tmp_path / "r", line=(str(world.a), str(other))))
    wide = tiny.save_language_model(tmp_path / "wide", seed=1, vocab_size=40)
    with pytest.raises(SalsaError, match=r"--anchors .*wide has another vocabulary: 24 logits"):
        run(configure(world, tmp_path / "r", models=(str(world.a),), anchors=(str(wide),)))


def test_the_command_line(world: World, tmp_path: Path) -> None:
    done = commands.run(
        *("eval", "--line", world.a, world.b, "--points", 2),
        *("--prompts", world.prompts, "--judge", f"rm:{world.rm}"),
        *("--response-length", 4, "--draws", 100, "--device", "cpu"),
        *("-o", tmp_path / "r", "--json"),
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)["line"]
    assert [row["weights"] for row in line] == [[1.0, 0.0], [0.0, 1.0]]
    record = tmp_path / "r" / "salsa.json"
    again = commands.run("eval", "--config", record, "-o", tmp_path / "again", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["line"] == line
