"""The pipeline of `examples/pipeline`: what make does again, and the workflow's steps as shell."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import salsa_cli
from tests.support.worlds import World

EXAMPLES = Path(__file__).parents[2] / "examples"
INPUTS = ("sft-a/model.safetensors", "sft-b/model.safetensors", "prefs.jsonl")
STEPS = {"soup": "ref/soup.json", "train-rm": "rm/salsa.json", "ppo": "policy/salsa.json"}
STEPS["eval"] = "results/results.json"

STAND_IN = """#!/usr/bin/env bash
# Notes its arguments, and leaves the record of a result.
echo "$*" >> calls
record() { mkdir -p "$(dirname "$1")" && touch "$1"; }
case $1 in
    soup) record ref/soup.json ;;
    train-rm) record rm/salsa.json ;;
    ppo) record policy/salsa.json ;;
    eval) case "$*" in
        *--fail-under\\ 0.9*) exit 3 ;;
        *--fail-under*) ;;
        *--markdown*) echo "| a | b |" ;;
        *) record results/results.json ;;
    esac ;;
esac
"""

TINY = """
[train-rm]
epochs = 1
[ppo]
updates = 2
batch_size = 8
minibatches = 2
response_length = 6
[eval]
response_length = 6
draws = 100
judge = ["python:../gold.py:score", "rm:rm"]
[all]
device = "cpu"
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def copied(tmp_path: Path) -> Path:
    """The pipeline as a person copies it."""
    shutil.copytree(EXAMPLES / "pipeline", tmp_path / "pipeline")
    shutil.copy(EXAMPLES / "gold.py", tmp_path)
    return tmp_path / "pipeline"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The pipeline with inputs of an hour ago and a stand-in for salsa."""
    place = copied(tmp_path)
    (place / "salsa").write_text(STAND_IN)
    (place / "salsa").chmod(0o755)
    for name in (*INPUTS, "prompts.jsonl", "heldout.jsonl"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).touch()
    for path in place.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return place


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "SALSA=./salsa", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def calls(folder: Path) -> list[str]:
    """What salsa was called with since the last time, in short: `ppo --resume`."""
    lines = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    (folder / "calls").unlink(missing_ok=True)
    kept = r"^\S+|--force|--resume|--markdown|--fail-under \S+"
    return [" ".join(re.findall(kept, line)) for line in lines]


LOOKS = ["eval --resume --markdown", "eval --resume --fail-under 0.5"]


def test_every_step_is_made_once(folder: Path) -> None:
    assert make(folder).returncode == 0
    made = calls(folder)
    assert sorted(made[:2]) == ["soup --resume", "train-rm --resume"]
    assert made[2:] == ["ppo --resume", "eval --resume", *LOOKS]
    assert (folder / "summary.md").read_text() == "| a | b |\n"
    assert make(folder).returncode == 0
    assert calls(folder) == LOOKS[1:]


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("sft-b/model.safetensors", ["soup --force", "ppo --force", "eval --force", *LOOKS]),
        ("prefs.jsonl", ["train-rm --force", "ppo --force", "eval --force", *LOOKS]),
        ("prompts.jsonl", ["ppo --force", "eval --force", *LOOKS]),
        ("heldout.jsonl", ["eval --force", *LOOKS]),
    ],
)
def test_what_depends_on_a_change_is_made_again(
    folder: Path, changed: str, again: list[str]
) -> None:
    make(folder)
    calls(folder)
    for number, record in enumerate((*STEPS.values(), "summary.md")):
        os.utime(folder / record, (1.1e9 + number, 1.1e9 + number))
    (folder / changed).touch()
    assert make(folder).returncode == 0
    assert calls(folder) == again


def test_a_gate_that_fails_fails_each_time(folder: Path) -> None:
    for _ in range(2):
        done = make(folder, "GATE=0.9")
        assert done.returncode == 2 and "Error 3" in done.stderr
        assert (folder / "results" / "results.json").exists()
    assert calls(folder)[-2:] == ["eval --resume --fail-under 0.9"] * 2


def workflow() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((EXAMPLES / "pipeline" / "workflow.yml").read_text())
    return found


def steps() -> list[dict[str, Any]]:
    (job,) = workflow()["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


def run_lines(restored: bool) -> Iterator[str]:
    """The shell of the workflow's steps, after the installation and the inputs."""
    touch = re.compile(r"\$\{\{ steps\.\w+\.outputs\.cache-hit == 'true' && '--touch' \|\| '' \}\}")
    for step in steps():
        if "run" in step and step["name"] not in ("Install", "Inputs"):
            line = touch.sub("--touch" if restored else "", step["run"])
            assert "${{" not in line
            yield line


def test_the_workflow_caches_each_result_under_its_inputs(folder: Path) -> None:
    keys = {
        step["id"]: step["with"]["key"]
        for step in steps()
        if step.get("uses", "").startswith("actions/cache@")
    }
    for result, inputs in {
        "ref": ["salsa.toml", "sft-*/*.safetensors"],
        "rm": ["salsa.toml", "prefs.jsonl", "sft-a/*.safetensors"],
        "policy": ["salsa.toml", "prompts.jsonl", "ref/*.safetensors", "rm/*.safetensors"],
    }.items():
        assert re.findall(r"'examples/pipeline/(\S+?)'", keys[result]) == inputs
    assert workflow()["env"]["FOLDER"] == "examples/pipeline"


@pytest.mark.parametrize("restored", [False, True])
def test_what_the_workflow_has_restored_is_not_made_again(folder: Path, restored: bool) -> None:
    if restored:
        make(folder)
        calls(folder)
        for name in (*INPUTS, "salsa.toml", "prompts.jsonl"):
            (folder / name).touch()  # as checkout does
        (folder / "results" / "results.json").unlink()
    for line in run_lines(restored):
        environment = {**os.environ, "SALSA": "./salsa", "GITHUB_STEP_SUMMARY": "summary"}
        subprocess.run(["bash", "-e", "-c", line], cwd=folder, env=environment, check=True)
    made = calls(folder)
    assert made[-3:] == ["eval --resume", *LOOKS]
    assert made[:-3] == ([] if restored else ["soup --resume", "train-rm --resume", "ppo --resume"])
    assert (folder / "summary").read_text() == "| a | b |\n"


@pytest.mark.slow
def test_the_pipeline_with_models(world: World, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    for name, model in {"sft-a": world.a, "sft-b": world.b}.items():
        shutil.copytree(model, folder / name)
    for name, source in {
        "prefs.jsonl": world.preferences,
        "prompts.jsonl": world.prompts,
        "heldout.jsonl": world.prompts,
    }.items():
        (folder / name).symlink_to(source)
    (folder / "salsa.toml").write_text(TINY)
    environment = {
        **os.environ,
        "SALSA": f"{sys.executable} -m salsa_cli",
        "PYTHONPATH": str(Path(salsa_cli.__file__).parents[1]),
        "GITHUB_STEP_SUMMARY": "summary",
        "GATE": "0",
    }
    for line in run_lines(restored=False):
        subprocess.run(["bash", "-e", "-c", line], cwd=folder, env=environment, check=True)
    assert all((folder / record).exists() for record in STEPS.values())
    assert "| policy | sft-a |" in (folder / "summary").read_text()
    again = subprocess.run(
        ["make", "GATE=1"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 2 and "--fail-under 1" in again.stderr and "Error 3" in again.stderr
    assert [line.split()[3] for line in again.stdout.splitlines()] == ["eval"]
