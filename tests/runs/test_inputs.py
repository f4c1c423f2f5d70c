"""Mistyped names of models and data, found before anything is loaded."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from salsa_cli.config.base import Config
from salsa_cli.config.eval import BENCHMARKS, EvalConfig
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.soup import SoupConfig
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.questions import benchmarks
from salsa_cli.runs import inputs

OUT = Path("out")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model's folder, a file of data and one of code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    (tmp_path / "models").mkdir()
    (tmp_path / "p.jsonl").touch()
    (tmp_path / "r.py").touch()
    return tmp_path


def ppo(**changes: Any) -> PPOConfig:
    settings = {"ref": ("model",), "reward": ("model",), "prompts": "p.jsonl", "output": OUT}
    return PPOConfig(**{**settings, **changes})


def evaluation(**changes: Any) -> EvalConfig:
    settings = {"models": ("model",), "judge": ("rm:model",), "prompts": "p.jsonl", "output": OUT}
    return EvalConfig(**{**settings, **changes})


@pytest.mark.parametrize(
    "config",
    [
        SoupConfig(models=("model", "org/name"), output=OUT),
        TrainRMConfig(model="model", data="org/data:config@split", eval_data="p.jsonl", output=OUT),
        ppo(),
        ppo(ref=("soup(model,org/name,alpha=0.5)",), reward=("r.py:f", "package:f")),
        ppo(prompts="-", policy="org/name"),
        evaluation(models=("ours=model", "model"), judge=("openai:x", "hf:org/name", "who")),
        evaluation(prompts="mt-bench", answers=("x=p.jsonl",), judge=("python:r.py:f",)),
        EvalConfig(judgments=("p.jsonl",), output=OUT),
        SoupConfig(models=("model", "model", "p.jsonl"), output=OUT),  # of OUT/*
    ],
)
def test_what_may_exist_is_left_to_the_command(folder: Path, config: Config) -> None:
    inputs.check(config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SoupConfig(models=("model", "modle"), output=OUT), "modle: no such folder; expected a Hu"),
        (TrainRMConfig(model="model", data="pp.jsonl", output=OUT), "pp.jsonl: no such file or fo"),
        (ppo(ref=("soup(model,modle,alpha=0.5)",)), "modle: no such folder"),
        (ppo(reward=("rr.py:f",)), "rr.py:f: no such file: rr.py"),
        (ppo(watch_reward=("./rm",)), "./rm: no such folder"),
        (ppo(ref=("models",)), "models: no config.json found"),
        (TrainRMConfig(model="models", data="p.jsonl", output=OUT), "models: no config.json found"),
        (ppo(prompts="./prompts"), "./prompts: no such file or folder"),
        (ppo(prompts="data/x.jsonl"), "data/x.jsonl: no such file or folder"),
        (evaluation(models=("ours=modle",)), "modle: no such folder"),
        (evaluation(judge=("rm:modle",)), "modle: no such folder"),
        (evaluation(judge=("python:rr.py:f",)), "rr.py:f: no such file: rr.py"),
        (evaluation(prompts="mtbench"), "mtbench: no such file or folder"),
        (evaluation(answers=("x=y.jsonl",)), "y.jsonl: no such file or folder"),
        (EvalConfig(judgments=("v.jsonl",), output=OUT), "v.jsonl: no such file or folder"),
        (ppo(prompts="-", processes=2), "- (stdin) can only be read by one process"),
    ],
)
def test_what_cannot_exist_is_named(folder: Path, config: Config, words: str) -> None:
    with pytest.raises(SalsaError) as caught:
        inputs.check(config)
    assert str(caught.value).startswith(words)


def test_all_are_named_at_once(folder: Path) -> None:
    with pytest.raises(SalsaError) as caught:
        inputs.check(ppo(ref=("a",), reward=("b",), prompts="c.jsonl"))
    first, *rest = str(caught.value).split("\n")
    assert first == "3 inputs were not found:" and [line[4] for line in rest] == ["a", "b", "c"]


def test_the_benchmarks_are_those_that_can_be_read() -> None:
    assert set(BENCHMARKS) == set(benchmarks.HUB)


def test_the_hub_is_asked_at_once_for_what_looks_like_a_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`models/sftt` has the form of a hub id; that there is a folder `models` tells it from one."""
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name))
    inputs.check(ppo(ref=("org/name",), policy="other/name"))
    assert asked == []
    with pytest.raises(SalsaError):
        inputs.check(ppo(ref=("models/sftt",), policy="other/name"))
    assert set(asked) == {"models/sftt"}
